//! The command line: raw arguments, one file per subcommand, and how requests are shown on a terminal.
//!
//! Subcommands speak to the daemon over [`crate::control::client`] and know nothing of how it works. Everything that
//! goes to stdout goes through [`output::Output`]; text that an agent chose is escaped before it gets there.

mod channels;
mod check;
mod daemon;
mod decide;
mod detach;
mod grants;
mod log;
mod output;
mod pending;
mod reload;
mod review;
mod run;
mod show;
mod sign;
mod status;
mod why;
mod wrap;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use self::output::Output;
use crate::{
    control::{
        DEFAULT_SOCKET,
        client::{Client, ClientError},
    },
    exit::{Exit, Failure},
};

/// Makes privileged actions of AI agents wait for a person.
#[derive(Debug, Parser)]
#[command(name = "gatekeeper", version, after_help = Exit::table(), max_term_width = 100)]
struct Arguments {
    /// The daemon's control socket
    /// [default: /run/gatekeeper/control.sock; for `daemon`, below the configuration's paths.runtime]
    #[arg(long, global = true, env = "GATEKEEPER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Write JSON, one object per line
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the programs, hold what the rules say, ask, release
    Daemon(daemon::Arguments),
    /// Find out whether this host can enforce
    Check(check::Arguments),
    /// Run COMMAND as an agent: every process that it starts stays one
    Run(run::Arguments),
    /// List the requests that wait
    Pending(pending::Arguments),
    /// Show all about one request
    Show(show::Arguments),
    /// Let the action of a request go on
    Approve(decide::ApproveArguments),
    /// Make the action of a request fail
    Deny(decide::DenyArguments),
    /// Make the action of a request fail, and end every process of its agent's run
    Stop(decide::DenyArguments),
    /// Have the next reviewers of a request's rule asked
    Escalate(decide::WaitArguments),
    /// Move the deadline of a request by its own length
    Extend(decide::WaitArguments),
    /// Say why actions were denied; for agents about themselves
    Why(why::Arguments),
    /// List the approvals that hold for longer than once
    Grants,
    /// Take a grant back
    Revoke(grants::RevokeArguments),
    /// Decide requests in an interactive view
    Review(review::Arguments),
    /// Show how the daemon is
    Status(status::Arguments),
    /// Read configuration and rules again
    Reload(reload::Arguments),
    /// Show the provenance log
    Log(log::Arguments),
    /// Set up and try the ways to reach reviewers
    Channels(channels::Arguments),
    /// Remove enforcement from the kernel
    Detach(detach::Arguments),
    /// The process that the daemon's trial holds
    #[command(hide = true)]
    Trial {
        /// `cgroup.procs` of the trial's cgroup
        cgroup_procs: PathBuf,
        /// The directory to make
        directory: PathBuf,
    },
}

/// What every subcommand gets: the way to the daemon, and the way out to the user.
#[derive(Debug)]
pub struct Terminal {
    /// The daemon's control socket.
    pub socket: PathBuf,
    /// Whether the user named it.
    pub socket_given: bool,
    /// Where output goes, and in which form.
    pub output: Output,
}

impl Terminal {
    /// Connects to the daemon.
    pub fn connect(&self) -> Result<Client, ClientError> {
        Client::connect(&self.socket)
    }
}

/// Runs the command line of this process.
pub fn run() -> Result<Exit, Failure> {
    let Arguments { socket, json, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too. It is printed as clap words it, or there is nobody to read it.
            let _ = error.print();
            return Ok(if error.use_stderr() { Exit::Usage } else { Exit::Success });
        }
    };
    let socket_given = socket.is_some();
    let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
    let mut terminal = Terminal { socket, socket_given, output: Output::stdout(json) };
    let result = match command {
        Command::Daemon(arguments) => daemon::run(arguments, &mut terminal),
        Command::Check(arguments) => check::run(arguments, &mut terminal),
        Command::Log(arguments) => log::run(arguments, &mut terminal),
        Command::Trial { cgroup_procs, directory } => {
            // Its errno is its status: nothing else may print or flush.
            std::process::exit(i32::from(crate::kernel::trial::process(&cgroup_procs, &directory)));
        }
        Command::Run(arguments) => run::run(arguments, &mut terminal),
        Command::Pending(arguments) => pending::run(arguments, &mut terminal),
        Command::Show(arguments) => show::run(arguments, &mut terminal),
        Command::Approve(arguments) => decide::approve(arguments, &mut terminal),
        Command::Deny(arguments) => decide::deny(arguments, &mut terminal),
        Command::Stop(arguments) => decide::stop(arguments, &mut terminal),
        Command::Escalate(arguments) => decide::escalate(arguments, &mut terminal),
        Command::Extend(arguments) => decide::extend(arguments, &mut terminal),
        Command::Why(arguments) => why::run(arguments, &mut terminal),
        Command::Grants => grants::list(&mut terminal),
        Command::Revoke(arguments) => grants::revoke(arguments, &mut terminal),
        Command::Review(arguments) => review::run(arguments, &mut terminal),
        Command::Status(arguments) => status::run(arguments, &mut terminal),
        Command::Channels(arguments) => channels::run(arguments, &mut terminal),
        Command::Reload(arguments) => reload::run(arguments, &mut terminal),
        Command::Detach(arguments) => detach::run(arguments, &mut terminal),
    };
    // What was written before a failure is still for the user.
    let flushed = terminal.output.flush();
    let exit = result?;
    flushed?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_subcommand_is_documented() {
        let documentation = include_str!("../../../docs/cli.md");
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let heading = format!("## gatekeeper {}", command.get_name());
            assert!(documentation.contains(&heading), "docs/cli.md lacks {heading}");
            for option in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(documentation.contains(&format!("--{option}")), "docs/cli.md lacks --{option} ({heading})");
            }
        }
    }
}
