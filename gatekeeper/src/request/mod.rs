//! A held action that reviewers have been asked about: the words that the broker, the channels, the control socket and
//! the provenance log share.

mod comment;
mod grant;
mod notice;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    comment::Comment,
    grant::{BadGrantLength, GrantLength, lengths, seconds},
    notice::{Notice, NoticeKind},
};
use crate::{
    action::{Action, Task},
    quorum::Quorum,
    text::Text,
};

/// Characters of a [`RequestId`]: Crockford's base 32, which leaves out I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Names a request to people: eight characters, shown as `AB12-CD34`. It follows from the boot and the hold, so a
/// restarted daemon gives a hold that it finds the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// The id of a hold. `nonce` is the boot's; mixing it in gives each boot other ids.
    pub fn new(nonce: u64, hold: u64) -> Self {
        // A bijection on 40 bits (odd multiplier), so two holds of one boot never share an id below 2^40 holds.
        let mask = (1 << 40) - 1;
        let mixed = hold.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(nonce) & mask;
        Self(mixed)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = [b'-'; 9];
        for (position, place) in [0, 1, 2, 3, 5, 6, 7, 8].into_iter().rev().enumerate() {
            shown[place] = ALPHABET[(self.0 >> (5 * position)) as usize & 31];
        }
        f.write_str(str::from_utf8(&shown).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What was typed is no request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no request id: expected 8 letters and digits such as AB12-CD34, see `gatekeeper pending`")]
pub struct BadRequestId(String);

impl FromStr for RequestId {
    type Err = BadRequestId;

    /// Case, dashes and the usual misreadings (O for 0, I and L for 1) do not matter.
    fn from_str(typed: &str) -> Result<Self, BadRequestId> {
        let bad = || BadRequestId(typed.chars().take(40).collect());
        let mut id = 0;
        let mut digits = 0;
        for c in typed.trim().chars().filter(|c| *c != '-') {
            let c = match c.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                c => c,
            };
            let digit = ALPHABET.iter().position(|a| char::from(*a) == c).ok_or_else(bad)?;
            id = id << 5 | digit as u64;
            digits += 1;
            if digits > 8 {
                return Err(bad());
            }
        }
        if digits == 8 { Ok(Self(id)) } else { Err(bad()) }
    }
}

impl Serialize for RequestId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How much harm the action can do, as the rule's author sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Little.
    Low,
    /// The default.
    #[default]
    Medium,
    /// Much.
    High,
    /// The host, or what it guards, may be lost.
    Critical,
}

/// What an action waits for: the part of an ask rule that the broker and the reviewers need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Name of the rule.
    pub rule: String,
    /// How long reviewers have.
    #[serde(with = "duration_ms")]
    pub deadline: Duration,
    /// Allow, instead of deny, when the deadline passes.
    pub danger_allow_on_timeout: bool,
    /// Shown to reviewers.
    pub risk: Risk,
    /// Why the rule asks, shown to reviewers.
    pub reason: Option<String>,
    /// Who must approve. None: whoever may decide at all.
    #[serde(default)]
    pub quorum: Option<Quorum>,
    /// Who may approve instead once the request was escalated, one after another.
    #[serde(default)]
    pub escalation: Vec<Quorum>,
    /// Let people decide about agents of their own.
    #[serde(default)]
    pub danger_self_review: bool,
    /// Which decisions need a reason.
    #[serde(default)]
    pub comment: Comment,
    /// Approvals count only with a signature by the reviewer's own key.
    #[serde(default)]
    pub second_factor: bool,
    /// For how long the same action of the same agent run may be approved, besides once. Shortest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<GrantLength>,
}

/// Who or what decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Decider {
    /// A person.
    Reviewer {
        /// How they are called there.
        name: String,
        /// How they were reached: `cli`.
        channel: String,
        /// Their immutable account id on that channel; for `cli` the user id.
        account: String,
        /// What proves it, where the channel has such a thing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<Box<Evidence>>,
    },
    /// A rule, without a person.
    Rule {
        /// Its name.
        name: String,
    },
    /// An approval that was given for longer than once.
    Grant {
        /// The request with which it was given, which is the grant's name.
        id: RequestId,
        /// Names of the people who gave it.
        by: Vec<String>,
    },
    /// No rule matched: the action only looked as if one could.
    NoRule,
    /// The deadline passed.
    Deadline,
    /// gatekeeper itself, because it could not do otherwise.
    Daemon,
}

impl Decider {
    /// Whether a person signed it with a key of their own.
    pub fn is_signed(&self) -> bool {
        matches!(self, Self::Reviewer { evidence: Some(evidence), .. } if evidence.signed.is_some())
    }
}

/// Names a message on a channel, in the channel's own words: for Matrix the event id, for Slack channel and timestamp.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub String);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What proves that somebody acted on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The card's message, or the one in which a command was typed.
    pub message: Option<MessageId>,
    /// The act's own id on the platform: an envelope, an event. The same act delivered twice has the same.
    pub event: String,
    /// SHA-256 of the card that was acted on, hexadecimal, as far as the channel can tell.
    pub card: Option<String>,
    /// The reviewer's own signature, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedStatement>,
}

