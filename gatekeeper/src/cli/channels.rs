//! `gatekeeper channels`: set up and try the ways to reach reviewers, without the daemon.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::Terminal;
use crate::{
    channel::{card, slack},
    config::{Config, DEFAULT_PATH},
    daemon,
    exit::{Exit, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Post a harmless card to a channel of the configuration
    Test {
        /// Its name in the configuration
        name: String,
        /// The configuration
        #[arg(long, env = "GATEKEEPER_CONFIG", value_name = "PATH", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// Print the public key with which a receiver checks what a webhook channel sends
    Key {
        /// Its name in the configuration
        name: String,
        /// The configuration
        #[arg(long, env = "GATEKEEPER_CONFIG", value_name = "PATH", default_value = DEFAULT_PATH)]
        config: PathBuf,
    },
    /// What Slack needs
    Slack {
        #[command(subcommand)]
        command: SlackCommand,
    },
}

#[derive(Debug, clap::Subcommand)]
enum SlackCommand {
    /// Print the app manifest, to be pasted where Slack makes an app from one
    Manifest,
}

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    match arguments.command {
        Command::Test { name, config } => test(&name, &load(&config)?, terminal),
        Command::Key { name, config } => {
            let key = daemon::public_key(&load(&config)?, &name).map_err(super::daemon::failure)?;
            if terminal.output.is_json() {
                terminal.output.object(&json!({ "channel": name, "key": key }))?;
            } else {
                terminal.output.line(key)?;
            }
            Ok(Exit::Success)
        }
        Command::Slack { command: SlackCommand::Manifest } => {
            terminal.output.line(slack::manifest())?;
            Ok(Exit::Success)
        }
    }
}

fn load(path: &Path) -> Result<Config, Failure> {
    let loaded = Config::load(path, &daemon::user_id);
    loaded.map(|(config, _)| config).map_err(|err| Failure::message(Exit::Configuration, err))
}

fn test(name: &str, config: &Config, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let message = daemon::try_channel(config, name).map_err(super::daemon::failure)?;
    if terminal.output.is_json() {
        terminal.output.object(&json!({ "channel": name, "message": message }))?;
    } else {
        let message = card::safe(&message.0);
        terminal.output.line(format_args!("channel {name} works: it shows a card as message {message}"))?;
    }
    Ok(Exit::Success)
}
