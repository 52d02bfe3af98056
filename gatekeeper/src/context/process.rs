//! A process by `/proc`.
//!
//! Its directory is opened once and held: what is read through it belongs to that very process, or fails. A process id
//! that is used again cannot be confused with it.

use std::{
    io::{self, Error, ErrorKind},
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{self, CWD, Mode, OFlags};

use crate::{action::Task, text::Text};

/// Bytes of the arguments of the task itself.
pub(super) const ARGS_BYTES: usize = 32 * 1024;

/// Bytes of the arguments of each ancestor.
pub(super) const ANCESTOR_ARGS_BYTES: usize = 4 * 1024;

/// Bytes of an environment in which interesting entries are looked for.
const ENVIRONMENT_BYTES: usize = 128 * 1024;

/// Bytes of `stat`, whose fields are numbers but for a short name.
const STAT_BYTES: usize = 4 * 1024;

/// Bytes of `cgroup`: one line per hierarchy, each with a path.
const CGROUP_BYTES: usize = 64 * 1024;

/// Bytes of `mountinfo`.
const MOUNTS_BYTES: usize = 4 * 1024 * 1024;

/// `/proc/PID/stat` counts time in these, 100 a second on every architecture.
const TICK_NS: u64 = 10_000_000;

/// A process or thread.
#[derive(Debug)]
pub(super) struct Process {
    dir: OwnedFd,
}

/// What `stat` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: u32,
    /// Device number of the controlling terminal, 0 for none.
    pub(super) terminal: u32,
    pub(super) start_ticks: u64,
}

impl Process {
    /// The task that acts, if it still lives.
    pub(super) fn open(task: &Task) -> io::Result<Self> {
        let process = Self::open_dir(&format!("/proc/{}/task/{}", task.pid, task.tid))?;
        if process.stat()?.start_ticks != task.start_ns / TICK_NS {
            return Err(Error::new(ErrorKind::NotFound, "it ended, and its id belongs to another task now"));
        }
        Ok(process)
    }

    /// A parent of `child`.
    pub(super) fn open_ancestor(pid: u32, child: &Stat) -> io::Result<(Self, Stat)> {
        let process = Self::open_dir(&format!("/proc/{pid}"))?;
        let stat = process.stat()?;
        if stat.start_ticks > child.start_ticks {
            return Err(Error::new(ErrorKind::NotFound, "it ended, and its id belongs to another process now"));
        }
        Ok((process, stat))
    }

    fn open_dir(path: &str) -> io::Result<Self> {
        let dir = fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { dir })
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        let (bytes, _) = self.read("stat", STAT_BYTES)?;
        parse_stat(&bytes).ok_or_else(|| Error::new(ErrorKind::InvalidData, "stat has an unknown form"))
    }

    /// Where `exe` or `cwd` leads.
    pub(super) fn link(&self, name: &str) -> io::Result<Text> {
        Ok(Text(fs::readlinkat(&self.dir, name, Vec::new())?.into_bytes()))
    }

    /// Arguments, at most `limit` bytes of them, and whether that cut them.
    pub(super) fn args(&self, limit: usize) -> io::Result<(Vec<Text>, bool)> {
        let (bytes, cut) = self.read("cmdline", limit)?;
        Ok((split(&bytes), cut))
    }

    /// The environment that the program was started with, and whether it was cut.
    pub(super) fn environment(&self) -> io::Result<(Vec<Text>, bool)> {
        let (bytes, cut) = self.read("environ", ENVIRONMENT_BYTES)?;
        Ok((split(&bytes), cut))
    }

    /// Path below the cgroup mount.
    pub(super) fn cgroup(&self) -> io::Result<Text> {
        let (bytes, _) = self.read("cgroup", CGROUP_BYTES)?;
        parse_cgroup(&bytes).ok_or_else(|| Error::new(ErrorKind::NotFound, "it is in no cgroup that is known"))
    }

    /// The root of its view of the file system.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        Ok(fs::openat(&self.dir, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Device of the file system behind a mount of its view, as the kernel has it (`major << 20 | minor`).
    pub(super) fn device_of_mount(&self, mount: u64) -> io::Result<u64> {
        let (bytes, _) = self.read("mountinfo", MOUNTS_BYTES)?;
        bytes
            .split(|byte| *byte == b'\n')
            .find_map(|line| {
                let mut fields = std::str::from_utf8(line).ok()?.split(' ');
                let id: u64 = fields.next()?.parse().ok()?;
                let (major, minor) = fields.nth(1)?.split_once(':')?;
                (id == mount).then_some(major.parse::<u64>().ok()? << 20 | minor.parse::<u64>().ok()?)
            })
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "the mount is not in the task's mountinfo"))
    }

    fn read(&self, name: &str, limit: usize) -> io::Result<(Vec<u8>, bool)> {
        let file = fs::openat(&self.dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
        read_bounded(file, limit)
    }
}

/// Reads at most `limit` bytes, and says whether there were more.
pub(super) fn read_bounded(file: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, bool)> {
    let mut bytes = vec![0; limit.min(4096) + 1];
    let mut filled = 0;
    loop {
        match rustix::io::read(&file, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if filled > limit {
            bytes.truncate(limit);
            return Ok((bytes, true));
        }
        if filled == bytes.len() {
            bytes.resize((filled * 2).min(limit + 1), 0);
        }
    }
    bytes.truncate(filled);
    Ok((bytes, false))
}

/// Strings that each end in NUL. What a process wrote over its arguments may lack the last one.
fn split(bytes: &[u8]) -> Vec<Text> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(Text::from).collect()
}

pub(super) fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    // The name in parentheses can hold anything, parentheses and spaces included.
    let behind = bytes.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&bytes[behind..]).ok()?.split_ascii_whitespace().collect();
    // Fields are counted from 1 in proc(5), and the first behind the name is number 3.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        parent: field(4)?.parse().ok()?,
        terminal: field(7)?.parse::<i64>().ok()? as u32,
        start_ticks: field(22)?.parse().ok()?,
    })
}

pub(super) fn parse_cgroup(bytes: &[u8]) -> Option<Text> {
    let path = |prefix: &[u8]| {
        bytes.split(|byte| *byte == b'\n').find_map(|line| {
            let behind = line.iter().position(|byte| *byte == b':')?;
            line[behind..].strip_prefix(prefix).map(Text::from)
        })
    };
    // Version 2 has no name; without it, the hierarchy that systemd keeps for itself says most.
    path(b"::").or_else(|| path(b":name=systemd:"))
}

/// Whether a process is in one of these cgroups or below, by its version 2 path. Roots are paths below the cgroup mount
/// as `/proc/PID/cgroup` has them.
///
/// # Errors
///
/// It cannot be told: the process is gone, say. Whoever asks for permission must then be refused.
pub fn inside_agent(pid: u32, roots: &[Text]) -> io::Result<bool> {
    let process = Process::open_dir(&format!("/proc/{pid}"))?;
    let (bytes, _) = process.read("cgroup", CGROUP_BYTES)?;
    let line = bytes.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    let path = line.ok_or_else(|| Error::new(ErrorKind::NotFound, "it is in no version 2 cgroup"))?;
    Ok(roots.iter().any(|root| is_below(path, root.bytes())))
}

pub(super) fn is_below(path: &[u8], root: &[u8]) -> bool {
    let root = root.strip_suffix(b"/").unwrap_or(root);
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}
