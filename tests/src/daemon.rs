//! A daemon with directories of its own, and everything a test wants to know of it.

use std::{
    fs::{self, File},
    io::Read as _,
    ops::{Deref, DerefMut},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Client,
    program,
    wait::{wait_until, wait_within},
};

/// Where the programs, links and maps are pinned: the product's own default, so that each daemon adopts what the one
/// before left. Loading anew costs seconds.
pub const PINS: &str = "/sys/fs/bpf/gatekeeper";
/// Below it `gatekeeper run` makes a cgroup for each run.
pub const RUNS: &str = "/sys/fs/cgroup/gatekeeper";

/// A running (or killed) daemon.
#[derive(Debug)]
pub struct Daemon {
    directory: TempDir,
    config: String,
    child: Option<Child>,
    client: Option<Client>,
}

impl Daemon {
    /// Starts a daemon with this configuration (without `[paths]`, which is added) and waits until it answers.
    ///
    /// # Panics
    /// If it does not start, with all that it wrote.
    pub fn start(config: &str) -> Self {
        // Below /run, because only root may write along the socket's whole path.
        let directory =
            tempfile::Builder::new().prefix("gatekeeper-test-").tempdir_in("/run").expect("/run is writable");
        let mut daemon = Self { directory, config: config.to_owned(), child: None, client: None };
        daemon.begin();
        daemon
    }

    /// Runs a daemon that is expected not to start, and gives what it said.
    ///
    /// # Panics
    /// If it does start.
    pub fn start_failing(config: &str) -> Output {
        let directory =
            tempfile::Builder::new().prefix("gatekeeper-test-").tempdir_in("/run").expect("/run is writable");
        let mut daemon = Self { directory, config: config.to_owned(), child: None, client: None };
        daemon.spawn();
        let mut child = daemon.child.take().expect("it was just spawned");
        let status = wait_within(Duration::from_secs(60), || child.try_wait().expect("it is a child of ours"));
        let Some(status) = status else {
            daemon.child = Some(child);
            daemon.kill();
            panic!("the daemon starts, and should not\n{}", daemon.messages());
        };
        Output { status, stdout: Vec::new(), stderr: daemon.messages().into_bytes() }
    }

