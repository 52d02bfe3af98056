//! `gatekeeper approve` and `gatekeeper deny`: decide one request.

use super::Terminal;
use crate::{
    channel::card,
    control::protocol::Call,
    exit::{Exit, Failure},
    request::{Effect, GrantLength, Request, RequestId, State},
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
    /// Not only once: for a time such as 10m, or for the agent's `run`, as far as the rule offers it
    #[arg(long = "for", value_name = "LENGTH")]
    length: Option<GrantLength>,
}

#[derive(Debug, clap::Args)]
pub(super) struct DenyArguments {
    /// The request, as `gatekeeper pending` shows it
    id: RequestId,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = parse_reason)]
    reason: String,
}

pub(super) fn approve(arguments: ApproveArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let ApproveArguments { id, reason, length } = arguments;
    decide(id, Effect::Allow, reason, length, terminal)
}

pub(super) fn deny(arguments: DenyArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let DenyArguments { id, reason } = arguments;
    decide(id, DENIED, Some(reason), None, terminal)
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

fn decide(
    id: RequestId,
    effect: Effect,
    reason: Option<String>,
    grant: Option<GrantLength>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let request = terminal.connect()?.request(&Call::Decide { id, effect, reason, grant })?;
    let outcome = outcome(&request, effect);
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

/// What became of a decision, in one line; an error if it did not become what was decided.
pub(super) fn outcome(request: &Request, effect: Effect) -> Result<String, String> {
    let Request { id, state, action, .. } = request;
    let action = card::action_line(action);
    let verb = match effect {
        Effect::Allow => "approved",
        Effect::Deny { .. } => "denied",
    };
    match (effect, state) {
        (Effect::Allow, State::Released) => Ok(format!("{verb} {id}, it went on: {action}")),
        (Effect::Deny { .. }, State::Denied) => Ok(format!("{verb} {id}, it failed: {action}")),
        (_, State::Decided) => Ok(format!("{verb} {id}, the kernel applies it: {action}")),
        (_, state) => Err(format!("request {id} was not {verb}: it is {}", card::state_name(state))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples;

    #[test]
    fn the_outcome_is_what_the_daemon_says_not_what_was_asked() {
        let in_state = |state| Request { state, ..samples::request(1) };
        let id = samples::request(1).id;
        let action = "exec /usr/bin/git: git push --force \"a b\\nc\"";
        assert_eq!(
            outcome(&in_state(State::Released), Effect::Allow),
            Ok(format!("approved {id}, it went on: {action}"))
        );
        assert_eq!(outcome(&in_state(State::Denied), DENIED), Ok(format!("denied {id}, it failed: {action}")));
        let expected = Err(format!("request {id} was not approved: it is withdrawn"));
        assert_eq!(outcome(&in_state(State::Withdrawn), Effect::Allow), expected);
        assert!(outcome(&in_state(State::Released), DENIED).is_err());
        assert!(outcome(&in_state(State::Pending), Effect::Allow).is_err());
    }

    #[test]
    fn a_reason_says_something() {
        assert_eq!(parse_reason("  no  "), Ok("no".to_owned()));
        assert!(parse_reason(" \t").is_err());
        assert!(parse_reason(&"x".repeat(MAX_REASON_BYTES + 1)).is_err());
    }
}
