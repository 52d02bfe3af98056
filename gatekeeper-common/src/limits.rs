//! Sizes that both sides must agree on, each with its reason.

/// Longest path, in bytes: `PATH_MAX` of Linux less its NUL. A longer one is refused.
pub const PATH_BYTES: usize = 4095;

/// Deepest path, in components and mount crossings together. 4,095 bytes can hold 2,047 components, but the walk must be
/// bounded; real trees stay below 64.
pub const PATH_STEPS: usize = 128;

/// Bytes of arguments and environment together. Linux allows a quarter of the stack limit, 2 MiB by default; what build
/// tools pass stays below this, and what is longer is refused if a rule may match it.
pub const ARGS_BYTES: usize = 128 * 1024;

/// Number of arguments plus chunks of long ones, and the same for the environment.
pub const ARGS_STEPS: usize = 16 * 1024;

/// One read of an argument, in bytes. Longer strings take several reads.
pub const ARGS_CHUNK: usize = 4096;

/// Longest socket address: `sizeof(struct sockaddr_storage)`.
pub const ADDRESS_BYTES: usize = 128;

/// Longest name of an extended attribute, with its NUL.
pub const XATTR_NAME_BYTES: usize = 256;

/// Deepest chain of interpreters; the kernel itself stops after five (`exec_binprm`).
pub const STAGES: u16 = 6;

/// Hooks that can be at work at one moment, per CPU: one, and those that were preempted in it.
pub const SCRATCHES_PER_CPU: u32 = 16;

/// Fewest scratch slots, for hosts with few CPUs.
pub const SCRATCHES_MIN: u32 = 64;

/// Text of the longest record: path, second path, arguments and environment.
pub const TEXT_BYTES: usize = 2 * (PATH_BYTES + 1) + ARGS_BYTES;
