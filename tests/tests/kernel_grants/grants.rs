//! Grants: what they let go on, what they do not, and how they end.

use gatekeeper_tests::{Agent, Daemon, wait_until};
use serde_json::{Value, json};

use crate::place::{self, config, errors, gatekeeper, id, records, tool};

const OFFERS: &str = "grants = [\"2s\", \"10m\", \"run\"]";

/// Begins an act about which somebody is asked, approves it for so long, and sees it go on.
fn grant(daemon: &mut Daemon, agent: &mut Agent, act: &[&str], length: &str) -> String {
    agent.begin(act);
    let request = wait_until("reviewers are asked", || daemon.pending().pop());
    gatekeeper(daemon, &["approve", id(&request), "--for", length]);
    assert_eq!(agent.finish(), "exit 0");
    id(&request).to_owned()
}

/// Asserts that reviewers are asked about an act, and denies it.
fn assert_asks(daemon: &mut Daemon, agent: &mut Agent, act: &[&str], why: &str) {
    agent.begin(act);
    let request = wait_until(&format!("reviewers are asked: {why}"), || daemon.pending().pop());
    daemon.deny(&request);
    assert_eq!(agent.finish(), "EPERM", "{why}");
}

/// How often reviewers were asked so far.
fn asked(daemon: &Daemon) -> usize {
    records(daemon, "hold").iter().filter(|record| !record["ask"].is_null()).count()
}

fn grants(daemon: &Daemon) -> Vec<Value> {
    let listed = gatekeeper(daemon, &["--json", "grants"]);
    listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn end_of(daemon: &Daemon, grant: &str) -> Option<Value> {
    records(daemon, "grant_end").into_iter().find(|record| record["id"] == grant).map(|mut record| record["end"].take())
}

#[test]
fn a_grant_lets_the_same_go_on_in_the_same_run_until_it_is_revoked() {
    place::set();
    let mut daemon = Daemon::start(&config(OFFERS));
    let tool = tool();
    let same = ["run", tool.as_str(), "one"];
    let (mut agent, mut other) = (Agent::start(&daemon, "worker"), Agent::start(&daemon, "worker"));
    let grant = grant(&mut daemon, &mut agent, &same, "run");
    let before = asked(&daemon);
    assert_eq!(agent.act(&same), "exit 0", "the second time nobody is asked");
    assert_eq!(asked(&daemon), before);
    let by = &records(&daemon, "hold").pop().unwrap()["decision"]["by"];
    assert_eq!((&by["kind"], &by["id"], &by["by"]), (&json!("grant"), &json!(grant), &json!(["root"])), "{by}");
    assert_asks(&mut daemon, &mut agent, &["run", &tool, "two"], "other arguments");
    assert_asks(&mut daemon, &mut agent, &["run", &tool, "one", ""], "one more argument, if an empty one");
    assert_asks(&mut daemon, &mut other, &same, "another run of the same agent");

    daemon.restart();
    let before = asked(&daemon);
    assert_eq!(agent.act(&same), "exit 0", "a daemon that starts again knows the grant");
    assert_eq!(asked(&daemon), before);
    let listed = grants(&daemon);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((&listed[0]["id"], &listed[0]["length"], &listed[0]["used"]), (&json!(grant), &json!("run"), &json!(1)));

    let nobody = daemon.command(&["revoke", "AAAA-AAAA", "--reason", "x"]).output().unwrap();
    assert!(!nobody.status.success() && errors(&nobody).contains("no grant AAAA-AAAA in force"), "{nobody:?}");
    gatekeeper(&daemon, &["revoke", &grant, "--reason", "enough"]);
    assert!(grants(&daemon).is_empty());
    assert_asks(&mut daemon, &mut agent, &same, "it was revoked");
    daemon.restart();
    assert_asks(&mut daemon, &mut agent, &same, "it stays revoked");
    let end = end_of(&daemon, &grant).unwrap();
    assert_eq!((&end["revoked"]["by"]["name"], &end["revoked"]["reason"]), (&json!("root"), &json!("enough")), "{end}");
    daemon.detach();
}

#[test]
fn a_grant_ends_by_its_time_with_its_run_and_with_its_rule() {
    place::set();
    let mut daemon = Daemon::start(&config(OFFERS));
    let tool = tool();
    let same = ["run", tool.as_str()];
    let mut agent = Agent::start(&daemon, "worker");
    let short = grant(&mut daemon, &mut agent, &same, "2s");
    let end = wait_until("the grant's time is over", || end_of(&daemon, &short));
    assert_eq!(end, "expired");
    assert_asks(&mut daemon, &mut agent, &same, "its time is over");

    let of_rule = grant(&mut daemon, &mut agent, &same, "10m");
    daemon.reload(&config(OFFERS)).unwrap();
    assert_eq!(agent.act(&same), "exit 0", "a reload that leaves the rule as it is ends nothing");
    daemon.reload(&config(&format!("{OFFERS}\nrisk = \"high\""))).unwrap();
    assert_eq!(end_of(&daemon, &of_rule).unwrap(), "rule_changed");
    daemon.reload(&config(OFFERS)).unwrap();
    assert_asks(&mut daemon, &mut agent, &same, "the rule was another meanwhile");

    let of_run = grant(&mut daemon, &mut agent, &same, "run");
    agent.kill();
    let end = wait_until("the grant ends with its run", || end_of(&daemon, &of_run));
    assert_eq!(end, "run_ended");
    daemon.detach();
}

#[test]
fn a_script_that_was_changed_is_another_and_what_is_not_offered_is_refused() {
    place::set();
    let mut daemon = Daemon::start(&config(OFFERS));
    let script = place::script("exit 0");
    let same = ["run", script.as_str()];
    let mut agent = Agent::start(&daemon, "worker");
    agent.begin(&same);
    let request = wait_until("reviewers are asked", || daemon.pending().pop());
    let refused = daemon.command(&["approve", id(&request), "--for", "1h"]).output().unwrap();
    let told = errors(&refused);
    assert!(!refused.status.success() && told.contains("once, or for 2s, 10m or run"), "{refused:?}");
    assert_eq!(daemon.show(id(&request))["state"], "pending");
    gatekeeper(&daemon, &["approve", id(&request), "--for", "10m"]);
    assert_eq!(agent.finish(), "exit 0");
    assert_eq!(agent.act(&same), "exit 0");
    place::script("exit 7");
    assert_asks(&mut daemon, &mut agent, &same, "the script does something else");
    place::script("exit 0");
    assert_asks(&mut daemon, &mut agent, &same, "the same text, but another file since");
    daemon.detach();
}

#[test]
fn a_rule_that_offers_nothing_is_approved_once() {
    place::set();
    let mut daemon = Daemon::start(&config(""));
    let tool = tool();
    let mut agent = Agent::start(&daemon, "worker");
    agent.begin(&["run", &tool]);
    let request = wait_until("reviewers are asked", || daemon.pending().pop());
    let refused = daemon.command(&["approve", id(&request), "--for", "run"]).output().unwrap();
    assert!(!refused.status.success() && errors(&refused).contains("can be approved only once"), "{refused:?}");
    daemon.approve(&request);
    assert_eq!(agent.finish(), "exit 0");
    assert_asks(&mut daemon, &mut agent, &["run", &tool], "once is once");
    daemon.detach();
}
