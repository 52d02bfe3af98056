//! `cargo xtask setup`: finds what the other subcommands need, and installs what is missing.
//!
//! Every part first looks, without a lock and without a word; only when something is missing does it take the lock,
//! look again, say what it does and why, and do it. Distribution packages come from apt; all else lies below
//! `target/xtask`.

mod apt;
pub(crate) mod bpf;
pub(crate) mod kernels;
pub(crate) mod synapse;

use std::fs::{self, File, TryLockError};

use anyhow::{Context as _, Result, bail};

use self::apt::Package;
use crate::checkout::Checkout;
use crate::command::find_program;

/// Something that a subcommand cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The emulator and what unpacks kernels and modules.
    Vm,
    /// What tests and the demo run as agents, as parents of held processes and for reviewers.
    Programs,
}

/// Kernels that all tests run on.
pub(crate) const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// A program, the package that has it, and why it is needed.
const PROGRAMS: [(Need, &str, &str, &str); 8] = [
    (Need::Vm, "qemu-system-x86_64", "qemu-system-x86", "emulates the test VM"),
    (Need::Vm, "depmod", "kmod", "sorts the guest's kernel modules"),
    (Need::Vm, "xz", "xz-utils", "unpacks kernel modules"),
    (Need::Programs, "git", "git", "is an agent of the tests"),
    (Need::Programs, "node", "nodejs", "is an agent of the tests"),
    (Need::Programs, "python3", "python3", "is an agent of the tests"),
    (Need::Programs, "ssh-keygen", "openssh-client", "signs for the reviewers of the tests"),
    (Need::Programs, "sudo", "sudo", "is a parent of held processes in the tests"),
];

/// `cargo xtask setup`: everything.
///
/// # Errors
/// Something is missing and cannot be installed.
pub(crate) fn run(checkout: &Checkout) -> Result<()> {
    ensure(checkout, &[Need::Vm, Need::Programs])?;
    bpf::ensure(checkout)?;
    synapse::ensure(checkout)?;
    for kernel in KERNELS {
        kernels::ensure(checkout, kernel)?;
    }
    Ok(())
}

/// Finds or installs programs.
///
/// # Errors
/// Something is missing and cannot be installed.
pub(crate) fn ensure(checkout: &Checkout, needs: &[Need]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernels and the emulator are those of x86-64; this machine is {}", std::env::consts::ARCH);
    }
    if missing(needs).is_empty() {
        return Ok(());
    }
    let _lock = lock(checkout)?;
    let missing = missing(needs);
    apt::install(&missing)
}

fn missing(needs: &[Need]) -> Vec<Package> {
    let wanted = PROGRAMS.iter().filter(|(need, ..)| needs.contains(need));
    let missing = wanted.filter(|(_, program, ..)| find_program(program).is_none());
    missing.map(|(_, program, package, why)| Package::new(*package, format!("{program}, which {why}"))).collect()
}

/// Holds off other setups of this checkout until the file is dropped.
fn lock(checkout: &Checkout) -> Result<File> {
    let path = checkout.own("setup.lock");
    let directory = checkout.own("");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let file = File::options().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => say("waiting for another setup of this checkout to finish"),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Tells the user what happens; standard output belongs to the command that runs.
pub(crate) fn say(message: &str) {
    eprintln!("setup: {message}");
}
