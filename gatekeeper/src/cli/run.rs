//! `gatekeeper run`: become the first process of an agent, then become COMMAND.
//!
//! There is no process in between: the daemon moves this very process into the agent's cgroup, and it then executes
//! COMMAND in its own place. So signals, terminal, descriptors and exit status are COMMAND's own, and nothing of it
//! runs before it is enrolled.

use std::{collections::BTreeMap, ffi::OsString, io, os::unix::process::CommandExt as _, process::Command};

use super::{Terminal, why};
use crate::{
    control::{
        self,
        protocol::{Call, Reply},
    },
    exit::{Exit, Failure},
    text::Text,
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The agent that COMMAND is, as the configuration names it
    #[arg(long, value_name = "NAME", value_parser = parse_agent)]
    agent: String,
    /// Shown with each request of the agent; can be given several times
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// What the agent is started for, shown with each of its requests
    #[arg(long, value_name = "TEXT", value_parser = parse_intent)]
    intent: Option<String>,
    /// What to run, with its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Longest label value and intent, in bytes: they are shown on every card.
const MAX_TEXT_BYTES: usize = 1024;

/// Longest name of an agent or a label, in bytes.
const MAX_NAME_BYTES: usize = 64;

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() {
        Err(format!("{what} cannot be empty"))
    } else if name.len() > MAX_NAME_BYTES {
        Err(format!("{what} cannot be longer than {MAX_NAME_BYTES} bytes"))
    } else if !name.chars().all(is_plain) || name.starts_with('.') {
        Err(format!("{what} consists of letters, digits, '_', '-' and '.', and does not start with '.'"))
    } else {
        Ok(())
    }
}

fn parse_agent(name: &str) -> Result<String, String> {
    check_name("an agent's name", name).map(|()| name.to_owned())
}

fn parse_label(label: &str) -> Result<(String, String), String> {
    let (name, value) = label.split_once('=').ok_or("expected NAME=VALUE")?;
    check_name("a label's name", name)?;
    if value.len() > MAX_TEXT_BYTES {
        return Err(format!("a label's value cannot be longer than {MAX_TEXT_BYTES} bytes"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_intent(intent: &str) -> Result<String, String> {
    if intent.len() > MAX_TEXT_BYTES {
        return Err(format!("an intent cannot be longer than {MAX_TEXT_BYTES} bytes"));
    }
    Ok(intent.to_owned())
}

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let Arguments { agent, labels: given, intent, command } = arguments;
    let mut labels = BTreeMap::new();
    for (name, value) in given {
        if labels.insert(name.clone(), value).is_some() {
            return Err(Failure::message(Exit::Usage, format_args!("the label {name} is given twice; give it once")));
        }
    }
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::message(Exit::Usage, "no COMMAND is given; add `-- COMMAND`"));
    };
    let words =
        command.iter().map(|word| Text::from(std::os::unix::ffi::OsStrExt::as_bytes(word.as_os_str()))).collect();
    // COMMAND's own status can be any, so ours must be one that shells know for "could not even start".
    let failed = |failure: Failure| Failure { exit: Exit::RunFailed, ..failure };
    let reasons = enrol(terminal, Call::Enrol { agent, labels, intent, command: words }).map_err(failed)?;
    let mut command = Command::new(program);
    // What an outer run said is about another one.
    command.args(arguments).env_remove(why::FILE_VARIABLE);
    if let Some(reasons) = reasons {
        command.env(why::FILE_VARIABLE, reasons);
    }
    // Returns only if it fails.
    let error = command.exec();
    Err(cannot_execute(program, error))
}

/// Lets the daemon make this process an agent, and believes only the kernel that it is one. Returns the path of the run's
/// file.
fn enrol(terminal: &Terminal, call: Call) -> Result<Option<String>, Failure> {
    let mut client = terminal.connect()?;
    let Reply::Enrolled { agent: _, cgroup, reasons } = client.call(&call)? else {
        return Err(client.unexpected().into());
    };
    let own = control::own_cgroup().map_err(|error| {
        Failure::new(Exit::RunFailed, anyhow::Error::new(error).context("cannot find out the own cgroup"))
    })?;
    if own == cgroup {
        return Ok(reasons);
    }
    let message = format!(
        "the daemon enrolled this process in the cgroup {}, but it is in {}; run it where the daemon sees the same cgroups",
        Text::from(&*cgroup),
        Text::from(&*own)
    );
    Err(Failure::message(Exit::RunFailed, message))
}

fn cannot_execute(program: &OsString, error: io::Error) -> Failure {
    let name = Text::from(std::os::unix::ffi::OsStrExt::as_bytes(program.as_os_str()));
    let (exit, message) = match error.kind() {
        io::ErrorKind::NotFound => (Exit::NotFound, format!("cannot find {name}, or the interpreter that it names")),
        io::ErrorKind::PermissionDenied => (
            Exit::CannotExecute,
            format!("cannot execute {name}: it was denied by a rule or a reviewer, or is not executable"),
        ),
        _ => (Exit::CannotExecute, format!("cannot execute {name}")),
    };
    Failure::new(exit, anyhow::Error::new(error).context(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_a_name_and_a_value() {
        assert_eq!(parse_label("ticket=OPS=7"), Ok(("ticket".to_owned(), "OPS=7".to_owned())));
        assert_eq!(parse_label("empty="), Ok(("empty".to_owned(), String::new())));
        let long = format!("x={}", "v".repeat(MAX_TEXT_BYTES + 1));
        for bad in ["ticket", "=x", "a b=c", "a/b=c", ".a=c", "ü=c", &long] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_of_exec_becomes_the_status_that_shells_use() {
        let exit = |kind: io::ErrorKind| cannot_execute(&OsString::from("x"), kind.into()).exit;
        assert_eq!(exit(io::ErrorKind::NotFound), Exit::NotFound);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), Exit::CannotExecute);
        assert_eq!(exit(io::ErrorKind::OutOfMemory), Exit::CannotExecute);
    }
}
