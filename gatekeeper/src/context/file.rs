//! Files that an agent named: looked at first, opened only if they are regular files on a local file system.
//!
//! Looking is an `O_PATH` open, which runs no driver and no peer of a FIFO; the identity that the kernel side saw
//! decides whether it is the same file. Reading then goes through that very handle.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Error, ErrorKind, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::{LazyLock, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use sha2::{Digest as _, Sha256};

use super::process::Process;
use crate::{action::Object, broker::Interpreter, text::Text};

/// The kernel looks for an interpreter's name in that many bytes (`BINPRM_BUF_SIZE`).
const FIRST_LINE_BYTES: usize = 256;

/// Bytes of a script that are shown.
const PREVIEW_BYTES: usize = 2 * 1024;

/// Lines of a script that are shown.
const PREVIEW_LINES: usize = 20;

/// Larger files are not hashed.
const HASHED_BYTES: u64 = 256 << 20;

/// Digests that are remembered.
const REMEMBERED: usize = 512;

/// A file that changed as recently as that may change again without its time saying so.
const SETTLED_NS: u64 = 2_000_000_000;

/// File systems on which a read can wait for somebody else: a process that may be held, or another host. The numbers are
/// `f_type` of statfs(2).
const REMOTE: [u32; 15] = [
    0x6573_5546, // FUSE
    0x0000_6969, // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0000_517b, // SMB
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x6b41_4653, // kAFS
    0x7375_7245, // Coda
    0x0116_1970, // GFS2
    0x7461_636f, // OCFS2
    0x0bd0_0bd0, // Lustre
    0x786f_4256, // VirtualBox shared folders
    0x0000_0187, // autofs
];

/// File systems whose `st_dev` is not the device of the file system as the kernel has it: overlayfs, btrfs, bcachefs.
const OTHER_DEVICE: [u32; 3] = [0x794c_7630, 0x9123_683e, 0xca45_1a4e];

/// A regular file, and the one that the kernel side saw.
#[derive(Debug)]
pub(super) struct Program {
    file: File,
    version: Version,
}

/// How to recognise a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    dev: u64,
    ino: u64,
    ctime_ns: u64,
    size: u64,
}

/// What a script says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Script {
    /// As its first line names it.
    pub(super) interpreter: Text,
    /// Its first lines.
    pub(super) preview: Text,
}

impl Program {
    /// Opens `path` in the task's view of the file system, if it is what the kernel side saw there.
    pub(super) fn open(process: &Process, root: &OwnedFd, path: &Text, object: &Object) -> io::Result<Self> {
        // The kernel side's path is resolved: a symbolic link on it was put there since.
        let handle = look_at(root, path, ResolveFlags::NO_SYMLINKS)?;
        let found = examine(process, &handle)?;
        let bound = object.size != 0 || object.ctime_ns != 0;
        if (found.dev, found.ino) != (object.dev, object.ino) {
            return Err(Error::other("its path leads to another file by now"));
        }
        if bound && (found.size, found.ctime_ns) != (object.size, object.ctime_ns) {
            return Err(Error::other("it has changed since it was held"));
        }
        if found.kind != FileType::RegularFile {
            return Err(Error::other("it is no regular file"));
        }
        let file_system = file_system(&handle)?;
        if REMOTE.contains(&file_system) {
            return Err(Error::other(
                "it lies on a file system that other processes or hosts serve, so it is not read",
            ));
        }
        // Through the handle, so it is this very file; without waiting for whoever holds a lease.
        let file = fs::openat(
            CWD,
            format!("/proc/self/fd/{}", handle.as_raw_fd()),
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )?;
        let Examined { dev, ino, ctime_ns, size, .. } = found;
        Ok(Self { file: File::from(file), version: Version { dev, ino, ctime_ns, size } })
    }

