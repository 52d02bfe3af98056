//! One test per transition.

mod grants;
mod people;

use std::time::Duration;

use self::people::{ask_people, says};
use super::*;
use crate::{
    action::{ActionKind, Object, Target},
    request::{Effect as Act, Risk},
    text::Text,
};

const NONCE: u64 = 0x5eed;
const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> Now {
    Now { wall_ms: 1_700_000_000_000 + seconds * 1_000, boot_ns: 100 * SECOND + seconds * SECOND }
}

pub(super) fn ask(seconds: u64, danger_allow_on_timeout: bool) -> Outcome {
    Outcome::Ask(Ask {
        rule: "ask about tools".to_owned(),
        deadline: Duration::from_secs(seconds),
        danger_allow_on_timeout,
        risk: Risk::High,
        reason: None,
        quorum: None,
        escalation: Vec::new(),
        danger_self_review: false,
        comment: Default::default(),
        second_factor: false,
        grants: Vec::new(),
    })
}

fn rule() -> Decider {
    Decider::Rule { name: "tools".to_owned() }
}

/// A hold of task `task` on act `act`, begun at second 0.
pub(super) fn held(hold: u64, task: u64, act: u64, outcome: Outcome) -> Held {
    Held {
        hold,
        supersedes: None,
        key: TaskKey { task, start_ns: 7 },
        task: Task {
            pid: 4_000,
            tid: 4_000,
            parent: 1,
            start_ns: 7,
            cgroup: 1,
            comm: Text::from("bash"),
            real_uid: 1_000,
            login_uid: None,
            session: None,
        },
        stage: 0,
        digest: Digest { low: act, high: 1 },
        action: Action {
            kind: ActionKind::Unlink,
            agent: "builder".to_owned(),
            uid: 1_000,
            gid: 1_000,
            target: Target::File {
                path: Text::from("/etc/passwd"),
                new_path: None,
                argument: None,
                detail: 0,
                other: None,
            },
            object: Some(Object {
                dev: 1,
                ino: 2,
                generation: 0,
                mode: 0o100_644,
                uid: 0,
                nlink: 1,
                size: 0,
                ctime_ns: 0,
            }),
            foreign_mount: false,
            digest: format!("{act:032x}"),
        },
        interpreter: None,
        outcome,
        context: None,
        since_ns: 100 * SECOND,
    }
}

fn by_person(effect: Act) -> Decision {
    Decision {
        effect,
        by: Decider::Reviewer {
            name: "first".to_owned(),
            channel: "cli".to_owned(),
            account: "1000".to_owned(),
            evidence: None,
        },
        reason: Some("looked at it".to_owned()),
        grant: None,
        at_ms: 1,
    }
}

/// A broker with its effects in short words, in which transitions are easy to read.
struct Trial {
    broker: Broker,
    now: u64,
}

impl Trial {
    fn new() -> Self {
        Self { broker: Broker::new(NONCE), now: 0 }
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        self.broker.step(input, at(self.now)).iter().map(short).collect()
    }

    fn held(&mut self, held: Held) -> Vec<String> {
        self.step(Input::Held(Box::new(held)))
    }

    fn decide(&mut self, hold: u64, effect: Act) -> Vec<String> {
        self.step(Input::Decide { reply_to: 9, id: id(hold), decision: by_person(effect), groups: BTreeSet::new() })
    }

    fn logged(&mut self, through: u64) -> Vec<String> {
        self.step(Input::Logged { through: Ticket(through) })
    }

    fn scan(&mut self, open: &[u64]) -> Vec<String> {
        self.step(Input::Scan { open: open.iter().copied().collect(), taken_ns: at(self.now).boot_ns })
    }

    fn state(&self, hold: u64) -> State {
        self.broker.request(id(hold)).unwrap().state.clone()
    }

