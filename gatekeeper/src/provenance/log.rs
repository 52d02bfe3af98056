//! The writing end.
//!
//! Records are encoded at once and kept until they are durable, so a disk that is full or fails loses none of them:
//! every try starts again behind the last byte that is known to be on disk.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{
    Error, Record,
    blobs::Blobs,
    frame::{self, Frames, Next},
    leaf::{self, Envelope},
    reader,
    replay::{self, Replay},
    segment_path, segments,
};
use crate::{
    broker::{self, Now},
    request::RequestId,
};

/// A segment that has reached this size is the last of it.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Bytes that wait for a working disk before records that an agent can cause without limit are only counted.
const PENDING_BYTES: usize = 16 << 20;

/// Written, but not durable, records are kept in memory; from this many bytes on they are made durable.
const UNSYNCED_BYTES: usize = 1 << 20;

/// Larger buffers are given back.
const KEPT_BYTES: usize = 1 << 20;

/// What [`Log::open`] found.
#[derive(Debug)]
pub struct Opened {
    /// The log, ready to be written.
    pub log: Log,
    /// What was cut off, if anything.
    pub recovery: Option<Recovery>,
    /// Holds of this boot that have not ended, by the log's account.
    pub open: Vec<broker::Restored>,
    /// Grants of this boot that have not ended, by the log's account.
    pub grants: Vec<broker::Grant>,
}

/// A torn tail that was cut off. The log has a record of it, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Number of the segment.
    pub segment: u64,
    /// Where the valid part of it ends.
    pub offset: u64,
    /// Bytes behind that.
    pub dropped_bytes: u64,
    /// The file in the log's directory that now has them.
    pub kept_in: String,
    /// What was wrong.
    pub reason: String,
}

/// What the log needs of an open segment; tests bring one that fails.
pub(super) trait SegmentFile: std::fmt::Debug + Send {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    fn truncate(&self, length: u64) -> io::Result<()>;
}

impl SegmentFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// The provenance log, open for writing. There is one per directory.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    boot_id: String,
    segment: u64,
    pub(super) file: Box<dyn SegmentFile>,
    /// Bytes of the segment that are on disk.
    durable_bytes: u64,
    /// Frames behind them.
    pending: Vec<u8>,
    /// How much of `pending` has been written, but is not durable.
    written: usize,
    next_index: u64,
    /// Index of the first record that is not durable.
    durable_index: u64,
    /// The segment in which each open hold began.
    open_holds: BTreeMap<u64, u64>,
    /// The segment in which each grant in force was given.
    open_grants: BTreeMap<RequestId, u64>,
    blobs: Blobs,
    /// The last try failed: what lies behind `durable_bytes` is unknown.
    failed: bool,
    /// Records that were only counted.
    uncounted: u64,
    pub(super) segment_bytes: u64,
    /// Keeps other daemons out while it is open.
    _lock: File,
}

impl Log {
    /// Opens the log in `dir`, or makes one. Cuts off a torn tail, ends holds of earlier boots, and reads which holds of
    /// this boot are open. `boot_id` is `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    ///
    /// Another daemon has it open, it is damaged elsewhere than at its tail, or the operating system refuses.
    pub fn open(dir: &Path, boot_id: &str, now: Now) -> Result<Opened, Error> {
        make_dir(dir)?;
        make_dir(&dir.join("blobs"))?;
        let lock = lock(dir)?;
        let numbers = segments(dir)?;
        let fresh = numbers.is_empty();
        let segment = numbers.last().copied().unwrap_or(0);
        let path = segment_path(dir, segment);
        if fresh {
            make_segment(dir, segment)?;
        }
        let recovery = recover(dir, segment)?;
        let Replay { open, lost, grants, segment_of_grant, segment_of, next_index } = replay::replay(dir, boot_id)?;
        let file = OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
        let mut log = Self {
            dir: dir.to_owned(),
            boot_id: boot_id.to_owned(),
            segment,
            durable_bytes: file.metadata().map_err(Error::io("examine", &path))?.len(),
            file: Box::new(file),
            pending: Vec::new(),
            written: 0,
            next_index,
            durable_index: next_index,
            open_holds: segment_of,
            open_grants: segment_of_grant,
            blobs: Blobs::new(dir.join("blobs")),
            failed: false,
            uncounted: 0,
            segment_bytes: SEGMENT_BYTES,
            _lock: lock,
        };
        if log.durable_bytes == 0 {
            log.push(&log.segment_record(), now)?;
        }
        if let Some(Recovery { segment, offset, dropped_bytes, kept_in, reason }) = recovery.clone() {
            log.push(&Record::Recovery { segment, offset, dropped_bytes, kept_in, reason }, now)?;
        }
        for (of_boot, hold, id) in lost {
            log.push(&Record::LostWithBoot { hold, id, of_boot }, now)?;
        }
        log.commit()?;
        Ok(Opened { log, recovery, open, grants })
    }

