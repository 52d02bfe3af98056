//! `gatekeeper reload`: new configuration and rules, or the old ones and an error.

use serde_json::json;

use super::Terminal;
use crate::{
    channel::card,
    control::protocol::{Call, Reply},
    exit::{Exit, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(Arguments {}: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut client = terminal.connect()?;
    let Reply::Reloaded { policy, warnings } = client.call(&Call::Reload)? else {
        return Err(client.unexpected().into());
    };
    if terminal.output.is_json() {
        terminal.output.object(&json!({ "policy": policy, "warnings": warnings }))?;
    } else {
        let digest = card::safe(&policy.digest);
        terminal.output.line(format_args!("reloaded: {} rules, digest {digest}", policy.rules))?;
        for warning in warnings {
            terminal.output.line(format_args!("warning: {}", card::safe(&warning)))?;
        }
    }
    Ok(Exit::Success)
}