    /// No hold is left, and nothing of one.
    fn assert_empty(&self) {
        assert_eq!(self.broker.open_holds(), 0);
        assert_eq!(self.broker.open_requests().count(), 0);
        assert_eq!(self.broker.health().undurable, 0);
    }
}

fn id(hold: u64) -> RequestId {
    RequestId::new(NONCE, hold)
}

fn name(by: &Decider) -> String {
    match by {
        Decider::Reviewer { name, .. } => name.clone(),
        other => format!("{other:?}"),
    }
}

fn short(effect: &Effect) -> String {
    let allow = |effect: &Act| match effect {
        Act::Allow => "allow".to_owned(),
        Act::Deny { errno } => format!("deny {errno}"),
    };
    match effect {
        Effect::Append { ticket, record } => {
            let record = match record {
                Record::Hold { request, continues, .. } => {
                    format!("hold {}{}", request.hold, continues.map(|old| format!(" after {old}")).unwrap_or_default())
                }
                Record::Settled(settled) => format!("settled {} {}", settled.hold, allow(&settled.decision.effect)),
                Record::Context(request) => format!("context {}", request.hold),
                Record::Decision { hold, decision, .. } => format!("decision {hold} {}", allow(&decision.effect)),
                Record::Expiry { hold, decision, .. } => format!("expiry {hold} {}", allow(&decision.effect)),
                Record::Vote { hold, vote, .. } => format!("vote {hold} {}", name(&vote.by)),
                Record::Escalated { hold, by, .. } => format!("escalated {hold} {}", name(by)),
                Record::Extended { hold, by, .. } => format!("extended {hold} {}", name(by)),
                Record::Verdict { hold, effect, .. } => format!("verdict {hold} {}", allow(effect)),
                Record::Release { hold, state, presumed, .. } => {
                    format!("release {hold} {state:?}{}", if *presumed { " presumed" } else { "" })
                }
                Record::Refused { hold, errno, .. } => format!("refused {hold} {errno}"),
                Record::Withdrawn { hold, presumed, .. } => {
                    format!("withdrawn {hold}{}", if *presumed { " presumed" } else { "" })
                }
                Record::Superseded { hold, by, .. } => format!("superseded {hold} by {by:?}"),
                Record::Alarm { hold, .. } => format!("alarm {hold}"),
            };
            match ticket {
                Some(Ticket(ticket)) => format!("log #{ticket} {record}"),
                None => format!("log {record}"),
            }
        }
        Effect::StoreVerdict(verdict) => format!("store {} {}", verdict.hold, allow(&verdict.effect)),
        Effect::GatherContext(request) => format!("gather {}", request.hold),
        Effect::Notify { request, change } => format!("notify {} {change:?} {:?}", request.hold, request.state),
        Effect::Reply { to, reply } => match reply {
            Reply::Decided => format!("reply {to} decided"),
            Reply::AlreadyDecided(decision) => format!("reply {to} already {}", allow(&decision.effect)),
            Reply::NotPending(state) => format!("reply {to} not pending {state:?}"),
            Reply::Unknown => format!("reply {to} unknown"),
            reply => format!("reply {to} {reply:?}"),
        },
        Effect::Report { hold } => format!("report {hold}"),
        Effect::Health(health) => format!("health {:?} {}", health.log_error, health.undurable),
        Effect::Timer { at_ns: Some(at_ns) } => format!("timer {}", at_ns / SECOND - 100),
        Effect::Timer { at_ns: None } => "no timer".to_owned(),
    }
}

