//! Full tables, a full ring buffer, a full disk: nothing passes.

use std::{
    fs::{self, File},
    io::Write as _,
    process::Command,
};

use gatekeeper_tests::{Daemon, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::place::{self, Run, ask};

#[test]
fn what_finds_the_hold_table_full_is_denied() {
    let mut daemon = place::with_limits("holds = 16");
    let mut run = Run::swarm(&daemon, &["processes", "20", &ask("p")]);
    wait_until("four are refused", || (daemon.counter("holds_full") == 4).then_some(()));
    let requests = place::pending(&mut daemon, 16);
    assert_eq!(requests.len(), 16);
    for request in &requests {
        assert_eq!(daemon.approve(request)["state"], "released");
    }
    let results = run.results();
    let count = |wanted: i32| results.values().filter(|errno| **errno == wanted).count();
    assert_eq!((count(0), count(libc::EPERM)), (16, 4), "{results:?}");
    assert_eq!(daemon.counter("holds_full"), 4);
    daemon.detach();
}

#[test]
fn what_finds_the_ring_buffer_full_waits_and_is_found() {
    let mut daemon = place::with_limits("ring_bytes = 262144");
    // Enrolled first: that needs the daemon.
    let gate = format!("{}/free/gate", place::BASE);
    let swarm = gatekeeper_tests::program("swarm");
    let program = ask("short/true");
    fs::copy("/bin/true", &program).unwrap();
    let act = format!("until [ -e {gate} ]; do :; done; exec {} execs 12 100000 {program}", swarm.display());
    let mut run = Run::agent(&daemon, &["sh", "-c", &act]);
    wait_until("the agent runs", || {
        fs::read(format!("/proc/{}/cmdline", run.pid())).is_ok_and(|line| line.starts_with(b"sh\0")).then_some(())
    });
    let pid = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    fs::write(&gate, "").unwrap();
    // The daemon is one of the stopped.
    place::stopped(13);
    kill_process(pid, Signal::CONT).unwrap();
    let requests = place::pending(&mut daemon, 12);
    assert_eq!(requests.len(), 12);
    assert!(daemon.counter("unpublished_holds") > 0);
    assert_eq!(daemon.counter("allowed"), 0);
    for request in &requests {
        let times = ["held_at_ms", "deadline_ms"].map(|name| request[name].as_u64().unwrap());
        assert_eq!(times[1] - times[0], 20_000, "{request}");
    }
    for (turn, request) in requests.iter().enumerate() {
        if turn % 2 == 0 {
            daemon.approve(request)
        } else {
            daemon.deny(request)
        };
    }
    let results = run.results();
    let count = |wanted: i32| results.values().filter(|errno| **errno == wanted).count();
    assert_eq!((count(0), count(libc::EPERM)), (6, 6), "{results:?}");
    daemon.detach();
}

/// A daemon whose log is on a small file system of its own.
fn on_a_small_disk() -> Daemon {
    let mut daemon = place::with_limits("");
    daemon.kill();
    let state = daemon.directory().join("state");
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "small"]).arg(&state).status();
    assert!(mounted.unwrap().success());
    daemon.begin();
    daemon
}

#[test]
fn nothing_goes_on_while_the_log_cannot_be_written() {
    let mut daemon = on_a_small_disk();
    let mut run = Run::swarm(&daemon, &["processes", "3", &ask("p")]);
    let requests = place::pending(&mut daemon, 3);
    let fill = daemon.directory().join("state/fill");
    let mut file = File::create(&fill).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    drop(file);

    // The first decision meets the full disk, the second one knows of it already. The log's last page may have some room
    // left, so their records are longer than a page.
    let reason = "x".repeat(4096);
    for request in &requests[..2] {
        let id = request["id"].as_str().unwrap();
        let output = daemon.command(&["approve", id, "--reason", &reason]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(9), "{said}");
        assert!(said.contains("log"), "{said}");
    }
    let status = daemon.status();
    assert_eq!(status["log"]["healthy"], false, "{status}");
    assert!(status["log"]["problem"].is_string(), "{status}");
    assert_eq!(daemon.counter("allowed"), 0);
    assert_eq!(daemon.open_holds(), 3);
    let text = daemon.command(&["status"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("log"), "{text}");

    // What begins to wait now waits, too.
    let mut later = Run::swarm(&daemon, &["processes", "1", &ask("q")]);
    wait_until("a fourth waits", || (daemon.open_holds() == 4).then_some(()));
    assert_eq!(daemon.counter("allowed"), 0);

    fs::remove_file(&fill).unwrap();
    wait_until("the log is well again", || (daemon.status()["log"]["healthy"] == true).then_some(()));
    for request in &requests[..2] {
        daemon.wait_for_state(request, "released");
    }
    let rest = place::pending(&mut daemon, 2);
    assert_eq!(rest.len(), 2, "{rest:?}");
    for request in &rest {
        assert_eq!(daemon.deny(request)["state"], "denied");
    }
    let results = run.results();
    let mut errnos: Vec<_> = results.values().copied().collect();
    errnos.sort_unstable();
    assert_eq!(errnos, [0, 0, libc::EPERM]);
    assert_eq!(later.results()["0"], libc::EPERM);
    let state = daemon.directory().join("state");
    daemon.detach();
    assert!(Command::new("umount").arg(&state).status().unwrap().success());
}
