//! What crosses the control socket, and the only place that defines it.
//!
//! A frame is one line of JSON with the protocol's version in it. A caller sends one [`Call`] and reads [`Reply`]s until
//! the call is answered: one for most, a list that ends in [`Reply::End`] for [`Call::Pending`], and for [`Call::Watch`]
//! a list that ends in [`Reply::Current`] and then goes on. Then it may call again. Lengths are bounded in both
//! directions, so neither side can make the other hold more than a frame.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    channel::Verb,
    request::{Effect, GrantLength, Notice, Request, RequestId, SignedStatement, duration_ms},
    text::Text,
};

/// Changes whenever a frame changes its meaning, or a reader of the version before would misread it.
pub const VERSION: u32 = 1;

/// Longest frame from a caller, in bytes. An enrolment with all its labels is far below.
pub const MAX_CALL_BYTES: usize = 1 << 20;

/// Longest frame from the daemon, in bytes. A request with the longest arguments and environment that the kernel side
/// reads, each byte escaped, stays below.
pub const MAX_REPLY_BYTES: usize = 4 << 20;

/// What a caller asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    /// How the daemon is. Answered by [`Reply::Status`].
    Status,
    /// The requests that wait. Answered by a [`Reply::Request`] each, then [`Reply::End`].
    Pending,
    /// One request. Answered by [`Reply::Request`].
    Show {
        /// Which.
        id: RequestId,
    },
    /// Decide a request. Answered by [`Reply::Request`], once the decision is on disk and applied.
    Decide {
        /// Which.
        id: RequestId,
        /// Allow or deny.
        effect: Effect,
        /// Why, in the reviewer's words.
        reason: Option<String>,
    },
    /// How actions ended, and why. The one call that an agent's processes may make: they are told about their own run only.
    /// Answered by [`Reply::Why`].
    Why {
        /// Only about this request.
        id: Option<RequestId>,
    },
    /// The grants in force. Answered by [`Reply::Grants`].
    Grants,
    /// Take a grant back. Answered by [`Reply::Revoked`], once that is on disk.
    Revoke {
        /// Which: the request with which it was given.
        id: RequestId,
        /// Why, in the reviewer's words.
        reason: String,
    },
    /// Do to a request what people can do to it on any channel. Answered like [`Call::Decide`]; [`Verb::Escalate`] and
    /// [`Verb::Extend`] at once.
    Act {
        /// Which.
        id: RequestId,
        /// What is to be done.
        verb: Verb,
        /// Why, in the reviewer's words.
        reason: Option<String>,
        /// A statement that says the same, signed by a reviewer's own key: then it is that reviewer's act, whoever calls.
        #[serde(default)]
        signed: Option<SignedStatement>,
    },
    /// The requests that wait, then each one that changes. Answered by a [`Reply::Request`] each, [`Reply::Current`],
    /// and a [`Reply::Request`] per change until either side closes.
    Watch,
    /// Make the calling process the first of a new cgroup of this agent. Answered by [`Reply::Enrolled`].
    Enrol {
        /// The agent's name.
        agent: String,
        /// Shown with each of its requests.
        labels: BTreeMap<String, String>,
        /// What it is started for.
        intent: Option<String>,
        /// What the process will execute.
        command: Vec<Text>,
    },
    /// Read configuration and rules again. Answered by [`Reply::Reloaded`].
    Reload,
    /// Remove enforcement from the kernel: programs, links, maps. Answered by [`Reply::Detached`].
    Detach {
        /// Deny what waits, instead of refusing while something does.
        force_deny: bool,
    },
}

