//! What an agent is told about its own requests: by `gatekeeper why`, and in the file of its run.

use std::{fs, os::unix::fs::MetadataExt as _};

use gatekeeper_tests::{Agent, Daemon, program, wait_until};
use serde_json::Value;

use crate::place::{self, BASE, config, gatekeeper, id, tool};

/// The file of a run, by the environment of its first process.
fn file_of(agent: &Agent) -> String {
    let environment = fs::read(format!("/proc/{}/environ", agent.pid())).unwrap();
    let mut entries = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let entry = entries.find(|entry| entry.starts_with("GATEKEEPER_REASONS=")).expect("the run is given a file");
    entry.strip_prefix("GATEKEEPER_REASONS=").unwrap().to_owned()
}

fn lines(file: &str) -> Vec<Value> {
    fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What `gatekeeper why` says inside a run: the agent's shell writes it into a file.
fn why(agent: &mut Agent, arguments: &str) -> String {
    let told = format!("{BASE}/told");
    let command = format!("{}\twhy\t{arguments}\t>{told}\t2>&1", program("gatekeeper").display());
    let outcome = agent.act(&["run", "/bin/sh", "-c", &command]);
    let text = fs::read_to_string(&told).unwrap();
    assert!(outcome.starts_with("exit "), "{outcome}: {text}");
    format!("{outcome}\n{text}")
}

#[test]
fn an_agent_is_told_why_and_another_learns_nothing_of_it() {
    place::set();
    let mut daemon = Daemon::start(&config(""));
    let (mut agent, mut other) = (Agent::start(&daemon, "worker"), Agent::start(&daemon, "worker"));
    let tool = tool();
    agent.begin(&["run", &tool, "secret"]);
    let request = wait_until("reviewers are asked", || daemon.pending().pop());
    gatekeeper(&daemon, &["deny", id(&request), "--reason", "not on a friday"]);
    assert_eq!(agent.finish(), "EPERM");

    let file = file_of(&agent);
    let denied = wait_until("the file has the denial", || lines(&file).pop());
    assert_eq!((&denied["outcome"], &denied["request"]), (&"denied".into(), &request["id"]), "{denied}");
    assert_eq!((&denied["reason"], &denied["rule"]), (&"not on a friday".into(), &"tools".into()), "{denied}");
    assert!(denied["at_ms"].is_u64() && denied["action"].as_str().unwrap().contains("secret"), "{denied}");
    let kept = fs::metadata(&file).unwrap();
    assert_eq!((kept.uid(), kept.mode() & 0o777), (0, 0o644), "only the daemon writes it");
    let told = why(&mut agent, "");
    assert!(told.starts_with("exit 0\n") && told.contains("denied: not on a friday"), "{told}");
    assert!(why(&mut agent, id(&request)).contains("not on a friday"));
    let json: Value = serde_json::from_str(why(&mut agent, "--json").split_once('\n').unwrap().1).unwrap();
    assert_eq!(json, denied);

    // Another run of the same agent, as the same user.
    let told = why(&mut other, "");
    assert_eq!(told, "exit 0\nnothing was denied, and nothing waits\n");
    let told = why(&mut other, id(&request));
    assert!(told.starts_with("exit 7\n") && !told.contains("friday") && !told.contains("secret"), "{told}");
    assert_eq!(lines(&file_of(&other)), Vec::<Value>::new());
    assert_ne!(file_of(&other), file);
    // Who decides sees all of it; and asking why is all that an agent may.
    assert!(gatekeeper(&daemon, &["why"]).contains("not on a friday"));
    let command = format!("{}\tshow\t{}", program("gatekeeper").display(), id(&request));
    assert_eq!(agent.act(&["run", "/bin/sh", "-c", &command]), "exit 6");

    // A daemon that starts again goes on writing into the same file, and without a daemon the file tells.
    daemon.restart();
    agent.begin(&["run", &tool, "again"]);
    let again = wait_until("reviewers are asked", || daemon.pending().pop());
    assert!(why(&mut other, "").ends_with("nothing waits\n"), "nor what waits");
    daemon.approve(&again);
    assert_eq!(agent.finish(), "exit 0");
    wait_until("the file has both ends", || (lines(&file).len() == 2).then_some(()));
    assert_eq!(lines(&file)[1]["outcome"], "released");
    daemon.kill();
    assert!(why(&mut agent, "").contains("denied: not on a friday"));
    daemon.begin();

    agent.kill();
    wait_until("the file goes with its run", || (!fs::exists(&file).unwrap()).then_some(()));
    daemon.detach();
}

#[test]
fn rules_and_timeouts_are_told_too() {
    place::set();
    let mut daemon = Daemon::start(&config("deadline = \"1s\""));
    let mut agent = Agent::start(&daemon, "worker");
    assert_eq!(agent.act(&["run", &format!("{BASE}/refused/true")]), "EPERM");
    let file = file_of(&agent);
    let by_rule = lines(&file).pop().expect("it is written before the act ends");
    assert_eq!((&by_rule["outcome"], &by_rule["rule"]), (&"rule".into(), &"refuse".into()), "{by_rule}");
    assert_eq!(by_rule["reason"], "nobody may run these");
    assert_eq!(agent.act(&["run", &tool()]), "EPERM");
    wait_until("the timeout is told", || lines(&file).pop().filter(|line| line["outcome"] == "timed_out"));
    let told = why(&mut agent, "");
    assert!(told.contains("timed_out") && told.contains("rule: nobody may run these"), "{told}");
    daemon.detach();
}
