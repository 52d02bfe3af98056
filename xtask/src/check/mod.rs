//! `cargo xtask check`: what has to hold before a change goes in.
//!
//! All parts run, whatever the earlier ones found; the last lines say which failed and which could not be done here.

mod licences;
mod tidy;

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::build;
use crate::checkout::Checkout;
use crate::command::{self, find_program};
use crate::flags::CheckFlags;
use crate::setup::bpf::{self, Linter};

/// One thing to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Format.
    Fmt,
    /// Lints of everything that runs on the host.
    Clippy,
    /// Lints of the BPF programs, compiled for the BPF target.
    Bpf,
    /// Documentation builds without a warning.
    Doc,
    /// Licences, banned crates and sources of all dependencies.
    Licences,
    /// Known vulnerabilities of dependencies.
    Advisories,
    /// House rules.
    Tidy,
}

impl Part {
    const ALL: [Self; 7] =
        [Self::Fmt, Self::Tidy, Self::Clippy, Self::Bpf, Self::Doc, Self::Licences, Self::Advisories];

    fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Bpf => "bpf",
            Self::Doc => "doc",
            Self::Licences => "licences",
            Self::Advisories => "advisories",
            Self::Tidy => "tidy",
        }
    }
}

/// What came of one part.
enum Outcome {
    /// It holds; how it was found out, where that is not plain.
    Holds(String),
    /// It could not be checked here, and why.
    Skipped(String),
}

/// `cargo xtask check`.
///
/// # Errors
/// None but of writing; failed parts are an exit status.
pub(crate) fn run(checkout: &Checkout, flags: &CheckFlags) -> Result<u8> {
    let parts = if flags.only.is_empty() { Part::ALL.to_vec() } else { flags.only.clone() };
    let mut lines = Vec::new();
    let mut failed = false;
    for part in parts {
        let name = part.name();
        eprintln!("check: {name}");
        lines.push(match check(checkout, part) {
            Ok(Outcome::Holds(how)) if how.is_empty() => format!("{name}: ok"),
            Ok(Outcome::Holds(how)) => format!("{name}: ok ({how})"),
            Ok(Outcome::Skipped(why)) => format!("{name}: skipped, {why}"),
            Err(error) => {
                failed = true;
                format!("{name}: FAILED\n  {}", format!("{error:#}").replace('\n', "\n  "))
            }
        });
    }
    eprintln!("\n{}", lines.join("\n"));
    Ok(u8::from(failed))
}

fn check(checkout: &Checkout, part: Part) -> Result<Outcome> {
    match part {
        Part::Fmt => {
            let mut cargo = command::cargo(checkout);
            command::run(cargo.args(["fmt", "--all", "--check"])).context("`cargo fmt --all` mends it")?;
            Ok(Outcome::Holds(String::new()))
        }
        Part::Clippy => clippy(checkout),
        Part::Bpf => bpf_target(checkout),
        Part::Doc => doc(checkout),
        Part::Licences => licences::check(checkout).map(Outcome::Holds),
        Part::Advisories => Ok(advisories(checkout)?),
        Part::Tidy => tidy::check(checkout).map(Outcome::Holds),
    }
}

fn clippy(checkout: &Checkout) -> Result<Outcome> {
    build::bpf_object(checkout)?;
    let mut cargo = command::cargo(checkout);
    cargo.args(["clippy", "--workspace", "--exclude", "gatekeeper-ebpf", "--all-targets", "--all-features"]);
    command::run_build(cargo.args(["--", "--deny", "warnings"]))?;

    Ok(Outcome::Holds("all but gatekeeper-ebpf, which bpf checks".into()))
}

fn bpf_target(checkout: &Checkout) -> Result<Outcome> {
    let toolchain = bpf::ensure(checkout)?;
    let linter = bpf::ensure_linter(checkout, &toolchain.compiler)?;
    let mut cargo = build::cargo_for_bpf(checkout, &toolchain);
    // Flags for the compiler are part of what cargo compares: a directory of its own spares the build's cache.
    cargo.env("CARGO_TARGET_DIR", checkout.own("bpf-check-target"));
    build::add_rust_flag(&mut cargo, "-Dwarnings");
    let how = match linter {
        Linter::Driver(driver) => {
            // What `cargo clippy` does, with the linter that belongs to this compiler.
            cargo.env("RUSTC_WORKSPACE_WRAPPER", driver).arg("check");
            "clippy"
        }
        Linter::Component => {
            cargo.arg("clippy");
            "clippy"
        }
        Linter::None => {
            cargo.arg("check");
            "rustc's lints alone: this compiler has no clippy-driver beside it"
        }
    };
    command::run_build(cargo.args(["--release", "--package", "gatekeeper-ebpf"]))?;
    Ok(Outcome::Holds(format!("{how}, for {}", bpf::TARGET)))
}

fn doc(checkout: &Checkout) -> Result<Outcome> {
    build::bpf_object(checkout)?;
    let mut cargo = command::cargo(checkout);
    cargo.env("RUSTDOCFLAGS", "--deny warnings");
    cargo.args(["doc", "--workspace", "--exclude", "gatekeeper-ebpf", "--no-deps", "--document-private-items"]);
    command::run_build(&mut cargo)?;
    Ok(Outcome::Holds(String::new()))
}

/// The database of vulnerabilities lives elsewhere: without a tool for it, or without a way there, nothing is known.
fn advisories(checkout: &Checkout) -> Result<Outcome> {
    if find_program("cargo-deny").is_none() {
        let why = "cargo-deny is not installed (`cargo install --locked cargo-deny`), so nothing is known about them";
        return Ok(Outcome::Skipped(why.into()));
    }
    let mut deny = Command::new("cargo-deny");
    deny.current_dir(checkout.root()).args(["--color", "never", "check", "advisories"]);
    let output = command::output(&mut deny)?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Outcome::Holds(String::new()));
    }
    if messages.contains("failed to fetch") || messages.contains("unable to fetch") {
        return Ok(Outcome::Skipped("the advisory database cannot be reached, so nothing is known about them".into()));
    }
    anyhow::bail!("{}", messages.trim())
}
