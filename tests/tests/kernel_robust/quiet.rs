//! A daemon that has nothing to do, and one that only looks on.

use std::fs;

use gatekeeper_tests::{daemon, wait_until};

use crate::place::{self, Run, ask};

fn status_field(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// How often all threads of a process went to sleep.
fn sleeps(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ids = threads.map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap());
    ids.map(|tid: u32| status_field(tid, "voluntary_ctxt_switches")).sum()
}

#[test]
fn a_daemon_at_rest_does_not_wake_up() {
    let daemon = place::shared();
    let pid = daemon.pid();
    // What earlier tests left to be looked after is done when five seconds pass in silence.
    let uptime = || -> f64 {
        let text = fs::read_to_string("/proc/uptime").unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    };
    let (mut count, mut since) = (sleeps(pid), uptime());
    wait_until("the daemon sleeps for five seconds", || {
        let now = sleeps(pid);
        if now != count {
            (count, since) = (now, uptime());
        }
        (uptime() - since > 5.0).then_some(())
    });
    eprintln!("resident memory of a daemon at rest: {} KiB", status_field(pid, "VmRSS"));
}

#[test]
fn a_daemon_that_observes_holds_nothing_and_tells_everything() {
    place::clean();
    let mut daemon = daemon(&format!("mode = \"observe\"\n{}", place::RULES));
    let before = place::counters(&daemon);
    let mut run = Run::swarm(&daemon, &["processes", "3", &ask("p")]);
    assert!(run.results().values().all(|errno| *errno == 0));
    let mut exec = Run::agent(&daemon, &[&ask("true")]);
    assert!(exec.finish().0.success());
    let growth = place::growth(&daemon, &before);
    assert_eq!(growth["holds"], 0, "{growth:?}");
    assert!(growth["observed"] >= 4, "{growth:?}");
    wait_until("the log has them", || {
        let observed = daemon.log().iter().filter(|record| record["type"] == "observed").count();
        (observed >= 4).then_some(())
    });
    assert_eq!(daemon.status()["mode"], "observe");
}
