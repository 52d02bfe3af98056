//! What an agent is told about its own actions: how they ended and why, and nothing about who decided.

use serde::{Deserialize, Serialize};

use super::{Decider, Request, RequestId, State};

/// How an action stands, for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// Reviewers have been asked, and it waits.
    Pending,
    /// A reviewer denied it.
    Denied,
    /// Nobody decided in time, and it failed.
    TimedOut,
    /// The process ended before it was decided.
    Withdrawn,
    /// The process went on to another action.
    Superseded,
    /// A rule denied it, without asking.
    Rule,
    /// gatekeeper denied it by itself, because it could not be held or judged.
    Refused,
    /// It was allowed, and went on.
    Released,
}

impl NoticeKind {
    /// Its name in JSON and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Denied => "denied",
            Self::TimedOut => "timed_out",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
            Self::Rule => "rule",
            Self::Refused => "refused",
            Self::Released => "released",
        }
    }

    /// Whether it explains why something failed or does not go on.
    pub fn is_obstacle(self) -> bool {
        !matches!(self, Self::Released | Self::Superseded)
    }
}

/// One action of an agent and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// How it stands.
    pub outcome: NoticeKind,
    /// The request, where reviewers were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The rule, where one asked or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What was about to be done, in one line that is safe to show.
    pub action: String,
    /// Why: the reviewer's words, the rule's, or gatekeeper's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

impl Notice {
    /// How a request stands. `action` is the action in one line.
    pub fn of(request: &Request, action: String, now_ms: u64) -> Self {
        let decision = request.decision.as_ref();
        let outcome = match (&request.state, decision.map(|decision| &decision.by)) {
            (State::Pending | State::Decided, _) => NoticeKind::Pending,
            (State::Released, _) => NoticeKind::Released,
            (State::Denied, Some(Decider::Daemon)) => NoticeKind::Refused,
            (State::Denied, Some(Decider::Rule { .. })) => NoticeKind::Rule,
            (State::Denied, _) => NoticeKind::Denied,
            (State::TimedOut, _) => NoticeKind::TimedOut,
            (State::Withdrawn, _) => NoticeKind::Withdrawn,
            (State::Superseded, _) => NoticeKind::Superseded,
        };
        // Why somebody decided says nothing about a process that ended first.
        let was_applied = !matches!(outcome, NoticeKind::Pending | NoticeKind::Withdrawn | NoticeKind::Superseded);
        let reason = decision.filter(|_| was_applied).and_then(|decision| decision.reason.clone());
        Self { outcome, request: Some(request.id), rule: Some(request.ask.rule.clone()), action, reason, at_ms: now_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Decision, Effect, samples};

    #[test]
    fn a_notice_tells_why_and_not_who() {
        let mut request = samples::request(1);
        let notice = |request: &Request| Notice::of(request, "exec".to_owned(), 5);
        assert_eq!((notice(&request).outcome, notice(&request).reason), (NoticeKind::Pending, None));
        let by = |by| Decision {
            effect: Effect::Deny { errno: 1 },
            by,
            reason: Some("not on a friday".to_owned()),
            grant: None,
            at_ms: 1,
        };
        let person = Decider::Reviewer {
            name: "first".to_owned(),
            channel: "room".to_owned(),
            account: "@first".to_owned(),
            evidence: None,
        };
        for (decider, state, outcome) in [
            (person.clone(), State::Denied, NoticeKind::Denied),
            (Decider::Daemon, State::Denied, NoticeKind::Refused),
            (Decider::Deadline, State::TimedOut, NoticeKind::TimedOut),
            (person.clone(), State::Released, NoticeKind::Released),
        ] {
            (request.decision, request.state) = (Some(by(decider)), state);
            assert_eq!(notice(&request).outcome, outcome);
            let json = serde_json::to_string(&notice(&request)).unwrap();
            assert!(json.contains("not on a friday") && !json.contains("first") && !json.contains("room"), "{json}");
        }
        request.state = State::Withdrawn;
        assert_eq!((notice(&request).outcome, notice(&request).reason), (NoticeKind::Withdrawn, None));
    }

    #[test]
    fn names_are_those_of_json() {
        use NoticeKind::*;
        for kind in [Pending, Denied, TimedOut, Withdrawn, Superseded, Rule, Refused, Released] {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
    }
}
