//! What files do beyond a single act: exclusive creation, cold caches, copy-up, foreign views, long paths.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use gatekeeper_tests::{Agent, Lease, daemon, wait_until};

use crate::place::{BASE, Place, Zone, config};

fn scene() -> (Lease, Place, Agent) {
    let daemon = daemon(&config());
    let place = Place::new(Zone::Ask);
    let agent = Agent::start(&daemon, "tester");
    (daemon, place, agent)
}

/// Begins an act and approves everything that it asks. How often that was, and how it ended.
fn approve_all(daemon: &mut Lease, agent: &mut Agent, act: &[&str]) -> (usize, String) {
    agent.begin(act);
    let mut asked = 0;
    loop {
        let request = wait_until("the act ends or asks", || {
            if agent.has_finished() { Some(None) } else { daemon.pending().pop().map(Some) }
        });
        match request {
            Some(request) => {
                daemon.approve(&request);
                asked += 1;
                assert!(asked < 8, "one act asks again and again: {request}");
            }
            None => return (asked, agent.finish()),
        }
    }
}

fn drop_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

#[test]
fn exclusive_creation_is_asked_once_and_succeeds() {
    let (mut daemon, place, mut agent) = scene();
    let asked = approve_all(&mut daemon, &mut agent, &["open", &place.path("new"), "wronly,creat,excl"]);
    assert_eq!(asked, (1, "ok".to_owned()));
    assert_eq!(agent.act(&["open", &place.path("new"), "wronly,creat,excl"]), "EEXIST");
}

#[test]
fn an_approved_creation_does_not_cover_the_next() {
    let (mut daemon, place, mut agent) = scene();
    for name in ["one", "two"] {
        let asked = approve_all(&mut daemon, &mut agent, &["mkdir", &place.path(name)]);
        assert_eq!(asked, (1, "ok".to_owned()), "{name}");
    }
}

#[test]
fn a_truncating_open_keeps_the_size_until_it_is_approved() {
    let (mut daemon, place, mut agent) = scene();
    agent.begin(&["open", &place.path("file"), "wronly,trunc"]);
    let request = daemon.request_of(agent.pid());
    agent.wait_until_stopped();
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "old");
    daemon.approve(&request);
    assert_eq!(agent.finish(), "ok");
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "");
}

/// Writes through a descriptor follow its open, which was judged.
#[test]
fn an_open_descriptor_asks_no_more() {
    let (mut daemon, place, mut agent) = scene();
    let asked = approve_all(&mut daemon, &mut agent, &["keep", &place.path("file")]);
    assert_eq!(asked, (1, "ok".to_owned()));
    let before = daemon.counter("holds");
    assert_eq!(agent.act(&["write"]), "ok");
    assert_eq!(agent.act(&["ftruncate", "2"]), "ok");
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "xl");
    assert_eq!(daemon.counter("holds"), before);
}

fn existing_file_with_cold_names(directory: &str) {
    let (mut daemon, place, mut agent) = scene();
    // The zone's directory leads to the file system to test.
    let path = place.path(directory);
    fs::create_dir_all(&path).unwrap();
    for round in 0..3 {
        let file = format!("{path}/file-{round}");
        fs::write(&file, "old").unwrap();
        drop_caches();
        let (asked, outcome) = approve_all(&mut daemon, &mut agent, &["open", &file, "wronly,creat,trunc"]);
        assert_eq!(outcome, "ok", "round {round}");
        assert_eq!(asked, 1, "opening an existing file is asked about once, round {round}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        assert!(daemon.pending().is_empty(), "a stale request stays");
    }
}

#[test]
fn a_creating_open_of_an_existing_file_leaves_no_stale_request_on_overlayfs() {
    existing_file_with_cold_names("cold");
}

#[test]
fn a_creating_open_outside_the_rules_is_not_held_with_cold_names() {
    let (mut daemon, place, mut agent) = scene();
    let file = place.beside("file");
    drop_caches();
    let before = daemon.counter("holds");
    assert_eq!(agent.act(&["open", &file, "wronly,creat"]), "ok");
    assert_eq!(daemon.counter("holds"), before);
}

#[test]
fn copying_up_is_asked_about_once() {
    let mut daemon = daemon(
        "[[agent]]\nname = \"tester\"\n[[rule]]\nname = \"etc\"\naction = \"write\"\npath = \"/etc/**\"\nverdict = \"ask\"\n",
    );
    let mut agent = Agent::start(&daemon, "tester");
    // It lies in the lower layer of the guest's root until somebody writes to it.
    let path = "/etc/shells";
    let before = fs::read_to_string(path).unwrap();
    let asked = approve_all(&mut daemon, &mut agent, &["open", path, "wronly,append"]);
    assert_eq!(asked, (1, "ok".to_owned()));
    assert_eq!(fs::read_to_string(path).unwrap(), before);
}

#[test]
fn an_unnamed_file_is_judged_when_it_gets_a_name() {
    let (mut daemon, place, mut agent) = scene();
    let asked = approve_all(&mut daemon, &mut agent, &["link", &place.beside("file"), &place.path("name")]);
    assert_eq!(asked, (1, "ok".to_owned()));
    assert_eq!(fs::metadata(place.path("name")).unwrap().nlink(), 2);
}

#[test]
fn a_path_longer_than_a_path_may_be_fails_and_never_passes() {
    let (mut daemon, place, mut agent) = scene();
    // Each step is short; the whole name is longer than any path that fits into a system call.
    let mut directory =
        rustix::fs::open(&place.directory, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..24 {
        rustix::fs::mkdirat(&directory, &name, 0o755.into()).unwrap();
        directory = rustix::fs::openat(&directory, &name, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    }
    // A mount gives the far end a short name.
    let link = format!("/proc/{}/fd/{}/new", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&directory));
    let before = daemon.counter("path_too_long");
    assert_eq!(agent.act(&["mkdir", &link]), "EPERM");
    assert!(daemon.counter("path_too_long") > before);
    assert!(rustix::fs::statat(&directory, "new", rustix::fs::AtFlags::empty()).is_err(), "the directory was made");
}

#[test]
fn a_mount_namespace_of_its_own_hides_no_act() {
    let (mut daemon, place, mut agent) = scene();
    assert_eq!(agent.act(&["unshare-mounts"]), "ok");
    // The very same file under a name that no rule is about.
    assert_eq!(agent.act(&["bind-mount", &place.directory.to_string_lossy(), &place.free.to_string_lossy()]), "ok");
    assert_eq!(agent.act(&["open", &place.path("file"), "rdonly"]), "ok");
    agent.begin(&["mkdir", &place.path("new")]);
    let request = daemon.request_of(agent.pid());
    assert_eq!(request["action"]["target"]["file"]["path"], place.path("new"));
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM");
    assert!(!Path::new(&place.path("new")).exists());
}

#[test]
fn rules_do_not_reach_beyond_their_directory() {
    let (mut daemon, _place, mut agent) = scene();
    let before = daemon.counter("holds");
    // The kernel compares beginnings: this one is longer by a letter, that one shorter.
    for path in ["asking", "as"] {
        assert_eq!(agent.act(&["mkdir", &format!("{BASE}/{path}")]), "ok");
    }
    assert_eq!(daemon.counter("holds"), before);
}
