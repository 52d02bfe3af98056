//! `gatekeeper pending`: the requests that wait, once or as they change.

use super::Terminal;
use crate::{
    channel::card::{self, time},
    control::client::ClientError,
    control::protocol::{CallError, ErrorCode},
    exit::{Exit, Failure},
    request::Request,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on: write a line for each request that changes, until interrupted
    #[arg(long)]
    watch: bool,
}

/// An action longer than that is shortened in the table, with a mark and the way to the whole.
const ACTION_CHARACTERS: usize = 200;

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut client = terminal.connect()?;
    if !arguments.watch {
        let requests = client.pending()?;
        if terminal.output.is_json() {
            for request in &requests {
                terminal.output.object(request)?;
            }
        } else if requests.is_empty() {
            terminal.output.line("nothing waits")?;
        } else {
            for line in table(&requests, time::now_ms()) {
                terminal.output.line(line)?;
            }
        }
        return Ok(Exit::Success);
    }
    for request in client.watch()? {
        write_change(terminal, &request)?;
    }
    terminal.output.flush()?;
    loop {
        match client.next_change() {
            Ok(request) => write_change(terminal, &request)?,
            Err(ClientError::Call(CallError { code: ErrorCode::Stopping, .. })) => return Ok(Exit::Success),
            Err(error) => return Err(error.into()),
        }
        terminal.output.flush()?;
    }
}

fn write_change(terminal: &mut Terminal, request: &Request) -> Result<(), Failure> {
    if terminal.output.is_json() {
        return terminal.output.object(request);
    }
    let Request { id, state, action, ask, deadline_ms, .. } = request;
    let state = card::state_name(state);
    let left = if request.state.is_final() { "-".to_owned() } else { time::left(*deadline_ms, time::now_ms()) };
    let (risk, agent, user) = (card::risk_name(ask.risk), card::safe(&action.agent), card::user(request));
    let (rule, action) = (card::safe(&ask.rule), shortened(request));
    terminal.output.line(format_args!("{id}  {state:<10}  {left:<8}  {risk:<8}  {agent}  {user}  {rule}  {action}"))
}

/// The action in one line. A long one ends in a mark that cannot be part of it.
fn shortened(request: &Request) -> String {
    let line = card::action_line(&request.action);
    match line.char_indices().nth(ACTION_CHARACTERS) {
        Some((end, _)) => format!("{} … (cut, see `gatekeeper show {}`)", &line[..end], request.id),
        None => line,
    }
}

fn table(requests: &[Request], now_ms: u64) -> Vec<String> {
    let heading = ["ID", "AGE", "LEFT", "RISK", "AGENT", "USER", "RULE", "ACTION"].map(str::to_owned);
    let rows = requests.iter().map(|request| {
        let Request { id, action, ask, held_at_ms, deadline_ms, .. } = request;
        [
            id.to_string(),
            time::age(*held_at_ms, now_ms),
            time::left(*deadline_ms, now_ms),
            card::risk_name(ask.risk).to_owned(),
            card::safe(&action.agent),
            card::user(request),
            card::safe(&ask.rule),
            shortened(request),
        ]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    // The last column is as long as it is.
    widths[7] = 0;
    let line = |row: &[String; 8]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{action::Target, control::samples, text::Text};

    #[test]
    fn the_table_lines_up() {
        let (first, mut second) = (samples::request(1), samples::request(2));
        second.action.agent = "an agent with a long name".to_owned();
        let now = first.held_at_ms + 65_000;
        let (one, two) = (first.id, second.id);
        let action = "exec /usr/bin/git: git push --force \"a b\\nc\"";
        let expected = [
            "ID         AGE    LEFT    RISK  AGENT                      USER  RULE      ACTION".to_owned(),
            format!("{one}  1m 5s  3m 55s  high  builder                    dev   git-push  {action}"),
            format!("{two}  1m 5s  3m 55s  high  an agent with a long name  dev   git-push  {action}"),
        ];
        assert_eq!(table(&[first, second], now), expected);
    }

    #[test]
    fn a_long_action_says_that_it_is_cut() {
        let mut request = samples::request(1);
        let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
        args.push(Text::from("ü".repeat(300).as_str()));
        let line = shortened(&request);
        assert!(line.ends_with(&format!("ü … (cut, see `gatekeeper show {}`)", request.id)), "{line}");
    }
}
