//! What the log can hold.

use std::collections::BTreeMap;

use crate::{
    action::{Action, Task},
    broker::{self, Grant, GrantEnd},
    request::{MessageId, RequestId},
    text::Text,
};

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// What happened to a hold.
    Broker(broker::Record),
    /// A message shows the card of a request.
    Card {
        /// Which request.
        request: RequestId,
        /// Name of the channel.
        channel: String,
        /// The message.
        message: MessageId,
        /// SHA-256 of what it shows, hexadecimal.
        digest: String,
    },
    /// Somebody did something on a channel that does not count.
    ActRefused {
        /// Which request.
        request: RequestId,
        /// Name of the channel.
        channel: String,
        /// Whose account.
        account: String,
        /// What they wanted.
        verb: String,
        /// The act's id on the platform.
        event: String,
        /// Why it does not count.
        reason: String,
    },
    /// All processes of an agent's run were ended, as a reviewer wanted.
    AgentStopped {
        /// With which request.
        request: RequestId,
        /// In which cgroup.
        cgroup: Text,
    },
    /// An approval holds for longer than once from now on.
    Grant(Box<Grant>),
    /// A grant is in force no more.
    GrantEnd {
        /// Which.
        id: RequestId,
        /// Why.
        end: GrantEnd,
    },
    /// A channel works or does not.
    Channel {
        /// Its name.
        channel: String,
        /// Why it does not.
        problem: Option<String>,
    },
    /// The daemon starts to enforce or to observe.
    DaemonStart {
        /// gatekeeper's version.
        version: String,
        /// The kernel's release.
        kernel: String,
        /// `enforce` or `observe`.
        mode: String,
        /// The daemon's process id.
        pid: u32,
        /// SHA-256 of the configuration, hexadecimal.
        config_sha256: Option<String>,
    },
    /// The daemon stops by itself. A daemon that was killed leaves no such record.
    DaemonStop {
        /// Why.
        reason: String,
        /// Holds that stay in the kernel.
        open_holds: u64,
    },
    /// The configuration was read again.
    Reload {
        /// SHA-256 of the configuration now in force, hexadecimal.
        config_sha256: Option<String>,
        /// Why the new one was not taken.
        error: Option<String>,
    },
    /// A caller of the control socket was turned away.
    CallerRefused {
        /// Its process id; 0 if unknown.
        pid: u32,
        /// Its user id; `u32::MAX` if unknown.
        uid: u32,
        /// Why.
        reason: String,
        /// How many before it could not be recorded.
        unreported: u64,
    },
    /// The kernel side denied an action by itself, without holding it.
    Refused {
        /// Who acts.
        task: Task,
        /// What was denied, as far as it is known.
        action: Option<Action>,
        /// Name of the [`gatekeeper_common::Refusal`].
        refusal: String,
        /// The same in words.
        reason: String,
    },
    /// In observe mode: this would have been held.
    Observed {
        /// Who acts.
        task: Task,
        /// What was done.
        action: Action,
        /// `allow`, `deny` or `ask`.
        outcome: String,
        /// The rule that says so.
        rule: Option<String>,
    },
    /// `gatekeeper run` started an agent.
    RunStart {
        /// Name of the run.
        run: String,
        /// Name of the agent.
        agent: String,
        /// Its cgroup, as a path below the cgroup mount.
        cgroup: Text,
        /// Process id of the command.
        pid: u32,
        /// Who started it.
        uid: u32,
        /// The command.
        command: Vec<Text>,
        /// Labels given at its start.
        labels: BTreeMap<String, String>,
        /// What it was started for.
        intent: Option<String>,
    },
    /// The command of a run ended.
    RunEnd {
        /// Name of the run.
        run: String,
        /// Name of the agent.
        agent: String,
        /// Exit status, if it exited.
        status: Option<i32>,
        /// Signal, if that ended it.
        signal: Option<i32>,
    },
    /// The log's tail was torn and cut off.
    Recovery {
        /// Number of the segment.
        segment: u64,
        /// Where the valid part of it ends.
        offset: u64,
        /// Bytes behind that, kept in a file of their own.
        dropped_bytes: u64,
        /// Its name.
        kept_in: String,
        /// What was wrong.
        reason: String,
    },
    /// A counter that should stand still went up.
    CounterAlarm {
        /// Its name in `gatekeeper status`.
        counter: String,
        /// What it was.
        before: u64,
        /// What it is.
        now: u64,
    },
    /// A hold of an earlier boot ended with it.
    LostWithBoot {
        /// Number of the hold.
        hold: u64,
        /// Name of the request.
        id: RequestId,
        /// The boot.
        of_boot: String,
    },
    /// A new segment begins.
    Segment {
        /// Its number.
        number: u64,
        /// All holds that are open lie in this segment or later.
        replay_from: u64,
    },
}

impl From<broker::Record> for Record {
    fn from(record: broker::Record) -> Self {
        Self::Broker(record)
    }
}

impl Record {
    /// Whether an agent can cause any number of these without being stopped, so that they must be bounded while the log
    /// cannot be written.
    pub(super) fn is_unbounded(&self) -> bool {
        matches!(
            self,
            Self::CallerRefused { .. } | Self::ActRefused { .. } | Self::Refused { .. } | Self::Observed { .. }
        )
    }
}
