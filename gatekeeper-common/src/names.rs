//! Names of maps and programs: kernel side, daemon and `bpftool` see the same. The kernel cuts names at 15 bytes.

/// Map of [`crate::Control`], one entry.
pub const CONTROLS: &str = "controls";
/// Map with the number of the newest hold (`u64`), one entry.
pub const SERIALS: &str = "serials";
/// Map of [`crate::AgentEntry`].
pub const AGENTS: &str = "agents";
/// Map of [`crate::PathPrefix`].
pub const PREFIXES: &str = "prefixes";
/// Map of [`crate::PortKey`].
pub const PORTS: &str = "ports";
/// Map of [`crate::Hold`].
pub const HOLDS: &str = "holds";
/// Map of [`crate::Verdict`].
pub const VERDICTS: &str = "verdicts";
/// Map of [`crate::ApprovedExec`].
pub const EXECS: &str = "execs";
/// Map of counters.
pub const COUNTERS: &str = "counters";
/// Map of scratch space, kernel side only.
pub const SCRATCHES: &str = "scratches";
/// Ring buffer of [`crate::EventHeader`] records.
pub const EVENTS: &str = "events";
/// Read-only global with the [`crate::KernelLayout`].
pub const LAYOUT: &str = "LAYOUT";
/// Read-only global with the number of entries of [`SCRATCHES`].
pub const SCRATCH_COUNT: &str = "SCRATCH_COUNT";

/// A program of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name in the object.
    pub name: &'static str,
    /// What it is attached to: an LSM hook, or a tracepoint.
    pub target: Target,
    /// Whether all supported kernels have it. Where an optional hook is missing, another one covers the same actions.
    pub required: bool,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The LSM hook of the program's name.
    Hook,
    /// A tracepoint with BTF.
    Tracepoint(&'static str),
}

const fn hook(name: &'static str) -> Program {
    Program { name, target: Target::Hook, required: true }
}

const fn hook_since_6_2(name: &'static str) -> Program {
    Program { name, target: Target::Hook, required: false }
}

/// All programs. The one that clears up after ended tasks comes first, the one where an exec begins last, so that no
/// action is held by a set that could not finish with it.
pub const PROGRAMS: &[Program] = &[
    Program { name: "task_exit", target: Target::Tracepoint("sched_process_exit"), required: true },
    hook("bprm_committed_creds"),
    hook("bprm_check_security"),
    hook("file_open"),
    hook("path_truncate"),
    hook("path_chmod"),
    hook("path_chown"),
    hook("path_mknod"),
    hook("path_mkdir"),
    hook("path_symlink"),
    hook("path_link"),
    hook("path_unlink"),
    hook("path_rmdir"),
    hook("path_rename"),
    hook("inode_setxattr"),
    hook("inode_removexattr"),
    hook_since_6_2("inode_set_acl"),
    hook_since_6_2("inode_remove_acl"),
    hook("socket_bind"),
    hook("socket_listen"),
    hook("socket_connect"),
    hook("bprm_creds_for_exec"),
];

/// All maps that are pinned.
pub const MAPS: &[&str] =
    &[CONTROLS, SERIALS, AGENTS, PREFIXES, PORTS, HOLDS, VERDICTS, EXECS, COUNTERS, SCRATCHES, EVENTS];
