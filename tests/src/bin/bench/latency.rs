//! How long people wait for a card, and the held action for a click: through Slack's fake, and a real Matrix server.
//!
//! In milliseconds of the guest's `CLOCK_BOOTTIME`, which the daemon's records have, too. Both ends are taken where they
//! are later than what is asked for, so nothing comes out too good: a card counts as posted when the daemon knows that the
//! server has it, a verdict as stored when the kernel has said that it was applied.

use std::{
    fmt::Write as _,
    fs, io,
    net::SocketAddrV4,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use gatekeeper_tests::{
    Agent, Daemon, Synapse,
    slack_fake::{Fake, Times, state},
    synapse::User,
    wait_until,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};

use crate::{relay, stats::Summary};

/// The longest that a card may take after the hold, and a verdict after the click, in microseconds.
const GOALS: [u64; 2] = [1_000_000, 100_000];
/// What is measured.
const NAMES: [&str; 2] = ["card posted after the hold", "verdict stored after the click"];
/// Rounds that do not count: connections are made, programs are read.
const WARM_UP: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Flags {
    /// The Matrix server, which is another machine's.
    #[arg(long, value_name = "ADDRESS:PORT")]
    matrix: SocketAddrV4,
    /// Rounds on each channel.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(5..))]
    rounds: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// A channel, and somebody who clicks there.
trait Chat {
    const NAME: &'static str;

    /// The account of the reviewer and the channel, as the configuration has them. Secrets go into the directory.
    fn configuration(&self, directory: &Path) -> Result<(String, String)>;

    /// Finds the card of a request.
    fn find(&self, request: &str) -> Result<String>;

    /// Clicks on it.
    fn approve(&self, card: &str) -> Result<()>;

    /// Waits until the card of a request shows that it went on: all is sent.
    fn wait_for_end(&self, request: &str);
}

/// What a card shows in its end.
const APPROVED: &str = "approved by reviewer";

/// What was measured on one channel.
struct Row {
    channel: &'static str,
    name: &'static str,
    summary: Summary,
    goal: u64,
}

impl Row {
    fn met(&self) -> bool {
        self.summary.p90 <= self.goal
    }
}

/// Measures both channels; false when a goal is missed.
///
/// # Errors
/// Something does not work.
pub(crate) fn run(flags: &Flags) -> Result<bool> {
    let rounds = usize::from(flags.rounds);
    let mut rows = measure(&Slack::start()?, rounds)?;
    // The daemon sends no token in the clear but to loopback.
    relay::listen(flags.matrix)?;
    let server = Synapse::at(flags.matrix.port());
    rows.extend(measure(&Matrix::start(&server), rounds)?);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    if flags.json {
        let of = |row: &Row| {
            let Summary { least, median, p90, most, samples } = row.summary;
            json!({
                "channel": row.channel, "what": row.name, "min": least, "median": median, "p90": p90, "max": most,
                "samples": samples, "limit": row.goal, "met": row.met(),
            })
        };
        let report =
            json!({ "unit": "microseconds", "kernel": kernel, "rows": rows.iter().map(of).collect::<Vec<_>>() });
        crate::println(&serde_json::to_string_pretty(&report).context("the report has no JSON form")?)?;
    } else {
        crate::println(&text(&rows, &kernel))?;
    }
    Ok(rows.iter().all(Row::met))
}

/// Runs a Matrix server until standard input ends, and says on which port of loopback.
///
/// # Errors
/// Nobody reads that.
pub(crate) fn serve() -> Result<()> {
    let server = Synapse::start();
    crate::println(&Synapse::address().port().to_string())?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("cannot read standard input")?;
    drop(server);
    Ok(())
}

fn text(rows: &[Row], kernel: &str) -> String {
    let mut text = format!("\nMilliseconds in an emulated machine, on loopback; kernel {kernel}\n\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<8} {:<31} {:>9} {:>9} {:>9}  goal (p90)", "channel", "what", "median", "p90", "most");
    for row in rows {
        let Summary { median, p90, most, .. } = row.summary;
        let [median, p90, most, goal] = [median, p90, most, row.goal].map(milliseconds);
        let verdict = if row.met() { "met" } else { "MISSED" };
        let _ = writeln!(
            text,
            "{:<8} {:<31} {median:>9} {p90:>9} {most:>9}  {verdict} (at most {goal})",
            row.channel, row.name
        );
    }
    text.truncate(text.trim_end().len());
    text
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1_000, microseconds % 1_000 / 100)
}

/// Rounds on one channel: an agent opens a file, and somebody clicks on the card.
fn measure<C: Chat>(chat: &C, rounds: usize) -> Result<Vec<Row>> {
    let directory = tempfile::tempdir_in("/run").context("cannot make a directory in memory")?;
    let file = directory.path().join("file");
    fs::write(&file, "text\n").context("cannot write a file")?;
    let file = file.to_str().context("a path that is no text")?;
    let (account, channel) = chat.configuration(directory.path())?;
    let mut daemon = Daemon::start(&format!(
        r#"
[[agent]]
name = "bench"

[[reviewer]]
name = "reviewer"
{account}

[[rule]]
name = "file"
action = "open"
path = "{file}"
verdict = "ask"

{channel}
"#
    ));
    let mut agent = Agent::start(&daemon, "bench");
    let mut clicks = Vec::new();
    for _ in 0..rounds + WARM_UP {
        agent.begin(&["open", file, "rdwr"]);
        let request = daemon.request_of(agent.pid());
        let id = request["id"].as_str().context("a request without an id")?.to_owned();
        // Cheaper than anything that asks the server or the log, which would be measured, too.
        wait_until("the card is posted", || (daemon.status()["channels"][0]["shown"] == 1).then_some(()));
        let card = chat.find(&id)?;
        let clicked = now_ns();
        chat.approve(&card)?;
        ensure!(agent.finish() == "ok", "the agent could not open its file");
        // What is left of one round must not be measured in the next.
        chat.wait_for_end(&id);
        clicks.push((id, clicked));
    }
    let log = daemon.log();
    let mut samples = [Vec::new(), Vec::new()];
    for (id, clicked) in clicks.split_off(WARM_UP) {
        let record = |kind: &str| {
            let found = log.iter().rfind(|record| record["type"] == kind && record["id"] == id.as_str());
            found.with_context(|| format!("{id} has no record {kind}"))
        };
        let held = record("hold")?["since_ns"].as_u64().context("a hold without its beginning")?;
        samples[0].push(boot_ns(record("card")?)?.saturating_sub(held) / 1_000);
        samples[1].push(boot_ns(record("release")?)?.saturating_sub(clicked) / 1_000);
    }
    agent.kill();
    daemon.detach();
    let rows = NAMES.into_iter().zip(GOALS).zip(samples).map(|((name, goal), samples)| {
        let summary = Summary::of(&samples).context("no samples")?;
        Ok(Row { channel: C::NAME, name, summary, goal })
    });
    rows.collect()
}

fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// When a record was written.
fn boot_ns(record: &Value) -> Result<u64> {
    record["boot_ns"].as_u64().with_context(|| format!("a record without a time: {record}"))
}

fn secret(directory: &Path, name: &str, secret: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, secret).context("cannot write a secret")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("cannot protect a secret")?;
    Ok(path)
}

