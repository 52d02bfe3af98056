//! Runs the fake of Slack for whatever is not written in Rust, or runs in another process.
//!
//! The first line of its output has the address and the tokens; then follows a JSON line for each thing that it sees. Each
//! line of its input is a command (see `gatekeeper_tests::slack_fake::command`), and is answered with a line, too. It ends
//! with its input.
#![expect(clippy::print_stdout, reason = "what it prints is what it is for")]

use std::sync::Arc;

use anyhow::Context as _;
use gatekeeper_tests::slack_fake::{Fake, Times, state};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let fake = Arc::new(Fake::start(Times::default()).await.context("cannot start the fake")?);
    println!(
        "{}",
        json!({
            "saw": "start", "port": fake.port(), "api": fake.api(), "app_token": state::APP_TOKEN,
            "bot_token": state::BOT_TOKEN, "team": state::TEAM, "conversation": "C1",
        })
    );
    let seeing = fake.clone();
    tokio::spawn(async move {
        let mut from = 0;
        loop {
            for line in seeing.seen(from).await {
                println!("{line}");
                from += 1;
            }
        }
    });
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.context("cannot read a command")? {
        let answered = serde_json::from_str::<Value>(&line)
            .map_err(|err| err.to_string())
            .and_then(|command| fake.command(&command));
        println!(
            "{}",
            match answered {
                Ok(answer) => json!({ "saw": "command", "answer": answer }),
                Err(error) => json!({ "saw": "command", "error": error }),
            }
        );
    }
    Ok(())
}
