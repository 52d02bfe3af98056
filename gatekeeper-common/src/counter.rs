//! What the kernel side counts, and why it denies by itself.

/// Index into the per-CPU map `counters` (`u64` each).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Counter(pub u32);

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        impl Counter {
            $($(#[doc = $doc])+ pub const $name: Self = Self($number);)+

            /// Every counter with the name it has in `gatekeeper status`.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self($number), $label)),+];
        }
    };
}

counters! {
    /// Holds that began.
    HOLDS = 0, "holds";
    /// Hooks that ran again for an open hold, without a verdict: stray resumes.
    RERUNS = 1, "reruns";
    /// Actions that a verdict let go on.
    ALLOWED = 2, "allowed";
    /// Actions that a verdict failed.
    DENIED = 3, "denied";
    /// Holds that ended because the task ended or went on to another action.
    WITHDRAWN = 4, "withdrawn";
    /// Verdicts that named another boot, hold or digest, or were too old: not applied.
    STALE_VERDICTS = 5, "stale_verdicts";
    /// Verdicts that another run of the hook consumed first.
    LOST_VERDICTS = 6, "lost_verdicts";
    /// HELD records that did not fit into the ring buffer; the daemon finds the hold by scanning.
    UNPUBLISHED_HOLDS = 7, "unpublished_holds";
    /// Other records that did not fit into the ring buffer.
    UNPUBLISHED_OTHERS = 8, "unpublished_others";
    /// Actions that the kernel side's tables sent on at once.
    UNMATCHED = 9, "unmatched";
    /// Actions that would have been held, in observe mode.
    OBSERVED = 10, "observed";
    /// The first of the refusals: [`Refusal`] n is counted at `REFUSALS + n`.
    REFUSALS = 16, "refusals";
}

/// Number of entries of the map `counters`.
pub const COUNTERS: u32 = 48;

/// Why the kernel side denied by itself. 0 is no reason.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Refusal(pub u16);

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal, $text:literal;)+) => {
        impl Refusal {
            $($(#[doc = $doc])+ pub const $name: Self = Self($number);)+

            /// Every refusal with its name in `gatekeeper status` and a sentence for people.
            pub const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self($number), $label, $text)),+];
        }
    };
}

refusals! {
    /// `holds` takes no more.
    HOLDS_FULL = 1, "holds_full", "too many actions wait already; raise limits.holds";
    /// No scratch space: too many hooks run at this moment.
    SCRATCH_FULL = 2, "scratch_full", "too many hooks ran at the same moment";
    /// `bpf_send_signal` failed.
    SIGNAL = 3, "signal_failed", "the task could not be stopped";
    /// io_uring: such a request cannot be restarted.
    IO_URING = 4, "io_uring", "requests through io_uring cannot be held";
    /// Not inside a system call: a fault, a kernel thread, a task that is ending.
    CONTEXT = 5, "context", "the action did not come from a system call that can be restarted";
    /// Process 1 of the initial namespace cannot be stopped.
    INIT = 6, "init", "process 1 cannot be held";
    /// A path is longer or deeper than the hook reads.
    PATH_TOO_LONG = 7, "path_too_long", "the path is too long or too deep to be judged";
    /// Kernel memory could not be read.
    READ_KERNEL = 8, "read_kernel", "kernel memory could not be read";
    /// The caller's memory could not be read.
    READ_USER = 9, "read_user", "the arguments could not be read";
    /// More arguments or environment than the hook reads.
    ARGS_TOO_LONG = 10, "args_too_long", "arguments and environment are too long to be verified";
    /// An exec by a system call that the hook does not know.
    SYSCALL = 11, "syscall", "this system call is not known to be safe to hold";
    /// Resumed more often than [`crate::Control::reruns_per_second`].
    RERUN_BUDGET = 12, "rerun_budget", "the waiting task was resumed from outside too often";
    /// `execs` takes no more.
    EXECS_FULL = 13, "execs_full", "too many approved programs are starting at the same moment";
    /// The kernel's copy of the arguments is not what was approved: the process was killed.
    ARGS_CHANGED = 14, "args_changed", "the arguments changed after approval; the process was killed";
    /// The interpreter chain is longer than the hook follows.
    INTERPRETERS = 15, "interpreters", "the chain of interpreters is too long";
    /// The socket address is longer than the hook reads.
    ADDRESS = 16, "address", "the socket address could not be read";
    /// The daemon has not written `controls` yet.
    NOT_READY = 17, "not_ready", "gatekeeper was still starting";
}
