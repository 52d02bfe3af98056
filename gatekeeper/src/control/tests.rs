//! Server and client together, over a real socket.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_res_gid, set_thread_res_uid},
};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    AgentScope, Group, Reason,
    accounts::Accounts,
    client::{Client, ClientError},
    protocol::{self, Call, CallError, ErrorCode, Reply},
    samples,
    server::{Answer, Incoming, Options, Outlets, Refused, Server},
};
use crate::request::{Effect, Notice, NoticeKind, Request, RequestId, State};

/// A daemon that only has a control socket and two requests.
struct Daemon {
    path: PathBuf,
    inside_agent: Arc<AtomicBool>,
    changes: broadcast::Sender<Arc<Request>>,
    refusals: mpsc::Receiver<Refused>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

/// Changes that a watcher may fall behind by.
const CHANGES: usize = 16;

impl Daemon {
    fn start() -> Self {
        let gid = rustix::process::getegid().as_raw();
        Self::start_for(Some(Group { name: "reviewers".to_owned(), gid }))
    }

    fn start_for(group: Option<Group>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cgroup_root = own_cgroup_below(directory.path());
        let options = Options {
            path: directory.path().join("run/control.sock"),
            group,
            cgroup_root,
            accounts: Accounts::default(),
        };
        let path = options.path.clone();
        let inside_agent = Arc::new(AtomicBool::new(false));
        let (calls, incoming) = mpsc::channel(8);
        let (refusals_in, refusals) = mpsc::channel(2);
        let (changes, _) = broadcast::channel(CHANGES);
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let scope: Arc<AgentScope> = {
            let inside_agent = Arc::clone(&inside_agent);
            Arc::new(move |path: &str, ids: &[u64]| {
                assert!(path.starts_with('/') && !ids.is_empty());
                inside_agent.load(Ordering::SeqCst)
            })
        };
        let changes_out = changes.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let server = Server::bind(options).unwrap();
                ready.send(()).unwrap();
                let outlets = Outlets { calls, refusals: refusals_in };
                let answering = tokio::spawn(answer_all(incoming, changes_out));
                server.serve(scope, outlets, async { drop(stopped.await) }).await;
                answering.abort();
            });
        });
        is_ready.recv().unwrap();
        Self { path, inside_agent, changes, refusals, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        // The daemon may hang up in the middle of what is too long.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        let result = self.thread.take().unwrap().join();
        if !thread::panicking() {
            result.unwrap();
            assert!(!self.path.exists(), "the socket is removed");
        }
    }
}

/// A directory that mirrors where this process stands in cgroup version 2, whatever this host mounts where.
fn own_cgroup_below(directory: &Path) -> PathBuf {
    let root = directory.join("cgroup");
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a kernel with cgroup version 2");
    std::fs::create_dir_all(root.join(path)).unwrap();
    root
}

async fn answer_all(mut incoming: mpsc::Receiver<Incoming>, changes: broadcast::Sender<Arc<Request>>) {
    let pending: Vec<Arc<Request>> = vec![Arc::new(samples::request(1)), Arc::new(samples::request(2))];
    let find = |id: RequestId| {
        let missing = || CallError::new(ErrorCode::NoSuchRequest, format!("no request {id}")).with_hint("see pending");
        pending.iter().find(|request| request.id == id).map(Arc::clone).ok_or_else(missing)
    };
    while let Some(Incoming { call, peer, inside, reply }) = incoming.recv().await {
        assert_eq!(peer.pid, std::process::id());
        assert!(inside.is_none() || matches!(call, Call::Why { .. }), "{call:?}");
        let answer = match call {
            Call::Why { id } => {
                let reason = inside.map(|cgroup| cgroup.starts_with('/').to_string());
                Ok(Answer::One(Reply::Why(vec![Notice {
                    outcome: NoticeKind::Denied,
                    request: id,
                    rule: None,
                    action: String::new(),
                    reason,
                    at_ms: 0,
                }])))
            }
            Call::Status => Ok(Answer::One(Reply::Status(Box::new(samples::status())))),
            Call::Pending => Ok(Answer::Pending(pending.clone())),
            Call::Show { id } => find(id).map(Answer::Request),
            Call::Decide { id, effect, .. } => find(id).map(|request| {
                let state = if effect == Effect::Allow { State::Released } else { State::Denied };
                let decided = Arc::new(Request { state, ..Request::clone(&request) });
                // Nobody may be watching.
                let _ = changes.send(Arc::clone(&decided));
                Answer::Request(decided)
            }),
            Call::Act { id, .. } => find(id).map(Answer::Request),
            Call::Watch => Ok(Answer::Watch { pending: pending.clone(), changes: changes.subscribe() }),
            Call::Enrol { agent, .. } => Ok(Answer::One(Reply::Enrolled { agent, cgroup: peer.user, reasons: None })),
            // Never answered: the daemon drops the call.
            Call::Reload => continue,
            Call::Grants | Call::Revoke { .. } => Ok(Answer::One(Reply::Grants(Vec::new()))),
            Call::Detach { .. } => Err(CallError::new(ErrorCode::HoldsOpen, "2 actions wait")),
        };
        let _ = reply.send(answer);
    }
}

