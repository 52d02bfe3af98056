//! Hearing from a daemon that it is ready, as systemd does.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The daemon enforces, and answers.
    Ready,
    /// It ended instead.
    Ended(ExitStatus),
    /// Neither, for as long as one wanted to wait.
    Silent,
}

/// The socket that a daemon writes to when it is ready.
#[derive(Debug)]
pub struct Readiness {
    notices: UnixDatagram,
    path: PathBuf,
}

impl Readiness {
    /// Makes the socket in `directory`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let path = directory.join("ready.sock");
        let notices = UnixDatagram::bind(&path)?;
        Ok(Self { notices, path })
    }

    /// Has a daemon that is about to be started write here.
    pub fn ask(&self, daemon: &mut Command) {
        daemon.env("NOTIFY_SOCKET", &self.path);
    }

    /// Waits until the daemon is ready or has ended, without a limit where `patience` is none.
    ///
    /// # Errors
    /// The operating system refuses to tell.
    pub fn wait(&self, daemon: &mut Child, patience: Option<Duration>) -> io::Result<Start> {
        let process = pidfd_open(Pid::from_child(daemon), PidfdFlags::empty())?;
        let end = patience.map(|patience| Instant::now() + patience);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left =
                left.map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
            let mut waited = [PollFd::new(&self.notices, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
            match poll(&mut waited, left.as_ref()) {
                Ok(0) => return Ok(Start::Silent),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [notice, ended] = waited.map(|descriptor| !descriptor.revents().is_empty());
            if notice && self.is_ready()? {
                return Ok(Start::Ready);
            }
            if ended {
                return daemon.wait().map(Start::Ended);
            }
        }
    }

    /// Whether the next notice is the one.
    fn is_ready(&self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let length = self.notices.recv(&mut buffer)?;
        Ok(buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1"))
    }
}