impl Call {
    /// Its name, for messages and the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Pending => "pending",
            Self::Show { .. } => "show",
            Self::Decide { .. } => "decide",
            Self::Act { .. } => "act",
            Self::Why { .. } => "why",
            Self::Grants => "grants",
            Self::Revoke { .. } => "revoke",
            Self::Watch => "watch",
            Self::Enrol { .. } => "enrol",
            Self::Reload => "reload",
            Self::Detach { .. } => "detach",
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// How the daemon is.
    Status(Box<StatusReport>),
    /// A request, as it stands.
    Request(Box<Request>),
    /// The latest notices, oldest first.
    Why(Vec<Notice>),
    /// The grants in force, oldest first.
    Grants(Vec<GrantReport>),
    /// The grant is in force no more.
    Revoked(Box<GrantReport>),
    /// The list is complete.
    End,
    /// The list is complete; what follows are changes.
    Current,
    /// The calling process is in the agent's cgroup now.
    Enrolled {
        /// The agent's name.
        agent: String,
        /// The new cgroup, as a path below the cgroup mount, with a leading slash.
        cgroup: String,
        /// The file in which it reads how its actions end; none if there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reasons: Option<String>,
    },
    /// The new rules are in force.
    Reloaded {
        /// What is in force now.
        policy: PolicyStatus,
        /// What is odd but allowed in them.
        warnings: Vec<String>,
    },
    /// Nothing of gatekeeper is left in the kernel.
    Detached {
        /// Programs that were removed.
        programs: u64,
        /// Maps that were removed.
        maps: u64,
        /// Actions that waited, and were denied.
        denied: u64,
    },
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// What happened, for a person: lower case, no final stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl CallError {
    /// Without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// With what to do about it.
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Another program may sit behind the socket, and a message may quote what an agent chose.
        write_plain(f, &self.message)?;
        if let Some(hint) = &self.hint {
            f.write_str("; ")?;
            write_plain(f, hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for CallError {}

/// Escapes like [`Text`] does, but for the backslash: what was escaped once must not be escaped again.
fn write_plain(f: &mut fmt::Formatter<'_>, message: &str) -> fmt::Result {
    for (position, part) in message.split('\\').enumerate() {
        if position > 0 {
            f.write_str("\\")?;
        }
        write!(f, "{}", Text::from(part))?;
    }
    Ok(())
}

/// What kind of failure a [`CallError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The two sides speak different versions of this protocol.
    VersionMismatch,
    /// The frame is not a call.
    BadFrame,
    /// The frame, or the reply, is longer than allowed.
    TooLarge,
    /// The caller is neither root nor in the group.
    NotPermitted,
    /// The caller is a process of an agent.
    InsideAgent,
    /// Too many callers at once.
    Busy,
    /// A watcher did not read fast enough, or a caller took too long to send its call.
    TooSlow,
    /// No request has this id.
    NoSuchRequest,
    /// The request does not wait any more.
    AlreadyDecided,
    /// There is nobody else to ask, or the deadline was moved as often as it may be.
    NoMore,
    /// The rule wants a reason or a signature with it.
    Incomplete,
    /// The configuration knows no such agent.
    NoSuchAgent,
    /// Something of the call is not acceptable: an empty reason, a label's name.
    Invalid,
    /// Actions wait, and detaching would have to deny them.
    HoldsOpen,
    /// Configuration or rules are wrong; the old ones stay in force.
    Configuration,
    /// The kernel refused.
    CannotEnforce,
    /// The provenance log cannot be written, so nothing may be decided.
    Log,
    /// The daemon is stopping.
    Stopping,
    /// Anything else.
    Internal,
}

/// A grant in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantReport {
    /// The request with which it was given.
    pub id: RequestId,
    /// Name of the rule.
    pub rule: String,
    /// Name of the agent.
    pub agent: String,
    /// The cgroup of the agent run for which it holds.
    pub run: Text,
    /// The action in one line.
    pub action: String,
    /// For how long it was given.
    pub length: GrantLength,
    /// When, milliseconds since the epoch.
    pub given_at_ms: u64,
    /// What is left of it, milliseconds; none: as long as the run.
    pub left_ms: Option<u64>,
    /// Names of who gave it.
    pub by: Vec<String>,
    /// How often it was used since the daemon started.
    pub used: u64,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The daemon's own version.
    pub version: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// Name of this host, which cards and signed statements have.
    pub host: String,
    /// Names this boot, as the provenance log and signed statements have it.
    pub boot_id: String,
    /// Whether anything is held.
    pub mode: Mode,
    /// How long the daemon has been up, milliseconds.
    #[serde(rename = "uptime_ms", with = "duration_ms")]
    pub uptime: Duration,
    /// The rules in force.
    pub policy: PolicyStatus,
    /// The agents and where they run.
    pub agents: Vec<AgentStatus>,
    /// The programs in the kernel.
    pub programs: Vec<ProgramStatus>,
    /// Actions that wait in the kernel.
    pub open_holds: u64,
    /// Requests that wait for a reviewer.
    pub pending: u64,
    /// Every counter, by its name.
    pub counters: BTreeMap<String, u64>,
    /// The ring buffer that carries events from the kernel.
    pub ring: RingStatus,
    /// The provenance log.
    pub log: LogStatus,
    /// The ways to reach reviewers, besides the command line.
    pub channels: Vec<ChannelStatus>,
    /// The latest errors, oldest first, a bounded number.
    pub errors: Vec<ErrorNote>,
}

/// Whether anything is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Actions wait.
    Enforce,
    /// Actions are reported, and go on.
    Observe,
}

/// The rules in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Digest of the rules, hexadecimal.
    pub digest: String,
    /// How many.
    pub rules: u64,
}

/// An agent and where it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: String,
    /// Its cgroups, as paths below the cgroup mount.
    pub cgroups: Vec<Text>,
}

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Its name, as `bpftool` shows it.
    pub name: String,
    /// Whether it is attached to its hook.
    pub attached: bool,
}