#[test]
fn one_connection_carries_several_calls() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    assert_eq!(client.call(&Call::Status).unwrap(), Reply::Status(Box::new(samples::status())));
    assert_eq!(client.pending().unwrap(), [samples::request(1), samples::request(2)]);
    let id = samples::request(2).id;
    assert_eq!(client.request(&Call::Show { id }).unwrap(), samples::request(2));
    let decide = Call::Decide { id, effect: Effect::Deny { errno: 1 }, reason: Some("no".to_owned()) };
    assert_eq!(client.request(&decide).unwrap().state, State::Denied);
}

#[test]
fn errors_of_the_daemon_arrive_whole() {
    let daemon = Daemon::start();
    let id = RequestId::new(9, 9);
    let error = daemon.client().request(&Call::Show { id }).unwrap_err();
    assert_eq!(error.to_string(), format!("no request {id}; see pending"));
    let error = daemon.client().call(&Call::Detach { force_deny: false }).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::HoldsOpen, .. })), "{error}");
    let error = daemon.client().call(&Call::Reload).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::Stopping, .. })), "{error}");
}

#[test]
fn a_watcher_sees_what_waits_and_then_each_change() {
    let daemon = Daemon::start();
    let mut watcher = daemon.client();
    assert_eq!(watcher.watch().unwrap().len(), 2);
    let id = samples::request(1).id;
    let decide = Call::Decide { id, effect: Effect::Allow, reason: None };
    daemon.client().request(&decide).unwrap();
    let change = watcher.next_change().unwrap();
    assert_eq!((change.id, change.state), (id, State::Released));
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_delays_nobody() {
    let daemon = Daemon::start();
    let mut watcher = daemon.client();
    watcher.watch().unwrap();
    let mut large = samples::request(3);
    large.context.script = Some("x".repeat(1 << 20).as_str().into());
    let large = Arc::new(large);
    // More than sockets buffer and the channel keeps; other callers are served all the while.
    for _ in 0..4 * CHANGES {
        daemon.changes.send(Arc::clone(&large)).unwrap();
        daemon.client().call(&Call::Status).unwrap();
    }
    let error = loop {
        if let Err(error) = watcher.next_change() {
            break error;
        }
    };
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::TooSlow, .. })), "{error}");
}

#[test]
fn a_request_too_large_for_a_frame_is_sent_without_its_surroundings() {
    let daemon = Daemon::start();
    let mut watcher = daemon.client();
    watcher.watch().unwrap();
    let mut huge = samples::request(3);
    huge.context.script = Some("x".repeat(protocol::MAX_REPLY_BYTES).as_str().into());
    daemon.changes.send(Arc::new(huge.clone())).unwrap();
    let change = watcher.next_change().unwrap();
    assert_eq!(change.action, huge.action);
    assert_eq!(change.context.gaps, ["all of it is left out: it is longer than 4194304 bytes"]);
}

#[test]
fn callers_inside_an_agent_are_refused_and_reported() {
    let mut daemon = Daemon::start();
    daemon.inside_agent.store(true, Ordering::SeqCst);
    for _ in 0..4 {
        let error = daemon.client().call(&Call::Status).unwrap_err();
        assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::InsideAgent, .. })), "{error}");
    }
    // Two fit into the channel, two were only counted, and the next one that fits says so.
    let first = daemon.refusals.blocking_recv().unwrap();
    assert_eq!((first.pid, first.unreported), (std::process::id(), 0));
    assert!(matches!(first.reason, Reason::InsideAgent { .. }));
    daemon.refusals.blocking_recv().unwrap();
    daemon.client().call(&Call::Status).unwrap_err();
    assert_eq!(daemon.refusals.blocking_recv().unwrap().unreported, 2);
}

