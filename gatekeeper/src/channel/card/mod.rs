//! A request in words, the same for every way to reach reviewers: in one line, as a card, and with everything that is known.
//!
//! What an agent chose is escaped here ([`crate::text::Text`]); what a platform gives a meaning to is for its channel to
//! escape, and what is too long there for its channel to shorten, saying so.

mod action;
mod detail;
mod needs;
pub mod time;

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

pub use self::{
    action::{action_line, quoted_all},
    detail::{LABEL_COLUMNS, Line, detail, risk_name, safe, state_name, user},
    needs::Needs,
};
use super::Verb;
use crate::request::{Decider, Decision, Request, RequestId, Risk, State};

/// Lines of the whole description that a card leaves to its thread and to `gatekeeper show`: they identify, and tell a
/// reviewer little. Its status has the times and the approvals so far: what changes while a request waits is no part of what
/// a decision is bound to.
const NOT_ON_CARDS: [&str; 14] = [
    "asks",
    "approved by",
    "request",
    "decision",
    "its reason",
    "held",
    "deadline",
    "cgroup",
    "session",
    "context env",
    "new env",
    "hold",
    "object",
    "started in",
];

/// What reviewers see of a request on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Which request; its shown form is the code that people type.
    pub request: RequestId,
    /// The agent run that asks: what many requests of one run are gathered by.
    pub run: String,
    /// It is no request's card but a digest: so many requests stand in it.
    pub more: Option<usize>,
    /// Who wants what and where, in one line.
    pub headline: String,
    /// How much harm it can do.
    pub risk: Risk,
    /// What has to be seen to decide.
    pub lines: Vec<Line>,
    /// Where it stands, one line each.
    pub status: Vec<String>,
    /// Whether nothing can change any more.
    pub is_final: bool,
    /// What can be done about it. A channel that shortened anything of the card must not offer an approval at a tap.
    pub verbs: Vec<Verb>,
    /// What decisions need besides a person who may.
    pub needs: Needs,
    /// SHA-256 of request, headline, risk and lines, hexadecimal: what was seen, for the provenance log.
    pub digest: String,
    /// Everything that is known, for the thread.
    pub detail: Vec<String>,
}

impl Card {
    /// The card of a request as it stands. `host` is this host's name, `verbs` what may be done while it waits.
    pub fn new(request: &Request, host: &str, verbs: &[Verb]) -> Self {
        let whole = detail(request, request.held_at_ms);
        let mut shown = true;
        let lines: Vec<Line> = whole
            .iter()
            .filter(|line| {
                // A line without a label belongs to the one above.
                if !line.label.is_empty() {
                    shown = !NOT_ON_CARDS.contains(&line.label);
                }
                shown
            })
            .cloned()
            .collect();
        let headline =
            format!("{} on {} wants to {}", safe(&request.action.agent), safe(host), action_line(&request.action));
        let digest = digest(request.id, &headline, request.ask.risk, &lines);
        let is_final = request.state.is_final();
        let verbs = if request.state == State::Pending { verbs.to_vec() } else { Vec::new() };
        let detail = whole.iter().map(|Line { label, text }| format!("{label:<LABEL_COLUMNS$}{text}")).collect();
        let (id, risk, run) = (request.id, request.ask.risk, request.action.agent.clone());
        let (status, needs) = (status(request), Needs::of(&request.ask));
        Self { request: id, run, more: None, headline, risk, lines, status, is_final, verbs, needs, digest, detail }
    }
}

impl Card {
    /// What stands above it: code and risk, or how many requests a digest has.
    pub fn title(&self) -> String {
        match self.more {
            None => format!("{}, risk {}", self.request, risk_name(self.risk)),
            Some(1) => "1 more request".to_owned(),
            Some(count) => format!("{count} more requests"),
        }
    }

    /// A card about nothing, to see whether a channel works.
    pub fn of_test(request: RequestId, host: &str) -> Self {
        let headline = format!("gatekeeper on {} tests this channel", safe(host));
        Self {
            request,
            run: String::new(),
            more: None,
            risk: Risk::Low,
            lines: vec![Line {
                label: "note",
                text: "nothing waits for this card, and nothing can be decided".to_owned(),
            }],
            status: vec!["a test".to_owned()],
            is_final: false,
            verbs: Vec::new(),
            needs: Needs::default(),
            digest: digest(request, &headline, Risk::Low, &[]),
            detail: Vec::new(),
            headline,
        }
    }

    /// The card of a request of which no more is known than that it has ended.
    pub fn of_forgotten(request: RequestId, headline: String) -> Self {
        Self {
            request,
            run: String::new(),
            more: None,
            headline,
            risk: Risk::default(),
            lines: Vec::new(),
            status: vec!["ended while gatekeeper did not run; `gatekeeper log` on the host tells how".to_owned()],
            is_final: true,
            verbs: Vec::new(),
            needs: Needs::default(),
            digest: String::new(),
            detail: Vec::new(),
        }
    }
}

