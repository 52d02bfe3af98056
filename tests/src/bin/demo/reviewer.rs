//! Who decides: the person at the terminal, or the demo itself; both through `gatekeeper approve` and `deny`.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::say;
use crate::stage::Stage;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Approve,
    Deny,
    LetExpire,
}

impl Choice {
    /// The state that the request must end in.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::Approve => "released",
            Self::Deny => "denied",
            Self::LetExpire => "timed_out",
        }
    }
}

/// Whether a person decides.
pub(crate) fn is_person() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Decides about a request, as `scripted` says if nobody is there, and carries it out.
///
/// # Errors
/// The CLI fails, though the request waits.
pub(crate) fn review(stage: &Stage, request: &Value, scripted: Choice) -> Result<Choice> {
    let id = request["id"].as_str().context("a request without an id")?;
    let deadline = request["deadline_ms"].as_u64().context("a request without a deadline")?;
    let choice = if is_person() { ask(deadline)? } else { scripted };
    let arguments: &[&str] = match choice {
        Choice::Approve => &["approve", id, "--reason", "looks right"],
        Choice::Deny => &["deny", id, "--reason", "not by an agent"],
        Choice::LetExpire => {
            say(&format!("  nobody decides; it expires in {} s", left(deadline).as_secs() + 1));
            return Ok(choice);
        }
    };
    let quoted = arguments.iter().map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() });
    say(&format!("  $ gatekeeper {}", quoted.collect::<Vec<_>>().join(" ")));
    let output = stage.gatekeeper(arguments)?;
    for line in String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines() {
        say(&format!("  {line}"));
    }
    // The deadline can pass between the key and the command.
    Ok(if output.status.success() { choice } else { Choice::LetExpire })
}

fn left(deadline_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(deadline_ms).saturating_sub(now)
}

/// Asks the person until there is an answer or the request has expired.
fn ask(deadline_ms: u64) -> Result<Choice> {
    loop {
        print(&format!(
            "  You decide ({} s left): a = approve, d = deny, x = let it expire: ",
            left(deadline_ms).as_secs()
        ));
        let left = left(deadline_ms);
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let input = io::stdin();
        if poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&timeout)).context("cannot wait for a key")? == 0 {
            say("\n  too late: it expires");
            return Ok(Choice::LetExpire);
        }
        let mut line = String::new();
        if input.read_line(&mut line).context("cannot read your answer")? == 0 {
            say("");
            return Ok(Choice::LetExpire);
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "a" | "approve" => return Ok(Choice::Approve),
            "d" | "deny" => return Ok(Choice::Deny),
            "x" => return Ok(Choice::LetExpire),
            _ => {}
        }
    }
}

fn print(text: &str) {
    let mut output = io::stdout().lock();
    // A reader that has gone away misses nothing.
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