    /// The interpreter and the first lines, if the file is a script.
    pub(super) fn script(&self) -> io::Result<Option<Script>> {
        let mut bytes = vec![0; PREVIEW_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        bytes.truncate(filled);
        Ok(interpreter(&bytes).map(|interpreter| Script { interpreter, preview: preview(&bytes) }))
    }

    /// SHA-256 of the whole file, hexadecimal. `is_abandoned` ends it early.
    pub(super) fn sha256(mut self, is_abandoned: &dyn Fn() -> bool) -> io::Result<String> {
        let Version { ctime_ns, size, .. } = self.version;
        if size > HASHED_BYTES {
            return Err(Error::other(format!("the file is larger than {} MiB", HASHED_BYTES >> 20)));
        }
        if let Some(known) = DIGESTS.lock().unwrap_or_else(PoisonError::into_inner).get(&self.version) {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        loop {
            if is_abandoned() {
                return Err(Error::other("it took too long"));
            }
            match self.file.read(&mut buffer)? {
                0 => break,
                read => {
                    total += read as u64;
                    hash.update(&buffer[..read]);
                }
            }
            if total > size {
                return Err(Error::other("the file grew while it was read"));
            }
        }
        let after = fs::fstat(&self.file)?;
        if total != size || ctime(&after) != ctime_ns {
            return Err(Error::other("the file changed while it was read"));
        }
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        if now > u128::from(ctime_ns) + u128::from(SETTLED_NS) {
            let mut digests = DIGESTS.lock().unwrap_or_else(PoisonError::into_inner);
            let digests: &mut HashMap<_, _> = &mut digests;
            if digests.len() >= REMEMBERED {
                digests.clear();
            }
            digests.insert(self.version, digest.clone());
        }
        Ok(digest)
    }
}

/// Digests of files that were hashed before.
static DIGESTS: LazyLock<Mutex<HashMap<Version, String>>> = LazyLock::new(Mutex::default);

/// The file that a path means to a task.
pub(super) fn identify(process: &Process, root: &OwnedFd, path: &Text) -> io::Result<Interpreter> {
    let handle = look_at(root, path, ResolveFlags::empty())?;
    let Examined { dev, ino, .. } = examine(process, &handle)?;
    Ok(Interpreter { dev, ino })
}

/// The same with size and time of change; what else an object has is left out.
pub(super) fn describe(process: &Process, root: &OwnedFd, path: &Text) -> io::Result<Object> {
    let handle = look_at(root, path, ResolveFlags::empty())?;
    let Examined { dev, ino, ctime_ns, size, .. } = examine(process, &handle)?;
    Ok(Object { dev, ino, generation: 0, mode: 0, uid: 0, nlink: 0, size, ctime_ns })
}

/// A handle that cannot be read from, for an absolute path.
fn look_at(root: &OwnedFd, path: &Text, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    if path.bytes().first() != Some(&b'/') {
        return Err(Error::new(ErrorKind::InvalidInput, "its path is not absolute"));
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let flags = if resolve.contains(ResolveFlags::NO_SYMLINKS) { flags } else { OFlags::PATH | OFlags::CLOEXEC };
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(fs::openat2(root, path.bytes(), flags, Mode::empty(), resolve)?)
}

/// What a handle leads to.
struct Examined {
    /// As the kernel has it.
    dev: u64,
    ino: u64,
    size: u64,
    ctime_ns: u64,
    kind: FileType,
}

fn examine(process: &Process, handle: &OwnedFd) -> io::Result<Examined> {
    let stat = fs::fstat(handle)?;
    let dev = if OTHER_DEVICE.contains(&file_system(handle)?) {
        let statx = fs::statx(handle, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
        process.device_of_mount(statx.stx_mnt_id)?
    } else {
        u64::from(fs::major(stat.st_dev)) << 20 | u64::from(fs::minor(stat.st_dev))
    };
    Ok(Examined {
        dev,
        ino: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        ctime_ns: ctime(&stat),
        kind: FileType::from_raw_mode(stat.st_mode),
    })
}

fn ctime(stat: &fs::Stat) -> u64 {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(stat.st_ctime_nsec)
}

fn file_system(handle: &OwnedFd) -> io::Result<u32> {
    // Magic numbers have 32 bits; the field's width and sign differ between architectures.
    Ok(fs::fstatfs(handle)?.f_type as u32)
}

/// The interpreter that the first line names, by the kernel's rules (`fs/binfmt_script.c`).
pub(super) fn interpreter(bytes: &[u8]) -> Option<Text> {
    let line = bytes.get(..FIRST_LINE_BYTES).unwrap_or(bytes).strip_prefix(b"#!")?;
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = &line[..line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len())];
    let name = &line[line.iter().position(|byte| !is_space(byte))?..];
    let end = name.iter().position(|byte| is_space(byte) || *byte == 0).unwrap_or(name.len());
    (end > 0).then(|| Text::from(&name[..end]))
}

fn preview(bytes: &[u8]) -> Text {
    let end = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(PREVIEW_LINES - 1);
    Text::from(&bytes[..end.map_or(bytes.len(), |(at, _)| at + 1)])
}
