//! `gatekeeper-demo`: the main job with real programs on this kernel. Run by `cargo xtask demo`, as root.
//!
//! An agent of bash, git, Python and Node works untouched; then running a guarded tool, writing a guarded file and
//! binding a guarded port wait. The demo checks all that it tells, and fails if anything comes out otherwise.

mod matrix;
mod reviewer;
mod stage;

use std::fs;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use serde_json::Value;

use crate::reviewer::Choice;
use crate::stage::{Deadlines, Stage};

const HARMLESS: &str = r#"
set -e
git init -q . && echo "print(sum(range(10)))" > sum.py && git add sum.py
git -c user.name=Agent -c user.email=agent@localhost commit -q -m "First" && echo "git: $(git log --oneline | wc -l) commit"
echo "python: $(python3 sum.py)"
echo "node: $(node -p '[3, 1, 2].sort().join()')"
"#;

const WRITER: &str = r#"
import errno, os, sys
print("python: process", os.getpid(), "opens the file", flush=True)
try:
    with open(sys.argv[1], "a") as file:
        file.write("limit = 1000000\n")
    print("python: process", os.getpid(), "wrote it")
except OSError as error:
    print("python: process", os.getpid(), "gets", errno.errorcode[error.errno])
"#;

const SERVER: &str = r#"
console.log(`node: process ${process.pid} binds port 8443`)
const server = require("net").createServer()
server.on("error", error => console.log(`node: process ${process.pid} gets ${error.code}`))
server.listen(8443, "127.0.0.1", () => { console.log(`node: process ${process.pid} listens`); server.close() })
"#;

/// How many checks held, and how many did not.
#[derive(Default)]
struct Findings {
    held: usize,
    failed: usize,
}

impl Findings {
    fn note(&mut self, holds: bool, what: impl AsRef<str>) {
        *(if holds { &mut self.held } else { &mut self.failed }) += 1;
        say(&format!("  {} {}", if holds { "ok:" } else { "NOT TRUE:" }, what.as_ref()));
    }

    /// Says how it went: whether all held.
    fn conclude(self) -> bool {
        let Self { held, failed } = self;
        if failed == 0 {
            say(&format!("\nAll {held} checks hold: everything came out as told."));
        } else {
            say(&format!("\n{failed} of {} checks failed.", held + failed));
        }
        failed == 0
    }
}

