//! A fake of what Microsoft Teams is to a bot: Entra's tokens, the Bot Framework's keys, the Bot Connector, and people who
//! click and type.
//!
//! As strict as the documentation: tokens have a scope, an end and a bot; messages have a limit; cards have a form; calls
//! are signed. One source for the scenario tests and for the daemon's own ones.

mod rules;
mod token;
mod workflow;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};

pub use self::{
    token::{TokenSpec, published},
    workflow::{SIGNATURE, WorkflowFake},
};
use super::fake_http::{Call, Reply, Server, send};

/// The bot's id.
pub const APP_ID: &str = "11111111-2222-3333-4444-555555555555";
/// The tenant.
pub const TENANT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
/// The bot's secret.
pub const SECRET: &str = "s3cret~&for+tests";
/// The channel of a team that the bot is in.
pub const CONVERSATION: &str = "19:abcdef@thread.tacv2";

/// Somebody in the conversation.
#[derive(Clone, Debug)]
pub struct Person {
    /// The id within the bot's conversations.
    pub id: String,
    /// The object id; empty for who has none.
    pub object: String,
    /// The tenant of calls and of the account.
    pub tenant: String,
    /// `user`, `guest`, `anonymous`.
    pub role: String,
    /// The account's name.
    pub principal: String,
}

impl Person {
    /// A person of the tenant.
    pub fn member(number: u8) -> Self {
        Self {
            id: format!("29:user/{number}"),
            object: format!("99999999-0000-0000-0000-0000000000{number:02}"),
            tenant: TENANT.to_owned(),
            role: "user".to_owned(),
            principal: format!("user{number}@example.org"),
        }
    }

    /// What reviewers are declared by.
    pub fn account(&self) -> String {
        format!("{}/{}", self.tenant, self.object)
    }
}

#[derive(Debug, Default)]
struct State {
    now: u64,
    secret: String,
    keys: Vec<Value>,
    tokens: HashSet<String>,
    tokens_given: usize,
    key_fetches: usize,
    people: HashMap<String, Person>,
    lookups: usize,
    /// In the order of posts: conversation, id, what is shown.
    messages: Vec<(String, String, Value)>,
    /// What messages showed before, by their ids, the latest last.
    earlier: Vec<(String, Value)>,
    calls: usize,
    replies: VecDeque<Reply>,
    faults: Vec<String>,
}

/// The fake.
#[derive(Debug)]
pub struct TeamsFake {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl TeamsFake {
    /// Starts it with a clock that stands at `now`, in seconds since the epoch.
    pub fn start(now: u64) -> Self {
        let keys = vec![published(0, &["msteams", "webchat"])];
        let state = State { now, secret: SECRET.to_owned(), keys, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let server = Server::start(move |call| {
            let mut state = locked(&shared);
            let reply = answer(&mut state, &call);
            if (400..500).contains(&reply.status) && reply.status != 429 {
                state.faults.push(format!("{} {}: {}", call.method, call.path, reply.body));
            }
            reply
        });
        Self { server, state }
    }

    /// The Bot Connector.
    pub fn service_url(&self) -> String {
        format!("http://{}/emea/", self.server.address())
    }

    /// Where tokens are given out.
    pub fn token_url(&self) -> String {
        format!("http://{}/{TENANT}/oauth2/v2.0/token", self.server.address())
    }

    /// Where the keys are named.
    pub fn openid_url(&self) -> String {
        format!("http://{}/openidconfiguration", self.server.address())
    }

    /// Lets somebody in.
    pub fn welcome(&self, person: &Person) {
        locked(&self.state).people.insert(person.id.clone(), person.clone());
    }

    /// Publishes these keys and no others.
    pub fn publish(&self, keys: Vec<Value>) {
        locked(&self.state).keys = keys;
    }

    /// Has another secret from now on.
    pub fn revoke_secret(&self) {
        "another".clone_into(&mut locked(&self.state).secret);
    }

    /// Ends all tokens.
    pub fn end_tokens(&self) {
        locked(&self.state).tokens.clear();
    }

    /// Answers the next call to the connector so, without a look at it.
    pub fn answer_next(&self, reply: Reply) {
        locked(&self.state).replies.push_back(reply);
    }

    /// Conversation, id and content of the messages so far, as they are shown now.
    pub fn messages(&self) -> Vec<(String, String, Value)> {
        locked(&self.state).messages.clone()
    }

    /// How many tokens were given out, how often keys were fetched, and how often people looked up.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = locked(&self.state);
        (state.tokens_given, state.key_fetches, state.lookups)
    }

