//! Where the acts happen, the rules about it, programs that run as an agent, and a reviewer that never sleeps.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::Read as _,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use gatekeeper_tests::{
    Client, Daemon, Lease, daemon,
    daemon::{process_state, stopped_processes},
    program,
    wait::{PATIENCE, wait_within},
    wait_until,
};
use serde_json::{Value, json};

/// Made anew by [`clean`].
pub(crate) const BASE: &str = "/srv/gatekeeper-robust";

/// What happens in `ask` waits, in `ask/allow` a rule lets it go on: it lies inside, so the kernel side cannot tell.
pub(crate) const RULES: &str = r#"
[[agent]]
name = "worker"

[[rule]]
name = "allow"
action = ["exec", "write"]
path = "/srv/gatekeeper-robust/ask/allow/**"
verdict = "allow"
[[rule]]
name = "short"
action = ["exec", "write"]
path = "/srv/gatekeeper-robust/ask/short/**"
verdict = "ask"
deadline = "20s"
[[rule]]
name = "files"
action = ["exec", "write"]
path = "/srv/gatekeeper-robust/ask/**"
verdict = "ask"
deadline = "1h"
[[rule]]
name = "port"
action = "bind"
port = "4321-4322"
verdict = "ask"
deadline = "1h"
"#;

/// For thousands of acts, under emulation, on a machine that does other things besides.
pub(crate) const LONG: Duration = Duration::from_secs(240);

/// A path below `ask`.
pub(crate) fn ask(name: &str) -> String {
    format!("{BASE}/ask/{name}")
}

/// Empty directories, and `ask/true`, which is a program.
pub(crate) fn clean() {
    // Not there yet, if this fails.
    let _ = fs::remove_dir_all(BASE);
    for directory in ["ask/allow", "ask/short", "free"] {
        fs::create_dir_all(format!("{BASE}/{directory}")).expect("/srv is writable");
    }
    for name in ["true", "allow/true"] {
        fs::copy("/bin/true", ask(name)).expect("there is a /bin/true");
    }
}

/// The shared daemon, in a clean place.
pub(crate) fn shared() -> Lease {
    clean();
    daemon(RULES)
}

/// A daemon of its own that loads the kernel side anew, because the sizes of maps are those of their first daemon.
pub(crate) fn with_limits(limits: &str) -> Daemon {
    shared().detach();
    Daemon::start(&format!("[limits]\n{limits}\n{RULES}"))
}

/// A program that runs as an agent, or not. It is killed when it is dropped.
pub(crate) struct Run {
    child: Child,
    output: File,
}

impl Run {
    /// Starts a program as an agent.
    pub(crate) fn agent(daemon: &Daemon, command: &[&str]) -> Self {
        let mut run = daemon.command(&["run", "--agent", "worker", "--"]);
        run.args(command);
        Self::start(run)
    }

    /// The same for `swarm`.
    pub(crate) fn swarm(daemon: &Daemon, arguments: &[&str]) -> Self {
        let swarm = program("swarm");
        let swarm = swarm.to_str().expect("the path is text");
        Self::agent(daemon, &[&[swarm], arguments].concat())
    }

    /// Starts any command; its output and errors are kept.
    pub(crate) fn start(mut command: Command) -> Self {
        let output = tempfile::tempfile().expect("/tmp is writable");
        let (out, errors) = (output.try_clone().unwrap(), output.try_clone().unwrap());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().expect("the program is there");
        Self { child, output }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is a child of ours").is_none()
    }

    /// Waits for the end: the status and all that was written.
    pub(crate) fn finish(&mut self) -> (ExitStatus, String) {
        self.finish_within(PATIENCE)
    }

    /// The same for work that takes long under emulation.
    pub(crate) fn finish_within(&mut self, patience: Duration) -> (ExitStatus, String) {
        let status = wait_within(patience, || self.child.try_wait().unwrap());
        let status = status.unwrap_or_else(|| panic!("process {} does not end: {}", self.pid(), self.written()));
        (status, self.written())
    }

    /// Waits for the end, which has to be a success, and gives the results of `swarm`.
    pub(crate) fn results(&mut self) -> BTreeMap<String, i32> {
        let (status, written) = self.finish_within(LONG);
        assert!(status.success(), "{status}: {written}");
        results(&written)
    }