/// What a reviewer signed with a key of their own, byte for byte, so that anybody who has the public key can verify it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedStatement {
    /// The text that was signed.
    pub statement: String,
    /// The signature, as `ssh-keygen -Y sign` writes it.
    pub signature: String,
}

/// One person's approval where more than one is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who, and how they were reached.
    pub by: Decider,
    /// Their groups when they voted.
    pub groups: std::collections::BTreeSet<String>,
    /// Why, in their words.
    pub reason: Option<String>,
    /// For how long they approve; none: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantLength>,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// Allow or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Let the action go on, once.
    Allow,
    /// Fail it with this errno.
    Deny {
        /// 1 to 4095.
        errno: u16,
    },
}

/// What was decided, by whom and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Allow or deny.
    pub effect: Effect,
    /// Who or what decided.
    pub by: Decider,
    /// Why, in the decider's words.
    pub reason: Option<String>,
    /// For how long the same action is approved; none: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantLength>,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// Where a request stands. The states after [`State::Decided`] are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for a decision.
    Pending,
    /// Decided; the kernel side has not applied it yet.
    Decided,
    /// Allowed, and the action went on.
    Released,
    /// Denied by a person or a rule, and the action failed.
    Denied,
    /// The deadline passed and the action failed. Not the same as denied.
    TimedOut,
    /// The task ended first.
    Withdrawn,
    /// The task went on to another action, or the action changed while it waited.
    Superseded,
}

impl State {
    /// Whether nothing can change any more.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Pending | Self::Decided)
    }
}

/// One of the processes that led to the action, nearest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// Executable, as far as it could be read.
    pub exe: Option<Text>,
    /// Arguments, as far as they could be read.
    pub args: Vec<Text>,
}

/// What surrounds the action. For people and the log; no verdict is bound to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The executable the task runs now.
    pub exe: Option<Text>,
    /// The arguments it was started with.
    pub args: Vec<Text>,
    /// Working directory.
    pub cwd: Option<Text>,
    /// Environment that decides what programs do or says who asked (`PATH`, `LD_*`, `SUDO_USER`, …).
    pub env: Vec<Text>,
    /// Parents up to process 1.
    pub ancestry: Vec<Ancestor>,
    /// Control group, as a path below the cgroup mount.
    pub cgroup: Option<Text>,
    /// systemd unit.
    pub unit: Option<Text>,
    /// Container id.
    pub container: Option<Text>,
    /// Controlling terminal, such as `pts/3`.
    pub terminal: Option<Text>,
    /// Login name of the effective user.
    pub user: Option<String>,
    /// Login name of the user who logged in.
    pub login_user: Option<String>,
    /// SHA-256 of the program that would run (exec) or of the script, hexadecimal.
    pub sha256: Option<String>,
    /// Interpreter of the script that would run.
    pub interpreter: Option<Text>,
    /// First lines of the script that would run.
    pub script: Option<Text>,
    /// What the agent was started for, given at its start.
    pub intent: Option<String>,
    /// Labels given at its start.
    pub labels: std::collections::BTreeMap<String, String>,
    /// What could not be found out, and why.
    pub gaps: Vec<String>,
}

/// A held action that reviewers have been asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// Number of the hold within this boot.
    pub hold: u64,
    /// Who acts.
    pub task: Task,
    /// What waits.
    pub action: Action,
    /// What surrounds it.
    pub context: Context,
    /// Which rule asks, and what it says.
    pub ask: Ask,
    /// When the action was held, milliseconds since the epoch.
    pub held_at_ms: u64,
    /// When the deadline passes, milliseconds since the epoch.
    pub deadline_ms: u64,
    /// Where it stands.
    pub state: State,
    /// What was decided, once it was.
    pub decision: Option<Decision>,
    /// Approvals so far, where one is not enough.
    #[serde(default)]
    pub votes: Vec<Vote>,
    /// How often it was escalated.
    #[serde(default)]
    pub escalated: u32,
    /// How often its deadline was moved.
    #[serde(default)]
    pub extended: u32,
}

impl Request {
    /// Who must approve it now, escalations counted in. None: whoever may decide at all.
    pub fn quorum(&self) -> Option<Quorum> {
        let steps = self.ask.escalation.iter().take(usize::try_from(self.escalated).unwrap_or(usize::MAX));
        self.ask.quorum.as_ref().map(|quorum| steps.fold(quorum.clone(), |all, step| all.or(step)))
    }
}

/// Durations as whole milliseconds in JSON.
pub(crate) mod duration_ms {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_read_back_however_they_are_typed() {
        let id = RequestId::new(0x1234_5678_9abc_def0, 42);
        let shown = id.to_string();
        assert_eq!(shown.len(), 9);
        assert_eq!(shown.parse(), Ok(id));
        assert_eq!(shown.to_lowercase().replace('-', "").parse(), Ok(id));
        assert_eq!(shown.replace('0', "o").replace('1', "l").parse(), Ok(id));
        for bad in ["", "AB12", "AB12-CD345", "AB12-CD3U", "AB12 CD34"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn two_holds_never_share_an_id() {
        let ids: std::collections::HashSet<_> = (0..100_000).map(|hold| RequestId::new(7, hold)).collect();
        assert_eq!(ids.len(), 100_000);
    }
}