#[test]
fn an_approved_action_goes_on_after_its_decision_is_durable() {
    let mut trial = Trial::new();
    assert_eq!(
        trial.held(held(1, 1, 1, ask(60, false))),
        ["log hold 1", "gather 1", "notify 1 Asked Pending", "timer 30"]
    );
    trial.now = 1;
    let context = Box::new(Context { user: Some("dev".to_owned()), ..Context::default() });
    assert_eq!(trial.step(Input::Context { hold: 1, context }), ["log context 1", "notify 1 Context Pending"]);
    trial.now = 2;
    assert_eq!(
        trial.decide(1, Act::Allow),
        ["log #1 decision 1 allow", "notify 1 Decided Decided", "reply 9 decided", "no timer"]
    );
    assert_eq!(trial.logged(1), ["store 1 allow", "log verdict 1 allow"]);
    assert_eq!(
        trial.step(Input::Applied { hold: 1, effect: Act::Allow }),
        ["log release 1 Released", "notify 1 Ended Released"]
    );
    trial.assert_empty();
    let request = trial.broker.request(id(1)).unwrap();
    assert_eq!(request.context.user.as_deref(), Some("dev"));
    assert_eq!((request.held_at_ms, request.deadline_ms), (at(0).wall_ms, at(60).wall_ms));
}

#[test]
fn a_denied_action_fails_with_the_chosen_errno() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.decide(1, Act::Deny { errno: 13 });
    assert_eq!(trial.logged(1), ["store 1 deny 13", "log verdict 1 deny 13"]);
    trial.step(Input::Applied { hold: 1, effect: Act::Deny { errno: 13 } });
    assert_eq!(trial.state(1), State::Denied);
    trial.assert_empty();
}

#[test]
fn a_denial_without_a_usable_errno_still_fails_the_action() {
    for errno in [0, 4_096, u16::MAX] {
        let mut trial = Trial::new();
        trial.held(held(1, 1, 1, ask(60, false)));
        trial.decide(1, Act::Deny { errno });
        assert_eq!(trial.logged(1)[0], "store 1 deny 1");
        trial.held(held(2, 2, 1, Outcome::Deny { errno, by: rule() }));
        assert_eq!(trial.logged(2), ["store 2 deny 1"]);
    }
}

#[test]
fn a_deadline_denies() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.now = 48;
    trial.step(Input::Tick);
    trial.now = 59;
    assert!(trial.step(Input::Tick).is_empty());
    trial.now = 60;
    assert_eq!(trial.step(Input::Tick), ["log #1 expiry 1 deny 1", "notify 1 Decided Decided", "no timer"]);
    assert_eq!(trial.logged(1)[0], "store 1 deny 1");
    trial.step(Input::Applied { hold: 1, effect: Act::Deny { errno: 1 } });
    assert_eq!(trial.state(1), State::TimedOut);
}

#[test]
fn a_deadline_allows_only_where_the_rule_says_so() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, true)));
    trial.now = 61;
    assert_eq!(trial.step(Input::Tick)[0], "log #1 expiry 1 allow");
    assert_eq!(trial.logged(1)[0], "store 1 allow");
    trial.step(Input::Applied { hold: 1, effect: Act::Allow });
    assert_eq!(trial.state(1), State::Released);
}

#[test]
fn a_decision_after_the_deadline_is_too_late_even_before_the_tick() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.now = 60;
    assert_eq!(
        trial.decide(1, Act::Allow),
        ["log #1 expiry 1 deny 1", "notify 1 Decided Decided", "reply 9 already deny 1", "no timer"]
    );
}

#[test]
fn a_hold_that_is_found_late_has_waited_since_it_began() {
    let mut trial = Trial::new();
    trial.now = 50;
    assert_eq!(trial.held(held(1, 1, 1, ask(60, false))).last().unwrap(), "timer 60");
    assert_eq!(trial.broker.request(id(1)).unwrap().held_at_ms, at(0).wall_ms);
}

#[test]
fn the_first_decision_wins() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.decide(1, Act::Deny { errno: 1 });
    assert_eq!(trial.decide(1, Act::Allow), ["reply 9 already deny 1"]);
    trial.logged(1);
    assert_eq!(trial.decide(1, Act::Allow), ["reply 9 already deny 1"]);
    trial.step(Input::Applied { hold: 1, effect: Act::Deny { errno: 1 } });
    assert_eq!(trial.decide(1, Act::Allow), ["reply 9 already deny 1"]);
}

