//! What the broker has the provenance log remember.

use std::sync::Arc;

use crate::{
    action::{Action, Task},
    request::{Decider, Decision, Effect, Request, RequestId, State, Vote},
};

/// One fact for the provenance log. `provenance` gives it its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An action waits for reviewers.
    Hold {
        /// The request as it was when it was made.
        request: Arc<Request>,
        /// Position in an exec's chain.
        stage: u16,
        /// When the hold began, nanoseconds of `CLOCK_BOOTTIME`.
        since_ns: u64,
        /// When the deadline passes, nanoseconds of `CLOCK_BOOTTIME`.
        deadline_ns: u64,
        /// The hold from which it took the request over.
        continues: Option<u64>,
    },
    /// An action was held and decided without reviewers.
    Settled(Box<Settled>),
    /// What surrounds a held action.
    Context(Arc<Request>),
    /// A reviewer decided.
    Decision {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// What was decided.
        decision: Decision,
    },
    /// The deadline passed.
    Expiry {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// What follows from it.
        decision: Decision,
    },
    /// A reviewer approved, and more are wanted.
    Vote {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// Who, and why.
        vote: Vote,
    },
    /// The next reviewers are asked.
    Escalated {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// Who wanted it; the deadline, if time did.
        by: Decider,
    },
    /// The deadline was moved.
    Extended {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// Who wanted it.
        by: Decider,
        /// When it passes now, milliseconds since the epoch.
        deadline_ms: u64,
        /// The same in nanoseconds of `CLOCK_BOOTTIME`.
        deadline_ns: u64,
    },
    /// A verdict went to the kernel side.
    Verdict {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// Allow or deny.
        effect: Effect,
    },
    /// The kernel side applied the verdict.
    Release {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// How the request ended.
        state: State,
        /// What the kernel side did.
        effect: Effect,
        /// The event was lost: that the hold is gone is all there is to go by.
        presumed: bool,
    },
    /// The kernel side denied a held action by itself.
    Refused {
        /// Number of the hold.
        hold: u64,
        /// Name of the request, if there is one.
        id: Option<RequestId>,
        /// What the task got.
        errno: u16,
        /// Why.
        reason: String,
    },
    /// The task ended before a verdict was applied.
    Withdrawn {
        /// Number of the hold.
        hold: u64,
        /// Name of the request, if there is one.
        id: Option<RequestId>,
        /// The event was lost: that the hold is gone is all there is to go by.
        presumed: bool,
    },
    /// The task went on to another action.
    Superseded {
        /// Number of the hold.
        hold: u64,
        /// Name of the request, if there is one.
        id: Option<RequestId>,
        /// The hold that took its place, if that is known.
        by: Option<u64>,
    },
    /// The kernel side did what was not decided.
    Alarm {
        /// Number of the hold.
        hold: u64,
        /// What happened.
        text: String,
    },
}

/// An action that was held and decided without reviewers, in one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Number of the hold.
    pub hold: u64,
    /// Who acts.
    pub task: Task,
    /// What was held.
    pub action: Action,
    /// Position in an exec's chain.
    pub stage: u16,
    /// What was decided.
    pub decision: Decision,
}
