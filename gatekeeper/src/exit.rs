//! The exit codes, in one table: help, documentation and code cannot disagree.
//!
//! A subcommand returns what it ends with, or a [`Failure`] that knows its code; `main` alone prints and exits.

use std::{fmt, io, process::ExitCode};

use crate::control::{
    client::ClientError,
    protocol::{CallError, ErrorCode},
};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Success = 0,
    /// A failure that has no code of its own.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// This host or kernel does not let gatekeeper enforce.
    CannotEnforce = 3,
    /// Configuration or rules are invalid.
    Configuration = 4,
    /// The daemon cannot be reached, or does not answer.
    Unreachable = 5,
    /// The caller is not permitted.
    NotPermitted = 6,
    /// No such request.
    NoSuchRequest = 7,
    /// The request does not wait any more.
    AlreadyDecided = 8,
    /// The provenance log is damaged or cannot be written.
    Log = 9,
    /// A decision lacks what its rule wants with it.
    Incomplete = 10,
    /// `gatekeeper run` failed before COMMAND could start.
    RunFailed = 125,
    /// `gatekeeper run`: COMMAND cannot be executed.
    CannotExecute = 126,
    /// `gatekeeper run`: COMMAND was not found.
    NotFound = 127,
}

impl Exit {
    /// Every code with its meaning.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Success, "success"),
        (Self::Failure, "any other failure"),
        (Self::Usage, "wrong command line"),
        (Self::CannotEnforce, "this host or kernel cannot enforce"),
        (Self::Configuration, "configuration or rules are invalid"),
        (Self::Unreachable, "the daemon cannot be reached"),
        (Self::NotPermitted, "not permitted to use the control socket, or to decide"),
        (Self::NoSuchRequest, "no such request"),
        (Self::AlreadyDecided, "the request does not wait any more"),
        (Self::Log, "the provenance log is damaged or cannot be written"),
        (Self::Incomplete, "the rule wants a reason or a signature with the decision"),
        (Self::RunFailed, "run: gatekeeper failed before COMMAND started"),
        (Self::CannotExecute, "run: COMMAND cannot be executed, or was denied"),
        (Self::NotFound, "run: COMMAND was not found"),
    ];

    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The table for `--help`.
    pub fn table() -> String {
        let mut table = String::from("Exit status:\n");
        for (exit, meaning) in Self::ALL {
            table.push_str(&format!("  {:<5}{meaning}\n", exit.code()));
        }
        table.push_str("  else `run` ends with COMMAND's own status");
        table
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error and the code to end with.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// What happened; none if there is nobody to tell, because the reader of the output went away.
    pub error: Option<anyhow::Error>,
}

impl Failure {
    /// This error, with this code.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// A message, with this code.
    pub fn message(exit: Exit, message: impl fmt::Display) -> Self {
        Self::new(exit, anyhow::anyhow!("{message}"))
    }

    /// An error while writing the output. A reader that has seen enough, such as `head`, is none.
    pub fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { exit: Exit::Success, error: None };
        }
        Self::new(Exit::Failure, anyhow::Error::new(error).context("cannot write the output"))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoSocket { .. }
            | ClientError::NotASocket { .. }
            | ClientError::NotListening { .. }
            | ClientError::PathTooLong { .. }
            | ClientError::Connect { .. }
            | ClientError::Version { .. }
            | ClientError::Garbage { .. }
            | ClientError::Unexpected { .. }
            | ClientError::Closed { .. }
            | ClientError::Silent { .. }
            | ClientError::Broken { .. } => Exit::Unreachable,
            ClientError::NotPermitted { .. } => Exit::NotPermitted,
            ClientError::TooLong(_) => Exit::Usage,
            ClientError::Call(CallError { code, .. }) => of_code(*code),
        };
        Self::new(exit, error)
    }
}

fn of_code(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::VersionMismatch | ErrorCode::Busy | ErrorCode::TooSlow | ErrorCode::Stopping => Exit::Unreachable,
        ErrorCode::NotPermitted | ErrorCode::InsideAgent => Exit::NotPermitted,
        ErrorCode::NoSuchRequest => Exit::NoSuchRequest,
        ErrorCode::AlreadyDecided => Exit::AlreadyDecided,
        ErrorCode::Incomplete => Exit::Incomplete,
        ErrorCode::Invalid => Exit::Usage,
        ErrorCode::Configuration => Exit::Configuration,
        ErrorCode::CannotEnforce => Exit::CannotEnforce,
        ErrorCode::Log => Exit::Log,
        ErrorCode::BadFrame
        | ErrorCode::TooLarge
        | ErrorCode::NoMore
        | ErrorCode::NoSuchAgent
        | ErrorCode::HoldsOpen
        | ErrorCode::Internal => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_every_code() {
        let documentation = include_str!("../../docs/cli.md");
        for (exit, meaning) in Exit::ALL {
            let row = format!("| {} | {meaning} |", exit.code());
            assert!(documentation.contains(&row), "docs/cli.md lacks the row {row}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit, Exit::Success);
        assert!(failure.error.is_none());
    }
}
