//! Decides when a held action ends, and how: a pure state machine from inputs (the kernel's events, decisions, what the
//! provenance log made durable, time) to effects that the daemon carries out.
//!
//! It reads no clock, does no IO and asks no rule; the daemon brings all of that. Its promises: a verdict is stored only
//! after the record of its decision is durable; the first decision wins; every hold ends exactly once; a final state
//! never changes.

mod fingerprint;
mod grants;
mod machine;
mod record;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use gatekeeper_common::{TaskKey, sip::Digest};

pub use self::{
    fingerprint::{HARMLESS_VARIABLES, ScriptFact, View, fingerprint},
    grants::{Grant, GrantEnd, GrantKey, Grants, MOST_GRANTS, RunScope, TooManyGrants},
    machine::{Broker, EXTENSIONS, RECENT_REQUESTS, REMINDERS, RESTORE_AFTER_NS, VERDICT_LIFETIME_NS},
    record::{Record, Settled},
};
use crate::{
    action::{Action, Task},
    request::{self, Ask, Context, Decider, Decision, GrantLength, Request, RequestId, State, Vote},
};

/// A moment, on both clocks that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the epoch. For people and the log; it can jump.
    pub wall_ms: u64,
    /// Nanoseconds of `CLOCK_BOOTTIME`. Deadlines count by it.
    pub boot_ns: u64,
}

/// What the policy says about an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let it go on, without asking.
    Allow {
        /// Which rule said so, or that none did.
        by: Decider,
    },
    /// Fail it, without asking.
    Deny {
        /// 1 to 4095.
        errno: u16,
        /// Which rule said so, or that none did.
        by: Decider,
    },
    /// Ask reviewers.
    Ask(Ask),
}

/// An interpreter that was judged together with its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Device, as in [`crate::action::Object::dev`].
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// An action that the kernel side holds, with what the policy says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Number of the hold within this boot.
    pub hold: u64,
    /// The hold of the same task whose place it takes.
    pub supersedes: Option<u64>,
    /// The task that waits, in the kernel side's words.
    pub key: TaskKey,
    /// The task that waits.
    pub task: Task,
    /// Position in an exec's chain, see [`gatekeeper_common::Hold::stage`].
    pub stage: u16,
    /// What exactly waits; the verdict names it.
    pub digest: Digest,
    /// What waits.
    pub action: Action,
    /// The interpreter that was judged with it, if it is a script.
    pub interpreter: Option<Interpreter>,
    /// What the policy says.
    pub outcome: Outcome,
    /// What surrounds it, if that is known already.
    pub context: Option<Box<Context>>,
    /// When the hold began, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
}

/// What an earlier daemon of this boot left in the provenance log about a hold that had not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Number of the hold.
    pub hold: u64,
    /// Name of the request.
    pub id: RequestId,
    /// When the action was held, milliseconds since the epoch.
    pub held_at_ms: u64,
    /// When the deadline passes, milliseconds since the epoch.
    pub deadline_ms: u64,
    /// The same in nanoseconds of `CLOCK_BOOTTIME`.
    pub deadline_ns: u64,
    /// What was decided, if it was. It is durable, because it was read from the log.
    pub decision: Option<Decision>,
    /// Approvals so far.
    pub votes: Vec<Vote>,
    /// How often it was escalated.
    pub escalated: u32,
    /// How often its deadline was moved.
    pub extended: u32,
}

/// Why the kernel side dropped a hold without applying a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The task ended.
    TaskEnded,
    /// The task went on to another action.
    Superseded,
}

