//! What people do to a request: votes, escalation, extension.

use super::*;

/// A rule that wants a quorum, with whom it asks later.
pub(super) fn ask_people(seconds: u64, quorum: &str, escalation: &[&str]) -> Outcome {
    let Outcome::Ask(ask) = ask(seconds, false) else { unreachable!("it asks") };
    let escalation = escalation.iter().map(|step| step.parse().unwrap()).collect();
    Outcome::Ask(Ask { quorum: Some(quorum.parse().unwrap()), escalation, ..ask })
}

pub(super) fn says(hold: u64, name: &str, groups: &[&str], effect: Act) -> Input {
    let by =
        Decider::Reviewer { name: name.to_owned(), channel: "cli".to_owned(), account: "1".to_owned(), evidence: None };
    let groups = groups.iter().map(ToString::to_string).collect();
    Input::Decide {
        reply_to: 9,
        id: id(hold),
        decision: Decision { effect, by, reason: None, grant: None, at_ms: 1 },
        groups,
    }
}

#[test]
fn a_quorum_is_of_distinct_people() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask_people(60, "2 of ops", &[])));
    assert_eq!(
        trial.step(says(1, "first", &["ops"], Act::Allow)),
        ["log vote 1 first", "notify 1 Voted Pending", "reply 9 Voted"]
    );
    assert_eq!(trial.step(says(1, "first", &["ops"], Act::Allow)), ["reply 9 VotedBefore"]);
    assert_eq!(trial.step(says(1, "lead", &["leads"], Act::Allow))[0], "log vote 1 lead");
    assert!(trial.logged(1).is_empty(), "no verdict before the quorum");
    assert_eq!(trial.step(says(1, "second", &["ops"], Act::Allow))[0], "log #1 decision 1 allow");
    assert_eq!(trial.logged(1)[0], "store 1 allow");
    let voters: Vec<_> = trial.broker.request(id(1)).unwrap().votes.iter().map(|vote| name(&vote.by)).collect();
    assert_eq!(voters, ["first", "lead"]);
}

#[test]
fn one_denial_is_enough() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask_people(60, "2 of ops", &[])));
    trial.step(says(1, "first", &["ops"], Act::Allow));
    // Also by who approved before, and now knows better.
    assert_eq!(trial.step(says(1, "first", &["ops"], Act::Deny { errno: 1 }))[0], "log #1 decision 1 deny 1");
}

#[test]
fn time_reminds_then_asks_the_next_then_denies() {
    let mut trial = Trial::new();
    assert_eq!(trial.held(held(1, 1, 1, ask_people(100, "ops", &["leads"]))).last().unwrap(), "timer 50");
    trial.now = 50;
    assert_eq!(trial.step(Input::Tick), ["notify 1 Reminder(50) Pending", "timer 80"]);
    assert_eq!(trial.step(says(1, "lead", &["leads"], Act::Allow))[0], "log vote 1 lead");
    trial.now = 80;
    let expected =
        ["log escalated 1 Deadline", "notify 1 Escalated Pending", "notify 1 Reminder(80) Pending", "timer 100"];
    assert_eq!(trial.step(Input::Tick), expected);
    assert_eq!(trial.step(says(1, "sam", &["leads"], Act::Allow))[0], "log #1 decision 1 allow");
}

#[test]
fn people_escalate_and_extend_as_far_as_the_rule_goes() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask_people(100, "ops", &["leads"])));
    let by = rule;
    let escalate = || Input::Escalate { reply_to: 9, id: id(1), by: by() };
    let extend = || Input::Extend { reply_to: 9, id: id(1), by: by() };
    assert_eq!(trial.step(escalate())[1..], ["notify 1 Escalated Pending", "reply 9 Done"]);
    assert_eq!(trial.step(escalate()), ["reply 9 NoMore"]);
    trial.now = 90;
    trial.step(Input::Tick);
    // Half of what is left from now on.
    assert_eq!(trial.step(extend())[1..], ["notify 1 Extended Pending", "reply 9 Done", "timer 145"]);
    assert_eq!(trial.broker.request(id(1)).unwrap().deadline_ms, at(200).wall_ms);
    for _ in 1..EXTENSIONS {
        assert_eq!(trial.step(extend())[2], "reply 9 Done");
    }
    assert_eq!(trial.step(extend()), ["reply 9 NoMore"]);
    trial.now = 399;
    assert!(!trial.step(Input::Tick).iter().any(|effect| effect.contains("expiry")));
    trial.now = 400;
    assert_eq!(trial.step(Input::Tick)[0], "log #1 expiry 1 deny 1");
    assert_eq!(trial.step(extend()), ["reply 9 already deny 1"]);
}

#[test]
fn a_new_daemon_knows_who_has_approved() {
    let mut trial = Trial::new();
    let by = Decider::Reviewer {
        name: "first".to_owned(),
        channel: "cli".to_owned(),
        account: "1".to_owned(),
        evidence: None,
    };
    let vote = Vote { by, groups: BTreeSet::from(["ops".to_owned()]), reason: None, grant: None, at_ms: 1 };
    trial.step(Input::Adopt(vec![Restored { votes: vec![vote], ..restored(1, None) }]));
    trial.held(held(1, 1, 1, ask_people(60, "2 of ops", &[])));
    assert_eq!(trial.step(says(1, "first", &["ops"], Act::Allow)), ["reply 9 VotedBefore"]);
    assert_eq!(trial.step(says(1, "second", &["ops"], Act::Allow))[0], "log #1 decision 1 allow");
}
