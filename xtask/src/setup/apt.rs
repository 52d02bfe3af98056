//! Debian packages: which there are, and installing them as root or through sudo.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::say;
use crate::command::{self, find_program};

/// A package to install, and the reason to tell.
#[derive(Debug)]
pub(crate) struct Package {
    name: String,
    reason: String,
}

impl Package {
    pub(crate) fn new(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), reason: reason.into() }
    }
}

/// Installs the packages; nothing to do when there are none.
///
/// # Errors
/// There is no apt, no way to become root, or apt failed: each with what to do by hand.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let reasons: Vec<String> = packages.iter().map(|package| format!("{}: {}", package.name, package.reason)).collect();
    if !is_here() {
        bail!(
            "this machine lacks what these Debian packages hold, and has no apt-get to install them with:\n  {}\n\
             install the same from your distribution and run this again; `cargo xtask setup --help` names the variables \
             that point at what you have",
            reasons.join("\n  ")
        );
    }
    let by_hand = format!("apt-get install -y --no-install-recommends {}", names.join(" "));
    let Some(prefix) = root_prefix() else {
        bail!("these packages are missing:\n  {}\ninstall them as root:\n  {by_hand}", reasons.join("\n  "));
    };
    if !names.iter().all(|name| has_candidate(name)) {
        update()?;
    }
    for reason in &reasons {
        say(&format!("installing {reason}"));
    }
    let arguments = ["install", "-y", "-q", "--no-install-recommends"];
    let install = || run_as_root(prefix, &[&arguments[..], &names[..]].concat());
    // An index from long ago names files that are gone.
    install().or_else(|_| update().and_then(|()| install())).with_context(|| format!("cannot install; try `{by_hand}`"))
}

/// Whether this machine has apt.
pub(crate) fn is_here() -> bool {
    find_program("apt-get").is_some() && find_program("apt-cache").is_some() && find_program("dpkg-deb").is_some()
}

/// Whether apt could install the package.
pub(crate) fn has_candidate(name: &str) -> bool {
    let policy = command::capture(Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C"));
    policy.is_ok_and(|policy| candidate(&policy).is_some())
}

fn candidate(policy: &str) -> Option<&str> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then_some(version)
}

/// Renews the index of packages.
///
/// # Errors
/// No way to become root, or no package source answered.
pub(crate) fn update() -> Result<()> {
    let Some(prefix) = root_prefix() else {
        bail!("the package index is missing or old; run as root:\n  apt-get update")
    };
    say("renewing the package index with apt-get update");
    run_as_root(prefix, &["update", "-q"])
}

fn run_as_root(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    let words = [prefix, &["apt-get"], arguments].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
    // What apt writes is progress, and standard output is not for that.
    command.stdin(std::process::Stdio::null()).stdout(std::io::stderr());
    command::run(&mut command)
}

/// What to put before a command to run it as root; nothing for root. No password is ever asked for.
fn root_prefix() -> Option<&'static [&'static str]> {
    if rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    let works = find_program("sudo").is_some()
        && command::output(Command::new("sudo").args(["-n", "true"])).is_ok_and(|output| output.status.success());
    works.then_some(&["sudo", "-n"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_read_from_the_policy() {
        assert_eq!(candidate("kmod:\n  Installed: (none)\n  Candidate: 30-1\n"), Some("30-1"));
        assert_eq!(candidate("kmod:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
