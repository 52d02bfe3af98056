//! What the fake is told to do, as JSON objects with a key `do`.
//!
//! | `do` | other keys | effect |
//! |---|---|---|
//! | `click` | `user`, `action`; `ts` (else the latest card), `team`, `app`, `channel`, `socket` | a click on a button, even one that an update removed |
//! | `submit` | `user`, `reason`; `view` (else the latest) | a window is filled in |
//! | `type` | `user`, `text`; `thread`, `subtype`, `bot`, `channel`, `metadata` | a message |
//! | `disconnect` | `reason`; `socket` (else all) | sockets are told that they will be closed |
//! | `close` | `socket` (else all) | sockets are closed without a word |
//! | `half_open` | `socket` (else all) | sockets stay open and do nothing any more |
//! | `revoke` | `token`: `app` or `bot` | the token is revoked |
//! | `scopes` | `scopes` | what the bot token may do |
//! | `fault` | `method`, and one of `lose`, `status`, `error`, `limited` (seconds); `times` | the next calls go wrong |
//! | `rate` | `method`, `calls`, `per_ms` | calls beyond that are answered with 429 |
//! | `tiers` | | the same for all methods, as Slack documents it |
//! | `duplicate` | `times` | the next envelopes are delivered twice |
//! | `user` | `id`, `kind` | an account is there, of a kind: `member`, `bot`, `app`, `guest`, `single_channel_guest`, `deleted`, `external`, `unconfirmed` |
//! | `conversation` | `id`, `member`, `visible`, `archived` | a conversation is there |
//! | `skew` | `seconds` | Slack's clock is ahead by so much |
//! | `messages` | | answers with all messages |

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    Shared,
    methods::TIERS,
    people, socket,
    state::{APP, APP_TOKEN, BOT_TOKEN, Conversation, Fault, Message, Order, Rate, State, TEAM},
};

type Carried = Result<Value, String>;

/// Carries out a command.
pub(super) fn carry_out(shared: &Arc<Shared>, command: &Value) -> Carried {
    let text = |key: &str| command[key].as_str();
    let need = |key: &str| text(key).ok_or_else(|| format!("{key} is missing in {command}"));
    let number = |key: &str| command[key].as_u64();
    let answer = match need("do")? {
        "click" => click(shared, command)?,
        "submit" => submit(shared, command)?,
        "type" => typed(shared, command)?,
        what @ ("disconnect" | "close" | "half_open") => {
            let all: Vec<u64> = shared.state().sockets.keys().copied().collect();
            let some = number("socket").map_or(all, |socket| vec![socket]);
            let mut hit = Vec::new();
            for socket in some {
                let done = match what {
                    "disconnect" => socket::disconnect(shared, socket, need("reason")?),
                    "close" => shared.state().order(socket, Order::Close),
                    _ => shared.state().order(socket, Order::Freeze),
                };
                if done {
                    hit.push(socket);
                }
            }
            json!({ "sockets": hit })
        }
        "revoke" => {
            let token = if need("token")? == "app" { APP_TOKEN } else { BOT_TOKEN };
            shared.state().tokens.get_mut(token).ok_or("no such token")?.is_revoked = true;
            json!({})
        }
        "scopes" => {
            let scopes = command["scopes"].as_array().ok_or("scopes must be an array")?;
            let scopes = scopes.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            shared.state().tokens.get_mut(BOT_TOKEN).ok_or("no such token")?.scopes = scopes;
            json!({})
        }
        "fault" => {
            let fault = if command["lose"] == true {
                Fault::LoseAnswer
            } else if let Some(status) = number("status").and_then(|status| u16::try_from(status).ok()) {
                Fault::Status(status)
            } else if let Some(seconds) = number("limited") {
                Fault::Limited(seconds)
            } else {
                Fault::Error(need("error")?.to_owned())
            };
            let times = usize::try_from(number("times").unwrap_or(1)).unwrap_or(1);
            let mut state = shared.state();
            state.faults.entry(need("method")?.to_owned()).or_default().extend(vec![fault; times]);
            json!({})
        }
        "rate" => {
            let calls = number("calls").and_then(|calls| usize::try_from(calls).ok()).ok_or("calls is missing")?;
            let per = Duration::from_millis(number("per_ms").ok_or("per_ms is missing")?);
            shared.state().rates.insert(need("method")?.to_owned(), Rate { calls, per, made: Vec::new() });
            json!({})
        }
        "tiers" => {
            let rate = |calls, seconds| Rate { calls, per: Duration::from_secs(seconds), made: Vec::new() };
            let tiers = TIERS.iter().map(|(method, calls, seconds)| ((*method).to_owned(), rate(*calls, *seconds)));
            shared.state().rates.extend(tiers);
            json!({})
        }
        "duplicate" => {
            shared.state().duplicates = number("times").unwrap_or(1);
            json!({})
        }
        "user" => {
            let user = people::user(need("id")?, need("kind")?).ok_or("there is no such kind of account")?;
            shared.state().users.insert(need("id")?.to_owned(), user);
            json!({})
        }
        "conversation" => {
            let is = |key: &str, default: bool| command[key].as_bool().unwrap_or(default);
            let conversation = Conversation {
                has_bot: is("member", true),
                is_visible: is("visible", true),
                is_archived: is("archived", false),
            };
            shared.state().conversations.insert(need("id")?.to_owned(), conversation);
            json!({})
        }
        "skew" => {
            let mut state = shared.state();
            state.set_skew(command["seconds"].as_i64().ok_or("seconds is missing")?);
            json!({})
        }
        "messages" => {
            let state = shared.state();
            let messages: Vec<_> = state
                .messages
                .iter()
                .map(|message| {
                    let mut json = message.to_json(true);
                    json["channel"] = json!(message.channel);
                    json["only_for"] = json!(message.only_for);
                    json
                })
                .collect();
            json!({ "messages": messages })
        }
        other => return Err(format!("there is no command {other}")),
    };
    shared.changed();
    Ok(answer)
}

