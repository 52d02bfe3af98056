//! What is measured: a child process per arm does one operation many times and writes one number per time.
//!
//! The time stamp counter of a machine that counts instructions is their number, and reading it takes no system call.

use std::arch::asm;
use std::ffi::CString;
use std::fs;
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};

/// Times that come first and do not count: caches of the kernel fill, pages of this process come in.
pub(crate) const WARM_UP: usize = 30;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Operation {
    /// Open for reading, and close.
    OpenRead,
    /// Open for writing, and close.
    OpenWrite,
    /// Start a program that exits at once, and wait for it.
    Spawn,
    /// Open for writing, which waits for a verdict; without the close.
    Ask,
}

impl Operation {
    /// For tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OpenRead => "open+close, reading",
            Self::OpenWrite => "open+close, writing",
            Self::Spawn => "spawn+exit+wait",
            Self::Ask => "open that waits for a verdict",
        }
    }
}

/// One child's task.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Task {
    /// What to do.
    #[arg(long)]
    pub(crate) operation: Operation,
    /// How often.
    #[arg(long)]
    pub(crate) count: usize,
    /// The file to open or the program to start.
    #[arg(long)]
    pub(crate) path: PathBuf,
    /// Enter this cgroup first.
    #[arg(long)]
    pub(crate) cgroup: Option<PathBuf>,
}

/// Does the task and writes the samples to standard output.
///
/// # Errors
/// An operation failed, or time does not count instructions.
pub(crate) fn run(task: &Task) -> Result<()> {
    if let Some(cgroup) = &task.cgroup {
        let processes = cgroup.join("cgroup.procs");
        fs::write(&processes, "0").with_context(|| format!("cannot enter {}", cgroup.display()))?;
    }
    let overhead = counter_overhead();
    let mut samples = vec![0; task.count];
    let path = task.path.as_path();
    match task.operation {
        Operation::OpenRead => opens(path, OFlags::RDONLY, true, &mut samples),
        Operation::OpenWrite => opens(path, OFlags::WRONLY, true, &mut samples),
        Operation::Ask => opens(path, OFlags::WRONLY, false, &mut samples),
        Operation::Spawn => spawns(path, &mut samples),
    }?;
    let mut text = String::new();
    for sample in samples {
        text.push_str(&sample.saturating_sub(overhead).to_string());
        text.push('\n');
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the samples")
}

fn opens(path: &Path, flags: OFlags, with_close: bool, samples: &mut [u64]) -> Result<()> {
    let name = CString::new(path.as_os_str().as_bytes()).context("a path with a zero byte")?;
    let once = || -> Result<u64> {
        let start = counter();
        let file = rustix::fs::open(name.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty());
        let opened = counter();
        drop(file.with_context(|| format!("cannot open {}", path.display()))?);
        Ok(if with_close { counter() - start } else { opened - start })
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    samples.iter_mut().try_for_each(|sample| once().map(|count| *sample = count))
}

fn spawns(path: &Path, samples: &mut [u64]) -> Result<()> {
    let once = || -> Result<u64> {
        // Inherited streams and an empty environment: nothing but the start itself.
        let mut command = Command::new(path);
        command.env_clear();
        let start = counter();
        let status = command.status();
        let end = counter();
        let status = status.with_context(|| format!("cannot run {}", path.display()))?;
        ensure!(status.success(), "{} ended with {status}", path.display());
        Ok(end - start)
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    samples.iter_mut().try_for_each(|sample| once().map(|count| *sample = count))
}

/// The time stamp counter.
fn counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux leaves it to user space unless a process asked
    // otherwise (PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// What two readings in a row differ by.
fn counter_overhead() -> u64 {
    (0..100).map(|_| black_box(counter()).abs_diff(black_box(counter()))).min().unwrap_or(0)
}

/// Makes sure that the time stamp counter counts instructions, by running a known number of them.
///
/// # Errors
/// It does not: the machine is not the one that `cargo xtask bench` starts.
pub(crate) fn ensure_counting() -> Result<()> {
    const ROUNDS: u64 = 100_000;
    let run = || {
        let start = counter();
        // SAFETY: counts one register down to zero; touches no memory and no other register.
        unsafe {
            asm!("2:", "dec {0}", "jnz 2b", inout(reg) ROUNDS => _, options(nomem, nostack));
        }
        counter() - start
    };
    let taken = (0..10).map(|_| run()).min().unwrap_or(0);
    if taken.abs_diff(2 * ROUNDS) > ROUNDS / 50 {
        bail!(
            "time does not count instructions here: {} of them took {taken}; run this by `cargo xtask bench`",
            2 * ROUNDS
        );
    }
    Ok(())
}
