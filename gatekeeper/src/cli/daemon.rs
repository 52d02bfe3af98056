//! `gatekeeper daemon`: hold, ask, release.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::Terminal;
use crate::{
    config::DEFAULT_PATH,
    daemon::{self, DaemonError, Options},
    exit::{Exit, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "PATH", env = "GATEKEEPER_CONFIG", default_value = DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// Debugging messages of the kernel side, 1 (errors) to 5 (everything); 0 is off
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    kernel_log: u8,
}

/// Says which messages are written.
const FILTER_VARIABLE: &str = "GATEKEEPER_LOG";

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    // What the kernel side says is filtered there already, by its own level.
    let usual = if arguments.kernel_log == 0 { "info" } else { "info,gatekeeper_ebpf=trace" };
    let filter = match std::env::var_os(FILTER_VARIABLE) {
        None => EnvFilter::new(usual),
        Some(written) => EnvFilter::try_new(written.to_string_lossy()).map_err(|err| {
            let message = format!("{FILTER_VARIABLE} is no filter of messages ({err}); write such as `debug`");
            Failure::message(Exit::Usage, message)
        })?,
    };
    // Under systemd the journal adds the time.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // Only fails when a subscriber is there already, as in a test.
    let _ = if journal { builder.without_time().try_init() } else { builder.try_init() };
    let options = Options {
        config: arguments.config,
        socket: terminal.socket_given.then(|| terminal.socket.clone()),
        kernel_log_level: arguments.kernel_log,
    };
    daemon::run(options).map(|()| Exit::Success).map_err(failure)
}

/// Which code a daemon that does not start ends with.
pub(super) fn failure(error: DaemonError) -> Failure {
    let exit = match &error {
        DaemonError::Config(_) | DaemonError::Channel { .. } | DaemonError::NoGroup(_) => Exit::Configuration,
        DaemonError::Kernel(_)
        | DaemonError::Trial(_)
        | DaemonError::Cgroup(_)
        | DaemonError::PidNamespace
        | DaemonError::InsideAgent(_) => Exit::CannotEnforce,
        DaemonError::Log(_) => Exit::Log,
        DaemonError::Socket(_) | DaemonError::System(..) => Exit::Failure,
    };
    Failure::new(exit, error)
}
