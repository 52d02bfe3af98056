//! `gatekeeper grants` and `gatekeeper revoke`: the approvals that hold for longer than once.

use super::{Terminal, decide};
use crate::{
    channel::card::{self, time},
    control::protocol::{Call, GrantReport, Reply},
    exit::{Exit, Failure},
    request::RequestId,
};

#[derive(Debug, clap::Args)]
pub(super) struct RevokeArguments {
    /// The grant, as `gatekeeper grants` shows it
    id: RequestId,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = decide::parse_reason)]
    reason: String,
}

pub(super) fn list(terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut client = terminal.connect()?;
    let Reply::Grants(grants) = client.call(&Call::Grants)? else { return Err(client.unexpected().into()) };
    if terminal.output.is_json() {
        for grant in &grants {
            terminal.output.object(grant)?;
        }
    } else if grants.is_empty() {
        terminal.output.line("no grants are in force")?;
    } else {
        for line in grants.iter().map(line) {
            terminal.output.line(line)?;
        }
    }
    Ok(Exit::Success)
}

pub(super) fn revoke(arguments: RevokeArguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let RevokeArguments { id, reason } = arguments;
    let mut client = terminal.connect()?;
    let Reply::Revoked(grant) = client.call(&Call::Revoke { id, reason })? else {
        return Err(client.unexpected().into());
    };
    if terminal.output.is_json() {
        terminal.output.object(&*grant)?;
    } else {
        terminal.output.line(format_args!("revoked {id}: {}", card::safe(&grant.action)))?;
    }
    Ok(Exit::Success)
}

fn line(grant: &GrantReport) -> String {
    let GrantReport { id, rule, agent, run, action, length, given_at_ms: _, left_ms, by, used } = grant;
    let left =
        left_ms.map_or_else(|| "as long as the run".to_owned(), |left_ms| format!("{} left", time::left(left_ms, 0)));
    let (rule, agent, by) = (card::safe(rule), card::safe(agent), card::safe(&by.join(" and ")));
    let action = card::safe(action);
    format!("{id}  {length}, {left}  used {used} times  by {by}  {agent} in {run}  {rule}  {action}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    #[test]
    fn a_grant_is_one_line_that_nobody_can_forge() {
        let grant = GrantReport {
            id: RequestId::new(1, 2),
            rule: "tools".to_owned(),
            agent: "builder".to_owned(),
            run: Text::from("/gatekeeper/builder/run-1"),
            action: "exec /bin/true\nforged".to_owned(),
            length: "10m".parse().unwrap(),
            given_at_ms: 1,
            left_ms: Some(65_000),
            by: vec!["first".to_owned(), "lead".to_owned()],
            used: 3,
        };
        let expected = format!(
            "{}  10m, 1m 5s left  used 3 times  by first and lead  builder in /gatekeeper/builder/run-1  tools  exec \
             /bin/true\\nforged",
            grant.id
        );
        assert_eq!(line(&grant), expected);
        let run = GrantReport { length: "run".parse().unwrap(), left_ms: None, ..grant };
        assert!(line(&run).contains("  run, as long as the run  "));
    }
}