    /// Takes a record in. It is durable when the next [`Self::commit`] has returned; until then, and through any number of
    /// failed tries, it is kept in memory.
    ///
    /// # Errors
    ///
    /// The record has no JSON form; it is not taken in.
    pub fn push(&mut self, record: &Record, now: Now) -> Result<(), Error> {
        if self.pending.len() > PENDING_BYTES && record.is_unbounded() {
            self.uncounted += 1;
            return Ok(());
        }
        let Self { boot_id, next_index, durable_index, blobs, .. } = self;
        let envelope = Envelope { index: *next_index, durable: *durable_index, now, boot_id };
        frame::append(&mut self.pending, |out| leaf::write(out, &envelope, record, blobs))?;
        self.next_index += 1;
        match record {
            Record::Broker(broker::Record::Hold { request, .. }) => {
                self.open_holds.insert(request.hold, self.segment);
            }
            Record::Broker(
                broker::Record::Release { hold, .. }
                | broker::Record::Refused { hold, .. }
                | broker::Record::Withdrawn { hold, .. }
                | broker::Record::Superseded { hold, .. },
            ) => {
                self.open_holds.remove(hold);
            }
            Record::Grant(grant) => drop(self.open_grants.insert(grant.id, self.segment)),
            Record::GrantEnd { id, .. } => drop(self.open_grants.remove(id)),
            _ => {}
        }
        Ok(())
    }

    /// Makes everything taken in durable, with one sync.
    ///
    /// # Errors
    ///
    /// The disk is full, say. Nothing is lost: the next call tries again, from behind what is durable.
    pub fn commit(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.flush_all(true)?;
        if self.uncounted > 0 {
            let record = Record::CounterAlarm { counter: "log_dropped".to_owned(), before: 0, now: self.uncounted };
            self.uncounted = 0;
            self.push(&record, self.latest_now())?;
            self.flush_all(true)?;
        }
        if self.durable_bytes >= self.segment_bytes
            && let Err(error) = self.rotate()
        {
            // What was to be durable is; the next commit tries again.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot start a new log segment");
        }
        Ok(())
    }