/// What the daemon answers when it is asked why: whether it was told that an agent asks.
fn why(daemon: &Daemon) -> Result<Option<String>, ClientError> {
    match daemon.client().call(&Call::Why { id: None })? {
        Reply::Why(notices) => Ok(notices[0].reason.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn callers_inside_an_agent_may_ask_why_and_nothing_else() {
    let mut daemon = Daemon::start();
    assert_eq!(why(&daemon).unwrap(), None, "a reviewer asks as such");
    daemon.inside_agent.store(true, Ordering::SeqCst);
    assert_eq!(why(&daemon).unwrap(), Some("true".to_owned()));
    assert!(daemon.refusals.try_recv().is_err(), "that is nothing to report");
    let id = samples::request(1).id;
    let enrol = Call::Enrol { agent: "builder".to_owned(), labels: BTreeMap::new(), intent: None, command: Vec::new() };
    let others = [
        Call::Status,
        Call::Pending,
        Call::Show { id },
        Call::Decide { id, effect: Effect::Allow, reason: None },
        Call::Watch,
        Call::Grants,
        Call::Revoke { id, reason: "no".to_owned() },
        enrol,
        Call::Reload,
        Call::Detach { force_deny: true },
    ];
    let until = Instant::now() + Duration::from_secs(20);
    for call in others {
        // What agents may call is few: a place becomes free a moment later.
        let error = loop {
            while daemon.refusals.try_recv().is_ok() {}
            let error = daemon.client().call(&call).unwrap_err();
            let is_busy = matches!(error, ClientError::Call(CallError { code: ErrorCode::Busy, .. }));
            if !is_busy || Instant::now() > until {
                break error;
            }
        };
        assert!(
            matches!(error, ClientError::Call(CallError { code: ErrorCode::InsideAgent, .. })),
            "{call:?}: {error}"
        );
        assert!(matches!(daemon.refusals.blocking_recv().unwrap().reason, Reason::InsideAgent { .. }));
    }
    // One call, then it is over; what is no call at all is refused, too.
    let mut raw = |bytes: &[u8]| loop {
        while daemon.refusals.try_recv().is_ok() {}
        let answer = daemon.raw(bytes);
        if !answer.contains("\"busy\"") || Instant::now() > until {
            return answer;
        }
    };
    let twice = [protocol::encode_call(&Call::Why { id: None }).unwrap(), b"{}\n".to_vec()].concat();
    let answer = raw(&twice);
    assert_eq!(answer.lines().count(), 1, "{answer}");
    assert!(answer.contains("\"why\""), "{answer}");
    let long = [b"x".repeat(100_000), b"\n".to_vec()].concat();
    for bytes in [&b"nonsense\n"[..], &long] {
        let answer = raw(bytes);
        assert!(answer.contains("inside_agent"), "{answer}");
    }
    assert!(matches!(daemon.refusals.blocking_recv().unwrap().reason, Reason::InsideAgent { .. }));
}

#[test]
fn agents_that_call_too_often_take_no_places_of_reviewers() {
    let daemon = Daemon::start();
    daemon.inside_agent.store(true, Ordering::SeqCst);
    // They connect, and say nothing.
    let idle: Vec<_> = (0..300).map(|_| UnixStream::connect(&daemon.path).unwrap()).collect();
    let busy = why(&daemon).unwrap_err();
    assert!(matches!(busy, ClientError::Call(CallError { code: ErrorCode::Busy, .. })), "{busy}");
    daemon.inside_agent.store(false, Ordering::SeqCst);
    assert_eq!(daemon.client().call(&Call::Status).unwrap(), Reply::Status(Box::new(samples::status())));
    drop(idle);
    daemon.inside_agent.store(true, Ordering::SeqCst);
    let until = Instant::now() + Duration::from_secs(20);
    while why(&daemon).is_err() {
        assert!(Instant::now() < until, "places do not become free again");
    }
}

#[test]
fn a_caller_that_became_an_agent_is_refused_from_then_on() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let enrol = Call::Enrol { agent: "builder".to_owned(), labels: BTreeMap::new(), intent: None, command: Vec::new() };
    assert!(matches!(client.call(&enrol).unwrap(), Reply::Enrolled { .. }));
    daemon.inside_agent.store(true, Ordering::SeqCst);
    let id = samples::request(1).id;
    let error = client.request(&Call::Decide { id, effect: Effect::Allow, reason: None }).unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::InsideAgent, .. })), "{error}");
}

