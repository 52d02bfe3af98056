//! Thousands of holds.

use crate::place::{self, LONG, Reviewer, Run, ask};

#[test]
fn two_thousand_instant_approvals_pass_without_an_error() {
    let daemon = place::shared();
    let before = place::counters(&daemon);
    let reviewer = Reviewer::start(&daemon);
    let prefix = ask("f");
    let mut runs: Vec<_> = (0..2)
        .map(|turn| {
            // A port each: they are not to find each other's taken.
            let (files, port) = (format!("{prefix}{turn}-"), (4321 + turn).to_string());
            Run::swarm(&daemon, &["mixed", "1000", &files, &ask("true"), &port])
        })
        .collect();
    for run in &mut runs {
        let (status, written) = run.finish_within(LONG);
        assert!(status.success(), "{status}: {written}");
        let results = place::results(&written);
        assert_eq!(results.len(), 1000);
        let failed: Vec<_> = results.iter().filter(|(_, errno)| **errno != 0).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
    let approved = reviewer.stop() as u64;
    let growth = place::growth(&daemon, &before);
    assert_eq!(growth["holds"], growth["allowed"], "{growth:?}");
    assert_eq!(growth["allowed"], approved, "{growth:?}");
    assert!(approved >= 2000, "{growth:?}");
    for name in ["denied", "withdrawn", "stale_verdicts", "unpublished_holds", "signal_failed", "context"] {
        assert_eq!(growth[name], 0, "{name}: {growth:?}");
    }
}

#[test]
fn two_thousand_holds_that_a_rule_allows_pass_without_an_error() {
    let daemon = place::shared();
    let before = place::counters(&daemon);
    let mut run = Run::swarm(&daemon, &["threads", "8", "250", &ask("allow/f")]);
    let results = run.results();
    assert_eq!(results.values().filter(|errno| **errno == 0).count(), 8, "{results:?}");
    let growth = place::growth(&daemon, &before);
    // The first open of each file creates it, and an open of a file that has just been created is no other act.
    assert!(growth["holds"] >= 2000, "{growth:?}");
    assert_eq!(growth["holds"], growth["allowed"] + growth["withdrawn"], "{growth:?}");
    assert_eq!(growth["denied"], 0, "{growth:?}");
}

#[test]
fn a_thousand_holds_are_listed_and_decided_each_for_itself() {
    let mut daemon = place::shared();
    let mut run = Run::swarm(&daemon, &["processes", "1000", &ask("p")]);
    let requests = place::pending(&mut daemon, 1000);
    assert_eq!(requests.len(), 1000);
    assert_eq!(daemon.open_holds(), 1000);
    for (turn, request) in requests.iter().enumerate() {
        let path = place::path_of(request);
        let index: usize = path.rsplit_once('p').unwrap().1.parse().unwrap();
        let decided = if index.is_multiple_of(2) { daemon.approve(request) } else { daemon.deny(request) };
        assert_eq!(decided["state"], if index.is_multiple_of(2) { "released" } else { "denied" }, "{decided}");
        // It answers all the while, and counts right.
        if turn % 100 == 0 {
            assert_eq!(daemon.open_holds(), 999 - turn as u64);
        }
    }
    let results = run.results();
    for index in 0..1000_usize {
        let errno = if index.is_multiple_of(2) { 0 } else { libc::EPERM };
        assert_eq!(results[&index.to_string()], errno, "process {index}");
    }
}
