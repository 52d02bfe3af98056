//! The methods of the Web API that gatekeeper uses.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::{
    Shared, blocks, refusal,
    state::{APP, BOT, BOT_USER, Message, State, TEAM},
};

/// Sockets that one app may have.
const SOCKETS: usize = 10;
/// Longest text of a post and of an update, in characters.
const POST_TEXT: usize = 40_000;
const UPDATE_TEXT: usize = 4_000;
/// Longest metadata, in bytes of its JSON. Not documented as a number; small on purpose.
const METADATA: usize = 8_000;

/// What a method wants.
pub(super) struct Needs {
    pub(super) app_token: bool,
    /// One of these.
    pub(super) scopes: &'static [&'static str],
    pub(super) takes_json: bool,
}

/// Calls that Slack takes by method, and within how many seconds: one message a second in a conversation, else the
/// methods' tiers.
pub(super) const TIERS: [(&str, usize, u64); 8] = [
    ("apps.connections.open", 50, 60),
    ("auth.test", 100, 60),
    ("chat.postMessage", 1, 1),
    ("chat.update", 50, 60),
    ("chat.postEphemeral", 100, 60),
    ("conversations.history", 50, 60),
    ("conversations.replies", 50, 60),
    ("users.info", 100, 60),
];

/// What a method wants, if there is such a method.
pub(super) fn needs(method: &str) -> Option<Needs> {
    let (app_token, scopes, takes_json): (bool, &'static [&'static str], bool) = match method {
        "apps.connections.open" => (true, &["connections:write"], false),
        "auth.test" => (false, &[], true),
        "chat.postMessage" | "chat.update" | "chat.postEphemeral" => (false, &["chat:write"], true),
        "conversations.history" | "conversations.replies" => (false, &["channels:history", "groups:history"], false),
        "users.info" => (false, &["users:read"], false),
        "views.open" => (false, &[], true),
        _ => return None,
    };
    Some(Needs { app_token, scopes, takes_json })
}

type Arguments = Map<String, Value>;
type Answered = Result<Value, Value>;

/// Carries out a call.
pub(super) fn call(shared: &Shared, state: &mut State, method: &str, arguments: &Arguments) -> Value {
    let answered = match method {
        "apps.connections.open" => open(shared, state),
        "auth.test" => Ok(json!({
            "url": "https://fake.example/", "team": "fake", "user": "gatekeeper", "team_id": TEAM, "user_id": BOT_USER,
            "bot_id": BOT, "is_enterprise_install": false,
        })),
        "chat.postMessage" => post(state, arguments),
        "chat.postEphemeral" => ephemeral(state, arguments),
        "chat.update" => update(state, arguments),
        "conversations.history" => history(state, arguments, false),
        "conversations.replies" => history(state, arguments, true),
        "users.info" => user(state, arguments),
        "views.open" => view(state, arguments),
        _ => Err(refusal("unknown_method")),
    };
    match answered {
        Ok(mut answer) => {
            answer["ok"] = json!(true);
            answer
        }
        Err(answer) => answer,
    }
}

fn text<'a>(arguments: &'a Arguments, key: &str) -> Option<&'a str> {
    arguments.get(key).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn open(shared: &Shared, state: &mut State) -> Answered {
    if state.sockets.len() >= SOCKETS {
        return Err(refusal("too_many_websockets"));
    }
    let ticket = state.name("ticket-");
    state.tickets.push(ticket.clone());
    Ok(json!({ "url": format!("ws://{}/link?ticket={ticket}&app_id={APP}", shared.address) }))
}

/// The conversation that a call is about, which the bot has to be in.
fn channel(state: &State, arguments: &Arguments) -> Result<String, Value> {
    let channel = text(arguments, "channel").ok_or_else(|| refusal("channel_not_found"))?;
    let conversation = state.conversations.get(channel).filter(|conversation| conversation.is_visible);
    let conversation = conversation.ok_or_else(|| refusal("channel_not_found"))?;
    if !conversation.has_bot {
        return Err(refusal("not_in_channel"));
    }
    Ok(channel.to_owned())
}

