//! Holds outlive the daemon, and so do decisions.

use std::collections::BTreeMap;

use gatekeeper_tests::{Client, Daemon, daemon::stopped_processes, wait_until};
use serde_json::{Value, json};

use crate::place::{self, Run, ask};

/// What must be the same after a restart, by request.
fn facts(requests: &[Value]) -> BTreeMap<String, [Value; 4]> {
    let facts = |request: &Value| {
        [&request["hold"], &request["deadline_ms"], &request["held_at_ms"], &request["ask"]["rule"]].map(Value::clone)
    };
    requests.iter().map(|request| (request["id"].to_string(), facts(request))).collect()
}

fn survives(stop: impl Fn(&mut Daemon)) {
    let mut daemon = place::shared();
    let mut files = Run::swarm(&daemon, &["processes", "20", &ask("p")]);
    let mut exec = Run::agent(&daemon, &[&ask("true")]);
    let before = facts(&place::pending(&mut daemon, 21));
    for _ in 0..3 {
        stop(&mut daemon);
        assert_eq!(stopped_processes().len(), 21, "nothing goes on without a daemon");
        daemon.begin();
        let requests = place::pending(&mut daemon, 21);
        assert_eq!(facts(&requests), before);
        assert!(exec.is_running() && files.is_running());
    }
    for request in place::pending(&mut daemon, 21) {
        daemon.approve(&request);
    }
    assert!(files.results().values().all(|errno| *errno == 0));
    assert!(exec.finish().0.success());
    let log = daemon.log();
    assert_eq!(log.iter().filter(|record| record["type"] == "alarm").count(), 0, "{log:?}");
}

#[test]
fn holds_survive_a_killed_daemon() {
    survives(Daemon::kill);
}

#[test]
fn holds_survive_a_daemon_that_is_stopped() {
    survives(|daemon| assert!(daemon.terminate().success()));
}

#[test]
fn what_begins_to_wait_without_a_daemon_is_found_by_the_next() {
    let mut daemon = place::shared();
    // Enrolled while there is a daemon, it acts when there is none.
    let gate = format!("{}/free/gate", place::BASE);
    let file = ask("short/f");
    let act = format!("until [ -e {gate} ]; do :; done; echo x >{file}");
    let mut run = Run::agent(&daemon, &["sh", "-c", &act]);
    wait_until("the agent is enrolled", || (!gatekeeper_tests::daemon::populated_runs().is_empty()).then_some(()));
    wait_until("the agent runs", || {
        std::fs::read(format!("/proc/{}/cmdline", run.pid())).is_ok_and(|line| line.starts_with(b"sh\0")).then_some(())
    });
    daemon.kill();
    std::fs::write(&gate, "").unwrap();
    place::stopped(1);
    daemon.begin();
    let request = place::only(&mut daemon);
    let times = ["held_at_ms", "deadline_ms"].map(|name| request[name].as_u64().unwrap());
    assert_eq!(times[1] - times[0], 20_000, "{request}");
    assert_eq!(daemon.approve(&request)["state"], "released");
    assert!(run.finish().0.success());
}

#[test]
fn a_decision_that_the_daemon_died_on_counts_when_it_is_back() {
    // The kill comes at any moment: before the decision was written, before its verdict was stored, before the task
    // went on. Whatever was told or written has to be; what was lost has to be asked for again.
    let mut daemon = place::shared();
    let (mut decided, mut lost) = (0, 0);
    for turn in 0..16 {
        let mut run = Run::swarm(&daemon, &["processes", "1", &ask(&format!("d{turn}-"))]);
        let request = place::only(&mut daemon);
        let effect = if turn % 2 == 0 { json!("allow") } else { json!({ "deny": { "errno": 1 } }) };
        let mut client = Client::connect(&daemon.socket()).unwrap();
        client.send(&json!({ "decide": { "id": request["id"], "effect": effect, "reason": "now" } })).unwrap();
        for _ in 0..turn * 2_000 {
            std::hint::spin_loop();
        }
        daemon.kill();
        let answer = client.receive();
        daemon.begin();
        let wanted = if turn % 2 == 0 { 0 } else { libc::EPERM };
        // Either it goes on by itself, or it waits again under the same name.
        let again = wait_until("the hold is decided or asked again", || {
            if !run.is_running() {
                return Some(None);
            }
            daemon.pending().into_iter().find(|request| request["state"] == "pending").map(Some)
        });
        match again {
            None => decided += 1,
            Some(again) => {
                assert_eq!(again["id"], request["id"]);
                assert_eq!(again["deadline_ms"], request["deadline_ms"]);
                assert!(answer.is_none(), "an answer was given, and is forgotten: {answer:?}");
                lost += 1;
                daemon.client().call(json!({ "decide": { "id": again["id"], "effect": effect, "reason": "now" } }));
            }
        }
        assert_eq!(run.results()["0"], wanted, "turn {turn}");
        let log = daemon.log();
        let about = |record: &&Value| record.to_string().contains(request["id"].as_str().unwrap());
        let count = |kind: &str| log.iter().filter(about).filter(|record| record["type"] == kind).count();
        assert_eq!([count("hold"), count("decision"), count("alarm")], [1, 1, 0], "turn {turn}: {log:?}");
    }
    eprintln!("{decided} decisions were on disk, {lost} were not");
    assert_eq!(decided + lost, 16);
}
