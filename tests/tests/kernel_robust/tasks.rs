//! What can become of a held task and its siblings.

use gatekeeper_tests::{daemon::process_state, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::place::{self, Run, ask};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Threads of one process wait at once; those with an even number are approved, in the order that `sort` makes.
fn threads(count: usize, sort: impl Fn(&mut Vec<Value>)) {
    let mut daemon = place::shared();
    let mut run = Run::swarm(&daemon, &["threads", &count.to_string(), "1", &ask("t")]);
    // The first thread that is held stops the others, perhaps before their own act: a resume from outside lets them come to
    // it, and releases nothing.
    let mut requests = wait_until(&format!("{count} requests are pending"), || {
        let requests: Vec<_> = daemon.pending().into_iter().filter(|request| request["state"] == "pending").collect();
        if requests.len() < count {
            signal(run.pid(), Signal::CONT);
            return None;
        }
        Some(requests)
    });
    assert_eq!(requests.len(), count, "{requests:?}");
    assert!(requests.iter().all(|request| request["task"]["pid"] == run.pid()), "{requests:?}");
    sort(&mut requests);
    let index = |request: &Value| place::path_of(request).rsplit_once('t').unwrap().1.parse::<usize>().unwrap();
    for (turn, request) in requests.iter().enumerate() {
        let even = index(request).is_multiple_of(2);
        let decided = if even { daemon.approve(request) } else { daemon.deny(request) };
        assert_eq!(decided["state"], if even { "released" } else { "denied" });
        let waiting = daemon.pending().len();
        assert_eq!(waiting, count - turn - 1, "one decision, one end");
    }
    for (name, errno) in run.results() {
        let even = name.parse::<usize>().unwrap().is_multiple_of(2);
        assert_eq!(errno, if even { 0 } else { libc::EPERM }, "thread {name}");
    }
}

#[test]
fn two_threads_get_a_result_each() {
    threads(2, |_| {});
}

#[test]
fn two_threads_get_a_result_each_in_the_other_order() {
    threads(2, |requests| requests.reverse());
}

#[test]
fn eight_threads_get_a_result_each() {
    threads(8, |requests| requests.sort_by_key(|request| request["id"].to_string()));
}

#[test]
fn threads_that_are_held_all_the_time_never_see_the_restart() {
    // The stop of one thread must not swallow that of another one: 513 would reach user space.
    let daemon = place::shared();
    for count in ["2", "8"] {
        let mut run = Run::swarm(&daemon, &["threads", count, "300", &ask("allow/t")]);
        let results = run.results();
        assert!(results.values().all(|errno| *errno == 0), "{results:?}");
    }
}

/// `posix_spawn` waits for the exec, uninterruptibly.
fn spawn(allow: bool) {
    let mut daemon = place::shared();
    let mut run = Run::swarm(&daemon, &["spawn", &ask("true")]);
    let request = place::only(&mut daemon);
    let child = u32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap();
    assert_eq!(place::children(run.pid()), [child]);
    place::wait_for_state(child, "T");
    place::wait_for_state(run.pid(), "D");
    if allow {
        assert_eq!(daemon.approve(&request)["state"], "released");
        assert_eq!(run.results(), place::results("spawn 0\nstatus 0"));
    } else {
        assert_eq!(daemon.deny(&request)["state"], "denied");
        assert_eq!(run.results(), place::results("spawn 1"));
    }
}

#[test]
fn a_parent_in_vfork_survives_an_approved_child() {
    spawn(true);
}

#[test]
fn a_parent_in_vfork_sees_that_its_child_was_denied() {
    spawn(false);
}

#[test]
fn a_held_process_that_is_killed_is_withdrawn() {
    let mut daemon = place::shared();
    for act in
        [vec!["processes", "1", "/srv/gatekeeper-robust/ask/f"], vec!["spawn", "/srv/gatekeeper-robust/ask/true"]]
    {
        let mut run = Run::swarm(&daemon, &act);
        let request = place::only(&mut daemon);
        signal(u32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
        daemon.wait_for_state(&request, "withdrawn");
        run.finish();
    }
}

#[test]
fn a_signal_with_a_handler_waits_for_the_decision() {
    let mut daemon = place::shared();
    let path = ask("f");
    std::fs::write(&path, "").unwrap();
    let mut run = Run::swarm(&daemon, &["handler", &path]);
    let request = place::only(&mut daemon);
    place::stopped(1);
    signal(run.pid(), Signal::TERM);
    // A stopped process takes no signal; resumed, it runs the handler, is held again, and the request is the same.
    signal(run.pid(), Signal::CONT);
    wait_until("the hook ran again", || (daemon.counter("reruns") > 0).then_some(()));
    assert_eq!(place::only(&mut daemon)["id"], request["id"]);
    assert_eq!(daemon.approve(&request)["state"], "released");
    assert_eq!(run.results(), place::results("open 0\nsignals 1"));
}

#[test]
fn a_signal_without_a_handler_ends_a_held_process() {
    let mut daemon = place::shared();
    let mut run = Run::agent(&daemon, &[&ask("true")]);
    let request = place::only(&mut daemon);
    signal(run.pid(), Signal::TERM);
    signal(run.pid(), Signal::CONT);
    daemon.wait_for_state(&request, "withdrawn");
    let (status, _) = run.finish();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGTERM));
}