    /// What was refused, and why.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.state).faults.clone()
    }

    /// The activity of a click on a button that a message has, or had. None if it never had one.
    pub fn click(&self, person: &Person, message: &str, verb: &str, reason: &str) -> Option<Value> {
        let data = self.button(message, verb, reason)?;
        let action = json!({ "type": "Action.Execute", "verb": verb, "data": data });
        let mut activity = self.activity(person, "invoke", message);
        activity["name"] = json!("adaptiveCard/action");
        activity["value"] = json!({ "action": action, "trigger": "manual" });
        Some(activity)
    }

    /// The activity of the same click in a client that knows no `Action.Execute`.
    pub fn submit(&self, person: &Person, message: &str, verb: &str, reason: &str) -> Option<Value> {
        let mut activity = self.activity(person, "message", message);
        activity["value"] = self.button(message, verb, reason)?;
        Some(activity)
    }

    /// The activity of a message to the bot.
    pub fn write(&self, person: &Person, text: &str) -> Value {
        let mut activity = self.activity(person, "message", "");
        activity["text"] = json!(format!("<at>gatekeeper</at> {text}\n"));
        activity
    }

    /// Calls the bot.
    pub fn call(&self, bot: SocketAddr, activity: &Value, spec: &TokenSpec) -> Reply {
        let now = locked(&self.state).now;
        let token = token::make(spec, APP_ID, &self.service_url(), now);
        self.call_with(bot, activity, Some(&format!("Bearer {token}")))
    }

    /// Calls the bot with this header or without one.
    pub fn call_with(&self, bot: SocketAddr, activity: &Value, authorization: Option<&str>) -> Reply {
        let mut headers = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        headers.extend(authorization.map(|value| ("authorization".to_owned(), value.to_owned())));
        let call =
            Call { method: "POST".to_owned(), path: "/api/messages".to_owned(), headers, body: activity.to_string() };
        send(bot, &call)
    }

    /// What a button carries, with what was typed beside it. The button may be gone: people may still see it.
    fn button(&self, message: &str, verb: &str, reason: &str) -> Option<Value> {
        let state = locked(&self.state);
        let now = state.messages.iter().filter(|(_, id, _)| id == message).map(|(_, _, shown)| shown);
        let before = state.earlier.iter().rev().filter(|(id, _)| id == message).map(|(_, shown)| shown);
        let mut actions =
            now.chain(before).filter_map(|shown| shown["attachments"][0]["content"]["actions"].as_array());
        let find = |actions: &Vec<Value>| actions.iter().find(|action| action["verb"] == verb).cloned();
        let mut data = actions.find_map(find)?["data"].take();
        data["reason"] = json!(reason);
        Some(data)
    }

    fn activity(&self, person: &Person, kind: &str, message: &str) -> Value {
        let mut state = locked(&self.state);
        state.calls += 1;
        let thread = if message.is_empty() { "1700000000999" } else { message };
        json!({
            "type": kind, "id": format!("f:{}", state.calls), "channelId": "msteams", "serviceUrl": self.service_url(),
            "from": { "id": person.id, "name": person.principal, "aadObjectId": person.object },
            "conversation": {
                "id": format!("{CONVERSATION};messageid={thread}"), "tenantId": person.tenant,
                "conversationType": "channel", "isGroup": true,
            },
            "channelData": { "tenant": { "id": person.tenant } },
            "recipient": { "id": format!("28:{APP_ID}"), "name": "gatekeeper" },
            "replyToId": message,
        })
    }
}

fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, json!({ "error": { "code": code, "message": message } }).to_string())
}