fn open_channel(state: &State, arguments: &Arguments) -> Result<String, Value> {
    let channel = channel(state, arguments)?;
    match state.conversations.get(&channel) {
        Some(conversation) if conversation.is_archived => Err(refusal("is_archived")),
        _ => Ok(channel),
    }
}

/// Text and blocks, both within their limits.
fn content(arguments: &Arguments, longest: usize) -> Result<(String, Value), Value> {
    let words = text(arguments, "text").unwrap_or_default();
    let shown = arguments.get("blocks").cloned().unwrap_or_default();
    if words.is_empty() && shown.is_null() {
        return Err(refusal("no_text"));
    }
    if words.chars().count() > longest {
        return Err(refusal("msg_too_long"));
    }
    if !shown.is_null()
        && let Err(blocks::Fault { error, message }) = blocks::message(&shown)
    {
        let mut refused = refusal(error);
        refused["response_metadata"] = json!({ "messages": [message] });
        return Err(refused);
    }
    Ok((words.to_owned(), shown))
}

fn metadata(arguments: &Arguments) -> Result<Value, Value> {
    let metadata = arguments.get("metadata").cloned().unwrap_or_default();
    let is_none = metadata.is_null() || metadata.as_object().is_some_and(Map::is_empty);
    let is_complete = metadata["event_type"].is_string() && metadata["event_payload"].is_object();
    if !is_none && !is_complete {
        return Err(refusal("invalid_metadata_format"));
    }
    if metadata.to_string().len() > METADATA {
        return Err(refusal("metadata_too_large"));
    }
    Ok(metadata)
}

/// The thread that a message goes to: only one whose first message is there.
fn thread(state: &State, channel: &str, arguments: &Arguments) -> Result<Option<String>, Value> {
    let Some(thread) = text(arguments, "thread_ts") else { return Ok(None) };
    match state.message(channel, thread) {
        Some(message) if message.thread_ts.is_none() && message.only_for.is_none() => Ok(Some(thread.to_owned())),
        _ => Err(refusal("thread_not_found")),
    }
}

fn post(state: &mut State, arguments: &Arguments) -> Answered {
    let channel = open_channel(state, arguments)?;
    let (text, blocks) = content(arguments, POST_TEXT)?;
    let metadata = metadata(arguments)?;
    let thread_ts = thread(state, &channel, arguments)?;
    let message = Message {
        channel: channel.clone(),
        ts: state.timestamp(),
        thread_ts,
        user: BOT_USER.to_owned(),
        bot: Some(BOT.to_owned()),
        text,
        blocks,
        earlier: Vec::new(),
        metadata,
        only_for: None,
    };
    let answer = json!({ "channel": channel, "ts": message.ts, "message": message.to_json(true) });
    state.messages.push(message);
    Ok(answer)
}

fn ephemeral(state: &mut State, arguments: &Arguments) -> Answered {
    let channel = open_channel(state, arguments)?;
    let (text, blocks) = content(arguments, POST_TEXT)?;
    let thread_ts = thread(state, &channel, arguments)?;
    let user = self::text(arguments, "user").filter(|user| state.users.contains_key(*user));
    let user = user.ok_or_else(|| refusal("user_not_in_channel"))?.to_owned();
    let ts = state.timestamp();
    state.messages.push(Message {
        channel,
        ts: ts.clone(),
        thread_ts,
        user: BOT_USER.to_owned(),
        bot: Some(BOT.to_owned()),
        text,
        blocks,
        earlier: Vec::new(),
        metadata: Value::Null,
        only_for: Some(user),
    });
    Ok(json!({ "message_ts": ts }))
}

