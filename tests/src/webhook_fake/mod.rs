//! A fake receiver of webhooks, as strict as the Standard Webhooks specification lets one be.
//!
//! It checks the signature, the time, the id and the size of each event, keeps each id once, and answers as it is told.
//! One source for the scenario tests and for the daemon's own ones.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;

use super::fake_http::{Call, Reply, Server};

/// What is recommended as the longest payload, in bytes.
const MAX_PAYLOAD_BYTES: usize = 20_000;
/// How far timestamps may be off, in seconds.
const TOLERANCE: u64 = 300;

/// An event that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// Its payload.
    pub payload: Value,
}

#[derive(Debug, Default)]
struct State {
    /// `whpk_…`.
    public_key: String,
    now: u64,
    events: Vec<Taken>,
    repeated: usize,
    faults: Vec<String>,
    replies: VecDeque<Reply>,
}

/// The fake.
#[derive(Debug)]
pub struct WebhookFake {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl WebhookFake {
    /// Starts a receiver whose clock stands at `now`, in seconds since the epoch.
    pub fn start(now: u64) -> Self {
        let state = Arc::new(Mutex::new(State { now, ..State::default() }));
        let shared = Arc::clone(&state);
        let server = Server::start(move |call| {
            let mut state = locked(&shared);
            if let Some(reply) = state.replies.pop_front() {
                return reply;
            }
            match take(&mut state, &call) {
                Ok(()) => Reply::new(204, ""),
                Err(fault) => {
                    state.faults.push(fault.clone());
                    Reply::new(400, fault)
                }
            }
        });
        Self { server, state }
    }

    /// Has it trust this key.
    pub fn trust(&self, public_key: &str) {
        locked(&self.state).public_key = public_key.to_owned();
    }

    /// Where events go.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address())
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Answers the next event so, without a look at it.
    pub fn answer_next(&self, reply: Reply) {
        locked(&self.state).replies.push_back(reply);
    }

    /// The events so far, each id once.
    pub fn events(&self) -> Vec<Taken> {
        locked(&self.state).events.clone()
    }

    /// How many events came again.
    pub fn repeated(&self) -> usize {
        locked(&self.state).repeated
    }

    /// What was wrong with what came.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.state).faults.clone()
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(state: &mut State, call: &Call) -> Result<(), String> {
    let fault = |text: &str| Err(text.to_owned());
    let (id, timestamp) = (call.header("webhook-id"), call.header("webhook-timestamp"));
    if call.method != "POST" || call.header("content-type") != "application/json" {
        return fault("not a POST of JSON");
    }
    if id.is_empty() || id.len() > 64 || id.contains('.') {
        return fault("a bad webhook-id");
    }
    match timestamp.parse::<u64>() {
        Ok(time) if time.abs_diff(state.now) <= TOLERANCE => {}
        _ => return fault("a bad webhook-timestamp"),
    }
    if call.body.len() >= MAX_PAYLOAD_BYTES {
        return Err(format!("{} bytes are too many", call.body.len()));
    }
    let key = state.public_key.strip_prefix("whpk_").and_then(|key| STANDARD.decode(key).ok());
    let key = UnparsedPublicKey::new(&ED25519, key.ok_or("no key is trusted")?);
    let signed = format!("{id}.{timestamp}.{}", call.body);
    let fits = |signature: &str| {
        let signature = signature.strip_prefix("v1a,").and_then(|signature| STANDARD.decode(signature).ok());
        signature.is_some_and(|signature| key.verify(signed.as_bytes(), &signature).is_ok())
    };
    if !call.header("webhook-signature").split(' ').any(fits) {
        return fault("no good webhook-signature");
    }
    let payload: Value = serde_json::from_str(&call.body).map_err(|error| error.to_string())?;
    for field in ["type", "timestamp", "data"] {
        if payload.get(field).is_none() {
            return Err(format!("the payload has no {field}"));
        }
    }
    match state.events.iter().find(|event| event.id == id) {
        Some(Taken { payload: before, .. }) if before["data"] != payload["data"] => {
            return fault("another payload under the same id");
        }
        Some(_) => state.repeated += 1,
        None => state.events.push(Taken { id: id.to_owned(), payload }),
    }
    Ok(())
}
