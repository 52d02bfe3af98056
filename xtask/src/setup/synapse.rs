//! A real Matrix server for the tests: Synapse, in a Python environment of its own below `target/xtask`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Need, apt, say};
use crate::checkout::Checkout;
use crate::command;

/// The version that the tests were written against.
const VERSION: &str = "1.163.2";
/// Points at a Python that has Synapse; the tests look for it there, too.
pub(crate) const VARIABLE: &str = "GATEKEEPER_SYNAPSE_PYTHON";

/// Finds the Python that has Synapse, or makes it.
///
/// # Errors
/// It is not there and cannot be had; the message says how to point at one.
pub(crate) fn ensure(checkout: &Checkout) -> Result<PathBuf> {
    if let Some(python) = env::var_os(VARIABLE) {
        let python = PathBuf::from(python);
        if !python.is_file() {
            bail!("{VARIABLE} is {}, which is no file", python.display());
        }
        return Ok(python);
    }
    let directory = checkout.own(&format!("synapse-{VERSION}"));
    let python = directory.join("bin/python3");
    // Written last, so an installation that was cut off is made anew.
    let complete = directory.join("complete");
    if complete.is_file() {
        return Ok(python);
    }
    super::ensure(checkout, &[Need::Programs])?;
    let _lock = super::lock(checkout)?;
    if complete.is_file() {
        return Ok(python);
    }
    say(&format!("installing Synapse {VERSION}, the Matrix server of the tests: 60 Python packages, 250 MB"));
    let make = || {
        // What was left by an attempt that failed is of no use.
        let _ = fs::remove_dir_all(&directory);
        command::run(Command::new("python3").args(["-m", "venv"]).arg(&directory))
    };
    // Debian has the module in a package of its own.
    if make().is_err() {
        apt::install(&[apt::Package::new("python3-venv", "python3 -m venv, in which the Matrix server is installed")])?;
        make()?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]);
    pip.arg(format!("matrix-synapse=={VERSION}"));
    command::run(&mut pip).with_context(|| {
        format!("cannot install Synapse; install it yourself and point {VARIABLE} at the Python that has it")
    })?;
    fs::write(&complete, VERSION).with_context(|| format!("cannot write {}", complete.display()))?;
    Ok(python)
}