fn update(state: &mut State, arguments: &Arguments) -> Answered {
    let channel = open_channel(state, arguments)?;
    let (text, blocks) = content(arguments, UPDATE_TEXT)?;
    let metadata = metadata(arguments)?;
    let ts = self::text(arguments, "ts").unwrap_or_default().to_owned();
    let found = state.messages.iter_mut().find(|message| message.channel == channel && message.ts == ts);
    let Some(message) = found.filter(|message| message.only_for.is_none()) else {
        return Err(refusal("message_not_found"));
    };
    if message.user != BOT_USER {
        return Err(refusal("cant_update_message"));
    }
    message.text = text;
    message.earlier.push(std::mem::replace(&mut message.blocks, blocks));
    // Kept unless something is given; an empty object removes it.
    if !metadata.is_null() {
        message.metadata = metadata.as_object().filter(|map| !map.is_empty()).map_or(Value::Null, |map| json!(map));
    }
    Ok(json!({ "channel": channel, "ts": ts, "text": message.text, "message": message.to_json(true) }))
}

fn history(state: &State, arguments: &Arguments, of_thread: bool) -> Answered {
    let channel = channel(state, arguments)?;
    let limit = text(arguments, "limit").map_or(Some(100), |limit| limit.parse().ok());
    let limit: usize = limit.filter(|limit| (1..=1_000).contains(limit)).ok_or_else(|| refusal("invalid_limit"))?;
    let start = match text(arguments, "cursor") {
        None => 0,
        Some(cursor) => cursor
            .strip_prefix("next:")
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| refusal("invalid_cursor"))?,
    };
    let with_metadata = text(arguments, "include_all_metadata").is_some_and(|value| matches!(value, "true" | "1"));
    let all: Vec<&Message> = if of_thread {
        let ts = text(arguments, "ts").unwrap_or_default();
        let parent = state.message(&channel, ts).ok_or_else(|| refusal("thread_not_found"))?;
        // The first message, then the others, the oldest first.
        [parent].into_iter().chain(state.thread(ts)).collect()
    } else {
        // The latest first.
        state.cards().into_iter().filter(|message| message.channel == channel).rev().collect()
    };
    let messages: Vec<_> = all.iter().skip(start).take(limit).map(|message| message.to_json(with_metadata)).collect();
    let end = start + messages.len();
    let next = if end < all.len() { format!("next:{end}") } else { String::new() };
    Ok(json!({ "messages": messages, "has_more": !next.is_empty(), "response_metadata": { "next_cursor": next } }))
}

fn user(state: &State, arguments: &Arguments) -> Answered {
    let user = text(arguments, "user").and_then(|user| state.users.get(user));
    Ok(json!({ "user": user.ok_or_else(|| refusal("user_not_found"))? }))
}

fn view(state: &mut State, arguments: &Arguments) -> Answered {
    let trigger = text(arguments, "trigger_id").ok_or_else(|| refusal("invalid_arguments"))?;
    let view = arguments.get("view").cloned().unwrap_or_default();
    if let Err(blocks::Fault { message, .. }) = blocks::modal(&view) {
        let mut refused = refusal("invalid_arguments");
        refused["response_metadata"] = json!({ "messages": [message] });
        return Err(refused);
    }
    // Good for one use.
    let (user, until) = state.triggers.remove(trigger).ok_or_else(|| refusal("exchanged_trigger_id"))?;
    if until < Instant::now() {
        return Err(refusal("expired_trigger_id"));
    }
    let id = state.name("V");
    let mut view = view;
    view["id"] = json!(id);
    view["app_id"] = json!(APP);
    view["bot_id"] = json!(BOT);
    view["team_id"] = json!(TEAM);
    let answer = json!({ "view": view });
    state.views.push((user, view));
    Ok(answer)
}

impl State {
    /// Counts a call of a method, or says how many seconds it comes too early.
    pub(super) fn too_early(&mut self, method: &str) -> Option<u64> {
        let rate = self.rates.get_mut(method)?;
        let now = Instant::now();
        rate.made.retain(|made| now.duration_since(*made) < rate.per);
        if rate.made.len() < rate.calls {
            rate.made.push(now);
            return None;
        }
        let left = rate.made.first().map_or(rate.per, |oldest| rate.per.saturating_sub(now.duration_since(*oldest)));
        // Whole seconds, as the header has them.
        Some(left.as_secs() + 1)
    }
}
