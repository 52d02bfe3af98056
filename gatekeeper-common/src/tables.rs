//! The first stage of the policy: what can match no rule never leaves the kernel.
//!
//! The tables may say "maybe" too often, never "no" wrongly: user space compiles them from the rules and tests that.

use crate::{ActionKind, KindSet};

/// Value of the map `agents`, keyed by the id of the agent's topmost cgroup (`u64`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentEntry {
    /// Number of the agent, the first half of the keys below.
    pub agent: u32,
    /// Kinds that some rule for this agent names. All others go on at once.
    pub kinds: KindSet,
    /// Kinds of [`KindSet::NET`] that a rule may match whatever the port.
    pub any_port: KindSet,
    /// Kinds of [`KindSet::NET`] that a rule may match for families other than IPv4 and IPv6.
    pub other_families: KindSet,
}

/// Bytes of a path that the kernel side compares; longer prefixes are cut, which only makes them match more.
pub const PREFIX_BYTES: usize = 252;

/// Key of the map `prefixes` (longest prefix match) behind the number of significant bits. Value: the [`KindSet`] that
/// may match at paths that start so, including what shorter prefixes say.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathPrefix {
    /// Number of the agent, big-endian so that its bits come first.
    pub agent: [u8; 4],
    /// First bytes of the path; the rest is 0 and not significant.
    pub path: [u8; PREFIX_BYTES],
}

/// Key of the map `ports`; value: 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Number of the agent.
    pub agent: u32,
    /// One of [`KindSet::NET`].
    pub kind: ActionKind,
    /// The port, in host byte order.
    pub port: u16,
}
