//! The same job, decided in a room of a real Matrix server.

use std::time::Instant;

use anyhow::{Context as _, Result};
use gatekeeper_tests::{Synapse, synapse::User};
use serde_json::Value;

use crate::stage::{Deadlines, Stage};
use crate::{Findings, say, tell_stopped};

/// The whole demo; false when something came out otherwise than told.
///
/// # Errors
/// It cannot go on.
pub(crate) fn play() -> Result<bool> {
    let kernel = rustix::system::uname();
    say(&format!("gatekeeper demo on kernel {}, with a Matrix server", kernel.release().to_string_lossy()));
    say("The server (Synapse) starts; under emulation that takes up to a minute.");
    let began = Instant::now();
    let synapse = Synapse::start();
    say(&format!("  it answers after {} s, at {}", began.elapsed().as_secs(), Synapse::url()));
    let [bot, reviewer, other] = ["gatekeeper", "reviewer", "other"].map(|name| synapse.user(name));
    let room = reviewer.room(&[&bot, &other]);
    say(&format!("  in the room {room} are {}, {} and {}", bot.id, reviewer.id, other.id));
    let deadlines = Deadlines { decided: 600, expiring: 600 };
    let stage = Stage::set(deadlines, |directory| {
        let token = bot.token_file(directory);
        let (reviewer, url, token) = (&reviewer.id, Synapse::url(), token.display());
        Ok(format!(
            r#"
[[reviewer]]
name = "reviewer"
matrix = "{reviewer}"

[[channel]]
name = "room"
type = "matrix"
homeserver = "{url}"
room = "{room}"
token = "{token}"
"#
        ))
    })?;
    let mut findings = Findings::default();
    decide(&stage, &room, &reviewer, &other, &mut findings)?;
    stage.strike()?;
    drop(synapse);
    Ok(findings.conclude())
}

fn decide(stage: &Stage, room: &str, reviewer: &User, other: &User, findings: &mut Findings) -> Result<()> {
    say("\nThe agent, a shell, becomes a guarded tool (exec):");
    let tool = stage.path().join("tools/deploy").display().to_string();
    let script = format!("echo \"bash: process $$ runs the tool\"; exec {tool} staging");
    let agent = stage.agent(&["bash", "-c", &script], "put the fix on staging")?;
    let pid = agent.pid();
    let request = stage.request(pid, |state| state == "pending")?;
    let id = request["id"].as_str().context("a request without an id")?;
    tell_stopped(pid, &request, findings);
    let card = reviewer.wait_for_card(room, id);
    say("  The card in the room:");
    show(reviewer.cards(room, id).pop().as_ref());
    say(&format!("  {} reacts with ✅, and is no reviewer:", other.id));
    other.react(room, &card, "✅");
    other.wait_for_note(room, "belongs to no reviewer");
    findings.note(true, format!("{} was told that it does not count", other.id));
    say(&format!("  {} reacts with ✅:", reviewer.id));
    reviewer.react(room, &card, "✅");
    let ended = stage.request(pid, |state| !matches!(state, "pending" | "decided"))?;
    let (success, lines) = agent.finish()?;
    let goes_on = lines.iter().any(|line| *line == format!("deploy: process {pid} deploys to staging"));
    findings.note(ended["state"] == "released" && success && goes_on, format!("the tool ran as process {pid}"));
    reviewer.wait_for_text(room, id, "approved by reviewer through room");
    findings.note(true, "the card tells who decided, and that it went on");
    let by = &ended["decision"]["by"];
    let names = by["account"] == reviewer.id && by["evidence"]["message"] == card;
    findings.note(names, "the record names the person and the message");
    say("\nThe provenance log:\n");
    for line in stage.log(&[])?.lines() {
        say(&format!("  {line}"));
    }
    Ok(())
}

fn show(card: Option<&Value>) {
    let body = card.and_then(|card| card["content"]["body"].as_str()).unwrap_or_default();
    for line in body.lines() {
        say(&format!("  | {line}"));
    }
}
