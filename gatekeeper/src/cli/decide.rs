//! `gatekeeper approve`, `deny`, `stop`, `escalate` and `extend`: what can be done about one request.

use std::path::PathBuf;

use super::{Terminal, sign};
use crate::{
    channel::{
        Verb,
        card::{self, time},
    },
    control::protocol::{Call, Reply},
    exit::{Exit, Failure},
    request::{Effect, GrantLength, Request, RequestId, SignedStatement, State},
};

/// What a denied action fails with. Programs expect it of a system call that is not permitted.
pub(super) const DENIED: Effect = Effect::Deny { errno: libc::EPERM as u16 };

/// Longest reason, in bytes: it is shown to people and kept in every copy of the log.
pub(super) const MAX_REASON_BYTES: usize = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct ApproveArguments {
    /// The request, as `gatekeeper pending` shows it
    id: RequestId,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: Option<String>,
    /// Sign it with this SSH key of yours: a private key's file, or a `.pub` file for a key in the SSH agent
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Not only once: for a time such as 10m, or for the agent's `run`, as far as the rule offers it
    #[arg(long = "for", value_name = "LENGTH", conflicts_with = "key")]
    length: Option<GrantLength>,
}

/// Of `deny` and `stop`.
#[derive(Debug, clap::Args)]
pub(super) struct DenyArguments {
    /// The request, as `gatekeeper pending` shows it
    id: RequestId,
    /// Why, for the agent and the log
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: Option<String>,
}

/// Of `escalate` and `extend`.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArguments {
    /// The request, as `gatekeeper pending` shows it
    id: RequestId,
}

pub(super) fn approve(arguments: ApproveArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let ApproveArguments { id, reason, key, length } = arguments;
    let verb = length.map_or(Verb::Approve, Verb::ApproveFor);
    let Some(key) = key else { return act(id, verb, reason, None, terminal) };
    let mut client = terminal.connect()?;
    let Reply::Status(status) = client.call(&Call::Status)? else { return Err(client.unexpected().into()) };
    let request = client.request(&Call::Show { id })?;
    if request.state != State::Pending {
        let message = format!("request {id} does not wait any more: it is {}", card::state_name(&request.state));
        return Err(Failure::message(Exit::AlreadyDecided, message));
    }
    // The daemon hangs up on a caller that is silent for as long as people may need to sign.
    drop(client);
    let place = (status.host.as_str(), status.boot_id.as_str());
    let signed = sign::sign(&request, place, Verb::Approve, reason.as_deref(), &key, time::now_ms())?;
    act(id, Verb::Approve, reason, Some(signed), terminal)
}

pub(super) fn deny(arguments: DenyArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    act(arguments.id, Verb::Deny, arguments.reason, None, terminal)
}

pub(super) fn stop(arguments: DenyArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    act(arguments.id, Verb::DenyAndStop, arguments.reason, None, terminal)
}

pub(super) fn escalate(arguments: WaitArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    act(arguments.id, Verb::Escalate, None, None, terminal)
}

pub(super) fn extend(arguments: WaitArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    act(arguments.id, Verb::Extend, None, None, terminal)
}

/// A reason that says something.
pub(super) fn parse_reason(reason: &str) -> Result<String, String> {
    let reason = reason.trim();
    if reason.is_empty() {
        Err("a reason cannot be empty".to_owned())
    } else if reason.len() > MAX_REASON_BYTES {
        Err(format!("a reason cannot be longer than {MAX_REASON_BYTES} bytes"))
    } else {
        Ok(reason.to_owned())
    }
}

/// The call that does it.
pub(super) fn call(id: RequestId, verb: Verb, reason: Option<String>, signed: Option<SignedStatement>) -> Call {
    match (verb, signed) {
        (Verb::Approve, None) => Call::Decide { id, effect: Effect::Allow, reason },
        (Verb::Deny, None) => Call::Decide { id, effect: DENIED, reason },
        (verb, signed) => Call::Act { id, verb, reason, signed },
    }
}

fn act(
    id: RequestId,
    verb: Verb,
    reason: Option<String>,
    signed: Option<SignedStatement>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let request = terminal.connect()?.request(&call(id, verb, reason, signed))?;
    let outcome = outcome(&request, verb);
    if terminal.output.is_json() {
        terminal.output.object(&request)?;
    } else if let Ok(line) = &outcome {
        terminal.output.line(line)?;
    }
    match outcome {
        Ok(_) => Ok(Exit::Success),
        Err(line) => Err(Failure::message(Exit::AlreadyDecided, line)),
    }
}