#[test]
fn an_exec_by_a_thread_that_is_not_the_first_waits() {
    let mut daemon = place::shared();
    for allow in [true, false] {
        let mut run = Run::swarm(&daemon, &["thread-exec", &ask("true")]);
        let request = place::only(&mut daemon);
        assert_eq!(request["task"]["pid"], run.pid());
        assert_ne!(request["task"]["tid"], run.pid());
        if allow {
            assert_eq!(daemon.approve(&request)["state"], "released");
            let (status, written) = run.finish();
            assert!(status.success() && written.is_empty(), "{status}: {written}");
        } else {
            assert_eq!(daemon.deny(&request)["state"], "denied");
            assert_eq!(run.results(), place::results("exec 1"));
        }
    }
}

#[test]
fn a_thread_waits_though_the_first_one_has_ended() {
    let mut daemon = place::shared();
    let mut run = Run::swarm(&daemon, &["thread-exit", &ask("f")]);
    let request = place::only(&mut daemon);
    assert_ne!(request["task"]["tid"], run.pid());
    assert_eq!(daemon.approve(&request)["state"], "released");
    assert_eq!(run.results(), place::results("open 0"));
}

#[test]
fn another_thread_forks_while_one_is_held() {
    let mut daemon = place::shared();
    let mut run = Run::swarm(&daemon, &["forks", "200", &ask("f")]);
    let request = place::only(&mut daemon);
    assert_eq!(daemon.approve(&request)["state"], "released");
    assert_eq!(run.results(), place::results("open 0\nforks 0"));
}

#[test]
fn the_first_process_of_a_pid_namespace_waits_and_goes_on() {
    let mut daemon = place::shared();
    let true_ = ask("true");
    for allow in [true, false] {
        let mut run = Run::agent(&daemon, &["unshare", "--pid", "--fork", "--mount-proc", &true_]);
        let request = place::only(&mut daemon);
        let init = u32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap();
        place::wait_for_state(init, "T");
        let names = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        let inside = names.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
        if allow {
            assert_eq!(daemon.approve(&request)["state"], "released");
            let (status, written) = run.finish();
            assert!(status.success(), "{status}: {written}");
        } else {
            assert_eq!(daemon.deny(&request)["state"], "denied");
            let (status, written) = run.finish();
            assert!(!status.success() && written.contains("not permitted"), "{status}: {written}");
        }
    }
}

#[test]
fn the_first_process_of_a_pid_namespace_is_killed_while_held() {
    let mut daemon = place::shared();
    let mut run = Run::agent(&daemon, &["unshare", "--pid", "--fork", "--mount-proc", &ask("true")]);
    let request = place::only(&mut daemon);
    let init = u32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap();
    place::wait_for_state(init, "T");
    signal(init, Signal::KILL);
    daemon.wait_for_state(&request, "withdrawn");
    run.finish();
    assert_eq!(process_state(init), None);
}
