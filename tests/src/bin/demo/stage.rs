//! What the demo plays on: a directory, a configuration, a daemon, agents.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, PipeReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use gatekeeper_tests::ready::{Readiness, Start};
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes, also on an emulated processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Its own, so that a gatekeeper that runs already is left alone.
const PINS: &str = "/sys/fs/bpf/gatekeeper-demo";
const AGENT: &str = "demo";

/// Everything that is there while the demo plays.
pub(crate) struct Stage {
    directory: TempDir,
    daemon: Child,
    watch: Child,
    changes: Receiver<Value>,
}

/// How long reviewers have, in seconds: for what is to be decided, and for what is to expire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) decided: u32,
    pub(crate) expiring: u32,
}

impl Stage {
    /// Writes configuration, rules, tool and file, and starts the daemon. `more` is appended to the configuration; it gets
    /// the demo's directory.
    ///
    /// # Errors
    /// The daemon does not start; what it said is in the message.
    pub(crate) fn set(deadlines: Deadlines, more: impl FnOnce(&Path) -> Result<String>) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("demo-").tempdir_in("/run");
        let directory = directory.context("cannot make a directory below /run; the demo has to run as root")?;
        let path = directory.path();
        for name in ["project", "tools", "config"] {
            fs::create_dir(path.join(name)).with_context(|| format!("cannot make {name}"))?;
        }
        write(&path.join("gatekeeper.toml"), &(configuration(path) + &more(path)?))?;
        write(&path.join("rules.toml"), &rules(path, deadlines))?;
        write(&path.join("config/payments.conf"), "limit = 100\n")?;
        let tool = path.join("tools/deploy");
        write(&tool, "#!/bin/bash\necho \"deploy: process $$ deploys to $1\"\n")?;
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).context("cannot make the tool executable")?;

        let said = path.join("daemon.log");
        let output = File::create(&said).context("cannot make the daemon's log")?;
        let ready = Readiness::new(path).context("cannot make a socket")?;
        let mut daemon = command(path)?;
        ready.ask(&mut daemon);
        daemon.arg("daemon").arg("--config").arg(path.join("gatekeeper.toml"));
        let mut daemon =
            daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().context("no daemon")?;
        if let Err(error) = wait_until_ready(&ready, &mut daemon) {
            // It may have ended already.
            let _ = daemon.kill();
            let _ = daemon.wait();
            bail!("{error:#}\n{}", fs::read_to_string(&said).unwrap_or_default().trim_end());
        }
        let (watch, changes) = watch(path)?;
        Ok(Self { directory, daemon, watch, changes })
    }

    /// The demo's directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Runs `gatekeeper` with these arguments.
    ///
    /// # Errors
    /// It cannot be run.
    pub(crate) fn gatekeeper(&self, arguments: &[&str]) -> Result<Output> {
        command(self.path())?.args(arguments).stdin(Stdio::null()).output().context("cannot run gatekeeper")
    }

    /// The provenance log, as the CLI tells it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn log(&self, flags: &[&str]) -> Result<String> {
        let mut log = command(self.path())?;
        log.args(flags).arg("log").arg("--directory").arg(self.path().join("state/log"));
        let output = log.stdin(Stdio::null()).output().context("cannot run gatekeeper")?;
        ensure!(output.status.success(), "gatekeeper log failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        String::from_utf8(output.stdout).context("a log that is not UTF-8")
    }

    /// Starts a program as the agent, in the agent's directory. What it writes is shown line by line.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn agent(&self, program: &[&str], intent: &str) -> Result<Agent> {
        let mut run = command(self.path())?;
        // A short environment keeps the description of a request short.
        let path = std::env::var_os("PATH").unwrap_or_default();
        run.env_clear().env("PATH", path).arg("--socket").arg(self.path().join("run/control.sock"));
        run.args(["run", "--agent", AGENT, "--label", "ticket=DEMO-1", "--intent", intent, "--"]).args(program);
        let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
        let child = run
            .current_dir(self.path().join("project"))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("cannot share a pipe")?)
            .stderr(writer)
            .spawn()
            .context("cannot run gatekeeper")?;
        // The command holds ends of the pipe, too; without them the end of the agent is the end of its output.
        drop(run);
        Ok(Agent { child, output: thread::spawn(move || show(reader)) })
    }

    /// Waits for a request of this process, or for how it ends, whichever `wanted` says.
    ///
    /// # Errors
    /// It does not come.
    pub(crate) fn request(&self, pid: u32, wanted: impl Fn(&str) -> bool) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let request = self.changes.recv_timeout(left).context("the request that was expected does not come")?;
            if request["task"]["pid"] == pid && request["state"].as_str().is_some_and(&wanted) {
                return Ok(request);
            }
        }
    }

    /// How many records of these types the log has.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn records(&self, types: &[&str]) -> Result<usize> {
        let mut count = 0;
        for line in self.log(&["--json"])?.lines() {
            let record: Value = serde_json::from_str(line).context("a record that is no JSON")?;
            count += usize::from(types.iter().any(|kind| record["type"] == *kind));
        }
        Ok(count)
    }

    /// Removes everything.
    ///
    /// # Errors
    /// Something stays in the kernel.
    pub(crate) fn strike(mut self) -> Result<()> {
        let output = self.gatekeeper(&["detach"])?;
        ensure!(output.status.success(), "detach failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        let status = self.daemon.wait().context("cannot wait for the daemon")?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // They have ended, or something failed; without its pins nothing of the kernel side stays.
        for child in [&mut self.watch, &mut self.daemon] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(PINS);
    }
}