#[test]
fn nobody_decides_what_is_not_there() {
    let mut trial = Trial::new();
    assert_eq!(trial.decide(1, Act::Allow), ["reply 9 unknown"]);
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.step(Input::Gone { hold: 1, why: Gone::TaskEnded });
    assert_eq!(trial.decide(1, Act::Allow), ["reply 9 not pending Withdrawn"]);
}

#[test]
fn rules_decide_without_a_request_and_in_one_record() {
    let mut trial = Trial::new();
    assert_eq!(trial.held(held(1, 1, 1, Outcome::Allow { by: rule() })), ["log #1 settled 1 allow"]);
    assert_eq!(trial.held(held(2, 2, 1, Outcome::Deny { errno: 13, by: rule() })), ["log #2 settled 2 deny 13"]);
    assert_eq!(trial.broker.open_requests().count(), 0);
    assert_eq!(trial.logged(2), ["store 1 allow", "store 2 deny 13"]);
    assert!(trial.step(Input::Applied { hold: 1, effect: Act::Allow }).is_empty());
    assert!(trial.step(Input::Applied { hold: 2, effect: Act::Deny { errno: 13 } }).is_empty());
    trial.assert_empty();
}

#[test]
fn a_task_that_ends_withdraws_its_request() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    assert_eq!(
        trial.step(Input::Gone { hold: 1, why: Gone::TaskEnded }),
        ["log withdrawn 1", "notify 1 Ended Withdrawn", "no timer"]
    );
    trial.assert_empty();
}

#[test]
fn a_task_that_ends_between_decision_and_log_gets_no_verdict() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.decide(1, Act::Allow);
    trial.step(Input::Gone { hold: 1, why: Gone::TaskEnded });
    assert!(trial.logged(1).is_empty());
    assert_eq!(trial.state(1), State::Withdrawn);
}

#[test]
fn a_superseded_hold_never_releases() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.decide(1, Act::Allow);
    let next = Held { supersedes: Some(1), ..held(2, 1, 2, ask(60, false)) };
    assert_eq!(
        trial.held(next),
        [
            "log superseded 1 by Some(2)",
            "notify 1 Ended Superseded",
            "log hold 2",
            "gather 2",
            "notify 2 Asked Pending",
            "timer 30"
        ]
    );
    assert!(trial.logged(1).is_empty());
    assert!(trial.step(Input::Gone { hold: 1, why: Gone::Superseded }).is_empty());
    assert_eq!(trial.state(1), State::Superseded);
}

#[test]
fn the_same_hold_again_changes_nothing() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    assert!(trial.held(held(1, 1, 1, ask(60, false))).is_empty());
    trial.step(Input::Gone { hold: 1, why: Gone::TaskEnded });
    assert!(trial.held(held(1, 1, 1, ask(60, false))).is_empty());
}

#[test]
fn identical_repeats_of_one_task_make_no_second_request() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.now = 10;
    let repeat = Held { since_ns: at(10).boot_ns, ..held(2, 1, 1, ask(60, false)) };
    assert_eq!(trial.held(repeat), ["log hold 2 after 1", "log superseded 1 by Some(2)", "gather 2"]);
    assert_eq!(trial.broker.open_requests().count(), 1);
    // The deadline stays, and the decision goes to the hold that is there.
    assert_eq!(trial.decide(1, Act::Allow)[..2], ["log #1 decision 2 allow", "notify 2 Decided Decided"]);
    assert_eq!(trial.logged(1)[0], "store 2 allow");
    trial.step(Input::Applied { hold: 2, effect: Act::Allow });
    assert_eq!(trial.state(1), State::Released);
    trial.assert_empty();
}

#[test]
fn the_same_act_of_another_task_is_another_request() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.held(held(2, 2, 1, ask(60, false)));
    assert_eq!(trial.broker.open_requests().count(), 2);
}

