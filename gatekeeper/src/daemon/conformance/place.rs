//! A daemon of its own for each case, with an agent's processes that wait when a case says so.

use std::{
    cell::{Cell, RefCell},
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use gatekeeper_common::{TaskKey, sip::Digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{
    Person, Shown, Stage,
    client::Client,
    wait::{wait_until, wait_within},
};
use crate::{
    action::{Action, ActionKind, Target, Task},
    clock::{Clock as _, SystemClock},
    daemon::{DaemonError, Options, agents, start},
    kernel::{events::Held, stand_in},
    provenance::{self, Reader},
    text::Text,
};

/// For what takes many answers of a server, or several pauses.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// The program that the rule is about. It is nowhere.
const PROGRAM: &str = "/opt/tools/deploy";

struct Running {
    kill: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), DaemonError>>,
}

/// A process that waits.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) hold: u64,
    /// The request's id.
    pub(super) id: String,
}

/// The place.
pub(super) struct Place {
    directory: TempDir,
    /// Everything of the configuration but people.
    settings: String,
    people: Box<dyn Fn() -> String>,
    maps: Arc<stand_in::Maps>,
    running: RefCell<Option<Running>>,
    holds: Cell<u64>,
    ids: RefCell<Vec<String>>,
}

impl Place {
    /// A daemon with this stage's channel; `rule` is more of the rule.
    pub(super) fn new<S: Stage>(stage: &S, rule: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        make_cgroups(path);
        let accounts: Vec<_> = Person::DECLARED
            .into_iter()
            .filter_map(|(person, name)| Some(format!("[[reviewer]]\nname = \"{name}\"\n{}\n", stage.account(person)?)))
            .collect();
        let settings = format!(
            r#"
{paths}
{group}
[[agent]]
name = "worker"
owner = "owner"

[[rule]]
name = "tools"
action = "exec"
path = "/opt/tools/**"
verdict = "ask"
{rule}
{channel}
"#,
            paths = paths(path),
            group = group(),
            channel = stage.channel(path),
        );
        // Local commands have somebody of their own, unless they are the channel.
        let operator = format!("[[reviewer]]\nname = \"operator\"\nuser = {}\n", own_uid());
        let people = accounts.concat() + if S::NAME == "cli" { "" } else { &operator };
        let maps = stand_in::maps(&path.join("bpf"));
        let place = Self {
            directory,
            settings,
            people: Box::new(move || people.clone()),
            maps,
            running: RefCell::default(),
            holds: Cell::new(0),
            ids: RefCell::default(),
        };
        place.begin();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, people: &str) {
        fs::write(self.path("gatekeeper.toml"), format!("{}{people}", self.settings)).unwrap();
    }

    /// Starts the daemon, and waits until it answers.
    pub(super) fn begin(&self) {
        self.write(&(self.people)());
        // A program that another case is about to run may have the lock of the log for a moment more.
        wait_until("the log is free", || match self.try_begin() {
            Err(DaemonError::Log(provenance::Error::InUse { .. })) => None,
            Err(error) => panic!("the daemon does not start: {error:?}"),
            Ok(running) => Some(self.running.replace(Some(running))),
        });
    }