#[test]
fn a_watcher_that_became_an_agent_learns_nothing_more() {
    let daemon = Daemon::start();
    let mut watcher = daemon.client();
    watcher.watch().unwrap();
    daemon.inside_agent.store(true, Ordering::SeqCst);
    daemon.changes.send(Arc::new(samples::request(3))).unwrap();
    let error = watcher.next_change().unwrap_err();
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::InsideAgent, .. })), "{error}");
}

#[test]
fn what_another_process_writes_into_the_connection_is_refused() {
    let mut daemon = Daemon::start();
    let stream = UnixStream::connect(&daemon.path).unwrap();
    let output = std::os::fd::OwnedFd::from(stream.try_clone().unwrap());
    let mut child = std::process::Command::new("/bin/echo")
        .arg("{\"version\":1,\"call\":\"status\"}")
        .stdout(output)
        .spawn()
        .unwrap();
    child.wait().unwrap();
    let mut answer = String::new();
    let mut stream = stream;
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"code\":\"not_permitted\""), "{answer}");
    let refused = daemon.refusals.blocking_recv().unwrap();
    assert_eq!(refused.reason, Reason::ForeignSender { pid: child.id() });
}

/// Calls as another user, if this one can become another; else as this one, who is not root.
fn call_as_stranger(path: PathBuf, gid: u32) -> Result<Reply, ClientError> {
    let calling = thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            // These change this thread alone, other than the functions of the C library.
            let (user, group) = (Uid::from_raw(65_534), Gid::from_raw(gid));
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
        }
        Client::connect(&path)?.call(&Call::Status)
    });
    calling.join().unwrap()
}

/// Lets everybody reach the socket, so that only the daemon's own check stands in the way.
fn open_to_all(daemon: &Daemon) {
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    set(&daemon.path, 0o666);
    for directory in daemon.path.ancestors().skip(1).take(2) {
        set(directory, 0o755);
    }
}

#[test]
fn strangers_are_refused() {
    let mut daemon = Daemon::start_for(None);
    open_to_all(&daemon);
    let error = call_as_stranger(daemon.path.clone(), 65_534).unwrap_err();
    let expected = "not permitted to use the control socket; \
                    become root, or set a group for reviewers in the configuration";
    assert_eq!(error.to_string(), expected);
    assert_eq!(daemon.refusals.blocking_recv().unwrap().reason, Reason::NotPermitted { group: None });
}

#[test]
fn the_group_may_call() {
    let gid = if rustix::process::geteuid().is_root() { 61_234 } else { rustix::process::getegid().as_raw() };
    let daemon = Daemon::start_for(Some(Group { name: "reviewers".to_owned(), gid }));
    open_to_all(&daemon);
    call_as_stranger(daemon.path.clone(), gid).unwrap();
}

#[test]
fn frames_that_are_no_calls_are_answered_and_end_the_connection() {
    let daemon = Daemon::start();
    for (bytes, code) in [
        (&b"hello\n"[..], "bad_frame"),
        (b"{\"version\":1,\"call\":\"levitate\"}\n", "bad_frame"),
        (b"{\"version\":2,\"call\":\"status\"}\n{\"version\":1,\"call\":\"status\"}\n", "version_mismatch"),
        (&vec![b'x'; protocol::MAX_CALL_BYTES + 1], "too_large"),
    ] {
        let answer = daemon.raw(bytes);
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
        assert_eq!(answer.lines().count(), 1, "{answer}");
    }
    assert_eq!(daemon.raw(b"{\"version\":1"), "", "half a call is no call");
    daemon.client().call(&Call::Status).unwrap();
}

#[test]
fn callers_beyond_the_limit_are_told_so() {
    let daemon = Daemon::start();
    let mut open: Vec<Client> = Vec::new();
    let error = loop {
        let mut client = daemon.client();
        match client.call(&Call::Status) {
            Ok(_) => open.push(client),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Call(CallError { code: ErrorCode::Busy, .. })), "{error}");
    assert_eq!(open.len(), 256);
    open[255].call(&Call::Status).unwrap();
}

#[test]
fn a_stopping_daemon_says_so_at_once_to_all_who_wait() {
    let daemon = Daemon::start();
    let (mut watcher, mut idle) = (daemon.client(), daemon.client());
    watcher.watch().unwrap();
    idle.call(&Call::Status).unwrap();
    let start = Instant::now();
    drop(daemon);
    assert!(start.elapsed() < Duration::from_secs(2), "nobody keeps it from stopping");
    for error in [watcher.next_change().unwrap_err(), idle.call(&Call::Status).unwrap_err()] {
        assert!(matches!(&error, ClientError::Call(CallError { code: ErrorCode::Stopping, .. })), "{error}");
    }
}
