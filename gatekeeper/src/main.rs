//! gatekeeper: one binary for the daemon and its command line. All of it lives in the library; here a result becomes
//! one message and an exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

fn main() -> ExitCode {
    match gatekeeper::cli::run() {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(error) = failure.error {
                // Without a stderr the exit code has to say it.
                let _ = writeln!(io::stderr(), "gatekeeper: {error:#}");
            }
            failure.exit.into()
        }
    }
}