/// Numbers the records that somebody waits for, in the order in which they must become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The log's account of holds that had not ended when the last daemon of this boot did. Comes first, if at all; the
    /// first [`Input::Scan`] then ends those that the kernel side no longer has.
    Adopt(Vec<Restored>),
    /// The kernel side holds an action. Reports of a hold that is known change nothing.
    Held(Box<Held>),
    /// What surrounds a held action became known.
    Context {
        /// Number of the hold.
        hold: u64,
        /// What surrounds it.
        context: Box<Context>,
    },
    /// Somebody decided.
    Decide {
        /// Comes back in [`Effect::Reply`].
        reply_to: u64,
        /// Which request.
        id: RequestId,
        /// What was decided. An approval where the rule wants more than one is a vote.
        decision: Decision,
        /// The groups of who decided, for the rule's quorum.
        groups: BTreeSet<String>,
    },
    /// Somebody has the next reviewers asked.
    Escalate {
        /// Comes back in [`Effect::Reply`].
        reply_to: u64,
        /// Which request.
        id: RequestId,
        /// Who.
        by: Decider,
    },
    /// Somebody moves the deadline, once more by its own length.
    Extend {
        /// Comes back in [`Effect::Reply`].
        reply_to: u64,
        /// Which request.
        id: RequestId,
        /// Who.
        by: Decider,
    },
    /// Every record up to and including this ticket's is durable.
    Logged {
        /// The latest of them.
        through: Ticket,
    },
    /// The log cannot be written. It keeps what it was given and tries again by itself.
    LogFailed {
        /// Why, for people.
        error: String,
    },
    /// The kernel side consumed the verdict.
    Applied {
        /// Number of the hold.
        hold: u64,
        /// What it did.
        effect: request::Effect,
    },
    /// The kernel side denied a held action by itself.
    Refused {
        /// Number of the hold.
        hold: u64,
        /// What the task got.
        errno: u16,
        /// Why, for people.
        reason: String,
    },
    /// The kernel side dropped a hold without applying a verdict.
    Gone {
        /// Number of the hold.
        hold: u64,
        /// Why.
        why: Gone,
    },
    /// Time passed.
    Tick,
    /// All holds that the kernel side has. What events did not tell is found out by comparing.
    Scan {
        /// Their numbers.
        open: HashSet<u64>,
        /// When the scan began, nanoseconds of `CLOCK_BOOTTIME`. Later holds may be missing from it.
        taken_ns: u64,
    },
}

/// What the daemon has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write a record into the provenance log, in this order.
    Append {
        /// Make it durable at once and say so with [`Input::Logged`]. Without a ticket, nothing waits for it.
        ticket: Option<Ticket>,
        /// The record.
        record: Record,
    },
    /// Tell the kernel side, then resume the task until the verdict is applied. The same verdict may come again.
    StoreVerdict(StoreVerdict),
    /// Find out what surrounds the action, then say so with [`Input::Context`].
    GatherContext(Arc<Request>),
    /// A request is new or changed: tell whoever watches.
    Notify {
        /// The request as it is now.
        request: Arc<Request>,
        /// What changed.
        change: Change,
    },
    /// The answer to [`Input::Decide`], [`Input::Escalate`] or [`Input::Extend`].
    Reply {
        /// Its `reply_to`.
        to: u64,
        /// The answer.
        reply: Reply,
    },
    /// The kernel side has a hold that the broker does not know: have it publish the event again.
    Report {
        /// Number of the hold.
        hold: u64,
    },
    /// Whether decisions can become durable has changed.
    Health(Health),
    /// Send [`Input::Tick`] then; replaces the earlier time.
    Timer {
        /// Nanoseconds of `CLOCK_BOOTTIME`; `None`: there is no deadline.
        at_ns: Option<u64>,
    },
}

/// A verdict for the kernel side. Its decision is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreVerdict {
    /// Number of the hold.
    pub hold: u64,
    /// The task.
    pub key: TaskKey,
    /// Position in an exec's chain.
    pub stage: u16,
    /// What exactly it is about.
    pub digest: Digest,
    /// Allow or deny.
    pub effect: request::Effect,
    /// The interpreter that was judged with it.
    pub interpreter: Option<Interpreter>,
    /// From then on it is no verdict any more, nanoseconds of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
}

/// What changed about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Asked,
    /// What surrounds it became known.
    Context,
    /// Somebody approved, and more are wanted.
    Voted,
    /// The next reviewers are asked.
    Escalated,
    /// Its deadline was moved.
    Extended,
    /// It is to be remembered: so much of its time is over, in percent.
    Reminder(u8),
    /// It was decided, by a reviewer or by its deadline.
    Decided,
    /// It is final.
    Ended,
}

/// The answer to somebody who decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The decision counts. It takes effect once it is durable.
    Decided,
    /// The approval counts, and more are wanted.
    Voted,
    /// The same person has approved before.
    VotedBefore,
    /// It is done.
    Done,
    /// There is nobody else to ask, or the deadline was moved as often as it may be.
    NoMore,
    /// Another decision came first, and stands.
    AlreadyDecided(Box<Decision>),
    /// The request ended without a decision.
    NotPending(State),
    /// The rule does not offer such a grant, only these.
    NotOffered(Vec<GrantLength>),
    /// There is no such request, or it ended too long ago.
    Unknown,
}

/// Whether decisions can become durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why the log cannot be written; until it can, nothing that waits goes on.
    pub log_error: Option<String>,
    /// Decisions that are not durable yet.
    pub undurable: usize,
}
