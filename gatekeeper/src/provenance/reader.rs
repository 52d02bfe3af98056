//! The reading end: needs no lock, so it works beside a running daemon and after one.

use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    Error,
    frame::{self, Frames, Next, Parsed},
    segment_path, segments,
};

/// One record as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position in the whole log.
    pub index: u64,
    /// Number of the segment.
    pub segment: u64,
    /// The bytes of the leaf: one JSON object, on one line.
    pub leaf: Vec<u8>,
}

/// Reads a log from its start, or from a segment, and goes on as it grows.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    segment: u64,
    frames: Frames,
    expected: Option<u64>,
}

impl Reader {
    /// Starts at the first record that there is.
    ///
    /// # Errors
    ///
    /// There is no log, or it cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let first = segments(dir)?.first().copied().ok_or_else(|| Error::NoLog { dir: dir.to_owned() })?;
        Self::open_at(dir, first)
    }

    /// Starts at the first record of a segment.
    pub(super) fn open_at(dir: &Path, segment: u64) -> Result<Self, Error> {
        let path = segment_path(dir, segment);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        Ok(Self { dir: dir.to_owned(), segment, frames: Frames::new(file), expected: None })
    }

    /// The next record; `None` at the end. Asking again later goes on from there. A frame that is only half there at the
    /// very end counts as the end: it is still being written, or was when the host went down.
    ///
    /// # Errors
    ///
    /// The log is damaged here, or cannot be read. Asking again looks again.
    #[expect(clippy::should_implement_trait, reason = "an iterator that is asked again after its end is a trap")]
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut looked_twice = false;
        loop {
            let path = segment_path(&self.dir, self.segment);
            let offset = self.frames.offset();
            let damaged = |what: String| Error::Damaged { path: path.clone(), offset, what };
            match self.frames.next().map_err(Error::io("read", &path))? {
                Next::Leaf(leaf) => {
                    let index = index(leaf).ok_or_else(|| damaged("the record has no index".to_owned()))?;
                    if let Some(expected) = self.expected
                        && index != expected
                    {
                        return Err(damaged(format!("record {expected} should be here, but record {index} is")));
                    }
                    self.expected = Some(index + 1);
                    return Ok(Some(Entry { index, segment: self.segment, leaf: leaf.to_owned() }));
                }
                end => {
                    let what = match end {
                        Next::Bad { what, at_end } => Some((what, at_end)),
                        _ => None,
                    };
                    let next = segment_path(&self.dir, self.segment + 1);
                    match File::open(&next) {
                        // Only now is this segment complete: look at its end once more before leaving it.
                        Ok(_) if !looked_twice => looked_twice = true,
                        Ok(file) => {
                            if let Some((what, _)) = what {
                                return Err(damaged(what.to_owned()));
                            }
                            self.segment += 1;
                            self.frames = Frames::new(file);
                            looked_twice = false;
                        }
                        Err(error) if error.kind() == ErrorKind::NotFound => match what {
                            None => return Ok(None),
                            Some((what, true)) => {
                                // A damaged length can reach over whole records; those behind it tell.
                                let rest = self.frames.rest().map_err(Error::io("read", &path))?;
                                let here = self.expected.unwrap_or(0);
                                return match durable_behind(&rest) {
                                    Some(later) if later > here => Err(damaged(what.to_owned())),
                                    _ => Ok(None),
                                };
                            }
                            // It may have been read while it was being written.
                            Some(_) if !looked_twice => looked_twice = true,
                            Some((what, false)) => return Err(damaged(what.to_owned())),
                        },
                        Err(error) => return Err(Error::io("open", &next)(error)),
                    }
                }
            }
        }
    }
}

/// The record's own index. The envelope's fields have a fixed order, so no JSON parser is needed.
pub(super) fn index(leaf: &[u8]) -> Option<u64> {
    number_behind(leaf, b",\"index\":")
}

/// How many records were durable when this one was made.
pub(super) fn durable(leaf: &[u8]) -> Option<u64> {
    number_behind(leaf, b",\"durable\":")
}

fn number_behind(leaf: &[u8], name: &[u8]) -> Option<u64> {
    // The first three fields take less than this.
    let leaf = &leaf[..leaf.len().min(80)];
    let start = leaf.windows(name.len()).position(|window| window == name)? + name.len();
    let digits = leaf[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&leaf[start..start + digits]).ok()?.parse().ok()
}

/// Looks for whole frames in bytes that do not begin with one. The most records that any of them knew to be durable: if
/// the first, unreadable one is among them, it was not torn but damaged.
pub(super) fn durable_behind(tail: &[u8]) -> Option<u64> {
    let mut known = None;
    let mut at = 1;
    while at < tail.len() {
        match frame::parse(&tail[at..]) {
            Parsed::Frame(leaf) => {
                known = known.max(durable(&tail[at + leaf.start..at + leaf.end]));
                at += leaf.end;
            }
            _ => at += 1,
        }
    }
    known
}