    fn try_begin(&self) -> Result<Running, DaemonError> {
        let config = self.path("gatekeeper.toml");
        let (kill, killed) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let options = Options { config, socket: None, kernel_log_level: 0 };
            let ended = runtime.block_on(async {
                tokio::select! {
                    ended = start::serve(options) => ended,
                    _ = killed => Ok(()),
                }
            });
            runtime.shutdown_background();
            ended
        });
        wait_until("the daemon answers", || {
            if thread.is_finished() {
                return Some(());
            }
            Client::connect(&self.path("run/control.sock"))?.try_call(json!("status"))?.ok().map(drop)
        });
        if thread.is_finished() {
            return Err(thread.join().unwrap().expect_err("nobody ended it"));
        }
        Ok(Running { kill, thread })
    }

    /// Ends the daemon as if it was killed: what waits goes on waiting.
    pub(super) fn kill(&self) {
        if let Some(Running { kill, thread }) = self.running.take() {
            // It may have ended by itself.
            let _ = kill.send(());
            thread.join().unwrap().unwrap();
        }
    }

    /// A connection to the control socket.
    pub(super) fn client(&self) -> Client {
        Client::connect(&self.path("run/control.sock")).expect("the daemon listens")
    }

    /// Other people, or the same with other accounts.
    pub(super) fn declare(&self, people: &str) {
        self.write(people);
        self.client().call(json!("reload"));
    }

    /// Makes an agent of this process, by a cgroup that is its own under another name, or ends that.
    pub(super) fn become_agent(&self, inside: bool) {
        let runs = self.path("cgroup/gatekeeper/robots");
        if inside {
            symlink(self.path("cgroup"), &runs).unwrap();
            let text = fs::read_to_string(self.path("gatekeeper.toml")).unwrap();
            self.declare(&format!("{}[[agent]]\nname = \"robots\"\n", text.strip_prefix(&self.settings).unwrap()));
        } else {
            fs::remove_file(&runs).unwrap();
            fs::create_dir(&runs).unwrap();
            // The daemon watches what it takes for an agent's cgroup.
            fs::create_dir(self.path("cgroup/news")).unwrap();
            wait_until("this process is no agent any more", || self.client().try_call(json!("status"))?.ok().map(drop));
        }
    }

    /// The daemon's account of itself.
    pub(super) fn status(&self) -> Value {
        self.client().call(json!("status"))["status"].take()
    }

    /// Why the channel does not work, if so.
    pub(super) fn problem(&self) -> Option<String> {
        self.status()["channels"][0]["problem"].as_str().map(str::to_owned)
    }

    /// An agent's processes that are about to run the program, with these arguments.
    pub(super) fn hold_all(&self, count: u64, arguments: &[&str]) -> Vec<Waiting> {
        let first = self.holds.get() + 1;
        self.holds.set(self.holds.get() + count);
        for hold in first..first + count {
            self.maps.hold(held(hold, arguments));
        }
        let ids = wait_until("all are pending", || {
            let mut pending = self.client().pending();
            pending.retain(|request| request["hold"].as_u64().is_some_and(|hold| hold >= first));
            pending.sort_by_key(|request| request["hold"].as_u64());
            (pending.len() as u64 == count).then_some(pending)
        });
        let waiting = ids.iter().map(|request| Waiting {
            hold: request["hold"].as_u64().unwrap(),
            id: request["id"].as_str().unwrap().to_owned(),
        });
        let waiting: Vec<_> = waiting.collect();
        self.ids.borrow_mut().extend(waiting.iter().map(|waiting| waiting.id.clone()));
        waiting
    }

    /// One such process.
    pub(super) fn hold(&self, arguments: &[&str]) -> Waiting {
        self.hold_all(1, arguments).remove(0)
    }

    /// The ids of all requests so far.
    pub(super) fn ids(&self) -> Vec<String> {
        self.ids.borrow().clone()
    }

    /// A request as it stands.
    pub(super) fn show(&self, id: &str) -> Value {
        self.client().call(json!({ "show": { "id": id } }))["request"].take()
    }

    /// The process of a hold ends.
    pub(super) fn end(&self, waiting: &Waiting) {
        self.maps.end(waiting.hold);
    }

    /// Whether the process waits still.
    pub(super) fn waits(&self, waiting: &Waiting) -> bool {
        self.maps.waits(waiting.hold) && self.maps.applied(waiting.hold).is_none()
    }

    /// Waits until the process went on.
    pub(super) fn wait_for_approval(&self, waiting: &Waiting) {
        let applied = wait_within(LONG, || self.maps.applied(waiting.hold));
        assert_eq!(applied, Some(0), "{}: {}", waiting.id, self.show(&waiting.id));
    }

    /// The cards of a request.
    pub(super) fn cards(&self, stage: &impl Stage, waiting: &Waiting) -> Vec<Shown> {
        let mut shown = stage.shown(self);
        shown.retain(|card| card.text.contains(&waiting.id));
        shown
    }

    /// Waits for the card of a request, with what can be done about it.
    pub(super) fn card(&self, stage: &impl Stage, waiting: &Waiting) -> Shown {
        let card = wait_within(LONG, || self.cards(stage, waiting).pop().filter(|card| !card.verbs.is_empty()));
        card.unwrap_or_else(|| panic!("there is no card of {}; {}", waiting.id, self.status()))
    }

    /// Waits until the card of a request shows a text.
    pub(super) fn wait_for_text(&self, stage: &impl Stage, waiting: &Waiting, text: &str) -> Shown {
        let found = wait_within(LONG, || self.cards(stage, waiting).into_iter().find(|card| card.text.contains(text)));
        found.unwrap_or_else(|| panic!("no card shows {text:?}: {:#?}", self.cards(stage, waiting)))
    }

    /// Waits until somebody was told a text.
    pub(super) fn wait_until_told(&self, stage: &impl Stage, person: Person, text: &str) {
        let told = wait_within(LONG, || stage.told(self, person).contains(text).then_some(()));
        assert!(told.is_some(), "{person:?} was not told {text:?} but {:?}", stage.told(self, person));
    }

    /// The records of a type about a request.
    pub(super) fn records(&self, waiting: &Waiting, kind: &str) -> Vec<Value> {
        let mut reader = Reader::open(&self.path("state/log")).unwrap();
        let mut records = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            let record: Value = serde_json::from_slice(&entry.leaf).unwrap();
            if record["type"] == kind && record["id"] == waiting.id.as_str() {
                records.push(record);
            }
        }
        records
    }

    /// Who decided a request, by the only record of that.
    pub(super) fn decider(&self, waiting: &Waiting) -> Value {
        let mut decisions = self.records(waiting, "decision");
        assert_eq!(decisions.len(), 1, "{decisions:?}");
        decisions[0]["decision"]["by"].take()
    }

    /// Approves by the command line.
    pub(super) fn approve_here(&self, waiting: &Waiting) {
        self.client().call(json!({ "decide": { "id": waiting.id, "effect": "allow", "reason": null } }));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Running { kill, thread }) = self.running.take() {
            // It may have ended by itself.
            let _ = kill.send(());
            let ended = thread.join();
            assert!(thread::panicking() || matches!(ended, Ok(Ok(()))), "the daemon ended: {ended:?}");
        }
    }
}

