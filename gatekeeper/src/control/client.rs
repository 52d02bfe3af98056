//! The callers' end of the control socket: what every subcommand but `daemon` uses.
//!
//! Its errors are for operators: each says what stands in the way and what to do. What comes from the other end is
//! checked like anything from outside, because a path can lead to any program's socket.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    accounts::Accounts,
    protocol::{self, Call, CallError, FrameError, Lines, Reply},
};
use crate::request::Request;

/// How long the daemon may take to answer. A decision waits for the disk, an enrolment for the kernel.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Bytes per read.
const READ_BYTES: usize = 64 * 1024;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nothing at the path.
    #[error(
        "no daemon answers: there is no socket {}; start it with `gatekeeper daemon`, or name its socket with --socket",
        path.display()
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// There is something else at the path.
    #[error("{} is no socket; name the daemon's socket with --socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// There is a socket, but no process behind it.
    #[error(
        "no daemon answers: nothing listens on {}; start it with `gatekeeper daemon`, or name its socket with --socket",
        path.display()
    )]
    NotListening {
        /// The path.
        path: PathBuf,
    },
    /// The socket's permissions forbid it.
    #[error("not permitted to use {}; {way_out}", path.display())]
    NotPermitted {
        /// The path.
        path: PathBuf,
        /// Who is permitted.
        way_out: String,
    },
    /// The path is longer than a socket's name can be.
    #[error("the path {} is longer than a socket's name may be; name the daemon's socket with --socket", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// Anything else about connecting.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon is another version.
    #[error(
        "the daemon behind {} speaks version {theirs} of the control protocol, this gatekeeper version {}; restart the \
         daemon, or use the gatekeeper that it was started from",
        path.display(),
        protocol::VERSION
    )]
    Version {
        /// The path.
        path: PathBuf,
        /// The daemon's version.
        theirs: u32,
    },
    /// No daemon of ours is there.
    #[error("what answers on {} is no gatekeeper daemon; name the daemon's socket with --socket", path.display())]
    Garbage {
        /// The path.
        path: PathBuf,
        /// What is wrong with the answer.
        source: FrameError,
    },
    /// The answer is one, but not to this call.
    #[error("the daemon behind {} answered something that was not asked; restart it", path.display())]
    Unexpected {
        /// The path.
        path: PathBuf,
    },
    /// The connection ended before the answer.
    #[error(
        "the daemon behind {} closed the connection before it answered; see its log, and `gatekeeper status`",
        path.display()
    )]
    Closed {
        /// The path.
        path: PathBuf,
    },
    /// No answer came.
    #[error(
        "the daemon behind {} did not answer within {} seconds; see its log, and whether the process is stopped",
        path.display(),
        ANSWER_TIME.as_secs()
    )]
    Silent {
        /// The path.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the connection to {} failed", path.display())]
    Broken {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The call is too long.
    #[error("the call is too long; shorten labels, intent or reason")]
    TooLong(#[source] FrameError),
    /// The daemon says no.
    #[error("{0}")]
    Call(CallError),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: Lines,
    path: PathBuf,
}

impl Client {
    /// Connects to the daemon's socket.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| connect_error(path, error))?;
        let client = Self { stream, lines: Lines::new(protocol::MAX_REPLY_BYTES), path: path.to_owned() };
        client.limit_time(Some(ANSWER_TIME))?;
        Ok(client)
    }

    /// Makes a call that has one reply.
    pub fn call(&mut self, call: &Call) -> Result<Reply, ClientError> {
        self.send(call)?;
        self.next_reply()
    }

    /// Makes a call that is answered by a request.
    pub fn request(&mut self, call: &Call) -> Result<Request, ClientError> {
        match self.call(call)? {
            Reply::Request(request) => Ok(*request),
            _ => Err(self.unexpected()),
        }
    }

    /// The requests that wait.
    pub fn pending(&mut self) -> Result<Vec<Request>, ClientError> {
        self.send(&Call::Pending)?;
        self.requests_until(&Reply::End)
    }

    /// Starts to watch: the requests that wait now. Then [`Self::next_change`] gives each change.
    pub fn watch(&mut self) -> Result<Vec<Request>, ClientError> {
        self.send(&Call::Watch)?;
        let requests = self.requests_until(&Reply::Current)?;
        // From here on silence only means that nothing happens.
        self.limit_time(None)?;
        Ok(requests)
    }

    /// Waits for the next change.
    pub fn next_change(&mut self) -> Result<Request, ClientError> {
        match self.next_reply()? {
            Reply::Request(request) => Ok(*request),
            _ => Err(self.unexpected()),
        }
    }

    /// The error of an answer that does not belong to the call.
    pub fn unexpected(&self) -> ClientError {
        ClientError::Unexpected { path: self.path.clone() }
    }

    fn requests_until(&mut self, last: &Reply) -> Result<Vec<Request>, ClientError> {
        let mut requests = Vec::new();
        loop {
            match self.next_reply()? {
                Reply::Request(request) => requests.push(*request),
                reply if reply == *last => return Ok(requests),
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn send(&mut self, call: &Call) -> Result<(), ClientError> {
        let frame = protocol::encode_call(call).map_err(ClientError::TooLong)?;
        match self.stream.write_all(&frame) {
            Ok(()) => Ok(()),
            // A caller that is turned away finds the socket closed, and the reason in what it can still read.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn next_reply(&mut self) -> Result<Reply, ClientError> {
        let garbage = |path: &Path, error| match error {
            FrameError::Version { theirs } => ClientError::Version { path: path.to_owned(), theirs },
            source => ClientError::Garbage { path: path.to_owned(), source },
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Some(line) = self.lines.next_line().map_err(|error| garbage(&self.path, error))? {
                let answer = protocol::decode_reply(&line).map_err(|error| garbage(&self.path, error))?;
                return answer.map_err(ClientError::Call);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Closed { path: self.path.clone() }),
                Ok(length) => self.lines.push(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    fn limit_time(&self, limit: Option<Duration>) -> Result<(), ClientError> {
        let set = self.stream.set_read_timeout(limit).and_then(|()| self.stream.set_write_timeout(limit));
        set.map_err(|error| self.broken(error))
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent { path },
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ClientError::Closed { path },
            _ => ClientError::Broken { path, source },
        }
    }
}

fn connect_error(path: &Path, source: io::Error) -> ClientError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => ClientError::NoSocket { path },
        io::ErrorKind::ConnectionRefused => match fs::metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => ClientError::NotASocket { path },
            _ => ClientError::NotListening { path },
        },
        io::ErrorKind::PermissionDenied => {
            let way_out = way_out(&path, &Accounts::default());
            ClientError::NotPermitted { path, way_out }
        }
        // The standard library's own refusal of a name that does not fit; the kernel never sees it.
        io::ErrorKind::InvalidInput => ClientError::PathTooLong { path },
        _ => ClientError::Connect { path, source },
    }
}

/// Which group would be permitted, by the owner of the socket or, if that cannot be seen, of its directory.
fn way_out(path: &Path, accounts: &Accounts) -> String {
    let group = path.ancestors().find_map(|place| fs::metadata(place).ok()).and_then(|found| {
        let opens_to_group = found.mode() & 0o020 != 0 || (found.is_dir() && found.mode() & 0o010 != 0);
        (found.gid() != 0 && opens_to_group).then(|| found.gid())
    });
    match group {
        Some(gid) => {
            let name = accounts.group_name(gid).ok().flatten().unwrap_or_else(|| gid.to_string());
            format!("become root, or join the group {name} and log in again")
        }
        None => "become root".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_forbidden_socket_names_the_group_that_may() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("group"), "review:x:61234:dev\n").unwrap();
        let accounts = Accounts::below(directory.path());
        let path = directory.path().join("control.sock");
        std::fs::write(&path, "").unwrap();
        let with = |mode, gid| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            if rustix::process::geteuid().is_root() {
                rustix::fs::chown(&path, None, Some(rustix::fs::Gid::from_raw(gid))).unwrap();
            }
            way_out(&path, &accounts)
        };
        if rustix::process::geteuid().is_root() {
            assert_eq!(with(0o660, 61_234), "become root, or join the group review and log in again");
            assert_eq!(with(0o660, 61_235), "become root, or join the group 61235 and log in again");
            assert_eq!(with(0o660, 0), "become root");
        }
        assert_eq!(with(0o600, 61_234), "become root");
    }

    #[test]
    fn each_way_not_to_connect_has_its_message() {
        let path = Path::new("/run/x/control.sock");
        let shown = |kind: io::ErrorKind| connect_error(path, kind.into()).to_string();
        assert!(
            shown(io::ErrorKind::NotFound).starts_with("no daemon answers: there is no socket /run/x/control.sock;")
        );
        assert!(shown(io::ErrorKind::PermissionDenied).starts_with("not permitted to use /run/x/control.sock; become"));
        assert_eq!(shown(io::ErrorKind::OutOfMemory), "cannot connect to /run/x/control.sock");
    }
}
