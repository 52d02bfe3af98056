//! The daemon: wires the kernel side, the policy, the broker, the log and the control socket together.
//!
//! Everything that happens comes in as one `Event` and is dealt with to its end before the next; the loop is in
//! `core`. Here are start and stop. Nothing here decides about an action.

mod acts;
mod agents;
mod calls;
mod channels;
#[cfg(test)]
mod conformance;
mod core;
mod enrolment;
mod grants;
mod judge;
mod notice_files;
mod notices;
mod parents;
mod resume;
mod sources;
mod start;

use std::{io, path::PathBuf};

pub use agents::{CgroupError, find_cgroup_root};
pub use channels::{public_key, try_channel};
pub use judge::user_id;
pub use start::run;

#[cfg(test)]
use crate::kernel::stand_in::{Events as KernelEvents, Kernel};
#[cfg(not(test))]
use crate::kernel::{Events as KernelEvents, Kernel};
use crate::{broker, channel, config, control::server, kernel, provenance, request::Context};

/// What `gatekeeper daemon` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub config: PathBuf,
    /// Where to listen, instead of below the configuration's runtime directory.
    pub socket: Option<PathBuf>,
    /// aya-log's level for the kernel side: 0 is off.
    pub kernel_log_level: u8,
}

/// Why the daemon does not start or go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DaemonError {
    #[error("{0}")]
    Config(config::Errors),
    #[error("control.group: there is no group {0}; make it with `groupadd --system {0}`, or name another")]
    NoGroup(String),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot enforce")]
    Kernel(#[from] kernel::KernelError),
    #[error("cannot enforce; `gatekeeper check` tells more")]
    Trial(#[from] kernel::trial::TrialError),
    #[error("the provenance log cannot be used")]
    Log(#[from] provenance::Error),
    #[error("the control socket cannot be used")]
    Socket(#[from] server::BindError),
    #[error("channel {name}: {reason}")]
    Channel { name: String, reason: String },
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
    #[error("gatekeeper must run in the host's process namespace: process ids of the kernel would mean others here")]
    PidNamespace,
    #[error("the daemon is inside the cgroup of the agent {0}, and would wait for itself; start it elsewhere")]
    InsideAgent(String),
}

/// Everything that can happen.
enum Event {
    /// The kernel side has records.
    Kernel,
    /// Somebody calls.
    Call(server::Incoming),
    /// Somebody was turned away.
    Refused(server::Refused),
    /// What surrounds a held action became known.
    Context { hold: u64, context: Box<Context> },
    /// A held program was looked into.
    Script { held: Box<kernel::events::Held>, interpreter: Option<judge::ScriptInterpreter> },
    /// All is known of a held action whose rule offers grants.
    Facts { held: Box<kernel::events::Held>, interpreter: Option<judge::ScriptInterpreter>, fact: broker::ScriptFact },
    /// Something came from a channel, by its number in the configuration.
    Channel { number: usize, event: channel::Event },
    /// Cgroups came or went.
    Cgroups,
    /// A deadline, a resume or a scan is due.
    Timer,
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop(&'static str),
    /// What events come from does not work any more: what cannot be done, and why.
    Broken(&'static str, io::Error),
}

/// Seconds in which a held program's first line must have been read.
const SCRIPT_SECONDS: u64 = 2;

impl From<config::Errors> for DaemonError {
    fn from(errors: config::Errors) -> Self {
        Self::Config(errors)
    }
}
