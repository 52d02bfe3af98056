//! A fake of a workflow that posts what it is sent: it shows cards, and nobody answers their buttons.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::super::fake_http::{Call, Reply, Server};
use super::{locked, rules};

/// What makes the address a secret.
pub const SIGNATURE: &str = "s1gnature";

#[derive(Debug, Default)]
struct State {
    cards: Vec<Value>,
    faults: Vec<String>,
    replies: VecDeque<Reply>,
}

/// The fake.
#[derive(Debug)]
pub struct WorkflowFake {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl WorkflowFake {
    /// Starts it.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = Server::start(move |call| {
            let mut state = locked(&shared);
            if let Some(reply) = state.replies.pop_front() {
                return reply;
            }
            match take(&call) {
                Ok(card) => {
                    state.cards.push(card);
                    Reply::new(202, "")
                }
                Err((status, fault)) => {
                    state.faults.push(fault.clone());
                    Reply::new(status, fault)
                }
            }
        });
        Self { server, state }
    }

    /// Where cards go.
    pub fn url(&self) -> String {
        format!("http://{}/workflows/abc/triggers/manual/paths/invoke?sig={SIGNATURE}", self.server.address())
    }

    /// Answers the next card so, without a look at it.
    pub fn answer_next(&self, reply: Reply) {
        locked(&self.state).replies.push_back(reply);
    }

    /// The cards so far.
    pub fn cards(&self) -> Vec<Value> {
        locked(&self.state).cards.clone()
    }

    /// What was refused, and why.
    pub fn faults(&self) -> Vec<String> {
        locked(&self.state).faults.clone()
    }
}

fn take(call: &Call) -> Result<Value, (u16, String)> {
    if call.method != "POST" || !call.path.ends_with(&format!("sig={SIGNATURE}")) {
        return Err((401, "not the workflow's address".to_owned()));
    }
    let message: Value = serde_json::from_str(&call.body).map_err(|error| (400, error.to_string()))?;
    rules::check(&call.body, &message).map_err(|fault| (400, fault))?;
    let card = &message["attachments"][0]["content"];
    if !card["actions"].is_null() || card.to_string().contains("\"Input.") {
        return Err((400, "what nobody would answer".to_owned()));
    }
    Ok(message)
}