/// The main job of gatekeeper, with real programs on this kernel.
#[derive(Debug, Parser)]
struct Arguments {
    /// Ask through this channel instead of the terminal.
    #[arg(long, value_enum)]
    channel: Option<Channel>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Channel {
    /// A room on a real Matrix server.
    Matrix,
}

fn main() -> ExitCode {
    let Arguments { channel } = Arguments::parse();
    let played = match channel {
        None => play(),
        Some(Channel::Matrix) => matrix::play(),
    };
    match played {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("gatekeeper-demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Writes a line of the story.
pub(crate) fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    // A reader that has gone away misses nothing; the checks go on.
    let _ = writeln!(output, "{text}");
}

/// The whole demo; false when something came out otherwise than told.
fn play() -> Result<bool> {
    let person = reviewer::is_person();
    let deadlines = Deadlines { decided: 60, expiring: if person { 20 } else { 3 } };
    let kernel = rustix::system::uname();
    say(&format!("gatekeeper demo on kernel {}", kernel.release().to_string_lossy()));
    say(if person {
        "You are the reviewer."
    } else {
        "There is no terminal, so the demo is the reviewer, through the same commands that you would type."
    });
    let stage = Stage::set(deadlines, |_| Ok(String::new()))?;
    say("\nThe daemon runs, has proved that this kernel enforces, and asks about three things:");
    let below = |name: &str| format!("{}/{name}/**", stage.path().display());
    let port = "port 8443".to_owned();
    for (action, what, seconds) in [
        ("exec", below("tools"), deadlines.decided),
        ("write", below("config"), deadlines.decided),
        ("bind", port, deadlines.expiring),
    ] {
        say(&format!("  {action:<6} {what:<28} has {seconds} s to be decided"));
    }
    let mut findings = Findings::default();
    harmless(&stage, &mut findings)?;
    run_tool(&stage, &mut findings)?;
    write_file(&stage, &mut findings)?;
    bind_port(&stage, &mut findings)?;
    log(&stage, &mut findings)?;
    stage.strike()?;

    Ok(findings.conclude())
}

fn harmless(stage: &Stage, findings: &mut Findings) -> Result<()> {
    say("\n1. Harmless work of the agent: no rule is about it, so nothing waits.");
    let began = Instant::now();
    let (success, lines) = stage.agent(&["bash", "-c", HARMLESS], "tidy up the project")?.finish()?;
    say(&format!("  done in {:.1} s", began.elapsed().as_secs_f32()));
    let expected = ["git: 1 commit", "python: 45", "node: 1,2,3"];
    findings.note(success && lines == expected, "git, Python and Node work as ever inside the agent");
    findings.note(stage.records(&["hold"])? == 0, "nothing of that waited");
    Ok(())
}

fn run_tool(stage: &Stage, findings: &mut Findings) -> Result<()> {
    say("\n2. The agent, a shell, becomes a guarded tool (exec):");
    let tool = stage.path().join("tools/deploy").display().to_string();
    let script = format!("echo \"bash: process $$ runs the tool\"; exec {tool} staging");
    let agent = stage.agent(&["bash", "-c", &script], "put the fix on staging")?;
    let (pid, request) = (agent.pid(), stage.request(agent.pid(), |state| state == "pending")?);
    tell_stopped(pid, &request, findings);
    show_card(stage, &request)?;
    let choice = reviewer::review(stage, &request, Choice::Approve)?;
    let (success, lines) = agent.finish()?;
    let goes_on = lines.iter().any(|line| *line == format!("deploy: process {pid} deploys to staging"));
    conclude(stage, pid, choice, findings)?;
    match choice {
        Choice::Approve => {
            findings.note(success && goes_on, format!("approved: the tool ran as process {pid}, like the shell before"))
        }
        _ => findings.note(!success && !goes_on, "not approved: the tool did not run"),
    }
    Ok(())
}

fn write_file(stage: &Stage, findings: &mut Findings) -> Result<()> {
    say("\n3. The agent, a Python program, opens a guarded file for writing:");
    let file = stage.path().join("config/payments.conf");
    let before = fs::read_to_string(&file).context("cannot read the guarded file")?;
    let agent = stage.agent(&["python3", "-c", WRITER, &file.display().to_string()], "raise a limit")?;
    let (pid, request) = (agent.pid(), stage.request(agent.pid(), |state| state == "pending")?);
    tell_stopped(pid, &request, findings);
    let choice = reviewer::review(stage, &request, Choice::Deny)?;
    let (_, lines) = agent.finish()?;
    conclude(stage, pid, choice, findings)?;
    let after = fs::read_to_string(&file).context("cannot read the guarded file")?;
    match choice {
        Choice::Approve => {
            findings.note(
                said(&lines, &format!("python: process {pid} wrote it")) && after != before,
                "approved: the file was written",
            );
        }
        _ => {
            findings.note(
                said(&lines, &format!("python: process {pid} gets EPERM")),
                format!("not approved: process {pid} saw EPERM"),
            );
            findings.note(after == before, "the guarded file is as it was");
        }
    }
    let holds = stage.records(&["hold"])?;
    fs::write(&file, format!("{after}# by an operator\n")).context("the demo itself cannot write the guarded file")?;
    findings.note(stage.records(&["hold"])? == holds, "the demo itself, no agent, writes the same file without a wait");
    Ok(())
}

fn bind_port(stage: &Stage, findings: &mut Findings) -> Result<()> {
    say("\n4. The agent, a Node program, binds a guarded port:");
    let agent = stage.agent(&["node", "-e", SERVER], "serve a preview")?;
    let (pid, request) = (agent.pid(), stage.request(agent.pid(), |state| state == "pending")?);
    tell_stopped(pid, &request, findings);
    let choice = reviewer::review(stage, &request, Choice::LetExpire)?;
    let (_, lines) = agent.finish()?;
    conclude(stage, pid, choice, findings)?;
    match choice {
        Choice::Approve => {
            findings.note(said(&lines, &format!("node: process {pid} listens")), "approved: Node listens")
        }
        _ => findings.note(
            said(&lines, &format!("node: process {pid} gets EPERM")),
            format!("{}: process {pid} saw EPERM", if choice == Choice::Deny { "denied" } else { "expired" }),
        ),
    }
    Ok(())
}

fn said(lines: &[String], line: &str) -> bool {
    lines.iter().any(|found| found == line)
}

/// Says what waits, and that its process is stopped.
fn tell_stopped(pid: u32, request: &Value, findings: &mut Findings) {
    let id = request["id"].as_str().unwrap_or_default();
    let rule = request["ask"]["rule"].as_str().unwrap_or_default();
    let stopped = wait_until_stopped(pid, request["task"]["tid"].as_u64().unwrap_or_default());
    say(&format!("  Request {id} by rule \"{rule}\": process {pid} waits inside its system call."));
    findings.note(stopped, format!("process {pid} stopped while request {id} waited"));
}

/// The request comes a moment before the stop.
fn wait_until_stopped(pid: u32, tid: u64) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or_default();
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't'])) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// The whole of a request, as reviewers see it.
fn show_card(stage: &Stage, request: &Value) -> Result<()> {
    let id = request["id"].as_str().unwrap_or_default();
    say(&format!("  $ gatekeeper show {id}"));
    let output = stage.gatekeeper(&["show", id])?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        say(&format!("  {line}"));
    }
    Ok(())
}

/// Waits until the request has ended, and checks how.
fn conclude(stage: &Stage, pid: u32, choice: Choice, findings: &mut Findings) -> Result<()> {
    let ended = stage.request(pid, |state| !matches!(state, "pending" | "decided"))?;
    let (id, state) = (ended["id"].as_str().unwrap_or_default(), ended["state"].as_str().unwrap_or_default());
    findings.note(state == choice.state(), format!("request {id} ended as {}", state.replace('_', " ")));
    Ok(())
}

fn log(stage: &Stage, findings: &mut Findings) -> Result<()> {
    say("\nThe provenance log:\n");
    say("  $ gatekeeper log");
    for line in stage.log(&[])?.lines() {
        say(&format!("  {line}"));
    }
    let kinds: [&[&str]; 4] = [&["hold"], &["decision", "expiry"], &["verdict"], &["release"]];
    let counts = kinds.iter().map(|kinds| stage.records(kinds)).collect::<Result<Vec<_>>>()?;
    let whole = counts == [3; 4];
    findings.note(whole, "the log has all three holds, with decision or expiry, verdict and release");
    Ok(())
}