/// Directories that stand for the cgroups of this host, with this process's own.
pub(in crate::daemon) fn make_cgroups(base: &Path) {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a kernel with cgroup version 2");
    let cgroups = base.join("cgroup");
    fs::create_dir_all(cgroups.join(own)).unwrap();
    for file in ["cgroup.procs", "cgroup.controllers"] {
        fs::write(cgroups.join(file), "").unwrap();
    }
}

/// The part of a configuration that says where everything is.
pub(in crate::daemon) fn paths(base: &Path) -> String {
    let base = base.display();
    format!(
        r#"
mode = "observe"
[paths]
state = "{base}/state"
runtime = "{base}/run"
bpf = "{base}/bpf"
cgroup = "{base}/cgroup"
"#
    )
}

/// Writes a secret as it has to be kept, and gives its path.
pub(super) fn secret(directory: &Path, name: &str, secret: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, secret).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// This process's user.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Lets who is not root use the control socket.
fn group() -> String {
    if own_uid() == 0 {
        return String::new();
    }
    let gid = rustix::process::getegid().as_raw().to_string();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let own = groups.lines().find(|line| line.split(':').nth(2) == Some(&gid)).expect("a group of one's own");
    format!("[control]\ngroup = \"{}\"\n", own.split(':').next().unwrap())
}

/// What the kernel side tells of a process of the agent `worker` that is about to run the program.
pub(in crate::daemon) fn held(hold: u64, arguments: &[&str]) -> Held {
    let (pid, parent) =
        (std::process::id(), rustix::process::getppid().map_or(1, |pid| pid.as_raw_pid().cast_unsigned()));
    let args = [&["deploy"], arguments].concat().into_iter().map(Text::from).collect();
    let called = Text::from(PROGRAM);
    Held {
        hold,
        supersedes: None,
        key: TaskKey { task: hold, start_ns: hold },
        stage: 0,
        digest: Digest { low: hold, high: 0 },
        time_ns: SystemClock.now().boot_ns,
        task: Task {
            pid,
            tid: pid,
            parent,
            start_ns: hold,
            cgroup: 0,
            comm: Text::from("sh"),
            real_uid: 1_000,
            login_uid: None,
            session: None,
        },
        action: Action {
            kind: ActionKind::Exec,
            agent: String::new(),
            uid: 1_000,
            gid: 1_000,
            target: Target::Program {
                path: Text::from(PROGRAM),
                called,
                args,
                env: Vec::new(),
                interpreter: false,
                cwd: None,
            },
            object: None,
            foreign_mount: false,
            digest: format!("{hold:032x}"),
        },
        agent: agents::number_of("worker", &Default::default()),
        path_in_filesystem: false,
    }
}