fn digest(request: RequestId, headline: &str, risk: Risk, lines: &[Line]) -> String {
    let mut hash = Sha256::new();
    // Nothing that is shown has a line end in it, so the lines can be told apart.
    hash.update(format!("{request}\n{headline}\n{}\n", risk_name(risk)));
    for Line { label, text } in lines {
        hash.update(format!("{label}\t{text}\n"));
    }
    hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Where a request stands, for people.
fn status(request: &Request) -> Vec<String> {
    let Request { state, decision, held_at_ms, deadline_ms, ask, .. } = request;
    let then = if ask.danger_allow_on_timeout { "then it is ALLOWED" } else { "then it fails" };
    let waiting = || format!("waits until {}, {then}", time::rfc3339(*deadline_ms));
    let mut lines = match (state, decision) {
        (State::Pending, _) => vec![waiting()],
        (State::Decided, Some(decision)) => vec![format!("{}; the kernel applies it", by(decision, *held_at_ms))],
        (State::Released, Some(decision)) => vec![format!("{}; it went on", by(decision, *held_at_ms))],
        (State::Denied, Some(decision)) => vec![format!("{}; it failed", by(decision, *held_at_ms))],
        (State::TimedOut, _) => vec!["timed out: nobody decided in time; it failed".to_owned()],
        (State::Withdrawn, _) => vec!["withdrawn: the process ended first".to_owned()],
        (State::Superseded, _) => vec!["superseded: the process went on to something else".to_owned()],
        (state, None) => vec![state_name(state).to_owned()],
    };
    if *state == State::Pending {
        let votes = request.votes.iter().map(|vote| match &vote.by {
            Decider::Reviewer { name, channel, .. } => {
                format!("approved by {} through {} so far", safe(name), safe(channel))
            }
            _ => "approved so far".to_owned(),
        });
        lines.extend(votes);
        lines.extend(request.quorum().map(|quorum| format!("asks {quorum}")));
    }
    lines.extend(
        decision.as_ref().and_then(|decision| decision.reason.as_deref()).map(|r| format!("reason: {}", safe(r))),
    );
    lines
}

/// Who decided what, and how long after the action was held.
fn by(decision: &Decision, held_at_ms: u64) -> String {
    let Decision { effect, by, reason: _, grant, at_ms } = decision;
    let verb = match effect {
        crate::request::Effect::Allow => "approved",
        crate::request::Effect::Deny { .. } => "denied",
    };
    let by = match by {
        Decider::Reviewer { name, channel, .. } => format!("by {} through {}", safe(name), safe(channel)),
        Decider::Rule { name } => format!("by rule {}", safe(name)),
        Decider::Grant { id, by } => format!("by grant {id} of {}", safe(&by.join(" and "))),
        Decider::NoRule => "as no rule matched".to_owned(),
        Decider::Deadline => "as the deadline passed".to_owned(),
        Decider::Daemon => "by gatekeeper itself".to_owned(),
    };
    let length = grant.map_or_else(String::new, |length| format!(" {}", length.in_words()));
    format!("{verb}{length} {by} after {}", time::age(held_at_ms, *at_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Vote, samples};

    #[test]
    fn what_people_say_of_a_request_changes_no_digest() {
        let mut request = samples::request(1);
        request.ask.quorum = Some("2 of ops".parse().unwrap());
        request.ask.escalation = vec!["leads".parse().unwrap()];
        let before = Card::new(&request, "host-1", &[Verb::Approve]);
        let by = Decider::Reviewer {
            name: "first".to_owned(),
            channel: "room".to_owned(),
            account: "1".to_owned(),
            evidence: None,
        };
        request.votes.push(Vote { by, groups: Default::default(), reason: None, grant: None, at_ms: 1 });
        (request.escalated, request.extended, request.deadline_ms) = (1, 1, request.deadline_ms + 1);
        let after = Card::new(&request, "host-1", &[Verb::Approve]);
        assert_eq!((&after.digest, &after.lines), (&before.digest, &before.lines));
        assert!(after.status.contains(&"approved by first through room so far".to_owned()), "{:?}", after.status);
        assert!(after.status.contains(&"asks 2 of ops or leads".to_owned()), "{:?}", after.status);
    }

    #[test]
    fn what_would_run_is_in_the_digest() {
        let request = samples::request(1);
        let digest = |request: &Request| Card::new(request, "host-1", &[]).digest;
        let mut other = request.clone();
        let crate::action::Target::Program { args, .. } = &mut other.action.target else {
            unreachable!("it is an exec")
        };
        args.push("--force".into());
        assert_ne!(digest(&request), digest(&other));
        let mut other = request.clone();
        other.context.script = Some("#!/bin/sh\n".into());
        assert_ne!(digest(&request), digest(&other));
    }
}
