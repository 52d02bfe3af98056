//! Signals that resume a held task let nothing pass.

use std::time::Instant;

use gatekeeper_tests::{Daemon, daemon::process_state, wait::PATIENCE, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::place::{self, Run, ask};

/// How often a held task is resumed.
const TIMES: u64 = 1000;

/// Without the pauses of a wait for something slow.
fn wait_until_stopped(pid: u32) {
    let end = Instant::now() + PATIENCE;
    while process_state(pid) != Some('T') {
        assert!(Instant::now() < end, "process {pid} does not stop");
        std::thread::yield_now();
    }
}

fn reruns(daemon: &mut Daemon) -> u64 {
    daemon.counter("reruns")
}

/// The request is still the only one, and has one record.
fn is_untouched(daemon: &mut Daemon, request: &Value) {
    let now = place::only(daemon);
    assert_eq!(now["id"], request["id"]);
    assert_eq!(now["deadline_ms"], request["deadline_ms"]);
}

fn records_of(daemon: &Daemon, request: &Value, kind: &str) -> usize {
    let log = daemon.log();
    let is_about =
        |record: &&Value| record["type"] == kind && record.to_string().contains(request["id"].as_str().unwrap());
    log.iter().filter(is_about).count()
}

/// SIGCONTs from outside, each of which is seen to have made the hook run again.
fn resumed_from_outside(act: impl Fn(&Daemon) -> Run) {
    let mut daemon = place::shared();
    let mut run = act(&daemon);
    let request = place::only(&mut daemon);
    let pid = Pid::from_raw(i32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap()).unwrap();
    let before = reruns(&mut daemon);
    for _ in 0..TIMES {
        // A resume makes the task run at once, so each one is of a task that has stopped again.
        wait_until_stopped(pid.as_raw_nonzero().get().cast_unsigned());
        kill_process(pid, Signal::CONT).unwrap();
    }
    wait_until_stopped(pid.as_raw_nonzero().get().cast_unsigned());
    let after = reruns(&mut daemon);
    assert!(after >= before + TIMES, "{after} after {before}");
    assert!(run.is_running(), "{}", run.written());
    is_untouched(&mut daemon, &request);
    assert_eq!(daemon.approve(&request)["state"], "released");
    let (status, written) = run.finish();
    assert!(status.success(), "{status}: {written}");
    for kind in ["hold", "decision", "release"] {
        assert_eq!(records_of(&daemon, &request, kind), 1, "{kind}");
    }
}

#[test]
fn a_thousand_resumes_from_outside_do_not_release_an_exec() {
    resumed_from_outside(|daemon| Run::agent(daemon, &[&ask("true")]));
}

#[test]
fn a_thousand_resumes_from_outside_do_not_release_an_open() {
    resumed_from_outside(|daemon| Run::swarm(daemon, &["processes", "1", &ask("f")]));
}

/// The held task's own timer resumes it every millisecond.
fn resumed_by_a_timer(what: &str, path: &str) {
    let mut daemon = place::shared();
    let before = reruns(&mut daemon);
    let mut run = Run::swarm(&daemon, &["timer", what, path]);
    let request = place::only(&mut daemon);
    wait_until("the timer made the hook run again often", || (reruns(&mut daemon) >= before + TIMES).then_some(()));
    assert!(run.is_running(), "{}", run.written());
    is_untouched(&mut daemon, &request);
    assert_eq!(daemon.approve(&request)["state"], "released");
    let (status, written) = run.finish();
    // The new program is killed by no signal: SIGCONT is ignored by default.
    assert!(status.success(), "{status}: {written}");
    if what == "open" {
        assert_eq!(place::results(&written)["open"], 0);
    }
    assert_eq!(records_of(&daemon, &request, "hold"), 1);
}

#[test]
fn a_timer_of_the_held_task_does_not_release_an_open() {
    resumed_by_a_timer("open", &ask("f"));
}

#[test]
fn a_timer_of_the_held_task_does_not_release_an_exec() {
    resumed_by_a_timer("exec", &ask("true"));
}

#[test]
fn a_task_that_is_resumed_above_the_budget_is_denied() {
    let mut daemon = place::with_limits("");
    daemon.reload(&format!("[limits]\nreruns_per_second = 20\n{}", place::RULES)).unwrap();
    let mut run = Run::swarm(&daemon, &["timer", "open", &ask("f")]);
    assert_eq!(run.results()["open"], libc::EPERM);
    assert_eq!(daemon.counter("rerun_budget"), 1);
    daemon.detach();
}
