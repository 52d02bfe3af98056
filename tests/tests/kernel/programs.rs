//! Exec: scripts and interpreters, arguments, containers.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use gatekeeper_tests::{Agent, Lease, daemon, program, wait_until};
use serde_json::Value;

use crate::place::{BASE, Place, Zone, config};

fn scene() -> (Lease, Place, Agent) {
    let daemon = daemon(&config());
    let place = Place::new(Zone::Ask);
    let agent = Agent::start(&daemon, "tester");
    (daemon, place, agent)
}

fn script(path: &str, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Begins an act and approves everything that it asks; the paths that it asked about, and how it ended.
fn approve_all(daemon: &mut Lease, agent: &mut Agent, act: &[&str]) -> (Vec<String>, String) {
    agent.begin(act);
    let mut asked = Vec::new();
    loop {
        let request = wait_until("the act ends or asks", || {
            if agent.has_finished() { Some(None) } else { daemon.pending().pop().map(Some) }
        });
        let Some(request) = request else { return (asked, agent.finish()) };
        asked.push(request["action"]["target"]["program"]["path"].as_str().unwrap().to_owned());
        daemon.approve(&request);
        assert!(asked.len() < 8, "one act asks again and again: {request}");
    }
}

#[test]
fn a_script_is_asked_about_once_and_shown() {
    let (mut daemon, place, mut agent) = scene();
    let path = place.path("script");
    script(&path, "#!/bin/sh\nexit 7\n");
    agent.begin(&["run", &path, "argument"]);
    let request = wait_until("the script asks", || daemon.pending().pop());
    let target = &request["action"]["target"]["program"];
    assert_eq!(target["path"], path);
    assert_eq!(target["args"][1], "argument", "{target}");
    let id = request["id"].as_str().unwrap().to_owned();
    let shown = wait_until("the script's text is there", || {
        Some(daemon.show(&id)).filter(|request| !request["context"]["script"].is_null())
    });
    assert!(shown["context"]["script"].as_str().unwrap().contains("exit 7"), "{}", shown["context"]);
    daemon.approve(&request);
    assert_eq!(agent.finish(), "exit 7");
}

#[test]
fn an_interpreter_with_a_rule_asks_for_its_scripts() {
    let (mut daemon, place, mut agent) = scene();
    let path = place.beside("script");
    // The interpreter lies in the zone, the script does not.
    fs::copy(fs::canonicalize("/bin/sh").unwrap(), place.path("sh")).unwrap();
    script(&path, &format!("#!{}\nexit 5\n", place.path("sh")));
    let (asked, outcome) = approve_all(&mut daemon, &mut agent, &["run", &path]);
    assert_eq!(outcome, "exit 5");
    assert_eq!(asked.len(), 1, "{asked:?}");
}

#[test]
fn a_denied_interpreter_denies_its_script() {
    let (_daemon, place, mut agent) = scene();
    let path = place.beside("script");
    let directory = Zone::Deny.directory();
    fs::create_dir_all(&directory).unwrap();
    fs::copy("/bin/sh", directory.join("sh")).unwrap();
    script(&path, &format!("#!{}\nexit 5\n", directory.join("sh").display()));
    assert_eq!(agent.act(&["run", &path]), "EROFS");
}

#[test]
fn every_level_of_a_chain_of_scripts_is_judged() {
    let (mut daemon, place, mut agent) = scene();
    // free script → script in the zone → sh: the zone's script is an interpreter here.
    let (outer, inner) = (place.beside("outer"), place.path("inner"));
    script(&inner, "#!/bin/sh\nexit 3\n");
    script(&outer, &format!("#!{inner}\n"));
    let (asked, outcome) = approve_all(&mut daemon, &mut agent, &["run", &outer]);
    assert_eq!(outcome, "exit 3");
    assert_eq!(asked.len(), 1, "{asked:?}");

    agent.begin(&["run", &outer]);
    let request = wait_until("the chain asks", || daemon.pending().pop());
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM");
}

#[test]
fn a_resolved_link_is_judged_by_what_runs() {
    let (mut daemon, place, mut agent) = scene();
    symlink(place.path("program"), place.beside("link")).unwrap();
    agent.begin(&["exec", &place.beside("link"), "serve"]);
    let request = daemon.request_of(agent.pid());
    assert_eq!(request["action"]["target"]["program"]["path"], place.path("program"));
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM");
}

#[test]
fn arguments_of_64_kib_are_shown_whole() {
    let (mut daemon, place, mut agent) = scene();
    agent.begin(&["exec-padded", &place.path("program"), "64", "1000"]);
    let request = daemon.request_of(agent.pid());
    let arguments = request["action"]["target"]["program"]["args"].as_array().unwrap().clone();
    assert_eq!(arguments.len(), 66);
    assert!(arguments[2..].iter().all(|argument| argument.as_str() == Some(&"a".repeat(1000))));
    daemon.approve(&request);
    assert_eq!(agent.finish(), "ok");
}

#[test]
fn arguments_beyond_the_limit_are_refused_with_the_reason() {
    let (mut daemon, place, mut agent) = scene();
    let before = daemon.counter("args_too_long");
    assert_eq!(agent.act(&["exec-padded", &place.path("program"), "150", "1000"]), "EPERM");
    assert_eq!(daemon.counter("args_too_long"), before + 1);
    let refused = |record: &Value| record["type"] == "refused" && record["refusal"] == "args_too_long";
    wait_until("the log says why", || daemon.log().iter().any(refused).then_some(()));
}

#[test]
fn arguments_that_change_after_approval_kill_the_process() {
    let (mut daemon, place, mut agent) = scene();
    let shared = place.beside("shared");
    fs::write(&shared, "harmless\0").unwrap();
    agent.begin(&["exec-shared", &place.path("program"), &shared]);
    let request = daemon.request_of(agent.pid());
    assert_eq!(request["action"]["target"]["program"]["args"][2], "harmless");
    agent.wait_until_stopped();
    // Another process has the memory, too.
    File::options().write(true).open(&shared).unwrap().write_all_at(b"harmful!", 0).unwrap();
    let before = daemon.counter("args_changed") + daemon.counter("stale_verdicts");
    daemon
        .client()
        .send(&serde_json::json!({ "decide": { "id": request["id"], "effect": "allow", "reason": null } }))
        .unwrap();
    // Either the hook sees other arguments than were approved and asks anew, or the kernel's copy differs: then no
    // instruction of the program runs.
    wait_until("the change is noticed", || {
        (daemon_counter(&daemon, "args_changed") + daemon_counter(&daemon, "stale_verdicts") > before).then_some(())
    });
    assert!(!crate::cases::runs(&agent, &place.path("program")));
    agent.kill();
    daemon.restart();
}

/// A counter, by a connection of its own.
fn daemon_counter(daemon: &Lease, name: &str) -> u64 {
    let mut client = gatekeeper_tests::Client::connect(&daemon.socket()).unwrap();
    client.call(serde_json::json!("status"))["status"]["counters"][name].as_u64().unwrap()
}

#[test]
fn process_1_of_a_pid_namespace_is_held_like_any_other() {
    let (mut daemon, place, mut agent) = scene();
    let path = place.path("program");
    agent.begin(&["nested", &path, "mkdir", &place.path("new")]);
    let first = wait_until("the exec asks", || daemon.pending().pop());
    assert_eq!(first["action"]["kind"], "exec");
    daemon.approve(&first);
    let second =
        wait_until("the act asks", || daemon.pending().into_iter().find(|request| request["id"] != first["id"]));
    assert_eq!(second["action"]["kind"], "mkdir");
    let status = fs::read_to_string(format!("/proc/{}/status", second["task"]["pid"])).unwrap();
    assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
    daemon.approve(&second);
    // The child writes to the same pipe.
    assert_eq!([agent.finish(), agent.finish()], ["ok", "exit 0"]);
    assert!(Path::new(&place.path("new")).is_dir());
}

#[test]
fn a_program_found_by_descriptor_is_judged_too() {
    let (mut daemon, place, mut agent) = scene();
    let file = File::open(place.path("program")).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file));
    agent.begin(&["exec", &path, "serve"]);
    let request = daemon.request_of(agent.pid());
    assert_eq!(request["action"]["target"]["program"]["path"], place.path("program"));
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM");
    assert!(program("probe").exists() && Path::new(BASE).exists());
}
