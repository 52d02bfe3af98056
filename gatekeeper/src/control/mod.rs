//! The control socket: how the CLI speaks to the daemon on the same host.
//!
//! `protocol` has the wire types and nothing else, `server` accepts and checks callers and hands their calls to the
//! daemon, `client` is what every subcommand uses. Nothing here decides about an action. Invariant: no call reaches the
//! daemon whose sender is not root or in the configured group, or sits inside an agent's cgroup.

pub mod accounts;
pub mod client;
mod peer;
pub mod protocol;
#[cfg(test)]
pub(crate) mod samples;
pub mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use peer::{AgentScope, Group, Peer, Reason, own_cgroup};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/gatekeeper/control.sock";