    /// What was written so far.
    pub(crate) fn written(&mut self) -> String {
        use std::os::unix::fs::FileExt as _;
        let length = self.output.metadata().expect("a file has a size").len();
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        // The position is shared with those who write.
        self.output.read_exact_at(&mut bytes, 0).expect("a file can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Ended already, if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines of `NAME ERRNO`.
pub(crate) fn results(written: &str) -> BTreeMap<String, i32> {
    let line = |line: &str| {
        let (name, errno) = line.split_once(' ')?;
        Some((name.to_owned(), errno.parse().ok()?))
    };
    written.lines().map(|text| line(text).unwrap_or_else(|| panic!("not a result: {text:?} in {written}"))).collect()
}

/// Waits until this many requests are pending and gives them.
pub(crate) fn pending(daemon: &mut Daemon, count: usize) -> Vec<Value> {
    wait_until(&format!("{count} requests are pending"), || {
        let mut requests = daemon.pending();
        requests.retain(|request| request["state"] == "pending");
        (requests.len() >= count).then_some(requests)
    })
}

/// The only request that is pending.
pub(crate) fn only(daemon: &mut Daemon) -> Value {
    let mut requests = pending(daemon, 1);
    assert_eq!(requests.len(), 1, "{requests:?}");
    requests.remove(0)
}

/// The path that a request is about.
pub(crate) fn path_of(request: &Value) -> String {
    let target = &request["action"]["target"];
    let path = target.as_object().and_then(|target| target.values().next()).map(|target| &target["path"]);
    path.and_then(Value::as_str).unwrap_or_else(|| panic!("no path in {target}")).to_owned()
}

/// A counter's value now, to be compared later.
pub(crate) fn counters(daemon: &Daemon) -> BTreeMap<String, u64> {
    // On a connection of its own: the daemon closes one that has been idle for long.
    let mut client = Client::connect(&daemon.socket()).expect("the daemon listens");
    let status = client.call(json!("status"))["status"].take();
    let counters = status["counters"].as_object().expect("counters are an object");
    counters.iter().map(|(name, value)| (name.clone(), value.as_u64().unwrap())).collect()
}

/// How much each counter grew.
pub(crate) fn growth(daemon: &Daemon, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let now = counters(daemon);
    now.into_iter().map(|(name, value)| (name.clone(), value - before.get(&name).copied().unwrap_or(0))).collect()
}

/// Decides every request at once, in the way an automatic reviewer does, until it is dropped.
pub(crate) struct Reviewer {
    watch: UnixStream,
    thread: Option<JoinHandle<usize>>,
}

impl Reviewer {
    pub(crate) fn start(daemon: &Daemon) -> Self {
        let mut watch = Client::connect(&daemon.socket()).expect("the daemon listens");
        let mut decide = Client::connect(&daemon.socket()).expect("the daemon listens");
        let closer = watch.closer();
        watch.send(&json!("watch")).expect("the daemon listens");
        let thread = thread::spawn(move || {
            let mut seen = HashSet::new();
            while let Some(Ok(reply)) = watch.receive() {
                let request = &reply["request"];
                let Some(id) = request["id"].as_str() else { continue };
                if request["state"] == "pending" && seen.insert(id.to_owned()) {
                    let reply = decide.call(json!({ "decide": { "id": id, "effect": "allow", "reason": null } }));
                    assert_eq!(reply["request"]["state"], "released", "{reply}");
                }
            }
            seen.len()
        });
        Self { watch: closer, thread: Some(thread) }
    }

    /// Stops it: how many requests it approved.
    pub(crate) fn stop(mut self) -> usize {
        let _ = self.watch.shutdown(Shutdown::Both);
        self.thread.take().unwrap().join().expect("no decision failed")
    }
}

impl Drop for Reviewer {
    fn drop(&mut self) {
        // Gone already, if this fails.
        let _ = self.watch.shutdown(Shutdown::Both);
    }
}

/// Waits until this many processes are stopped.
pub(crate) fn stopped(count: usize) {
    wait_until(&format!("{count} processes are stopped"), || (stopped_processes().len() >= count).then_some(()));
}

/// Process ids of the children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut text = String::new();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let read = File::open(Path::new(&path)).and_then(|mut file| file.read_to_string(&mut text));
    read.map_or_else(|_| Vec::new(), |_| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
}

/// Waits until a process is in one of these states.
pub(crate) fn wait_for_state(pid: u32, states: &str) {
    wait_until(&format!("process {pid} is in state {states}"), || {
        process_state(pid).filter(|state| states.contains(*state))
    });
}
