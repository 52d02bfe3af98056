//! How leaves lie in a segment.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

/// Most bytes of a leaf: transparency logs count a leaf's length in 16 bits.
pub const MAX_LEAF_BYTES: usize = 65_535;

/// Length and checksum.
pub(super) const HEADER_BYTES: usize = 8;

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// Appends a frame whose leaf `write` appends. Whatever `write` returns, `out` is complete: on an error it is as before.
pub(super) fn append<E>(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    if let Err(error) = write(out) {
        out.truncate(start);
        return Err(error);
    }
    let leaf = start + HEADER_BYTES;
    let length = u32::try_from(out.len() - leaf).unwrap_or(u32::MAX).to_le_bytes();
    let checksum = checksum(length, &out[leaf..]).to_le_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..leaf].copy_from_slice(&checksum);
    Ok(())
}

fn checksum(length: [u8; 4], leaf: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), leaf)
}

/// What bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A frame, with its leaf there.
    Frame(Range<usize>),
    /// What may be the start of a frame, and how many bytes it has in all.
    Short(usize),
    /// No frame.
    Bad(&'static str),
}

/// Reads the frame that bytes begin with.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let (Some(length), Some(stored)) = (bytes.first_chunk::<4>(), bytes.get(4..HEADER_BYTES)) else {
        return Parsed::Short(HEADER_BYTES);
    };
    let leaf = match usize::try_from(u32::from_le_bytes(*length)) {
        Ok(0) => return Parsed::Bad("the length is 0"),
        Ok(leaf) if leaf <= MAX_LEAF_BYTES => HEADER_BYTES..HEADER_BYTES + leaf,
        _ => return Parsed::Bad("the length is impossible"),
    };
    match bytes.get(leaf.clone()) {
        None => Parsed::Short(leaf.end),
        Some(body) if checksum(*length, body).to_le_bytes() == *stored => Parsed::Frame(leaf),
        Some(_) => Parsed::Bad("the checksum is wrong"),
    }
}

/// What comes next in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A leaf.
    Leaf(&'a [u8]),
    /// Nothing yet.
    End,
    /// Something that is no frame; asking again looks at the file again.
    Bad {
        /// What is wrong.
        what: &'static str,
        /// Nothing lies behind it, so it may be a frame that is still being written, or was when the host went down.
        at_end: bool,
    },
}

/// Reads a segment frame by frame, while it may still grow.
#[derive(Debug)]
pub(super) struct Frames {
    file: File,
    /// Where the next frame starts in the file.
    offset: u64,
    buffer: Vec<u8>,
    /// The part of `buffer` that is ahead.
    ahead: Range<usize>,
}

impl Frames {
    pub(super) fn new(file: File) -> Self {
        Self { file, offset: 0, buffer: Vec::new(), ahead: 0..0 }
    }

    /// Where the next frame starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the file.
    pub(super) fn file_len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Everything from the next frame on.
    pub(super) fn rest(&self) -> io::Result<Vec<u8>> {
        let length = self.file_len()?.saturating_sub(self.offset);
        let mut rest = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut rest, self.offset)?;
        Ok(rest)
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        loop {
            match parse(&self.buffer[self.ahead.clone()]) {
                Parsed::Frame(leaf) => {
                    let leaf = self.ahead.start + leaf.start..self.ahead.start + leaf.end;
                    self.offset += (leaf.end - self.ahead.start) as u64;
                    self.ahead.start = leaf.end;
                    return Ok(Next::Leaf(&self.buffer[leaf]));
                }
                Parsed::Short(wanted) => {
                    if self.fill(wanted)? {
                        continue;
                    }
                    let nothing = self.ahead.is_empty();
                    self.forget();
                    return Ok(if nothing { Next::End } else { Next::Bad { what: "the frame is cut", at_end: true } });
                }
                Parsed::Bad(what) => {
                    let frame = self.ahead.clone();
                    let length = self.buffer[frame.start..].first_chunk::<4>().map_or(0, |l| u32::from_le_bytes(*l));
                    let end = self.offset + HEADER_BYTES as u64 + u64::from(length);
                    let at_end = end >= self.file_len()?;
                    self.forget();
                    return Ok(Next::Bad { what, at_end });
                }
            }
        }
    }

    /// Forgets what was read ahead: it may have been read while it was being written.
    fn forget(&mut self) {
        self.ahead = 0..0;
    }

    /// Reads until `wanted` bytes are ahead. `false`: the file has no more.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        self.buffer.copy_within(self.ahead.clone(), 0);
        self.ahead = 0..self.ahead.len();
        if self.buffer.len() < wanted.max(READ_BYTES) {
            self.buffer.resize(wanted.max(READ_BYTES), 0);
        }
        while self.ahead.len() < wanted {
            let from = self.offset + self.ahead.len() as u64;
            match self.file.read_at(&mut self.buffer[self.ahead.end..], from) {
                Ok(0) => return Ok(false),
                Ok(read) => self.ahead.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