#[test]
fn a_decision_counts_once_even_if_the_event_of_its_use_is_lost() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.decide(1, Act::Allow);
    trial.logged(1);
    assert_eq!(
        trial.held(held(2, 1, 1, ask(60, false))),
        [
            "log release 1 Released presumed",
            "notify 1 Ended Released",
            "log hold 2",
            "gather 2",
            "notify 2 Asked Pending",
            "timer 30"
        ]
    );
}

#[test]
fn while_the_log_fails_nothing_is_stored_and_then_everything() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    trial.held(held(2, 2, 1, ask(60, false)));
    trial.decide(1, Act::Allow);
    trial.decide(2, Act::Deny { errno: 1 });
    let failed = Input::LogFailed { error: "disk full".to_owned() };
    assert_eq!(trial.step(failed.clone()), ["health Some(\"disk full\") 2"]);
    assert!(trial.step(failed).is_empty());
    trial.held(held(3, 3, 1, Outcome::Allow { by: rule() }));
    trial.now = 70;
    assert!(trial.step(Input::Tick).is_empty());
    assert_eq!(
        trial.logged(2),
        ["store 1 allow", "log verdict 1 allow", "store 2 deny 1", "log verdict 2 deny 1", "health None 1"]
    );
    assert_eq!(trial.logged(3), ["store 3 allow"]);
}

#[test]
fn a_refusal_by_the_kernel_side_ends_a_request_as_denied() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    let refused = Input::Refused { hold: 1, errno: 1, reason: "resumed too often".to_owned() };
    assert_eq!(trial.step(refused), ["log refused 1 1", "notify 1 Ended Denied", "no timer"]);
    let decision = trial.broker.request(id(1)).unwrap().decision.clone().unwrap();
    assert_eq!((decision.by, decision.reason.as_deref()), (Decider::Daemon, Some("resumed too often")));
}

#[test]
fn what_was_not_decided_but_applied_raises_an_alarm() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(60, false)));
    assert_eq!(trial.step(Input::Applied { hold: 1, effect: Act::Allow })[0], "log alarm 1");
    trial.held(held(2, 1, 1, ask(60, false)));
    trial.decide(2, Act::Deny { errno: 1 });
    trial.logged(1);
    assert_eq!(trial.step(Input::Applied { hold: 2, effect: Act::Allow })[0], "log alarm 2");
}

#[test]
fn a_scan_finds_out_what_events_did_not_tell() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(600, false)));
    trial.held(held(2, 2, 1, ask(600, false)));
    trial.held(held(3, 3, 1, ask(600, false)));
    trial.held(held(4, 4, 1, ask(600, false)));
    trial.decide(2, Act::Allow);
    trial.logged(1);
    trial.decide(3, Act::Allow);
    trial.now = 1;
    assert_eq!(
        trial.scan(&[4, 9]),
        [
            "log withdrawn 1 presumed",
            "notify 1 Ended Withdrawn",
            "log release 2 Released presumed",
            "notify 2 Ended Released",
            "log withdrawn 3 presumed",
            "notify 3 Ended Withdrawn",
            "report 9"
        ]
    );
    // A hold, or a verdict, that is younger than the scan is not judged by it.
    let young = Held { since_ns: at(1).boot_ns, ..held(5, 5, 1, ask(600, false)) };
    trial.held(young);
    trial.decide(4, Act::Allow);
    trial.logged(3);
    assert!(trial.scan(&[]).is_empty());
}

#[test]
fn a_verdict_that_is_not_applied_is_stored_again() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask(600, false)));
    trial.decide(1, Act::Allow);
    trial.logged(1);
    trial.now = RESTORE_AFTER_NS / SECOND - 1;
    assert!(trial.scan(&[1]).is_empty());
    trial.now += 1;
    assert_eq!(trial.scan(&[1]), ["store 1 allow"]);
    assert!(trial.scan(&[1]).is_empty());
}

