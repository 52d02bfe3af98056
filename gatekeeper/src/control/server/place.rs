//! The socket's file: made so that nobody unwanted can ever connect, replaced only when its owner is gone, and removed
//! at the end.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Gid, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};

use crate::control::Group;

/// Callers that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path is unusable as it is.
    #[error("the control socket's path {} is longer than a socket's name may be; choose one below 108 bytes", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The directory cannot be made or looked at.
    #[error("cannot use the directory {} for the control socket", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could put a socket in place of ours.
    #[error(
        "the directory {} of the control socket belongs to or can be written by others (owner {owner}, mode {mode:04o}); \
         let it belong to the daemon's user, with mode 0750",
        path.display()
    )]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Another daemon is there.
    #[error("another gatekeeper daemon already serves {}; stop it first", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} exists and is no socket; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket's file that is ours, and the lock that says so.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and inode: a file that has taken the place since is not ours to remove.
    identity: (u64, u64),
    /// The directory, locked: of two daemons that start at once only one may judge and replace a stale socket.
    _lock: File,
}

impl Place {
    /// Makes the socket and listens on it.
    pub(super) fn take(path: &Path, group: Option<&Group>) -> Result<(Self, UnixListener), BindError> {
        let failed = |source: io::Error| BindError::Listen { path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|_| BindError::PathTooLong { path: path.to_owned() })?;
        let lock = prepare_directory(path, group)?;
        remove_stale(path)?;

        let flags = SocketFlags::CLOEXEC;
        let socket: OwnedFd =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|error| failed(error.into()))?;
        bind(&socket, &address).map_err(|error| failed(error.into()))?;
        // Nobody can connect before `listen`, so the permissions are in force from the first caller on.
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        if let Some(group) = group {
            rustix::fs::chown(path, None, Some(Gid::from_raw(group.gid))).map_err(|error| failed(error.into()))?;
        }
        // Accepted sockets inherit it: each message says who sent it.
        sockopt::set_socket_passcred(&socket, true).map_err(|error| failed(error.into()))?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        listen(&socket, BACKLOG).map_err(|error| failed(error.into()))?;
        let place = Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), _lock: lock };
        Ok((place, UnixListener::from(socket)))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if is_ours {
            // A file that stays is found stale by the next daemon.
            let _: io::Result<()> = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory if it is missing, makes sure that only we can put files there, and locks it.
fn prepare_directory(path: &Path, group: Option<&Group>) -> Result<File, BindError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |source| BindError::Directory { path: directory.to_owned(), source };
    // Closed to all others until its group is set. One that exists keeps the permissions it was given. Others can pass
    // through, and not look: agents find their own run's file below it by its name.
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {
            let mode = if let Some(group) = group {
                let gid = Some(Gid::from_raw(group.gid));
                rustix::fs::chown(directory, None, gid).map_err(|error| failed(error.into()))?;
                0o751
            } else {
                0o711
            };
            fs::set_permissions(directory, fs::Permissions::from_mode(mode)).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let lock = File::open(directory).map_err(failed)?;
    let metadata = lock.metadata().map_err(failed)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(BindError::UnsafeDirectory { path: directory.to_owned(), owner, mode });
    }
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Listen { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        // 0700, as tempfile makes it.
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_closed_to_others_and_removed_at_the_end() {
        let directory = directory();
        let path = directory.path().join("run/control.sock");
        let (place, _listener) = Place::take(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o711);
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn the_group_can_reach_the_socket() {
        let directory = directory();
        let path = directory.path().join("run/control.sock");
        let gid = rustix::process::getegid().as_raw();
        let (_place, _listener) = Place::take(&path, Some(&Group { name: "review".to_owned(), gid })).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o751);
        assert_eq!(fs::metadata(&path).unwrap().gid(), gid);
    }

    #[test]
    fn only_a_stale_socket_is_replaced() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (place, listener) = Place::take(&path, None).unwrap();
        assert!(matches!(Place::take(&path, None), Err(BindError::InUse { .. })), "the lock is held");
        drop((place, listener));

        let foreign = UnixListener::bind(&path).unwrap();
        assert!(matches!(Place::take(&path, None), Err(BindError::InUse { .. })), "somebody answers");
        drop(foreign);
        fs::remove_file(&path).unwrap();

        fs::write(&path, "precious").unwrap();
        let error = Place::take(&path, None).unwrap_err();
        assert!(error.to_string().ends_with("exists and is no socket; remove it or choose another path"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_took_the_place_is_left_alone() {
        let directory = directory();
        let path = directory.path().join("control.sock");
        let (place, _listener) = Place::take(&path, None).unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        fs::write(&path, "other").unwrap();
        drop(place);
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = directory();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Place::take(&directory.path().join("control.sock"), None).unwrap_err();
        assert!(matches!(error, BindError::UnsafeDirectory { mode: 0o777, .. }), "{error}");
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(Place::take(&long, None), Err(BindError::PathTooLong { .. })));
        let deep = directory.path().join("missing/too/control.sock");
        assert!(matches!(Place::take(&deep, None), Err(BindError::Directory { .. })));
    }
}
