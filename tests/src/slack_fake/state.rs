//! What the fake knows.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::people;

/// The workspace.
pub const TEAM: &str = "T1";
/// The app.
pub const APP: &str = "A1";
/// The app's bot, as a user and as a bot.
pub const BOT_USER: &str = "U0BOT";
/// The app's bot, as a bot.
pub const BOT: &str = "B0BOT";
/// The app-level token that it starts with.
pub const APP_TOKEN: &str = "xapp-1-A1-fake";
/// The bot token that it starts with.
pub const BOT_TOKEN: &str = "xoxb-1-fake";

/// A token.
#[derive(Clone, Debug)]
pub struct Token {
    /// App-level, or a bot's.
    pub is_app: bool,
    /// It was revoked.
    pub is_revoked: bool,
    /// What it may do.
    pub scopes: Vec<String>,
}

/// A conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// Whether the bot is in it.
    pub has_bot: bool,
    /// Whether the bot can see that it exists.
    pub is_visible: bool,
    /// Whether it is archived.
    pub is_archived: bool,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where.
    pub channel: String,
    /// When, which is also its name.
    pub ts: String,
    /// In which thread.
    pub thread_ts: Option<String>,
    /// Whose.
    pub user: String,
    /// By which bot.
    pub bot: Option<String>,
    /// Its text.
    pub text: String,
    /// Its blocks.
    pub blocks: Value,
    /// Blocks it had before.
    pub earlier: Vec<Value>,
    /// Its metadata.
    pub metadata: Value,
    /// Who alone can see it.
    pub only_for: Option<String>,
}

/// How calls of one method go wrong on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the connection ends before the answer.
    LoseAnswer,
    /// Nothing is done; this HTTP status.
    Status(u16),
    /// Nothing is done; this error.
    Error(String),
    /// Nothing is done; too many calls, and this many seconds to wait.
    Limited(u64),
}

/// A rate that is kept.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Calls within the time.
    pub calls: usize,
    /// The time.
    pub per: Duration,
    /// When calls were made.
    pub made: Vec<Instant>,
}

/// What a socket is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Send a text.
    Send(String),
    /// End.
    Close,
    /// Stay open and do nothing, as if the network in between had forgotten it.
    Freeze,
}

/// One socket.
#[derive(Debug)]
pub struct Socket {
    pub(crate) orders: UnboundedSender<Order>,
}

/// What the fake knows.
#[derive(Debug)]
pub struct State {
    /// All that was seen, the oldest first.
    pub log: Vec<Value>,
    /// By token.
    pub tokens: HashMap<String, Token>,
    /// By id.
    pub conversations: HashMap<String, Conversation>,
    /// User objects by id.
    pub users: HashMap<String, Value>,
    /// The oldest first.
    pub messages: Vec<Message>,
    /// Views with who looks at them, the oldest first.
    pub views: Vec<(String, Value)>,
    /// Open sockets by number.
    pub sockets: BTreeMap<u64, Socket>,
    /// Tickets for sockets that were not used yet.
    pub(crate) tickets: Vec<String>,
    /// Triggers that were not used yet, with their users and when they end.
    pub(crate) triggers: HashMap<String, (String, Instant)>,
    /// Envelopes that were acknowledged.
    pub(crate) acknowledged: Vec<String>,
    /// What goes wrong next, by method.
    pub(crate) faults: HashMap<String, Vec<Fault>>,
    /// By method.
    pub(crate) rates: HashMap<String, Rate>,
    /// How many of the next envelopes are delivered twice.
    pub(crate) duplicates: u64,
    /// By how many seconds Slack's clock is ahead of this host's.
    pub(crate) skew: i64,
    /// How many names were made.
    names: u64,
    last_micros: i64,
    /// The socket that got the last envelope.
    pub(crate) last_socket: u64,
}

impl Default for State {
    fn default() -> Self {
        let scopes = |scopes: &[&str]| scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let app = Token { is_app: true, is_revoked: false, scopes: scopes(&["connections:write"]) };
        let bot = Token {
            is_app: false,
            is_revoked: false,
            scopes: scopes(&["chat:write", "users:read", "channels:history", "groups:history"]),
        };
        let conversation = Conversation { has_bot: true, is_visible: true, is_archived: false };
        let users = [people::user("U1", "member"), people::user(BOT_USER, "bot")].into_iter().flatten();
        Self {
            log: Vec::new(),
            tokens: HashMap::from([(APP_TOKEN.to_owned(), app), (BOT_TOKEN.to_owned(), bot)]),
            conversations: HashMap::from([("C1".to_owned(), conversation)]),
            users: users.map(|user| (user["id"].as_str().unwrap_or_default().to_owned(), user)).collect(),
            messages: Vec::new(),
            views: Vec::new(),
            sockets: BTreeMap::new(),
            tickets: Vec::new(),
            triggers: HashMap::new(),
            acknowledged: Vec::new(),
            faults: HashMap::new(),
            rates: HashMap::new(),
            duplicates: 0,
            skew: 0,
            names: 0,
            last_micros: 0,
            last_socket: 0,
        }
    }
}

impl State {
    /// A name that was not given before.
    pub(crate) fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// A number that was not given before.
    pub(crate) fn number(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// A timestamp by Slack's clock, different from all before.
    pub(crate) fn timestamp(&mut self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_micros()).unwrap_or(i64::MAX) + self.skew * 1_000_000;
        self.last_micros = now.max(self.last_micros + 1);
        format!("{}.{:06}", self.last_micros / 1_000_000, self.last_micros % 1_000_000)
    }

    /// Sets Slack's clock. Timestamps begin anew there.
    pub(crate) fn set_skew(&mut self, seconds: i64) {
        self.skew = seconds;
        self.last_micros = 0;
    }

    /// The message of this name.
    pub fn message(&self, channel: &str, ts: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.channel == channel && message.ts == ts)
    }

    /// Messages of the conversation that everybody sees, outside of threads.
    pub fn cards(&self) -> Vec<&Message> {
        self.messages.iter().filter(|message| message.thread_ts.is_none() && message.only_for.is_none()).collect()
    }

    /// Messages in a thread.
    pub fn thread(&self, ts: &str) -> Vec<&Message> {
        let inside = |message: &&Message| message.thread_ts.as_deref() == Some(ts) && message.only_for.is_none();
        self.messages.iter().filter(inside).collect()
    }

    /// What one person alone was told.
    pub fn told(&self, user: &str) -> Vec<&str> {
        let told = self.messages.iter().filter(|message| message.only_for.as_deref() == Some(user));
        told.map(|message| message.text.as_str()).collect()
    }
}

impl Message {
    /// The message as an API answer has it.
    pub(crate) fn to_json(&self, with_metadata: bool) -> Value {
        let Self { channel: _, ts, thread_ts, user, bot, text, blocks, earlier: _, metadata, only_for: _ } = self;
        let mut json = json!({ "type": "message", "ts": ts, "user": user, "text": text, "team": TEAM });
        if let Some(thread_ts) = thread_ts {
            json["thread_ts"] = json!(thread_ts);
        }
        if let Some(bot) = bot {
            json["bot_id"] = json!(bot);
            json["app_id"] = json!(APP);
        }
        if !blocks.is_null() {
            json["blocks"] = blocks.clone();
        }
        if with_metadata && !metadata.is_null() {
            json["metadata"] = metadata.clone();
        }
        json
    }
}