fn restored(hold: u64, decision: Option<Decision>) -> Restored {
    Restored {
        hold,
        id: id(hold),
        held_at_ms: at(0).wall_ms,
        deadline_ms: at(60).wall_ms,
        deadline_ns: at(60).boot_ns,
        decision,
        votes: Vec::new(),
        escalated: 0,
        extended: 0,
    }
}

#[test]
fn a_new_daemon_takes_over_what_the_old_one_left() {
    let mut trial = Trial::new();
    trial.now = 30;
    let restored = vec![
        restored(1, None),
        restored(2, Some(by_person(Act::Allow))),
        restored(3, None),
        restored(4, Some(by_person(Act::Deny { errno: 1 }))),
        restored(5, Some(by_person(Act::Allow))),
    ];
    assert!(trial.step(Input::Adopt(restored)).is_empty());
    // 3 and 4 ended while no daemon ran; 6 was never seen.
    assert_eq!(
        trial.scan(&[1, 2, 5, 6]),
        ["log withdrawn 3 presumed", "log release 4 Denied presumed", "report 1", "report 2", "report 5", "report 6"]
    );
    // The deadline is the old one, although the rule has another now; no second record of the hold.
    assert_eq!(trial.held(held(1, 1, 1, ask(600, false))), ["gather 1", "notify 1 Asked Pending", "timer 48"]);
    assert_eq!(trial.held(held(2, 2, 1, ask(600, false))), ["gather 2", "notify 2 Asked Decided", "store 2 allow"]);
    // The policy denies by now, but a reviewer had decided.
    assert_eq!(trial.held(held(5, 5, 1, Outcome::Deny { errno: 1, by: rule() })), ["store 5 allow"]);
    assert_eq!(trial.decide(2, Act::Deny { errno: 1 }), ["reply 9 already allow"]);
    trial.step(Input::Applied { hold: 2, effect: Act::Allow });
    assert_eq!(trial.state(2), State::Released);
}

#[test]
fn events_about_holds_that_only_the_old_daemon_knew_end_them() {
    let mut trial = Trial::new();
    let decided = Some(by_person(Act::Allow));
    let holds = vec![restored(1, decided), restored(2, None), restored(3, None), restored(4, None)];
    trial.step(Input::Adopt(holds));
    assert_eq!(trial.step(Input::Applied { hold: 1, effect: Act::Allow }), ["log release 1 Released"]);
    assert_eq!(trial.step(Input::Gone { hold: 2, why: Gone::TaskEnded }), ["log withdrawn 2"]);
    assert_eq!(trial.step(Input::Applied { hold: 3, effect: Act::Allow }), ["log alarm 3", "log release 3 Released"]);
    let refused = Input::Refused { hold: 4, errno: 1, reason: String::new() };
    assert_eq!(trial.step(refused), ["log refused 4 1"]);
    assert!(trial.scan(&[]).is_empty());
}

#[test]
fn only_so_many_final_requests_stay_known() {
    let mut trial = Trial::new();
    for hold in 1..=RECENT_REQUESTS as u64 + 1 {
        trial.held(held(hold, hold, 1, ask(60, false)));
        trial.step(Input::Gone { hold, why: Gone::TaskEnded });
    }
    assert_eq!(trial.broker.recent_requests().count(), RECENT_REQUESTS);
    assert!(trial.broker.request(id(1)).is_none());
    assert!(trial.broker.request(id(2)).is_some());
}

#[test]
fn ten_thousand_holds_are_no_trouble() {
    let mut trial = Trial::new();
    let count = 10_000;
    for hold in 1..=count {
        trial.held(held(hold, hold, 1, ask(60 + hold % 100, false)));
    }
    for hold in 1..=count {
        trial.decide(hold, Act::Allow);
    }
    let stored = trial.logged(count);
    assert_eq!(stored.iter().filter(|effect| effect.starts_with("store")).count(), 10_000);
    for hold in 1..=count {
        trial.step(Input::Applied { hold, effect: Act::Allow });
    }
    trial.assert_empty();
}
