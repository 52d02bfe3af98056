//! The provenance log: an append-only account of every hold, decision, verdict and end, and of the daemon itself.
//!
//! A log is a directory of segments, `00000000.log` and so on. A segment is a row of frames: length (`u32`, little
//! endian), CRC-32C over length and leaf (the same), leaf. A leaf is one JSON object of at most 65,535 bytes; the bytes
//! as they were written are the truth, whatever is derived from them later. Parts that are too large, and environments,
//! which hold secrets, lie beside it in `blobs/`, named by their SHA-256.
//!
//! What [`Log::commit`] has returned for is on disk. A tail that was torn by a crash is cut off and reported; damage
//! anywhere else is an error that names the place, and nothing is dropped.

mod blobs;
mod frame;
mod json;
mod leaf;
mod log;
mod reader;
mod record;
mod render;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

pub use self::{
    frame::MAX_LEAF_BYTES,
    log::{Log, Opened, Recovery, SEGMENT_BYTES},
    reader::{Entry, Reader},
    record::Record,
    render::line,
    replay::{Replay, replay},
};

/// Version of the form of leaves.
pub const LEAF_VERSION: u32 = 1;

/// Why the log cannot be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon writes this log.
    #[error("{} is in use by another daemon: stop it first (`gatekeeper status` shows whether one runs)", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// Bytes that had been durable are not what was written.
    #[error(
        "{} is damaged at byte {offset} ({what}): keep the whole directory as evidence, move it away, and start with an \
         empty one",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment in the middle is not there.
    #[error(
        "{} is missing although later segments exist: restore it, or move the directory away and start with an empty one",
        path.display()
    )]
    MissingSegment {
        /// The segment.
        path: PathBuf,
    },
    /// There is no log.
    #[error("there is no provenance log in {}: name the directory that `paths.state` of the daemon's configuration says", dir.display())]
    NoLog {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A record has no JSON form.
    #[error("cannot write a record as JSON")]
    Encode(#[source] serde_json::Error),
}

impl Error {
    /// For `map_err`: names the operation and the object.
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }
}

/// Where a segment lies.
fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// Numbers of the segments, in order and without a hole.
fn segments(dir: &Path) -> Result<Vec<u64>, Error> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NoLog { dir: dir.to_owned() }),
        listing => listing.map_err(Error::io("list", dir))?,
    };
    let mut numbers = Vec::new();
    for entry in listing {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|name| name.parse::<u64>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(Error::MissingSegment { path: segment_path(dir, pair[0] + 1) });
        }
    }
    Ok(numbers)
}