/// A program that runs as the agent.
pub(crate) struct Agent {
    child: Child,
    output: JoinHandle<Vec<String>>,
}

impl Agent {
    /// Its process id, from its first to its last program.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends: whether it says that all went well, and what it wrote.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn finish(mut self) -> Result<(bool, Vec<String>)> {
        let status = self.child.wait().context("cannot wait for the agent")?;
        let lines = self.output.join().map_err(|_| anyhow::anyhow!("the reader of the agent's output panicked"))?;
        Ok((status.success(), lines))
    }
}

/// Shows and collects what an agent writes.
fn show(pipe: PipeReader) -> Vec<String> {
    let mut lines = Vec::new();
    for line in BufReader::new(pipe).lines() {
        let Ok(line) = line else { break };
        let mut output = std::io::stdout().lock();
        // A reader that has gone away misses nothing.
        let _ = writeln!(output, "  agent | {line}");
        lines.push(line);
    }
    lines
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// `gatekeeper`, for the demo's daemon.
fn command(directory: &Path) -> Result<Command> {
    let program: PathBuf = std::env::current_exe().context("cannot find this program")?.with_file_name("gatekeeper");
    let mut command = Command::new(program);
    command.env("GATEKEEPER_SOCKET", directory.join("run/control.sock"));
    Ok(command)
}

fn wait_until_ready(ready: &Readiness, daemon: &mut Child) -> Result<()> {
    match ready.wait(daemon, Some(PATIENCE)).context("cannot hear whether the daemon is ready")? {
        Start::Ready => Ok(()),
        Start::Ended(status) => bail!("the daemon ended ({status})"),
        Start::Silent => bail!("the daemon did not become ready"),
    }
}

/// Every change of a request, from `gatekeeper pending --watch`.
fn watch(directory: &Path) -> Result<(Child, Receiver<Value>)> {
    let mut watch = command(directory)?
        .args(["--json", "pending", "--watch"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run gatekeeper")?;
    let output = watch.stdout.take().context("no output of `gatekeeper pending`")?;
    let (sender, changes) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let Ok(change) = serde_json::from_str(&line) else { continue };
            if sender.send(change).is_err() {
                break;
            }
        }
    });
    Ok((watch, changes))
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"rules = ["rules.toml"]

[paths]
state = "{directory}/state"
runtime = "{directory}/run"
bpf = "{PINS}"

[[agent]]
name = "{AGENT}"
"#
    )
}

/// The rules, which the demo shows.
pub(crate) fn rules(directory: &Path, Deadlines { decided, expiring }: Deadlines) -> String {
    let directory = directory.display();
    format!(
        r#"[[rule]]
name = "deployment"
action = "exec"
path = "{directory}/tools/**"
verdict = "ask"
deadline = "{decided}s"
risk = "high"
reason = "changes what customers see"

[[rule]]
name = "payments"
action = "write"
path = "{directory}/config/**"
verdict = "ask"
deadline = "{decided}s"

[[rule]]
name = "servers"
action = "bind"
port = 8443
verdict = "ask"
deadline = "{expiring}s"
"#
    )
}
