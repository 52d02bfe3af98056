//! `gatekeeper-bench`: what gatekeeper costs, in guest instructions.
//!
//! Runs as root in the machine of `cargo xtask bench`, whose clock counts instructions. One boot sees all arms, there
//! and back: bare, empty programs, gatekeeper, gatekeeper, empty programs, bare. So what drifts meets all arms alike.
//! The method and its blind spots are in `docs/performance.md`. `latency` runs in another machine, by its clock.

mod arms;
mod latency;
mod measure;
mod profile;
mod relay;
mod report;
mod reviewer;
mod stats;
mod tiny;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::arms::{Files, Gatekeeper};
use crate::measure::{Operation, Task};
use crate::profile::Profile;
use crate::report::Arm;
use crate::reviewer::Reviewer;

/// Where processes outside of agents are measured: as deep as a service of systemd, since a deeper cgroup costs more.
const OUTSIDE: &str = "/sys/fs/cgroup/bench.slice/outside.service";

/// Measures what gatekeeper costs, in guest instructions; run by `cargo xtask bench`.
#[derive(Debug, Parser)]
#[command(name = "gatekeeper-bench", args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    child: Option<Child>,
    #[command(flatten)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Child {
    /// Measure one operation, in a process of its own.
    #[command(hide = true)]
    Measure(Task),
    /// Measure how long people wait for a card, and the held action for a click; in a machine of its own.
    Latency(latency::Flags),
    /// Run a Matrix server until standard input ends, and say on which port of loopback.
    #[command(hide = true)]
    MatrixServer,
    /// Carry standard input and output to a port of loopback.
    #[command(hide = true)]
    Relay {
        /// The port.
        port: u16,
    },
}

#[derive(Debug, Args)]
struct Bench {
    /// The BPF object with the empty programs.
    #[arg(long, value_name = "FILE")]
    empty_programs: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Tell too where the instructions go: per BPF program, and in the daemon.
    #[arg(long)]
    profile: bool,
    /// Samples of each cheap operation per visit of an arm; a part of them for the dear ones.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..))]
    samples: u32,
}

/// All samples, by what was done and in which arm.
pub(crate) type Samples = BTreeMap<(Operation, Arm), Vec<u64>>;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match &flags.child {
        Some(Child::Measure(task)) => measure::run(task).map(|()| true),
        Some(Child::Latency(flags)) => latency::run(flags),
        Some(Child::MatrixServer) => latency::serve().map(|()| true),
        Some(Child::Relay { port }) => relay::pass(*port).map(|()| true),
        None => bench(&flags.bench),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gatekeeper-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures everything; false when a goal is missed.
fn bench(flags: &Bench) -> Result<bool> {
    measure::ensure_counting()?;
    let empty = flags.empty_programs.as_deref().context("--empty-programs is missing; run `cargo xtask bench`")?;
    let directory = tempfile::tempdir_in("/run").context("cannot make a directory in memory")?;
    let files = Files::make(directory.path())?;
    fs::create_dir_all(OUTSIDE).with_context(|| format!("cannot make {OUTSIDE}"))?;
    let mut run = Run { files, count: flags.samples as usize, samples: Samples::new() };

    run.outside(Arm::Bare)?;
    let programs = arms::attach_empty(empty)?;
    run.outside(Arm::Empty)?;
    drop(programs);

    let gatekeeper = Gatekeeper::start(directory.path(), &run.files)?;
    let profile = run.with_gatekeeper(&gatekeeper, flags.profile).with_context(|| gatekeeper.account())?;
    gatekeeper.detach()?;

    let programs = arms::attach_empty(empty)?;
    run.outside(Arm::Empty)?;
    drop(programs);
    run.outside(Arm::Bare)?;

    let report = report::Report::new(&run.samples)?;
    if flags.json {
        println(&report.json(profile.as_ref())?)?;
    } else {
        println(&report.text(profile.as_ref()))?;
    }
    Ok(report.all_met())
}

fn println(text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.write_all(b"\n")).context("cannot write the report")
}

