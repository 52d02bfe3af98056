//! The daemon's end of the control socket: accepts, checks callers, hands their calls to the daemon, writes its answers.
//!
//! It decides nothing. Each caller has a task of its own with bounded buffers, so a slow or hostile one delays nobody
//! else, and never the daemon: a watcher that does not keep up is cut off. Each call is checked anew, for who sent it
//! and for whether that process has become part of an agent since.

mod connection;
mod place;

use std::{
    future::Future,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, broadcast, mpsc, oneshot, watch},
    task::JoinSet,
    time,
};

pub use self::place::BindError;
use self::place::Place;
use super::{
    accounts::Accounts,
    peer::{AgentScope, Caller, Group, Inspector, Peer, Reason},
    protocol::{self, Call, CallError, ErrorCode, Reply},
    socket::Credentials,
};
use crate::{request::Request, text::Text};

/// Callers at once. Each holds a descriptor and at most a frame in each direction.
const MAX_CONNECTIONS: usize = 256;

/// The same for processes of agents, all together: they take no places of reviewers.
const MAX_AGENT_CONNECTIONS: usize = 8;

/// How long an agent's place stays taken after its call, which bounds how often agents can call.
const AGENT_PAUSE: Duration = Duration::from_millis(50);

/// How long a caller may take to send a whole call, from the connection or from the answer before. Nobody types here.
const CALL_TIME: Duration = Duration::from_secs(10);

/// How long a caller may leave its end unread before it is cut off.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// How long open connections get to take their last answer when the server stops.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Pause after accept failed for want of descriptors or memory, which does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen, and who may call.
#[derive(Clone, Debug)]
pub struct Options {
    /// The socket's path. Its directory is made when it is missing.
    pub path: PathBuf,
    /// Who may call besides root.
    pub group: Option<Group>,
    /// Where cgroup version 2 is mounted.
    pub cgroup_root: PathBuf,
    /// The host's account files.
    pub accounts: Accounts,
}

/// A call, for the daemon to answer.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub call: Call,
    /// Who asks: checked, and alive a moment ago.
    pub peer: Peer,
    /// The cgroup of a caller that is an agent's process, as a path below the cgroup mount. Then the call is
    /// [`Call::Why`], and the answer may be about this agent's run only.
    pub inside: Option<String>,
    /// Takes the answer. The caller may have gone by then; what was decided stands all the same.
    pub reply: oneshot::Sender<Result<Answer, CallError>>,
}

/// What the daemon answers.
#[derive(Debug)]
pub enum Answer {
    /// One reply: everything but the lists of requests.
    One(Reply),
    /// A request ([`Call::Show`], [`Call::Decide`]).
    Request(Arc<Request>),
    /// The requests that wait ([`Call::Pending`]).
    Pending(Vec<Arc<Request>>),
    /// The requests that wait, and what changes from this very moment on ([`Call::Watch`]).
    Watch {
        /// What waits now.
        pending: Vec<Arc<Request>>,
        /// Every later change. Its capacity is how far a watcher may fall behind before it is cut off.
        changes: broadcast::Receiver<Arc<Request>>,
    },
}

/// A caller was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its user id; `u32::MAX` if unknown.
    pub uid: u32,
    /// Its process id; 0 if unknown.
    pub pid: u32,
    /// Why.
    pub reason: Reason,
    /// How many refusals before this one could not be reported, because the daemon was busy.
    pub unreported: u64,
}

/// Where the server delivers.
#[derive(Clone, Debug)]
pub struct Outlets {
    /// Calls. When it is full, callers wait.
    pub calls: mpsc::Sender<Incoming>,
    /// Refusals. When it is full, they are only counted.
    pub refusals: mpsc::Sender<Refused>,
}

/// The listening socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    place: Place,
    options: Options,
}

/// What all connections share.
struct Shared {
    inspector: Inspector,
    outlets: Outlets,
    unreported: Mutex<u64>,
    stopping: watch::Receiver<bool>,
}