    /// Directory of this daemon: `state`, `run`, the configuration and the daemon's messages.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory().join("run/control.sock")
    }

    /// The configuration's file.
    pub fn config_file(&self) -> PathBuf {
        self.directory().join("gatekeeper.toml")
    }

    /// Process id of the running daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    fn write_config(&self) {
        let directory = self.directory().display();
        let paths = format!("\n[paths]\nstate = \"{directory}/state\"\nruntime = \"{directory}/run\"\n");
        fs::write(self.config_file(), format!("{}{paths}", self.config)).expect("the configuration can be written");
    }

    fn spawn(&mut self) {
        self.write_config();
        let messages = File::options().append(true).create(true).open(self.directory().join("messages"));
        let mut command = Command::new(program("gatekeeper"));
        command.arg("daemon").arg("--config").arg(self.config_file()).env_remove("GATEKEEPER_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages.expect("a file can be made"));
        self.child = Some(command.spawn().expect("gatekeeper is built"));
    }

    /// Starts the daemon (again), with the same directories.
    ///
    /// # Panics
    /// If it does not start, with all that it wrote.
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.spawn();
        let child = self.child.as_mut().expect("it was just spawned");
        let socket = self.directory.path().join("run/control.sock");
        let client = wait_within(Duration::from_secs(60), || {
            if let Some(status) = child.try_wait().expect("it is a child of ours") {
                return Some(Err(status));
            }
            // Answers come when the trial has passed.
            let mut client = Client::connect(&socket)?;
            client.try_call(json!("status"))?.ok()?;
            Some(Ok(client))
        });
        match client {
            Some(Ok(client)) => self.client = Some(client),
            Some(Err(status)) => {
                self.child = None;
                panic!("the daemon did not start ({status})\n{}", self.messages());
            }
            None => panic!("the daemon does not get ready\n{}", self.messages()),
        }
    }

    /// Kills the daemon: enforcement and holds stay.
    pub fn kill(&mut self) {
        self.client = None;
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is a child of ours");
            child.wait().expect("it is a child of ours");
        }
    }

    /// Lets the daemon end as systemd does: enforcement and holds stay.
    ///
    /// # Panics
    /// If it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.client = None;
        let mut child = self.child.take().expect("the daemon runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("it is a child of ours");
        wait_until("the daemon ends after SIGTERM", || child.try_wait().expect("it is a child of ours"))
    }

    /// Kills the daemon and starts it again.
    pub fn restart(&mut self) {
        self.kill();
        self.begin();
    }

    /// Puts another configuration in place and has the daemon take it: the reply, or the error.
    pub fn reload(&mut self, config: &str) -> Result<Value, Value> {
        config.clone_into(&mut self.config);
        self.write_config();
        self.client().try_call(json!("reload")).expect("the daemon answers")
    }

    /// A new connection: the daemon closes one that has been idle for long.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn client(&mut self) -> &mut Client {
        self.client = Client::connect(&self.socket());
        self.client.as_mut().expect("the daemon listens")
    }

    /// `gatekeeper` with these arguments, for this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gatekeeper"));
        command.args(arguments).env("GATEKEEPER_SOCKET", self.socket()).stdin(Stdio::null());
        command
    }

    /// How the daemon is.
    pub fn status(&mut self) -> Value {
        self.client().call(json!("status"))["status"].take()
    }

    /// One of the kernel side's counters.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn counter(&mut self, name: &str) -> u64 {
        let status = self.status();
        status["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {}", status["counters"]))
    }

    /// Actions that wait in the kernel.
    pub fn open_holds(&mut self) -> u64 {
        self.status()["open_holds"].as_u64().expect("a number")
    }

    /// The requests that wait.
    pub fn pending(&mut self) -> Vec<Value> {
        self.client().pending()
    }

    /// Waits for exactly one request of this process and gives it.
    pub fn request_of(&mut self, pid: u32) -> Value {
        let found = |request: &Value| request["task"]["pid"] == pid && request["state"] == "pending";
        wait_until(&format!("process {pid} has a request"), || self.pending().into_iter().find(|r| found(r)))
    }

    /// A request, by its id, however it stands.
    pub fn show(&mut self, id: &str) -> Value {
        self.client().call(json!({ "show": { "id": id } }))["request"].take()
    }

    /// Lets the action of a request go on. The request as it stands then.
    pub fn approve(&mut self, request: &Value) -> Value {
        self.client().call(json!({ "decide": { "id": request["id"], "effect": "allow", "reason": null } }))["request"]
            .take()
    }

    /// Lets the action of a request fail. The request as it stands then.
    pub fn deny(&mut self, request: &Value) -> Value {
        let call = json!({ "decide": { "id": request["id"], "effect": { "deny": { "errno": 1 } }, "reason": "no" } });
        self.client().call(call)["request"].take()
    }

    /// Waits until a request stands like this: `released`, `denied`, `timed_out`, `withdrawn`, `superseded`.
    pub fn wait_for_state(&mut self, request: &Value, state: &str) -> Value {
        let id = request["id"].as_str().expect("a request has an id").to_owned();
        wait_until(&format!("request {id} is {state}"), || Some(self.show(&id)).filter(|r| r["state"] == state))
    }

    /// The provenance log, as `gatekeeper log --json` gives it.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn log(&self) -> Vec<Value> {
        let directory = self.directory().join("state/log");
        let output =
            self.command(&["--json", "log", "--directory"]).arg(directory).output().expect("gatekeeper is built");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a record is JSON")).collect()
    }

    /// Removes enforcement from the kernel; what waits is denied. The daemon ends by itself.
    pub fn detach(&mut self) {
        self.client().call(json!({ "detach": { "force_deny": true } }));
        self.client = None;
        let mut child = self.child.take().expect("the daemon runs");
        let status = wait_until("the daemon ends after detaching", || child.try_wait().expect("it is a child of ours"));
        assert!(status.success(), "{status}\n{}", self.messages());
        assert!(!Path::new(PINS).exists() || is_empty(Path::new(PINS)), "pins are left in {PINS}");
    }

    /// What the daemon wrote to its standard error.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.directory().join("messages")).unwrap_or_default()
    }

    /// Everything that explains a failure.
    pub fn report(&mut self) -> String {
        let alive = self.child.as_mut().map(|child| child.try_wait());
        let mut answers = String::from("(it does not answer)");
        // A new connection: on the kept one half an answer may wait.
        self.client = None;
        if let Some(mut client) = Client::connect(&self.socket())
            && let Some(Ok(mut status)) = client.try_call(json!("status"))
        {
            let status = status["status"].take();
            let counters: Vec<_> = status["counters"].as_object().into_iter().flatten().collect();
            let counters: Vec<_> = counters.iter().filter(|(_, value)| **value != 0).collect();
            answers =
                format!("counters: {counters:?}\nerrors: {}\nopen holds: {}", status["errors"], status["open_holds"]);
            for request in client.pending() {
                answers.push_str(&format!("\npending: {request}"));
            }
        }
        let log = self
            .command(&["--json", "log", "-n", "12", "--directory"])
            .arg(self.directory().join("state/log"))
            .output();
        let log = log.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        format!(
            "--- daemon: {alive:?}\n{answers}\n--- messages\n{}--- log tail\n{log}--- stopped processes\n{:?}\n---",
            self.messages(),
            stopped_processes(),
        )
    }

    /// What a test left behind, if anything.
    fn residue(&mut self) -> Option<String> {
        let look = |daemon: &mut Self| {
            let mut found = Vec::new();
            match daemon.open_holds() {
                0 => {}
                holds => found.push(format!("{holds} actions wait")),
            }
            let pending = daemon.pending();
            if !pending.is_empty() {
                found.push(format!("requests are open: {pending:?}"));
            }
            let runs = populated_runs();
            if !runs.is_empty() {
                found.push(format!("agents still run in {runs:?}"));
            }
            let stopped = stopped_processes();
            if !stopped.is_empty() {
                found.push(format!("processes are stopped: {stopped:?}"));
            }
            found
        };
        let clean = wait_within(Duration::from_secs(20), || look(self).is_empty().then_some(()));
        clean.is_none().then(|| look(self).join("; "))
    }

    /// Ends it with all that it holds, and removes enforcement, whatever state it is in.
    fn destroy(&mut self) {
        self.kill();
        for run in populated_runs() {
            // Gone already, if this fails.
            let _ = fs::write(run.join("cgroup.kill"), "1");
        }
        // Without pins the programs go, and the next daemon starts afresh.
        let _ = fs::remove_dir_all(PINS);
    }
}