/// What became of it, in one line; an error if it did not become what was wanted.
pub(super) fn outcome(request: &Request, verb: Verb) -> Result<String, String> {
    let Request { id, state, action, votes, deadline_ms, .. } = request;
    let action = card::action_line(action);
    let done = match verb {
        Verb::Approve | Verb::ApproveFor(_) => "approved",
        Verb::Deny | Verb::DenyAndStop => "denied",
        Verb::Escalate => "escalated",
        Verb::Extend => "extended",
        Verb::Show => "shown",
    };
    let quorum = || request.quorum().map_or_else(|| "anyone".to_owned(), |quorum| quorum.to_string());
    match (verb, state) {
        (Verb::Approve | Verb::ApproveFor(_), State::Released) => Ok(format!("{done} {id}, it went on: {action}")),
        (Verb::Approve | Verb::ApproveFor(_), State::Pending) if !votes.is_empty() => {
            Ok(format!("your approval of {id} counts, and more are wanted ({}): {action}", quorum()))
        }
        (Verb::Deny, State::Denied) => Ok(format!("{done} {id}, it failed: {action}")),
        (Verb::DenyAndStop, State::Denied) => Ok(format!("{done} {id}, it failed and its agent was stopped: {action}")),
        (Verb::Escalate, State::Pending) => Ok(format!("{done} {id}, now {} can approve: {action}", quorum())),
        (Verb::Extend, State::Pending) => {
            Ok(format!("{done} {id}, it waits until {}: {action}", time::rfc3339(*deadline_ms)))
        }
        (Verb::Approve | Verb::ApproveFor(_) | Verb::Deny | Verb::DenyAndStop, State::Decided) => {
            Ok(format!("{done} {id}, the kernel applies it: {action}"))
        }
        (_, state) => Err(format!("request {id} was not {done}: it is {}", card::state_name(state))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::samples,
        request::{Decider, Vote},
    };

    #[test]
    fn the_outcome_is_what_the_daemon_says_not_what_was_asked() {
        let in_state = |state| Request { state, ..samples::request(1) };
        let id = samples::request(1).id;
        let action = "exec /usr/bin/git: git push --force \"a b\\nc\"";
        let ok = |text: String| Ok(format!("{text}: {action}"));
        assert_eq!(outcome(&in_state(State::Denied), Verb::Deny), ok(format!("denied {id}, it failed")));
        let stopped = outcome(&in_state(State::Denied), Verb::DenyAndStop);
        assert_eq!(stopped, ok(format!("denied {id}, it failed and its agent was stopped")));
        let extended = outcome(&in_state(State::Pending), Verb::Extend);
        assert_eq!(extended, ok(format!("extended {id}, it waits until 2023-11-14T22:18:20Z")));
        for verb in [Verb::Approve, Verb::ApproveFor("run".parse().unwrap())] {
            assert_eq!(outcome(&in_state(State::Released), verb), ok(format!("approved {id}, it went on")));
            assert_eq!(outcome(&in_state(State::Decided), verb), ok(format!("approved {id}, the kernel applies it")));
        }
        let expected = Err(format!("request {id} was not approved: it is withdrawn"));
        assert_eq!(outcome(&in_state(State::Withdrawn), Verb::Approve), expected);
        for (state, verb) in [
            (State::Released, Verb::Deny),
            (State::Released, Verb::DenyAndStop),
            (State::Pending, Verb::Approve),
            (State::Decided, Verb::Escalate),
            (State::Withdrawn, Verb::Extend),
        ] {
            assert!(outcome(&in_state(state.clone()), verb).is_err(), "{state:?} {verb:?}");
        }
    }

    #[test]
    fn a_vote_is_no_failure_and_no_approval() {
        let mut request = samples::request(1);
        request.ask.quorum = Some("2 of ops".parse().unwrap());
        request.votes.push(Vote {
            by: Decider::Daemon,
            groups: Default::default(),
            reason: None,
            grant: None,
            at_ms: 1,
        });
        let told = outcome(&request, Verb::Approve).unwrap();
        assert!(told.contains("counts, and more are wanted (2 of ops)"), "{told}");
        request.ask.escalation = vec!["leads".parse().unwrap()];
        request.escalated = 1;
        let told = outcome(&request, Verb::Escalate).unwrap();
        assert!(told.contains("now 2 of ops or leads can approve"), "{told}");
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(parse_reason("  no  "), Ok("no".to_owned()));
        assert!(parse_reason(" \t").is_err());
        assert!(parse_reason(&"x".repeat(MAX_REASON_BYTES + 1)).is_err());
    }
}
