//! `gatekeeper why`: how the own actions of an agent ended, and why. The one subcommand that an agent may use.

use std::{fs::File, io::Read as _, path::Path};

use super::Terminal;
use crate::{
    channel::card::{safe, time},
    control::{
        client::{Client, ClientError},
        protocol::{Call, Reply},
    },
    exit::{Exit, Failure},
    request::{Notice, RequestId},
};

/// Names the file of the run, in which the daemon writes how its actions end.
pub(super) const FILE_VARIABLE: &str = "GATEKEEPER_REASONS";

/// Notices that are shown.
const MOST: usize = 20;

/// What is read of a file, in bytes. The daemon's are shorter.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only about this request
    id: Option<RequestId>,
}

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { id } = arguments;
    let asked = terminal.connect().and_then(|client| ask(client, id));
    let file = std::env::var_os(FILE_VARIABLE);
    let notices = match (asked, file) {
        // The socket is closed to most users; the run's file is there for them, and says all but what still waits.
        (
            Err(ClientError::NoSocket { .. } | ClientError::NotListening { .. } | ClientError::NotPermitted { .. }),
            Some(file),
        ) => read(Path::new(&file), id).map_err(|error| {
            Failure::new(Exit::Failure, anyhow::Error::new(error).context(format!("cannot read {FILE_VARIABLE}")))
        })?,
        (asked, _) => asked?,
    };
    if terminal.output.is_json() {
        for notice in &notices {
            terminal.output.object(notice)?;
        }
    } else if notices.is_empty() {
        terminal.output.line("nothing was denied, and nothing waits")?;
    } else {
        for notice in &notices {
            terminal.output.line(line(notice))?;
        }
    }
    Ok(Exit::Success)
}

fn ask(mut client: Client, id: Option<RequestId>) -> Result<Vec<Notice>, ClientError> {
    match client.call(&Call::Why { id })? {
        Reply::Why(notices) => Ok(notices),
        _ => Err(client.unexpected()),
    }
}

/// What the run's file says: the latest.
fn read(path: &Path, id: Option<RequestId>) -> std::io::Result<Vec<Notice>> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(latest(&text, id))
}

fn latest(text: &str, id: Option<RequestId>) -> Vec<Notice> {
    let all = text.lines().filter_map(|line| serde_json::from_str::<Notice>(line).ok());
    let mut wanted: Vec<_> =
        all.filter(|notice| id.map_or(notice.outcome.is_obstacle(), |id| notice.request == Some(id))).collect();
    wanted.split_off(wanted.len().saturating_sub(MOST))
}

fn line(notice: &Notice) -> String {
    let Notice { outcome, request, rule, action, reason, at_ms } = notice;
    let request = request.map_or_else(|| "-        ".to_owned(), |request| request.to_string());
    let rule = rule.as_deref().map_or_else(String::new, |rule| format!("  rule {}", safe(rule)));
    let reason = reason.as_deref().map_or_else(String::new, |reason| format!(": {}", safe(reason)));
    format!("{request}  {}{reason}  {}{rule}  {}", outcome.name(), time::rfc3339(*at_ms), safe(action))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::NoticeKind;

    fn notice(outcome: NoticeKind, hold: u64) -> Notice {
        Notice {
            outcome,
            request: Some(RequestId::new(1, hold)),
            rule: Some("tools".to_owned()),
            action: "exec /bin/true".to_owned(),
            reason: Some("not now\nforged".to_owned()),
            at_ms: 0,
        }
    }

    #[test]
    fn a_notice_is_one_line() {
        let denied = notice(NoticeKind::Denied, 2);
        let id = denied.request.unwrap();
        let expected = format!("{id}  denied: not now\\nforged  1970-01-01T00:00:00Z  rule tools  exec /bin/true");
        assert_eq!(line(&denied), expected);
    }

    #[test]
    fn a_file_is_read_like_the_daemons_answer() {
        let all = [notice(NoticeKind::Denied, 1), notice(NoticeKind::Released, 2), notice(NoticeKind::TimedOut, 3)];
        let mut text: String = all.iter().map(|notice| serde_json::to_string(notice).unwrap() + "\n").collect();
        text.push_str("{\"half");
        let found = |id: Option<RequestId>| latest(&text, id).iter().map(|notice| notice.outcome).collect::<Vec<_>>();
        assert_eq!(found(None), [NoticeKind::Denied, NoticeKind::TimedOut]);
        assert_eq!(found(Some(RequestId::new(1, 2))), [NoticeKind::Released]);
        assert_eq!(found(Some(RequestId::new(1, 9))), []);
        let many: String =
            (0..50).map(|n| serde_json::to_string(&notice(NoticeKind::Denied, n)).unwrap() + "\n").collect();
        let latest = latest(&many, None);
        assert_eq!((latest.len(), latest[MOST - 1].request), (MOST, Some(RequestId::new(1, 49))));
    }
}
