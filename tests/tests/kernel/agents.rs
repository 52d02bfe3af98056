//! Who is an agent, what `gatekeeper run` passes through, and what keeps an agent from deciding for itself; what a
//! reload, observe mode and a failed start change.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::Output,
};

use gatekeeper_tests::{
    Agent, Daemon, daemon,
    daemon::{RUNS, process_state},
    program, wait_until,
};
use serde_json::Value;

use crate::place::{BASE, Place, Zone, config};

fn run(daemon: &Daemon, script: &str) -> Output {
    daemon.command(&["run", "--agent", "tester", "--", "sh", "-c", script]).output().unwrap()
}

#[test]
fn a_run_ends_with_the_status_of_its_command() {
    let daemon = daemon(&config());
    assert_eq!(run(&daemon, "exit 3").status.code(), Some(3));
    assert_eq!(run(&daemon, "kill -TERM $$").status.signal(), Some(15));
    let output = run(&daemon, "echo out; echo err >&2");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    let missing = daemon.command(&["run", "--agent", "tester", "--", "/no/such/program"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127), "{missing:?}");
    let stranger = daemon.command(&["run", "--agent", "stranger", "--", "true"]).output().unwrap();
    assert_eq!(stranger.status.code(), Some(125), "{stranger:?}");
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("known agents: tester"), "{stranger:?}");
}

#[test]
fn a_runs_cgroup_goes_when_its_last_process_has_ended() {
    let daemon = daemon(&config());
    let mut agent = Agent::start(&daemon, "tester");
    let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid())).unwrap();
    let run = Path::new(RUNS).join(cgroup.trim().strip_prefix("0::/gatekeeper/").expect("it is in a run's cgroup"));
    assert!(run.is_dir());
    agent.kill();
    wait_until("the run's cgroup is removed", || (!run.exists()).then_some(()));
    wait_until("the log has the run's end", || daemon.log().iter().any(|r| r["type"] == "run_end").then_some(()));
}

#[test]
fn children_of_an_agent_are_the_agents() {
    let mut daemon = daemon(&config());
    let place = Place::new(Zone::Ask);
    let mut agent = Agent::start(&daemon, "tester");
    let probe = program("probe");
    agent.begin(&[
        "run",
        "setsid",
        "--wait",
        "sh",
        "-c",
        "exec\t\"$0\"\tmkdir\t$1",
        &probe.to_string_lossy(),
        &place.path("new"),
    ]);
    let request = wait_until("the grandchild asks", || daemon.pending().pop());
    assert_ne!(request["task"]["pid"], agent.pid());
    daemon.deny(&request);
    // The grandchild writes to the same pipe.
    assert_eq!([agent.finish(), agent.finish()], ["EPERM", "exit 1"]);
}

#[test]
fn an_agent_can_neither_see_nor_decide_requests() {
    let mut daemon = daemon(&config());
    let place = Place::new(Zone::Ask);
    let mut asking = Agent::start(&daemon, "tester");
    let mut deciding = Agent::start(&daemon, "tester");
    asking.begin(&["mkdir", &place.path("new")]);
    let request = daemon.request_of(asking.pid());
    let id = request["id"].as_str().unwrap();
    let gatekeeper = program("gatekeeper");
    let gatekeeper = gatekeeper.to_str().unwrap();
    for call in [&["pending"][..], &["show", id], &["approve", id], &["status"], &["detach", "--force-deny"]] {
        let words: Vec<&str> = ["run", gatekeeper].into_iter().chain(call.iter().copied()).collect();
        assert_eq!(deciding.act(&words), "exit 6", "{call:?}");
    }
    assert_eq!(daemon.show(id)["state"], "pending");
    assert_eq!(process_state(asking.pid()), Some('T'));
    daemon.deny(&request);
    assert_eq!(asking.finish(), "EPERM");
}

struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let path = Path::new("/sys/fs/cgroup").join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn take(&self, agent: &Agent) {
        fs::write(self.0.join("cgroup.procs"), agent.pid().to_string()).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Whatever is in it ends first.
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        wait_until("the cgroup can be removed", || (!self.0.exists() || fs::remove_dir(&self.0).is_ok()).then_some(()));
    }
}

/// Asserts that a process is an agent's, by an act that then is denied.
fn assert_is_agents(daemon: &mut Daemon, agent: &mut Agent, name: &str, directory: &str) {
    agent.begin(&["mkdir", directory]);
    let request = daemon.request_of(agent.pid());
    assert_eq!(request["action"]["agent"], name);
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM");
}

