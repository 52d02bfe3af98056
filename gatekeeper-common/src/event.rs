//! What the kernel side tells the daemon through the ring buffer `events`.

use crate::{Action, TaskKey, sip::Digest};

/// What a record says.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKind(pub u16);

impl EventKind {
    /// A task waits; the action follows. Also the answer to [`crate::Effect::REPORT`].
    pub const HELD: Self = Self(1);
    /// The verdict was applied: `reason` is 0 for allowed, the errno for denied.
    pub const RELEASED: Self = Self(2);
    /// The kernel side denied by itself; `reason` is a [`crate::Refusal`]. The action follows as far as it is known.
    pub const REFUSED: Self = Self(3);
    /// The task ended, or went on to another action, while this hold was open.
    pub const WITHDRAWN: Self = Self(4);
    /// In observe mode: this would have been held; the action follows.
    pub const OBSERVED: Self = Self(5);
}

/// The start of every record. [`EventKind::HELD`], [`EventKind::REFUSED`] and [`EventKind::OBSERVED`] are followed by an
/// [`Action`] and its text.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// [`crate::ABI_VERSION`].
    pub abi: u32,
    /// What the record says.
    pub kind: EventKind,
    /// Depends on `kind`.
    pub reason: u16,
    /// [`crate::Hold::id`], or 0.
    pub hold: u64,
    /// The hold of the same task that this one takes the place of, or 0.
    pub supersedes: u64,
    /// Who acts.
    pub task: TaskKey,
    /// What exactly is about to happen, or zero.
    pub digest: Digest,
    /// When this was written, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Id of the cgroup the task is in.
    pub cgroup: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// Parent's process id in the initial namespace.
    pub parent_tgid: u32,
    /// Real user id, in the initial user namespace.
    pub real_uid: u32,
    /// User id that logged in, or `u32::MAX`.
    pub login_uid: u32,
    /// Audit session, or `u32::MAX`.
    pub session: u32,
    /// EXEC: [`crate::Hold::stage`].
    pub stage: u32,
    /// Always 0.
    pub reserved: u32,
    /// The task's short name, padded with NUL.
    pub comm: [u8; 16],
}

/// A record with an action, without its text.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Who, when, which hold.
    pub header: EventHeader,
    /// What.
    pub action: Action,
}
