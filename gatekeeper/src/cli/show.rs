//! `gatekeeper show`: everything about one request.

use super::Terminal;
use crate::{
    channel::card::{self, time},
    control::protocol::Call,
    exit::{Exit, Failure},
    request::RequestId,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The request, as `gatekeeper pending` shows it
    id: RequestId,
}

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let request = terminal.connect()?.request(&Call::Show { id: arguments.id })?;
    if terminal.output.is_json() {
        terminal.output.object(&request)?;
    } else {
        for card::Line { label, text } in card::detail(&request, time::now_ms()) {
            terminal.output.line(format_args!("{label:<width$}{text}", width = card::LABEL_COLUMNS))?;
        }
    }
    Ok(Exit::Success)
}
