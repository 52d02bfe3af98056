//! A reviewer that is a program: it watches the control socket and approves whatever waits.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

const VERSION: u64 = 1;

/// A reviewer at work on a thread of its own.
pub(crate) struct Reviewer {
    watch: UnixStream,
    work: JoinHandle<Result<()>>,
}

impl Reviewer {
    /// Connects and begins; what waits from now on is approved.
    ///
    /// # Errors
    /// The daemon does not answer as it should.
    pub(crate) fn start(socket: &Path) -> Result<Self> {
        let connect = || UnixStream::connect(socket).with_context(|| format!("cannot reach {}", socket.display()));
        let mut watch = connect()?;
        let decide = connect()?;
        send(&mut watch, &json!("watch"))?;
        let mut changes = BufReader::new(watch.try_clone().context("cannot share a socket")?);
        // All that waits now, which is nothing, and then the changes.
        while receive(&mut changes)?.context("the daemon closed the connection")? != "current" {}
        let work = thread::spawn(move || approve_all(changes, decide));
        Ok(Self { watch, work })
    }

    /// Ends it.
    ///
    /// # Errors
    /// It met an error while it worked.
    pub(crate) fn stop(self) -> Result<()> {
        self.watch.shutdown(Shutdown::Both).context("cannot close a socket")?;
        self.work.join().map_err(|_| anyhow!("the reviewer panicked"))?
    }
}

fn approve_all(mut changes: BufReader<UnixStream>, mut decide: UnixStream) -> Result<()> {
    let mut answers = BufReader::new(decide.try_clone().context("cannot share a socket")?);
    while let Some(reply) = receive(&mut changes)? {
        let request = &reply["request"];
        if request["state"] == "pending" && request["decision"].is_null() {
            let call = json!({ "decide": { "id": request["id"], "effect": "allow", "reason": null } });
            send(&mut decide, &call)?;
            // A request is told again when its context is complete; by then it may have been decided.
            receive_any(&mut answers)?;
        }
    }
    Ok(())
}

fn send(stream: &mut UnixStream, call: &Value) -> Result<()> {
    let mut frame = json!({ "version": VERSION, "call": call }).to_string();
    frame.push('\n');
    stream.write_all(frame.as_bytes()).context("cannot write to the daemon")
}

/// The next reply; nothing at the end.
fn receive(stream: &mut BufReader<UnixStream>) -> Result<Option<Value>> {
    let Some(mut frame) = receive_any(stream)? else { return Ok(None) };
    if !frame["error"].is_null() {
        bail!("the daemon says {}", frame["error"]);
    }
    Ok(Some(frame["reply"].take()))
}

fn receive_any(stream: &mut BufReader<UnixStream>) -> Result<Option<Value>> {
    let mut line = String::new();
    if stream.read_line(&mut line).context("cannot read from the daemon")? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).context("the daemon wrote no JSON")
}
