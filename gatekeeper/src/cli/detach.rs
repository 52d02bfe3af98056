//! `gatekeeper detach`: no enforcement any more.

use serde_json::json;

use super::Terminal;
use crate::{
    control::protocol::{Call, Reply},
    exit::{Exit, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Deny what waits, instead of refusing to detach while something does
    #[arg(long)]
    force_deny: bool,
}

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut client = terminal.connect()?;
    let call = Call::Detach { force_deny: arguments.force_deny };
    let Reply::Detached { programs, maps, denied } = client.call(&call)? else {
        return Err(client.unexpected().into());
    };
    if terminal.output.is_json() {
        terminal.output.object(&json!({ "programs": programs, "maps": maps, "denied": denied }))?;
    } else {
        let line = format!("detached: {programs} programs and {maps} maps removed, {denied} waiting actions denied");
        terminal.output.line(line)?;
    }
    Ok(Exit::Success)
}