fn answer(state: &mut State, call: &Call) -> Reply {
    let path: Vec<String> = call.path.trim_start_matches('/').split('/').map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (call.method.as_str(), &path[..]) {
        ("GET", ["openidconfiguration"]) => {
            let url = format!("http://{}/keys", call.header("host"));
            let algorithms = ["RS256"];
            let configuration = json!({
                "issuer": "https://api.botframework.com", "jwks_uri": url,
                "id_token_signing_alg_values_supported": algorithms,
            });
            Reply::new(200, configuration.to_string())
        }
        ("GET", ["keys"]) => {
            state.key_fetches += 1;
            Reply::new(200, json!({ "keys": state.keys }).to_string())
        }
        ("POST", [TENANT, "oauth2", "v2.0", "token"]) => give_token(state, call),
        (_, ["emea", "v3", "conversations", conversation, rest @ ..]) => {
            let token = call.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
            if !state.tokens.contains(token) {
                return error(401, "Unauthorized", "no token of this bot");
            }
            if let Some(reply) = state.replies.pop_front() {
                return reply;
            }
            if conversation.split(';').next() != Some(CONVERSATION) {
                return error(404, "ConversationNotFound", conversation);
            }
            connector(state, call, conversation, rest)
        }
        _ => error(404, "NotFound", "no such place"),
    }
}

fn give_token(state: &mut State, call: &Call) -> Reply {
    let form: HashMap<String, String> = call
        .body
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))))
        .collect();
    let field = |name: &str| form.get(name).map_or("", String::as_str);
    let denied = |code: &str, text: &str| {
        Reply::new(401, json!({ "error": code, "error_description": format!("{text}: Trace ID: 0") }).to_string())
    };
    if call.header("content-type") != "application/x-www-form-urlencoded" {
        return denied("invalid_request", "AADSTS900144");
    }
    if field("grant_type") != "client_credentials" || field("scope") != "https://api.botframework.com/.default" {
        return denied("invalid_scope", "AADSTS70011");
    }
    if field("client_id") != APP_ID {
        return denied("unauthorized_client", "AADSTS700016");
    }
    if field("client_secret") != state.secret {
        return denied("invalid_client", "AADSTS7000215");
    }
    state.tokens_given += 1;
    let token = format!("token-{}", state.tokens_given);
    state.tokens.insert(token.clone());
    let granted = json!({ "token_type": "Bearer", "expires_in": 3_600, "access_token": token });
    Reply::new(200, granted.to_string())
}

fn connector(state: &mut State, call: &Call, conversation: &str, rest: &[&str]) -> Reply {
    let body: Value = serde_json::from_str(&call.body).unwrap_or_default();
    match (call.method.as_str(), rest) {
        ("GET", ["members", id]) => {
            state.lookups += 1;
            let Some(person) = state.people.get(*id) else { return error(404, "MemberNotFoundInConversation", id) };
            let Person { id, object, tenant, role, principal } = person;
            let member = json!({
                "id": id, "objectId": object, "tenantId": tenant, "userRole": role, "userPrincipalName": principal,
            });
            Reply::new(200, member.to_string())
        }
        ("POST", ["activities"]) => match rules::check(&call.body, &body) {
            Ok(()) => {
                let id = format!("17000000{:05}", state.messages.len());
                state.messages.push((conversation.to_owned(), id.clone(), body));
                Reply::new(201, json!({ "id": id }).to_string())
            }
            Err(fault) if fault.ends_with("too many") => error(413, "MessageSizeTooBig", &fault),
            Err(fault) => error(400, "BadSyntax", &fault),
        },
        ("PUT", ["activities", id]) => {
            let Some(at) = state.messages.iter().position(|(_, known, _)| known == id) else {
                return error(404, "ActivityNotFoundInConversation", id);
            };
            match rules::check(&call.body, &body) {
                Ok(()) => {
                    let before = std::mem::replace(&mut state.messages[at].2, body);
                    state.earlier.push(((*id).to_owned(), before));
                    Reply::new(200, json!({ "id": id }).to_string())
                }
                Err(fault) => error(400, "BadSyntax", &fault),
            }
        }
        _ => error(405, "MethodNotAllowed", "no such call"),
    }
}

/// Undoes percent encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
