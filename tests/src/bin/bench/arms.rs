//! What is measured against what: an empty program on each hook, and gatekeeper with one agent.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{BtfTracePoint, Lsm};
use aya::{Btf, BtfError, Ebpf, programs::ProgramError};
use gatekeeper_common::names::{PROGRAMS, Target};
use gatekeeper_tests::ready::{Readiness, Start};

/// The agent's name in the configuration.
const AGENT: &str = "bench";
/// Records that are shown after a failure.
const LATEST: &str = "12";

/// Loads the empty programs from `object` and attaches them all. They go with the returned value.
///
/// # Errors
/// The kernel has not what they need.
pub(crate) fn attach_empty(object: &Path) -> Result<Ebpf> {
    let btf = Btf::from_sys_fs().context("cannot read the kernel's type information")?;
    let mut ebpf = Ebpf::load_file(object).with_context(|| format!("cannot load {}", object.display()))?;
    for program in PROGRAMS {
        let loaded = ebpf.program_mut(program.name).with_context(|| format!("no empty program `{}`", program.name))?;
        let attached = match program.target {
            Target::Hook => attach_hook(loaded.try_into()?, program.name, &btf),
            Target::Tracepoint(name) => attach_tracepoint(loaded.try_into()?, name, &btf),
        };
        match attached {
            Err(ProgramError::Btf(BtfError::UnknownBtfTypeName { .. })) if !program.required => {}
            other => other.with_context(|| format!("cannot attach the empty program `{}`", program.name))?,
        }
    }
    Ok(ebpf)
}

fn attach_hook(program: &mut Lsm, name: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(name, btf)?;
    program.attach().map(drop)
}

fn attach_tracepoint(program: &mut BtfTracePoint, name: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(name, btf)?;
    program.attach().map(drop)
}

/// Files that the operations work on, on a file system in memory.
#[derive(Debug)]
pub(crate) struct Files {
    /// No rule is about it.
    pub(crate) plain: PathBuf,
    /// A rule allows it, which only the daemon can tell.
    pub(crate) by_rule: PathBuf,
    /// A reviewer has to decide.
    pub(crate) by_reviewer: PathBuf,
    /// A program that exits at once.
    pub(crate) program: PathBuf,
    /// This program, to measure with.
    pub(crate) bench: PathBuf,
}

impl Files {
    /// Makes them below `directory`.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn make(directory: &Path) -> Result<Self> {
        let (plain, asked) = (directory.join("plain"), directory.join("asked"));
        let files = Self {
            plain: plain.join("file"),
            by_rule: asked.join("by-rule"),
            by_reviewer: asked.join("by-reviewer"),
            program: plain.join("program"),
            bench: directory.join("gatekeeper-bench"),
        };
        fs::create_dir_all(&plain).and_then(|()| fs::create_dir_all(&asked)).context("cannot make directories")?;
        for file in [&files.plain, &files.by_rule, &files.by_reviewer] {
            fs::write(file, "text\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        // In memory, because time leaps while the guest reads from its host's disk.
        let own = std::env::current_exe().context("cannot find this program")?;
        for (from, to) in [(own.with_file_name("gatekeeper"), directory.join("gatekeeper")), (own, files.bench.clone())]
        {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        super::tiny::write(&files.program).with_context(|| format!("cannot write {}", files.program.display()))?;
        Ok(files)
    }
}

/// A daemon that enforces, with one agent.
pub(crate) struct Gatekeeper {
    program: PathBuf,
    pub(crate) daemon: Child,
    pub(crate) socket: PathBuf,
    log: PathBuf,
    said: PathBuf,
}

impl Gatekeeper {
    /// Starts it with rules about `files`, its own files below `directory`, and waits until it is ready.
    ///
    /// # Errors
    /// It does not start; what it said is in the message.
    pub(crate) fn start(directory: &Path, files: &Files) -> Result<Self> {
        let program = directory.join("gatekeeper");
        let configuration = directory.join("gatekeeper.toml");
        fs::write(&configuration, text(directory, files)).context("cannot write the configuration")?;
        let said = directory.join("daemon.log");
        let output = File::options().append(true).create(true).open(&said).context("cannot make the daemon's log")?;
        let ready = Readiness::new(directory).context("cannot make a socket")?;
        let mut daemon = Command::new(&program);
        ready.ask(&mut daemon);
        let mut daemon = daemon
            .arg("daemon")
            .arg("--config")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("cannot share a file")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}", program.display()))?;
        // No limit of time: it leaps whenever the guest waits for its host.
        let start = ready.wait(&mut daemon, None).context("cannot hear whether the daemon is ready");
        let started = Self {
            program,
            daemon,
            socket: directory.join("run/control.sock"),
            log: directory.join("state/log"),
            said,
        };
        match start? {
            Start::Ready => Ok(started),
            Start::Ended(status) => bail!("the daemon ended with {status}:\n{}", started.said()),
            Start::Silent => bail!("the daemon did not become ready:\n{}", started.said()),
        }
    }

    /// What the daemon has written.
    fn said(&self) -> String {
        let mut text = String::new();
        // Only more detail for a message.
        let _ = File::open(&self.said).and_then(|mut file| file.read_to_string(&mut text));
        text
    }

    /// What the daemon has written, and the latest records of its log: what to look at after a failure.
    pub(crate) fn account(&self) -> String {
        let log = Command::new(&self.program).args(["log", "--last", LATEST, "--directory"]).arg(&self.log).output();
        let latest = log.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        format!("the daemon wrote:\n{}\nthe latest records are:\n{latest}what failed", self.said())
    }

    /// A command that runs `program` as the agent; arguments follow.
    pub(crate) fn agent(&self, program: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--socket").arg(&self.socket).args(["run", "--agent", AGENT, "--"]).arg(program);
        command
    }

    /// Removes gatekeeper from the kernel and ends the daemon.
    ///
    /// # Errors
    /// Something stays.
    pub(crate) fn detach(mut self) -> Result<()> {
        let output = Command::new(&self.program)
            .arg("--socket")
            .arg(&self.socket)
            .arg("detach")
            .output()
            .context("cannot run gatekeeper")?;
        ensure!(output.status.success(), "detach failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let status = self.daemon.wait().context("cannot wait for the daemon")?;
        ensure!(status.success(), "the daemon ended with {status}:\n{}", self.said());
        Ok(())
    }
}

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        // After an error; else it has ended.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The first rule allows, which the kernel side cannot tell: it compares the beginning of a path, and that is the second
/// rule's too. The third makes each exec be compared with a path.
fn text(directory: &Path, files: &Files) -> String {
    let quoted = |path: &Path| format!("{:?}", path.to_string_lossy());
    let by_rule = files.by_rule.with_file_name("by-r*le");
    let asked = files.by_rule.with_file_name("**");
    format!(
        r#"[paths]
state = {state}
runtime = {runtime}
bpf = "/sys/fs/bpf/gatekeeper-bench"

[[agent]]
name = "{AGENT}"

[[rule]]
name = "by-rule"
action = "open"
path = {by_rule}
verdict = "allow"

[[rule]]
name = "by-reviewer"
action = "open"
path = {asked}
verdict = "ask"

[[rule]]
name = "programs"
action = "exec"
path = "/usr/local/guarded/**"
verdict = "ask"
"#,
        state = quoted(&directory.join("state")),
        runtime = quoted(&directory.join("run")),
        by_rule = quoted(&by_rule),
        asked = quoted(&asked),
    )
}
