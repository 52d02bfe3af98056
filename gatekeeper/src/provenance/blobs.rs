//! Parts of records that lie beside the log, each in a file named by its SHA-256.
//!
//! They can be erased without breaking the log: the leaf keeps their digest.

use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::Error;

/// Digests of blobs that are known to be on disk. Enough for an agent that starts the same programs again and again.
const KNOWN: usize = 1_024;

/// Blobs whose bytes are remembered, each up to [`LATEST_BYTES`].
const LATEST: usize = 16;

/// Larger blobs are not remembered.
const LATEST_BYTES: usize = 16 * 1024;

/// What a leaf has in place of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct BlobRef {
    /// SHA-256, hexadecimal; also the file's name.
    pub(super) blob: String,
    /// Its length.
    pub(super) bytes: usize,
    /// How it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) head: Option<String>,
}

/// The directory `blobs`.
#[derive(Debug)]
pub(super) struct Blobs {
    dir: PathBuf,
    /// Not on disk yet.
    pending: Vec<(String, Vec<u8>)>,
    known: HashSet<String>,
    /// The latest bytes with their digests: most programs of an agent start with the environment of the one before, and
    /// comparing is cheaper than hashing.
    latest: VecDeque<(Vec<u8>, String)>,
}

/// Hexadecimal digits.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

impl Blobs {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, pending: Vec::new(), known: HashSet::new(), latest: VecDeque::new() }
    }

    /// Takes bytes in. They are on disk after the next [`Self::write`].
    pub(super) fn put(&mut self, bytes: Vec<u8>, head: Option<String>) -> BlobRef {
        let length = bytes.len();
        let blob = match self.latest.iter().find(|(latest, _)| *latest == bytes) {
            Some((_, blob)) => blob.clone(),
            None => {
                let blob = hexadecimal(&Sha256::digest(&bytes));
                if length <= LATEST_BYTES {
                    self.latest.truncate(LATEST - 1);
                    self.latest.push_front((bytes.clone(), blob.clone()));
                }
                blob
            }
        };
        if !self.known.contains(&blob) && !self.pending.iter().any(|(known, _)| *known == blob) {
            self.pending.push((blob.clone(), bytes));
        }
        BlobRef { blob, bytes: length, head }
    }

    /// Makes everything taken in durable. After an error, the rest is still there for the next time.
    pub(super) fn write(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        for (name, bytes) in &self.pending {
            let path = self.dir.join(name);
            if !fs::exists(&path).map_err(Error::io("look for", &path))? {
                write_whole(&self.dir, &path, bytes)?;
            }
        }
        let dir = File::open(&self.dir).map_err(Error::io("open", &self.dir))?;
        dir.sync_all().map_err(Error::io("sync", &self.dir))?;
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        self.known.extend(self.pending.drain(..).map(|(name, _)| name));
        Ok(())
    }
}

/// The file has all of the bytes, or is not there.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let unfinished = dir.join("unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &unfinished)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&unfinished)
        .map_err(Error::io("create", &unfinished))?;
    file.write_all(bytes).map_err(Error::io("write", &unfinished))?;
    file.sync_all().map_err(Error::io("sync", &unfinished))?;
    fs::rename(&unfinished, path).map_err(Error::io("rename to", path))
}
