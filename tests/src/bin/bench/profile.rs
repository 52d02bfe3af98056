//! Where the instructions of a round trip go: per BPF program by the kernel's own statistics, and in the daemon by its
//! run time, which is in instructions too. The statistics cost instructions themselves, so the run is one of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use gatekeeper_common::names::PROGRAMS;

use crate::Run;
use crate::arms::Gatekeeper;
use crate::stats::Summary;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Round trips that are looked at.
const ROUND_TRIPS: usize = 200;

/// Averages per round trip.
#[derive(Debug)]
pub(crate) struct Profile {
    /// Of a whole round trip, with statistics on.
    pub(crate) median: u64,
    /// In the daemon's threads, user and kernel mode together.
    pub(crate) daemon: u64,
    /// Times that the daemon slept, tenths.
    pub(crate) daemon_sleeps_tenths: u64,
    /// By program: runs in all, instructions per run.
    pub(crate) programs: BTreeMap<String, (u64, u64)>,
}

/// Profiles round trips that the daemon decides.
///
/// # Errors
/// The kernel does not give statistics.
pub(crate) fn take(run: &mut Run, gatekeeper: &Gatekeeper) -> Result<Profile> {
    fs::write(SWITCH, "1").with_context(|| format!("cannot write {SWITCH}"))?;
    let before = (programs()?, daemon(gatekeeper)?);
    let samples = run.ask(gatekeeper, ROUND_TRIPS)?;
    let after = (programs()?, daemon(gatekeeper)?);
    fs::write(SWITCH, "0").with_context(|| format!("cannot write {SWITCH}"))?;
    let programs = after.0.into_iter().filter_map(|(name, (time, runs))| {
        let (time_before, runs_before) = before.0.get(&name).copied().unwrap_or_default();
        let runs = runs - runs_before;
        (runs > 0).then(|| (name, (runs, (time - time_before) / runs)))
    });
    let trips = (ROUND_TRIPS + crate::measure::WARM_UP) as u64;
    Ok(Profile {
        median: Summary::of(&samples).context("no samples")?.median,
        daemon: (after.1.0 - before.1.0) / trips,
        daemon_sleeps_tenths: (after.1.1 - before.1.1) * 10 / trips,
        programs: programs.collect(),
    })
}

/// Run time and number of runs of gatekeeper's programs.
fn programs() -> Result<BTreeMap<String, (u64, u64)>> {
    let mut found = BTreeMap::new();
    for program in loaded_programs() {
        let program = program.context("cannot list BPF programs")?;
        let name = String::from_utf8_lossy(program.name()).into_owned();
        // The kernel cuts names.
        let Some(whole) = PROGRAMS.iter().find(|known| !name.is_empty() && known.name.starts_with(&name)) else {
            continue;
        };
        let descriptor = program.fd().context("cannot open a BPF program")?;
        let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        found.insert(whole.name.to_owned(), (field(&text, "run_time_ns"), field(&text, "run_cnt")));
    }
    Ok(found)
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Run time and voluntary sleeps of the daemon's threads.
fn daemon(gatekeeper: &Gatekeeper) -> Result<(u64, u64)> {
    let tasks = format!("/proc/{}/task", gatekeeper.daemon.id());
    let mut sums = (0, 0);
    for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        let task = task.with_context(|| format!("cannot read {tasks}"))?.path();
        let read = |name: &str| -> Result<String> {
            let path: &Path = &task.join(name);
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let time = read("schedstat")?;
        sums.0 += time.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0);
        sums.1 += field(&read("status")?, "voluntary_ctxt_switches");
    }
    Ok(sums)
}