fn user_json(state: &State, id: &str) -> Value {
    let user = state.users.get(id);
    let team = user.map_or(json!(TEAM), |user| user["team_id"].clone());
    json!({ "id": id, "username": id.to_lowercase(), "name": id.to_lowercase(), "team_id": team })
}

fn click(shared: &Arc<Shared>, command: &Value) -> Carried {
    let text = |key: &str| command[key].as_str();
    let user = text("user").ok_or("user is missing")?;
    let action = text("action").ok_or("action is missing")?;
    let payload = {
        let mut state = shared.state();
        let found = match text("ts") {
            Some(ts) => state.messages.iter().find(|message| message.ts == ts),
            None => state.cards().into_iter().next_back(),
        };
        let message = found.cloned().ok_or("there is no such message")?;
        let button = button(&message, action).ok_or_else(|| format!("there is no button {action}"))?;
        let trigger = socket::trigger(&mut state, user, shared.times.trigger);
        let action_ts = state.timestamp();
        let channel = text("channel").unwrap_or(&message.channel);
        json!({
            "type": "block_actions",
            "team": { "id": text("team").unwrap_or(TEAM), "domain": "fake" },
            "user": user_json(&state, user),
            "api_app_id": text("app").unwrap_or(APP),
            "token": "deprecated",
            "container": {
                "type": "message", "message_ts": message.ts, "channel_id": channel, "is_ephemeral": false,
            },
            "trigger_id": trigger,
            "channel": { "id": channel, "name": "approvals" },
            "message": message.to_json(false),
            "response_url": format!("http://{}/response/{trigger}", shared.address),
            "actions": [{
                "type": "button", "action_id": action, "block_id": "b1", "text": button["text"],
                "value": button["value"], "action_ts": action_ts,
            }],
        })
    };
    let id = socket::deliver(shared, "interactive", payload, command["socket"].as_u64());
    Ok(json!({ "envelope": id }))
}

/// A button of a message as it is, or as it was: people may still see that.
fn button(message: &Message, action: &str) -> Option<Value> {
    let versions = [&message.blocks].into_iter().chain(message.earlier.iter().rev());
    versions
        .flat_map(|blocks| blocks.as_array().into_iter().flatten())
        .filter(|block| block["type"] == "actions")
        .flat_map(|block| block["elements"].as_array().into_iter().flatten())
        .find(|button| button["action_id"] == action)
        .cloned()
}

fn submit(shared: &Arc<Shared>, command: &Value) -> Carried {
    let payload = {
        let state = shared.state();
        let found = match command["view"].as_str() {
            Some(id) => state.views.iter().find(|(_, view)| view["id"] == id),
            None => state.views.last(),
        };
        let (owner, view) = found.ok_or("there is no such view")?;
        if command["user"] != owner.as_str() {
            return Err(format!("only {owner} sees this view"));
        }
        let mut view = view.clone();
        let mut values = json!({});
        for block in view["blocks"].as_array().into_iter().flatten().filter(|block| block["type"] == "input") {
            let (Some(block_id), Some(id)) = (block["block_id"].as_str(), block["element"]["action_id"].as_str())
            else {
                return Err("an input has no name".to_owned());
            };
            values[block_id][id] = json!({ "type": "plain_text_input", "value": command["reason"] });
        }
        view["state"] = json!({ "values": values });
        json!({
            "type": "view_submission",
            "team": { "id": TEAM, "domain": "fake" },
            "user": user_json(&state, owner),
            "api_app_id": APP,
            "view": view,
        })
    };
    let id = socket::deliver(shared, "interactive", payload, command["socket"].as_u64());
    Ok(json!({ "envelope": id }))
}

fn typed(shared: &Arc<Shared>, command: &Value) -> Carried {
    let text = |key: &str| command[key].as_str();
    let user = text("user").ok_or("user is missing")?;
    let words = text("text").ok_or("text is missing")?;
    let payload = {
        let mut state = shared.state();
        let escaped = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let message = Message {
            channel: text("channel").unwrap_or("C1").to_owned(),
            ts: state.timestamp(),
            thread_ts: text("thread").map(str::to_owned),
            user: user.to_owned(),
            bot: text("bot").map(str::to_owned),
            text: escaped,
            blocks: Value::Null,
            earlier: Vec::new(),
            metadata: command["metadata"].clone(),
            only_for: None,
        };
        let mut event = message.to_json(false);
        event["channel"] = json!(message.channel);
        event["channel_type"] = json!("channel");
        event["event_ts"] = json!(message.ts);
        if let Some(subtype) = text("subtype") {
            event["subtype"] = json!(subtype);
        }
        state.messages.push(message);
        let id = state.name("Ev");
        json!({
            "type": "event_callback", "team_id": TEAM, "api_app_id": APP, "event": event, "event_id": id, "event_time": 0,
        })
    };
    let id = socket::deliver(shared, "events_api", payload, command["socket"].as_u64());
    Ok(json!({ "envelope": id }))
}