struct Slack {
    fake: Fake,
    runtime: Handle,
    /// The runtime's thread ends with this.
    _running: oneshot::Sender<()>,
}

impl Slack {
    fn start() -> Result<Self> {
        let (running, ended) = oneshot::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let fake = runtime.block_on(Fake::start(Times::default()))?;
            ready.send((fake, runtime.handle().clone()))?;
            // Nothing is ever sent.
            let _ = runtime.block_on(ended);
            Ok(())
        });
        let (fake, runtime) = is_ready.recv().context("the fake of Slack does not start")?;
        Ok(Self { fake, runtime, _running: running })
    }
}

impl Chat for Slack {
    const NAME: &'static str = "slack";

    fn configuration(&self, directory: &Path) -> Result<(String, String)> {
        let app = secret(directory, "app", state::APP_TOKEN)?;
        let bot = secret(directory, "bot", state::BOT_TOKEN)?;
        let channel = format!(
            "[[channel]]\nname = \"chat\"\ntype = \"slack\"\napi = \"{}\"\nworkspace = \"T1\"\nconversation = \"C1\"\n\
             app_token = \"{}\"\nbot_token = \"{}\"\n",
            self.fake.api().trim_end_matches('/'),
            app.display(),
            bot.display(),
        );
        Ok(("slack = \"T1/U1\"".to_owned(), channel))
    }

    fn find(&self, request: &str) -> Result<String> {
        let ts = self.fake.look(|state| {
            let card = state.cards().into_iter().find(|card| card.blocks.to_string().contains(request));
            card.map(|card| card.ts.clone())
        });
        ts.context("a card that is not there")
    }

    fn approve(&self, card: &str) -> Result<()> {
        let _inside = self.runtime.enter();
        let click = json!({ "do": "click", "user": "U1", "action": "approve", "ts": card });
        self.fake.command(&click).map(drop).map_err(anyhow::Error::msg)
    }

    fn wait_for_end(&self, request: &str) {
        wait_until("the card shows the end", || {
            self.fake.look(|state| {
                let shown = state.cards().into_iter().map(|card| card.blocks.to_string());
                shown.into_iter().any(|text| text.contains(request) && text.contains(APPROVED)).then_some(())
            })
        });
    }
}

struct Matrix {
    bot: User,
    reviewer: User,
    room: String,
}

impl Matrix {
    fn start(server: &Synapse) -> Self {
        let [bot, reviewer] = ["bot", "reviewer"].map(|name| server.user(name));
        let room = reviewer.room(&[&bot]);
        Self { bot, reviewer, room }
    }
}

impl Chat for Matrix {
    const NAME: &'static str = "matrix";

    fn configuration(&self, directory: &Path) -> Result<(String, String)> {
        let channel = format!(
            "[[channel]]\nname = \"room\"\ntype = \"matrix\"\nhomeserver = \"{}\"\nroom = \"{}\"\ntoken = \"{}\"\n",
            Synapse::url(),
            self.room,
            secret(directory, "token", &self.bot.token)?.display(),
        );
        Ok((format!("matrix = \"{}\"", self.reviewer.id), channel))
    }

    fn find(&self, request: &str) -> Result<String> {
        let card = self.reviewer.cards(&self.room, request).pop().context("a card that is not there")?;
        let card = card["event_id"].as_str().context("a card without an id")?;
        Ok(card.to_owned())
    }

    fn approve(&self, card: &str) -> Result<()> {
        self.reviewer.react(&self.room, card, "✅");
        Ok(())
    }

    fn wait_for_end(&self, request: &str) {
        self.reviewer.wait_for_text(&self.room, request, APPROVED);
    }
}