    /// Writes everything taken in, so that readers see it and it survives the daemon, but not necessarily the host.
    ///
    /// # Errors
    ///
    /// As for [`Self::commit`].
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.pending.len() > UNSYNCED_BYTES { self.commit() } else { self.flush_all(false) }
    }

    /// [`Self::push`] for each, then [`Self::commit`].
    ///
    /// # Errors
    ///
    /// As for those.
    pub fn append(&mut self, records: &[Record], now: Now) -> Result<(), Error> {
        for record in records {
            self.push(record, now)?;
        }
        self.commit()
    }

    /// Whether there are records that are not durable.
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Names this boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Number of records, durable or not.
    pub fn records(&self) -> u64 {
        self.next_index
    }

    fn flush_all(&mut self, durably: bool) -> Result<(), Error> {
        let result = self.try_flush(durably);
        self.failed = result.is_err();
        if self.failed {
            // After a failed sync, the kernel may have dropped what was written: all of it has to be written again.
            self.written = 0;
            // Readers should not meet half a frame. If this fails too, the next try does it.
            let _ = self.file.truncate(self.durable_bytes);
        }
        result
    }

    fn try_flush(&mut self, durably: bool) -> Result<(), Error> {
        let io = |operation, source| Error::Io { operation, path: segment_path(&self.dir, self.segment), source };
        self.blobs.write()?;
        if self.failed {
            self.file.truncate(self.durable_bytes).map_err(|error| io("truncate", error))?;
        }
        let unwritten = &self.pending[self.written..];
        if !unwritten.is_empty() {
            self.file
                .write_at(unwritten, self.durable_bytes + self.written as u64)
                .map_err(|error| io("write", error))?;
            self.written = self.pending.len();
        }
        if durably {
            self.file.sync().map_err(|error| io("sync", error))?;
            self.durable_bytes += self.pending.len() as u64;
            self.durable_index = self.next_index;
            self.pending.clear();
            self.pending.shrink_to(KEPT_BYTES);
            self.written = 0;
        }
        Ok(())
    }

    /// Goes on in a new segment. Nothing is pending.
    fn rotate(&mut self) -> Result<(), Error> {
        let number = self.segment + 1;
        let file = make_segment(&self.dir, number)?;
        self.segment = number;
        self.file = Box::new(file);
        self.durable_bytes = 0;
        self.push(&self.segment_record(), self.latest_now())?;
        self.flush_all(true)
    }

    fn segment_record(&self) -> Record {
        let needed = self.open_holds.values().chain(self.open_grants.values());
        let replay_from = needed.copied().min().unwrap_or(self.segment);
        Record::Segment { number: self.segment, replay_from }
    }

    /// For records that the log makes by itself.
    fn latest_now(&self) -> Now {
        use crate::clock::{Clock as _, SystemClock};
        SystemClock.now()
    }
}

fn make_dir(dir: &Path) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("create", dir))?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(Error::io("protect", dir))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", dir))
}

fn make_segment(dir: &Path, number: u64) -> Result<File, Error> {
    let path = segment_path(dir, number);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(Error::io("create", &path))?;
    file.sync_all().map_err(Error::io("sync", &path))?;
    sync_dir(dir)?;
    Ok(file)
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { dir: dir.to_owned() }),
        Err(errno) => Err(Error::io("lock", &path)(errno.into())),
    }
}

/// Finds the longest valid prefix of the last segment and cuts off the rest, if that cannot have been durable.
fn recover(dir: &Path, number: u64) -> Result<Option<Recovery>, Error> {
    let path = segment_path(dir, number);
    let file = File::open(&path).map_err(Error::io("open", &path))?;
    let mut frames = Frames::new(file);
    let mut index = None;
    let what = loop {
        match frames.next().map_err(Error::io("read", &path))? {
            Next::Leaf(leaf) => index = reader::index(leaf),
            Next::End => return Ok(None),
            Next::Bad { what, .. } => break what,
        }
    };
    let offset = frames.offset();
    let tail = frames.rest().map_err(Error::io("read", &path))?;
    if let Some(later) = reader::durable_behind(&tail)
        && later > index.map_or(0, |index| index + 1)
    {
        return Err(Error::Damaged { path, offset, what: what.to_owned() });
    }
    let kept_in = format!("{number:08}.torn-{offset}");
    let kept = dir.join(&kept_in);
    let copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&kept);
    let copy = copy.map_err(Error::io("create", &kept))?;
    copy.write_all_at(&tail, 0).and_then(|()| copy.sync_all()).map_err(Error::io("write", &kept))?;
    sync_dir(dir)?;
    let file = OpenOptions::new().write(true).open(&path).map_err(Error::io("open", &path))?;
    file.set_len(offset).and_then(|()| file.sync_all()).map_err(Error::io("truncate", &path))?;
    Ok(Some(Recovery { segment: number, offset, dropped_bytes: tail.len() as u64, kept_in, reason: what.to_owned() }))
}
