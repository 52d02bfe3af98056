//! Everything a developer of gatekeeper runs: `cargo xtask --help`.
//!
//! One module per subcommand; `setup` provides for all of them. Standard output carries what a subcommand is asked for,
//! standard error all else.

mod bench;
mod build;
mod check;
mod checkout;
mod command;
mod demo;
mod flags;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::checkout::Checkout;
use crate::flags::{Flags, Subcommands};

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the subcommand and returns the exit status.
fn run(flags: &Flags) -> Result<u8> {
    let checkout = Checkout::find()?;
    match &flags.subcommand {
        Subcommands::Setup(_) => setup::run(&checkout).map(|()| 0),
        Subcommands::Build(flags) => build::run(&checkout, flags).map(|()| 0),
        Subcommands::Vm(flags) => vm::run(&checkout, flags),
        Subcommands::Test(flags) => test::run(&checkout, flags),
        Subcommands::Demo(flags) => demo::run(&checkout, flags),
        Subcommands::Bench(flags) => bench::run(&checkout, flags),
        Subcommands::Check(flags) => check::run(&checkout, flags),
    }
}
