//! What keeps a task waiting, and what lets it go on.

use crate::{ActionKind, sip::Digest};

/// A task, for as long as it lives. The pointer is only a name: user space never follows it. Together with the start
/// time it is unique within a boot, other than a pid, which is used again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// Address of the `task_struct`.
    pub task: u64,
    /// `task_struct.start_boottime`, nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
}

/// Value of the map `holds`, keyed by [`TaskKey`]: this task waits for a verdict on this action. Written by the kernel
/// side alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Number of this hold, unique within a boot, counted from 1.
    pub id: u64,
    /// What exactly is waited for.
    pub digest: Digest,
    /// When the hold began, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// Start of the current one-second window of `reruns`.
    pub window_ns: u64,
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Thread id in the initial namespace.
    pub tid: u32,
    /// How often the hook ran again without a verdict within the current window.
    pub reruns: u32,
    /// The same since the hold began.
    pub reruns_total: u32,
    /// Number of the agent.
    pub agent: u32,
    /// What kind of action waits.
    pub kind: ActionKind,
    /// Position in an exec's chain: 0 for the program itself (and all other kinds), n for its nth interpreter.
    pub stage: u16,
    /// 1 once the event that tells the daemon about it is in the ring buffer, else 0.
    pub published: u32,
    /// Always 0.
    pub reserved: u32,
}

/// Key of the map `verdicts`. The stage is part of it because the verdict on a script must survive until its
/// interpreter has been judged too.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VerdictKey {
    /// The task that waits.
    pub task: TaskKey,
    /// [`Hold::stage`].
    pub stage: u64,
}

/// What the kernel side does with the held action.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Effect(pub u32);

impl Effect {
    /// Let the action go on, once.
    pub const ALLOW: Self = Self(1);
    /// Fail the action with [`Verdict::errno`].
    pub const DENY: Self = Self(2);
    /// Keep holding, and publish the event once more: the daemon lost it or never had it.
    pub const REPORT: Self = Self(3);
}

/// Value of the map `verdicts`. Written by the daemon, consumed by the kernel side. It counts only for the boot, the
/// hold and the digest that it names, and only until it expires.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// [`crate::Control::nonce`] of this boot.
    pub nonce: u64,
    /// [`Hold::id`].
    pub hold: u64,
    /// [`Hold::digest`].
    pub digest: Digest,
    /// From then on the verdict is none, nanoseconds of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// EXEC: device of the interpreter that was judged together with the script, or 0.
    pub interpreter_dev: u64,
    /// EXEC: inode number of that interpreter, or 0.
    pub interpreter_ino: u64,
    /// What to do.
    pub effect: Effect,
    /// With [`Effect::DENY`]: 1 to 4095.
    pub errno: u32,
}

/// Value of the map `execs`, keyed by the address of the `task_struct`: an approved exec on its way to the point where
/// the kernel's own copy of the arguments can be compared. Written by the kernel side alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovedExec {
    /// [`Hold::id`] of the latest stage.
    pub hold: u64,
    /// Keys of the verdicts to consume: the task as it was when the exec began (a thread that is not the leader takes
    /// the leader's start time over on its way).
    pub task: TaskKey,
    /// Hash of the arguments without the first, and of the environment, as they lie on the new stack.
    pub tail: Digest,
    /// Hash of the first argument with its NUL.
    pub first: Digest,
    /// Bytes that `tail` covers.
    pub tail_len: u32,
    /// Bytes that `first` covers.
    pub first_len: u32,
    /// Number of arguments that the caller gave, at least 1.
    pub argc: u32,
    /// Number of environment entries.
    pub envc: u32,
    /// Bit n: the verdict of stage n let this exec pass.
    pub stages: u32,
    /// Interpreters seen so far in this exec.
    pub stage: u32,
}
