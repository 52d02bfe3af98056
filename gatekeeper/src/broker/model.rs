//! Random inputs in any order, against what must always hold.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::{tests::ask, tests::held, *};
use crate::request::Effect as Act;

const SECOND: u64 = 1_000_000_000;

/// An input in the making: holds and requests are chosen from few, so that they meet.
#[derive(Clone, Debug)]
enum Move {
    Held { hold: u64, supersedes: Option<u64>, task: u64, act: u64, outcome: u8, with_context: bool },
    Adopt { hold: u64, decided: Option<bool> },
    Context(u64),
    Decide { hold: u64, allow: bool },
    Logged { ahead: u64 },
    LogFailed,
    Applied { hold: u64, allow: bool },
    AppliedAsStored(u64),
    Refused(u64),
    Gone { hold: u64, superseded: bool },
    Pass { seconds: u64 },
    Scan(Vec<u64>),
}

fn moves() -> impl Strategy<Value = Move> {
    let hold = || 1_u64..12;
    prop_oneof![
        6 => (hold(), proptest::option::of(hold()), 1_u64..4, 1_u64..3, 0_u8..5, any::<bool>()).prop_map(
            |(hold, supersedes, task, act, outcome, with_context)| {
                Move::Held { hold, supersedes, task, act, outcome, with_context }
            }
        ),
        1 => (hold(), proptest::option::of(any::<bool>())).prop_map(|(hold, decided)| Move::Adopt { hold, decided }),
        1 => hold().prop_map(Move::Context),
        5 => (hold(), any::<bool>()).prop_map(|(hold, allow)| Move::Decide { hold, allow }),
        5 => (0_u64..3).prop_map(|ahead| Move::Logged { ahead }),
        1 => Just(Move::LogFailed),
        1 => (hold(), any::<bool>()).prop_map(|(hold, allow)| Move::Applied { hold, allow }),
        4 => hold().prop_map(Move::AppliedAsStored),
        1 => hold().prop_map(Move::Refused),
        2 => (hold(), any::<bool>()).prop_map(|(hold, superseded)| Move::Gone { hold, superseded }),
        2 => (0_u64..15).prop_map(|seconds| Move::Pass { seconds }),
        2 => proptest::collection::vec(hold(), 0..8).prop_map(Move::Scan),
    ]
}

/// What an observer remembers of everything that went in and came out.
#[derive(Default)]
struct Observer {
    /// Decisions that were given to the log, by hold.
    decided: HashMap<u64, (Option<Ticket>, Act)>,
    /// Decisions that are durable.
    durable: HashSet<u64>,
    tickets: Vec<Ticket>,
    stored: HashMap<u64, StoreVerdict>,
    ended: HashSet<u64>,
    /// The final state of each request.
    final_states: HashMap<RequestId, Request>,
    /// Requests that were asked, with their deadline.
    asked: HashMap<RequestId, u64>,
    adopted: HashSet<u64>,
    /// Holds that the kernel side told of.
    known: HashSet<u64>,
}

impl Observer {
    fn end(&mut self, hold: u64) {
        assert!(self.ended.insert(hold), "hold {hold} ended twice");
    }

    fn see(&mut self, effect: &Effect) {
        match effect {
            Effect::Append { ticket, record } => self.see_record(*ticket, record),
            Effect::StoreVerdict(verdict) => {
                let hold = verdict.hold;
                assert!(self.durable.contains(&hold), "a verdict for {hold} before its decision was durable");
                assert!(!self.ended.contains(&hold), "a verdict for {hold} after its end");
                assert_eq!(self.decided[&hold].1, verdict.effect, "a verdict for {hold} that nobody decided");
                let verdict = StoreVerdict { expires_ns: 0, ..*verdict };
                let first = *self.stored.entry(hold).or_insert(verdict);
                assert_eq!(first, verdict, "two verdicts for {hold}");
            }
            Effect::Notify { request, change } => {
                assert_eq!(request.state.is_final(), *change == Change::Ended);
                assert!(!self.final_states.contains_key(&request.id), "{} changed after its end", request.id);
                if *change == Change::Asked {
                    self.asked.insert(request.id, request.hold);
                }
                if request.state.is_final() {
                    self.final_states.insert(request.id, Request::clone(request));
                }
            }
            _ => {}
        }
    }

    fn see_record(&mut self, ticket: Option<Ticket>, record: &Record) {
        if let Some(ticket) = ticket {
            assert!(self.tickets.last().is_none_or(|last| *last < ticket), "tickets go back");
            self.tickets.push(ticket);
        }
        let decision = match record {
            Record::Settled(settled) => Some((settled.hold, &settled.decision)),
            Record::Decision { hold, decision, .. } | Record::Expiry { hold, decision, .. } => Some((*hold, decision)),
            _ => None,
        };
        if let Some((hold, decision)) = decision {
            assert!(ticket.is_some(), "nobody would learn that the decision on {hold} is durable");
            let earlier = self.decided.insert(hold, (ticket, decision.effect));
            assert_eq!(earlier, None, "two decisions on {hold}");
            assert!(!self.ended.contains(&hold), "a decision on {hold} after its end");
        }
        match record {
            Record::Release { hold, .. }
            | Record::Withdrawn { hold, .. }
            | Record::Superseded { hold, .. }
            | Record::Refused { hold, .. } => self.end(*hold),
            Record::Hold { request, .. } => {
                assert!(!self.ended.contains(&request.hold), "hold {} began after its end", request.hold);
            }
            _ => {}
        }
    }
}