impl Drop for Daemon {
    /// Enforcement stays: the next daemon adopts it, which is quick. A failed test's daemon goes with all it holds.
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.report());
            self.destroy();
            return;
        }
        if let Some(residue) = self.residue() {
            let report = self.report();
            self.destroy();
            panic!("the test leaves something behind: {residue}\n{report}");
        }
        let status = self.terminate();
        assert!(status.success(), "the daemon ends with {status}, signal {:?}\n{}", status.signal(), self.messages());
    }
}

/// Cgroups of runs in which something runs.
pub fn populated_runs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for agent in fs::read_dir(RUNS).into_iter().flatten().flatten() {
        for run in fs::read_dir(agent.path()).into_iter().flatten().flatten() {
            let events = fs::read_to_string(run.path().join("cgroup.events")).unwrap_or_default();
            if events.contains("populated 1") {
                found.push(run.path());
            }
        }
    }
    found
}

/// Processes that are stopped, with their names. Nothing in the VM is, unless gatekeeper holds it.
pub fn stopped_processes() -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let mut stat = String::new();
        let read = File::open(entry.path().join("stat")).and_then(|mut file| file.read_to_string(&mut stat));
        if read.is_ok() && stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
            found.push((pid, stat.split(' ').nth(1).unwrap_or_default().to_owned()));
        }
    }
    found
}

/// State of a process: `R`, `S`, `T`, … None if there is none of this number.
pub fn process_state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// The daemon that the tests of one binary share.
static SHARED: Mutex<Option<Daemon>> = Mutex::new(None);
/// Its process id, for the end of the test binary.
static SHARED_PID: AtomicU32 = AtomicU32::new(0);

/// The shared daemon, for one test.
#[derive(Debug)]
pub struct Lease(MutexGuard<'static, Option<Daemon>>);

/// The daemon that the tests of this binary share, with this configuration. It is started when there is none, and
/// restarted when the configuration is another one.
pub fn daemon(config: &str) -> Lease {
    // A test that failed has left None.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.as_ref().is_some_and(|daemon| daemon.config != config || daemon.child.is_none()) {
        *shared = None;
    }
    if shared.is_none() {
        let daemon = Daemon::start(config);
        if SHARED_PID.swap(daemon.pid(), Ordering::Relaxed) == 0 {
            // SAFETY: the function takes nothing, returns nothing, and does not unwind.
            unsafe { libc::atexit(end_shared) };
        }
        *shared = Some(daemon);
    }
    Lease(shared)
}

/// Statics are not dropped: the test binary ends the daemon as it ends itself.
extern "C" fn end_shared() {
    if let Some(pid) = Pid::from_raw(SHARED_PID.load(Ordering::Relaxed).cast_signed()) {
        // It is gone already, if this fails. Waiting lets the next test binary's daemon start on free ground.
        let _ = kill_process(pid, Signal::TERM);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

impl Deref for Lease {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        self.0.as_ref().expect("a lease has a daemon")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Daemon {
        self.0.as_mut().expect("a lease has a daemon")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(daemon) = self.0.as_mut() else { return };
        if std::thread::panicking() {
            // Its own drop reports and destroys.
            *self.0 = None;
        } else if daemon.child.is_none() {
            *self.0 = None;
        } else if let Some(residue) = daemon.residue() {
            let mut daemon = self.0.take().expect("it was just there");
            let report = daemon.report();
            daemon.destroy();
            panic!("the test leaves something behind: {residue}\n{report}");
        } else {
            SHARED_PID.store(daemon.pid(), Ordering::Relaxed);
        }
    }
}
