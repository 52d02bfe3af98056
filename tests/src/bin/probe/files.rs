//! Acts on files.

use std::{ffi::CString, os::fd::OwnedFd};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags},
    io::{Errno, Result},
};

/// A descriptor that outlives its act.
pub(crate) type Kept = OwnedFd;

const PLAIN: Mode = Mode::from_raw_mode(0o644);

pub(crate) fn act(act: &[&str], kept: &mut Option<Kept>) -> Option<Result<()>> {
    let result = match *act {
        ["open", path, flags] => open(path, flags),
        ["keep", path] => fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map(|file| *kept = Some(file)),
        ["write"] => with(kept, |file| rustix::io::write(file, b"x").map(drop)),
        ["ftruncate", size] => with(kept, |file| fs::ftruncate(file, number(size)?.into())),
        ["fchmod", mode] => with(kept, |file| fs::fchmod(file, octal(mode)?)),
        ["fchown", user] => with(kept, |file| fs::fchown(file, Some(Uid::from_raw(number(user)?)), None)),
        ["truncate", path, size] => truncate(path, size),
        ["rename", from, to] => fs::rename(from, to),
        ["exchange", from, to] => fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE),
        ["link", from, to] => fs::link(from, to),
        ["symlink", points_to, path] => fs::symlink(points_to, path),
        ["unlink", path] => fs::unlink(path),
        ["rmdir", path] => fs::rmdir(path),
        ["mkdir", path] => fs::mkdir(path, Mode::from_raw_mode(0o755)),
        ["mkfifo", path] => fs::mknodat(CWD, path, FileType::Fifo, PLAIN, 0),
        ["chmod", path, mode] => octal(mode).and_then(|mode| fs::chmod(path, mode)),
        ["chown", path, user] => number(user).and_then(|user| chown(path, user)),
        ["setxattr", path] => fs::setxattr(path, "trusted.probe", b"x", XattrFlags::empty()),
        ["removexattr", path] => fs::removexattr(path, "trusted.probe"),
        ["setacl", path] => fs::setxattr(path, "system.posix_acl_access", &access_list(), XattrFlags::empty()),
        _ => return None,
    };
    Some(result)
}

fn with(kept: &Option<Kept>, act: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
    kept.as_ref().ok_or(Errno::BADF).and_then(act)
}

fn number(word: &str) -> Result<u32> {
    word.parse().map_err(|_| Errno::INVAL)
}

fn octal(word: &str) -> Result<Mode> {
    u32::from_str_radix(word, 8).map(Mode::from_raw_mode).map_err(|_| Errno::INVAL)
}

fn chown(path: &str, user: u32) -> Result<()> {
    fs::chownat(CWD, path, Some(Uid::from_raw(user)), None::<Gid>, AtFlags::empty())
}

fn open(path: &str, flags: &str) -> Result<()> {
    let mut all = OFlags::CLOEXEC;
    for flag in flags.split(',') {
        all |= match flag {
            "rdonly" => OFlags::RDONLY,
            "wronly" => OFlags::WRONLY,
            "rdwr" => OFlags::RDWR,
            "creat" => OFlags::CREATE,
            "excl" => OFlags::EXCL,
            "trunc" => OFlags::TRUNC,
            "append" => OFlags::APPEND,
            "tmpfile" => OFlags::TMPFILE,
            _ => return Err(Errno::INVAL),
        };
    }
    fs::open(path, all, PLAIN).map(drop)
}

fn truncate(path: &str, size: &str) -> Result<()> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path is a C string that outlives the call.
    match unsafe { libc::truncate(path.as_ptr(), number(size)?.into()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

/// The attribute's form of `u::rw-,u:1:r--,g::r--,m::r--,o::r--` (`include/uapi/linux/posix_acl_xattr.h`).
fn access_list() -> Vec<u8> {
    const VERSION: u32 = 2;
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NOBODY), (2, 4, 1), (4, 4, NOBODY), (0x10, 4, NOBODY), (0x20, 4, NOBODY)];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