/// The ring buffer that carries events from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingStatus {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Records that did not fit.
    pub lost: u64,
}

/// The provenance log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Where it is.
    pub path: String,
    /// Whether the latest record could be written and synced.
    pub healthy: bool,
    /// Records in it.
    pub records: u64,
    /// What is wrong with it, if something is.
    pub problem: Option<String>,
}

/// A way to reach reviewers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Why it does not work at the moment, if so.
    pub problem: Option<String>,
    /// Open requests whose card it shows.
    pub shown: u64,
}

/// An error that the daemon met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
    /// What.
    pub text: String,
}

#[derive(Serialize, Deserialize)]
struct CallFrame<C> {
    version: u32,
    call: C,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplyFrame {
    version: u32,
    reply: Option<Reply>,
    error: Option<CallError>,
}

/// As [`ReplyFrame`], borrowed: requests are shared between connections and need no copy for each.
#[derive(Serialize)]
struct RequestFrame<'a> {
    version: u32,
    reply: RequestReply<'a>,
}

#[derive(Serialize)]
struct RequestReply<'a> {
    request: &'a Request,
}

/// The only part of a frame that every version has.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Another version.
    #[error("the other side speaks version {theirs} of the control protocol, this side version {VERSION}")]
    Version {
        /// The other side's version.
        theirs: u32,
    },
    /// No JSON, or not of the expected shape.
    #[error("not a frame of the control protocol")]
    Malformed(#[source] serde_json::Error),
    /// Neither a reply nor an error, or both.
    #[error("a frame of the control protocol without an answer in it")]
    Empty,
    /// Too long.
    #[error("a frame of the control protocol longer than {limit} bytes")]
    TooLarge {
        /// How long it may be.
        limit: usize,
    },
}

fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, FrameError> {
    // The version comes first: the rest of another version's frame may not make sense here.
    let VersionOnly { version } = serde_json::from_slice(line).map_err(FrameError::Malformed)?;
    if version != VERSION {
        return Err(FrameError::Version { theirs: version });
    }
    serde_json::from_slice(line).map_err(FrameError::Malformed)
}

fn encode<T: Serialize>(frame: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut line = serde_json::to_vec(frame).map_err(FrameError::Malformed)?;
    line.push(b'\n');
    if line.len() > limit { Err(FrameError::TooLarge { limit }) } else { Ok(line) }
}

/// The frame of a call, with its line end.
pub fn encode_call(call: &Call) -> Result<Vec<u8>, FrameError> {
    encode(&CallFrame { version: VERSION, call }, MAX_CALL_BYTES)
}

/// The call in a frame.
pub fn decode_call(line: &[u8]) -> Result<Call, FrameError> {
    decode::<CallFrame<Call>>(line).map(|frame| frame.call)
}

/// The frame of an answer, with its line end.
pub fn encode_reply(answer: Result<Reply, CallError>) -> Result<Vec<u8>, FrameError> {
    let (reply, error) = match answer {
        Ok(reply) => (Some(reply), None),
        Err(error) => (None, Some(error)),
    };
    encode(&ReplyFrame { version: VERSION, reply, error }, MAX_REPLY_BYTES)
}

/// The frame of [`Reply::Request`], with its line end.
pub fn encode_request(request: &Request) -> Result<Vec<u8>, FrameError> {
    encode(&RequestFrame { version: VERSION, reply: RequestReply { request } }, MAX_REPLY_BYTES)
}

/// The answer in a frame.
pub fn decode_reply(line: &[u8]) -> Result<Result<Reply, CallError>, FrameError> {
    match decode::<ReplyFrame>(line)? {
        ReplyFrame { reply: Some(reply), error: None, .. } => Ok(Ok(reply)),
        ReplyFrame { reply: None, error: Some(error), .. } => Ok(Err(error)),
        ReplyFrame { .. } => Err(FrameError::Empty),
    }
}

/// Cuts a stream of bytes into lines of a bounded length.
#[derive(Debug)]
pub struct Lines {
    limit: usize,
    bytes: Vec<u8>,
    /// How many of `bytes` are known to hold no line end.
    searched: usize,
}

impl Lines {
    /// For lines of at most `limit` bytes, line end included.
    pub fn new(limit: usize) -> Self {
        Self { limit, bytes: Vec::new(), searched: 0 }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a part of a line waits for the rest.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole line, without its end; `None` until more is pushed.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n').map(|at| at + self.searched);
        let too_large = FrameError::TooLarge { limit: self.limit };
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return if self.searched >= self.limit { Err(too_large) } else { Ok(None) };
        };
        if end >= self.limit {
            return Err(too_large);
        }
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests;
