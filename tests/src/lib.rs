//! The harness of the scenario tests: a daemon of their own, agents that act on command, and what a failure shows.
//!
//! Everything here runs as root on a kernel that can enforce, inside `cargo xtask vm`, one test at a time. It knows the
//! product from outside only: the binary, the control socket's JSON, the provenance log, the pins. A wait is always for
//! a condition, with a deadline; a test that fails panics, and the daemon's lease then prints all that is known.
#![expect(clippy::expect_used, reason = "tests panic: that is how they fail")]

pub mod agent;
pub mod client;
pub mod daemon;
pub mod fake_http;
pub mod ready;
pub mod slack_fake;
pub mod ssh_key;
pub mod synapse;
pub mod teams_fake;
pub mod wait;
pub mod webhook_fake;

pub use self::{
    agent::{Agent, Outcome},
    client::Client,
    daemon::{Daemon, Lease, daemon},
    synapse::Synapse,
    wait::wait_until,
};

use std::path::PathBuf;

/// A built program: the one beside this test's binary, or the one in `PATH`.
pub fn program(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|exe| {
        // target/PROFILE/deps/kernel-HASH
        let path = exe.parent()?.parent()?.join(name);
        path.exists().then_some(path)
    });
    beside.unwrap_or_else(|| PathBuf::from(name))
}