fn effect_of(allow: bool) -> Act {
    if allow { Act::Allow } else { Act::Deny { errno: 13 } }
}

fn decision(allow: bool) -> Decision {
    Decision { effect: effect_of(allow), by: Decider::Daemon, reason: None, grant: None, at_ms: 0 }
}

fn check(moves: Vec<Move>) {
    let mut broker = Broker::new(3);
    let mut observer = Observer::default();
    let mut seconds = 0;
    let id = |hold| RequestId::new(3, hold);
    let now_at = |seconds: u64| Now { wall_ms: seconds * 1_000, boot_ns: (1_000 + seconds) * SECOND };
    for (step, chosen) in moves.into_iter().enumerate() {
        let now = now_at(seconds);
        let input = match chosen {
            Move::Held { hold, supersedes, task, act, outcome, with_context } => {
                let outcome = match outcome {
                    0 => Outcome::Allow { by: Decider::NoRule },
                    1 => Outcome::Deny { errno: 13, by: Decider::NoRule },
                    2 => ask(10, true),
                    _ => ask(10, false),
                };
                observer.known.insert(hold);
                Input::Held(Box::new(Held {
                    supersedes: supersedes.filter(|old| *old < hold),
                    context: with_context.then(Box::default),
                    since_ns: now.boot_ns,
                    ..held(hold, task, act, outcome)
                }))
            }
            Move::Adopt { hold, decided } => {
                // Once, and before anything else is known about the hold.
                if step > 2 || observer.known.contains(&hold) || !observer.adopted.insert(hold) {
                    continue;
                }
                let decision = decided.map(decision);
                if let Some(decision) = &decision {
                    observer.decided.insert(hold, (None, decision.effect));
                    observer.durable.insert(hold);
                }
                let deadline_ns = now.boot_ns + 5 * SECOND;
                Input::Adopt(vec![Restored {
                    hold,
                    id: id(hold),
                    held_at_ms: 0,
                    deadline_ms: 0,
                    deadline_ns,
                    decision,
                    votes: Vec::new(),
                    escalated: 0,
                    extended: 0,
                }])
            }
            Move::Context(hold) => Input::Context { hold, context: Box::default() },
            Move::Decide { hold, allow } => {
                Input::Decide { reply_to: 0, id: id(hold), decision: decision(allow), groups: BTreeSet::new() }
            }
            Move::Logged { ahead } => {
                let Some(last) = observer.tickets.last() else { continue };
                let through = Ticket(last.0.saturating_sub(ahead));
                for (hold, (ticket, _)) in &observer.decided {
                    if ticket.is_some_and(|ticket| ticket <= through) {
                        observer.durable.insert(*hold);
                    }
                }
                Input::Logged { through }
            }
            Move::LogFailed => Input::LogFailed { error: "full".to_owned() },
            Move::Applied { hold, allow } => Input::Applied { hold, effect: effect_of(allow) },
            Move::AppliedAsStored(hold) => match observer.stored.get(&hold) {
                Some(verdict) => Input::Applied { hold, effect: verdict.effect },
                None => continue,
            },
            Move::Refused(hold) => Input::Refused { hold, errno: 1, reason: String::new() },
            Move::Gone { hold, superseded } => {
                Input::Gone { hold, why: if superseded { Gone::Superseded } else { Gone::TaskEnded } }
            }
            Move::Pass { seconds: passed } => {
                seconds += passed;
                Input::Tick
            }
            Move::Scan(open) => Input::Scan { open: open.into_iter().collect(), taken_ns: now.boot_ns },
        };
        let now = now_at(seconds);
        for effect in broker.step(input, now) {
            observer.see(&effect);
        }
        for request in broker.open_requests() {
            assert!(!request.state.is_final());
            assert!(!observer.ended.contains(&request.hold), "{} is open after its end", request.hold);
            // The deadline has produced a decision, even if nothing else did.
            assert!(
                request.state != State::Pending || request.deadline_ms == 0 || request.deadline_ms > now.wall_ms,
                "{} is overdue",
                request.id
            );
        }
        for (id, request) in &observer.final_states {
            assert_eq!(broker.request(*id).map(|r| &**r), Some(request), "a final request changed");
        }
    }
    // In the end, with a log that works and time that passes, every hold gets its verdict.
    seconds += 1_000;
    for effect in broker.step(Input::Tick, now_at(seconds)) {
        observer.see(&effect);
    }
    if let Some(last) = observer.tickets.last().copied() {
        observer.durable.extend(observer.decided.keys().copied());
        for effect in broker.step(Input::Logged { through: last }, now_at(seconds)) {
            observer.see(&effect);
        }
    }
    assert!(broker.open_requests().all(|request| observer.stored.contains_key(&request.hold)));
    assert_eq!(broker.health().undurable, 0);
    let holds: Vec<_> = broker.open_requests().map(|request| request.hold).collect();
    let open_holds = broker.open_holds();
    assert!(open_holds >= holds.len());
    // And a scan of an empty kernel leaves nothing behind.
    let scan = Input::Scan { open: HashSet::new(), taken_ns: now_at(seconds + 1).boot_ns };
    for effect in broker.step(scan, now_at(seconds + 1)) {
        observer.see(&effect);
    }
    assert_eq!(broker.open_holds(), 0);
    assert_eq!(observer.asked.len(), observer.final_states.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_for_any_sequence_of_inputs(moves in proptest::collection::vec(moves(), 0..60)) {
        check(moves);
    }
}