/// One run of the benchmark.
pub(crate) struct Run {
    pub(crate) files: Files,
    count: usize,
    samples: Samples,
}

impl Run {
    /// Every arm with gatekeeper, there and back.
    fn with_gatekeeper(&mut self, gatekeeper: &Gatekeeper, profile: bool) -> Result<Option<Profile>> {
        self.outside(Arm::Outside)?;
        self.inside(gatekeeper)?;
        self.waiting(gatekeeper)?;
        let profile = if profile { Some(profile::take(self, gatekeeper)?) } else { None };
        self.waiting(gatekeeper)?;
        self.inside(gatekeeper)?;
        self.outside(Arm::Outside)?;
        Ok(profile)
    }

    /// The operations that nothing stops, outside of agents.
    fn outside(&mut self, arm: Arm) -> Result<()> {
        let this = self.files.bench.clone();
        self.unstopped(arm, || Command::new(&this), Some(OUTSIDE))
    }

    /// The same inside an agent.
    fn inside(&mut self, gatekeeper: &Gatekeeper) -> Result<()> {
        let this = self.files.bench.clone();
        self.unstopped(Arm::Agent, || gatekeeper.agent(&this), None)
    }

    fn unstopped(&mut self, arm: Arm, command: impl Fn() -> Command, cgroup: Option<&str>) -> Result<()> {
        let (file, program, count) = (self.files.plain.clone(), self.files.program.clone(), self.count);
        for (operation, path, count) in [
            (Operation::OpenRead, &file, count),
            (Operation::OpenWrite, &file, count),
            (Operation::Spawn, &program, count / 5),
        ] {
            let samples = sample(command(), operation, path, count, cgroup)?;
            self.samples.entry((operation, arm)).or_default().extend(samples);
        }
        Ok(())
    }

    /// The operations that wait for a verdict.
    fn waiting(&mut self, gatekeeper: &Gatekeeper) -> Result<()> {
        let samples = self.ask(gatekeeper, self.count / 10)?;
        self.samples.entry((Operation::Ask, Arm::ByRule)).or_default().extend(samples);
        let reviewer = Reviewer::start(&gatekeeper.socket)?;
        let program = gatekeeper.agent(&self.files.bench);
        let samples = sample(program, Operation::Ask, &self.files.by_reviewer, self.count / 20, None);
        // Its error, if there is one, is the cause of the other.
        reviewer.stop().context("the reviewing program failed")?;
        let samples = samples?;
        self.samples.entry((Operation::Ask, Arm::ByReviewer)).or_default().extend(samples);
        Ok(())
    }

    /// Round trips that the daemon decides by a rule.
    pub(crate) fn ask(&self, gatekeeper: &Gatekeeper, count: usize) -> Result<Vec<u64>> {
        sample(gatekeeper.agent(&self.files.bench), Operation::Ask, &self.files.by_rule, count, None)
    }
}

/// Runs this program, as `command` starts it, to measure one operation.
fn sample(
    mut command: Command,
    operation: Operation,
    path: &Path,
    count: usize,
    cgroup: Option<&str>,
) -> Result<Vec<u64>> {
    let name = clap::ValueEnum::to_possible_value(&operation).context("an operation without a name")?;
    let mut arguments: Vec<OsString> = vec!["measure".into(), "--operation".into(), name.get_name().into()];
    arguments.extend(["--count".into(), count.to_string().into(), "--path".into(), path.into()]);
    if let Some(cgroup) = cgroup {
        arguments.extend(["--cgroup".into(), cgroup.into()]);
    }
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run this program again")?;
    if !output.status.success() {
        bail!("measuring {} failed ({})", operation.name(), output.status);
    }
    let text = String::from_utf8(output.stdout).context("samples that are no text")?;
    let samples: Vec<u64> =
        text.lines().map(str::parse).collect::<Result<_, _>>().context("a sample that is no number")?;
    ensure!(samples.len() == count, "{} of {count} samples came", samples.len());
    Ok(samples)
}