#[test]
fn cgroups_of_the_configuration_are_agents_now_and_later() {
    let place = Place::new(Zone::Ask);
    let new = place.path("new");
    let existing = Cgroup::new("patterns/literal");
    // It runs already when the daemon starts.
    let mut early = Agent::outside();
    existing.take(&early);
    let mut bystander = Agent::outside();
    let text = config().replacen(
        "name = \"tester\"\n",
        "name = \"tester\"\n[[agent]]\nname = \"literal\"\ncgroups = [\"/patterns/literal\", \"/patterns/future\"]\n\
         [[agent]]\nname = \"globbed\"\ncgroups = [\"/patterns/unit-*.service\"]\n",
        1,
    );
    let mut daemon = daemon(&text);
    assert_is_agents(&mut daemon, &mut early, "literal", &new);
    for (cgroup, name) in [("patterns/future", "literal"), ("patterns/unit-7.service", "globbed")] {
        let later = Cgroup::new(cgroup);
        let listed = |status: &Value| status["agents"].to_string().contains(cgroup);
        wait_until(&format!("{cgroup} is enrolled"), || listed(&daemon.status()).then_some(()));
        let mut agent = Agent::outside();
        later.take(&agent);
        assert_is_agents(&mut daemon, &mut agent, name, &new);
        // What is below an agent's cgroup is the agent's.
        let below = Cgroup::new(&format!("{cgroup}/below"));
        below.take(&agent);
        assert_is_agents(&mut daemon, &mut agent, name, &new);
    }
    assert_eq!(bystander.act(&["mkdir", &new]), "ok");
}

#[test]
fn observe_mode_holds_nothing_and_says_what_it_would_have_held() {
    let mut daemon = daemon(&format!("mode = \"observe\"\n{}", config()));
    let place = Place::new(Zone::Ask);
    let mut agent = Agent::start(&daemon, "tester");
    let before = daemon.counter("observed");
    assert_eq!(agent.act(&["mkdir", &place.path("new")]), "ok");
    assert!(daemon.counter("observed") > before);
    assert_eq!(daemon.status()["mode"], "observe");
    let observed = |record: &Value| record["type"] == "observed" && record["rule"] == "ask-files";
    wait_until("the log has the act", || daemon.log().iter().any(observed).then_some(()));
}

#[test]
fn a_reload_adds_and_removes_rules_at_once() {
    let mut daemon = daemon(&config());
    let place = Place::new(Zone::Free);
    let mut agent = Agent::start(&daemon, "tester");
    assert_eq!(agent.act(&["mkdir", &place.path("one")]), "ok");
    let rule =
        format!("[[rule]]\nname = \"free\"\naction = \"mkdir\"\npath = \"{BASE}/free/**\"\nverdict = \"deny\"\n");
    daemon.reload(&format!("{}{rule}", config())).unwrap();
    assert_eq!(agent.act(&["mkdir", &place.path("two")]), "EPERM");
    let error = daemon.reload("mode = \"sometimes\"").unwrap_err();
    assert_eq!(error["code"], "configuration", "{error}");
    assert_eq!(agent.act(&["mkdir", &place.path("two")]), "EPERM", "the old rules stay");
    daemon.reload(&config()).unwrap();
    assert_eq!(agent.act(&["mkdir", &place.path("two")]), "ok");
}

#[test]
fn a_second_daemon_is_refused() {
    let mut daemon = daemon(&config());
    let path = daemon.config_file();
    let output = daemon.command(&["daemon", "--config"]).arg(path).env_remove("GATEKEEPER_SOCKET").output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("another"), "{output:?}");
    assert_eq!(daemon.open_holds(), 0);
}

#[test]
fn a_second_daemon_with_other_directories_is_refused() {
    let mut daemon = daemon(&config());
    let output = Daemon::start_failing(&config());
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(daemon.open_holds(), 0);
}

#[test]
fn a_start_that_fails_leaves_enforcement_and_holds_as_they_were() {
    let mut daemon = daemon(&config());
    let place = Place::new(Zone::Ask);
    let mut agent = Agent::start(&daemon, "tester");
    agent.begin(&["mkdir", &place.path("new")]);
    let request = daemon.request_of(agent.pid());
    daemon.kill();
    let output = Daemon::start_failing("mode = \"sometimes\"\n");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(process_state(agent.pid()), Some('T'));
    daemon.begin();
    let again = daemon.request_of(agent.pid());
    assert_eq!(again["id"], request["id"]);
    daemon.approve(&again);
    assert_eq!(agent.finish(), "ok");
}