impl Shared {
    /// Completes when the server stops.
    async fn stopped(&self) {
        // A sender that is gone has stopped too.
        drop(self.stopping.clone().wait_for(|stopping| *stopping).await);
    }

    /// Reports a refusal without ever waiting: whoever is refused must not be able to slow the daemon down.
    fn refused(&self, Credentials { pid, uid, .. }: Credentials, reason: Reason) {
        // A poisoned count is still a count.
        let mut unreported = self.unreported.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match self.outlets.refusals.try_send(Refused { uid, pid, reason, unreported: *unreported }) {
            Ok(()) => *unreported = 0,
            Err(_) => *unreported += 1,
        }
    }
}

impl Server {
    /// Makes the socket. Must be called within a tokio runtime. A socket that nobody answers on is replaced.
    pub fn bind(options: Options) -> Result<Self, BindError> {
        let (place, listener) = Place::take(&options.path, options.group.as_ref())?;
        let failed = |source| BindError::Listen { path: options.path.clone(), source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, place, options })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// Serves until `stop` completes, then lets open calls finish for a moment. `scope` says what is an agent's.
    pub async fn serve(self, scope: Arc<AgentScope>, outlets: Outlets, stop: impl Future<Output = ()>) {
        let Self { listener, place, options } = self;
        let Options { path: _, group, cgroup_root, accounts } = options;
        let inspector = Inspector { cgroup_root, accounts, group, scope };
        let (stopping_in, stopping) = watch::channel(false);
        let shared = Arc::new(Shared { inspector, outlets, unreported: Mutex::new(0), stopping });
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let agent_places = Arc::new(Semaphore::new(MAX_AGENT_CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => break,
                // Takes the results of ended connections away, so that the set does not grow.
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a caller on the control socket");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let peer = match shared.inspector.identify(stream.as_fd()) {
                Ok(Caller::Permitted(peer)) => peer,
                Ok(Caller::Agent(peer)) => {
                    match Arc::clone(&agent_places).try_acquire_owned() {
                        Ok(permit) => {
                            let shared = Arc::clone(&shared);
                            connections.spawn(async move {
                                connection::serve_agent(stream, peer, &shared).await;
                                // Who stops is not waited for.
                                let pause = time::timeout(AGENT_PAUSE, shared.stopped());
                                drop(pause.await);
                                drop(permit);
                            });
                        }
                        Err(_) => {
                            let Peer { pid, uid, gid, .. } = peer;
                            let cgroup = Text::from("(not looked at: too many calls)");
                            shared.refused(Credentials { pid, uid, gid }, Reason::InsideAgent { cgroup });
                            let error = CallError::new(ErrorCode::Busy, "agents call too often");
                            turn_away(
                                &stream,
                                error.with_hint("wait a moment, or read the file in GATEKEEPER_REASONS"),
                            );
                        }
                    }
                    continue;
                }
                Err((credentials, reason)) => {
                    let error = reason.error();
                    shared.refused(credentials, reason);
                    turn_away(&stream, error);
                    continue;
                }
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(permit) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move {
                        connection::serve(stream, peer, &shared).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    let error = CallError::new(ErrorCode::Busy, "too many callers use the control socket at once");
                    turn_away(&stream, error.with_hint("close other views, then try again"));
                }
            }
        }
        drop(listener);
        drop(place);
        // Who idles or watches is sent away at once; calls on their way get their answer, if the daemon still gives it.
        // What is open after that is closed by the drop.
        stopping_in.send_replace(true);
        let _ = time::timeout(DRAIN_TIME, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// Answers at once or not at all: a fresh connection has room for one small frame.
fn turn_away(stream: &UnixStream, error: CallError) {
    if let Ok(frame) = protocol::encode_reply(Err(error)) {
        let _: io::Result<usize> = stream.try_write(&frame);
    }
}
