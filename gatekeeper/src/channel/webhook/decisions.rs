//! Decisions that come in: signed by the reviewer's own key, each taken once.
//!
//! A signature proves itself, so it does not matter who carries a statement here. What is checked is that a known key made
//! it over exactly this text, now, for the first time; whether that reviewer may decide is for the daemon.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use crate::{
    channel::{
        Account, Act, Answer, Evidence, Inbox, Standing, Verb,
        listener::{Received, Reply},
    },
    clock::Clock,
    request::SignedStatement,
    reviewer::{
        signature::{BadSignature, Signed, verify},
        statement::{BadStatement, SKEW},
    },
};

/// Statements of one key that can be used within the time in which they count. No person signs more.
const MAX_STATEMENTS: usize = 256;
/// How long a statement is remembered after its own time, in milliseconds: longer than it counts, should the clock be set
/// back.
const REMEMBERED_MS: u64 = 3 * SKEW.as_millis() as u64;

/// The body of `POST /v1/decisions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    statement: String,
    signature: String,
}

/// Takes decisions in.
pub(super) struct Desk {
    /// Fingerprints of all reviewers' keys. None: nobody.
    keys: HashSet<String>,
    clock: Arc<dyn Clock>,
    used: Mutex<HashMap<Use, Past>>,
}

/// A key's fingerprint, and the nonce of what it signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Use {
    fingerprint: String,
    nonce: String,
}

/// What became of a statement.
#[derive(Debug)]
struct Past {
    text: String,
    /// When it can be forgotten, milliseconds since the epoch.
    until_ms: u64,
    /// None while the daemon has it.
    answer: Option<Answer>,
}

impl Desk {
    pub(super) fn new(keys: impl IntoIterator<Item = String>, clock: Arc<dyn Clock>) -> Self {
        Self { keys: keys.into_iter().collect(), clock, used: Mutex::default() }
    }

    /// Checks a request, hands the act over, and says what came of it.
    pub(super) async fn take(self: Arc<Self>, received: Received, inbox: Inbox) -> Reply {
        let checked = match self.check(&received.body) {
            Ok(checked) => checked,
            Err(reply) => return reply,
        };
        let Checked { act, used } = checked;
        let desk = Arc::clone(&self);
        // On a task of its own: who hangs up does not undo what was signed, and gets the answer with the next call.
        let acted = tokio::spawn(async move {
            let answer = inbox.act(act).await;
            desk.settle(&used, answer.clone());
            answer
        });
        match acted.await {
            Ok(Some(answer)) => told(&answer, false),
            _ => Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "gatekeeper stops; nothing was counted"),
        }
    }

    fn check(&self, body: &[u8]) -> Result<Checked, Reply> {
        let Body { statement: text, signature } = serde_json::from_slice(body).map_err(|error| {
            let form = "{\"statement\": \"…\", \"signature\": \"-----BEGIN SSH SIGNATURE-----…\"}";
            Reply::refusal(StatusCode::BAD_REQUEST, format!("the body is not {form}: {error}"))
        })?;
        let Signed { statement, fingerprint } =
            verify(text.as_bytes(), &signature).map_err(|bad| Reply::refusal(status(&bad), bad.to_string()))?;
        if !self.keys.contains(&fingerprint) {
            let reason = format!("the key {fingerprint} is no reviewer's: have it added to the configuration");
            return Err(Reply::refusal(StatusCode::FORBIDDEN, reason));
        }
        let now_ms = self.clock.now().wall_ms;
        statement
            .check_time(now_ms)
            .map_err(|bad| Reply::refusal(StatusCode::UNPROCESSABLE_ENTITY, bad.to_string()))?;
        let verb = Verb::from_word(&statement.verb).ok_or_else(|| {
            let words = Verb::ALL.map(Verb::word).join(", ");
            Reply::refusal(StatusCode::BAD_REQUEST, format!("the verb is none of {words}"))
        })?;
        let used = Use { fingerprint: fingerprint.clone(), nonce: statement.nonce.clone() };
        self.mark(&used, &text, statement.at_ms.saturating_add(REMEMBERED_MS), now_ms)?;
        let event = format!("{fingerprint} {}", statement.nonce);
        let signed = SignedStatement { statement: text, signature };
        let act = Act {
            account: Account { id: fingerprint.clone(), name: fingerprint, standing: Standing::Member },
            request: statement.request,
            verb,
            reason: Some(statement.reason).filter(|reason| !reason.is_empty()),
            typed: true,
            evidence: Evidence { message: None, event, card: Some(statement.card), signed: Some(signed) },
        };
        Ok(Checked { act, used })
    }

    /// Remembers a statement; refuses one that was used.
    fn mark(&self, used: &Use, text: &str, until_ms: u64, now_ms: u64) -> Result<(), Reply> {
        // Nothing here can panic half-way.
        let mut past = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        past.retain(|_, past| past.until_ms > now_ms);
        let conflict = |reason: &str| Err(Reply::refusal(StatusCode::CONFLICT, reason));
        match past.get(used) {
            Some(Past { text: before, .. }) if before != text => {
                return conflict("the nonce was used for another statement: sign anew, with a new one");
            }
            Some(Past { answer: Some(answer), .. }) => return Err(told(answer, true)),
            Some(Past { answer: None, .. }) => return conflict("the statement was sent before and is being counted"),
            None => {}
        }
        if past.keys().filter(|other| other.fingerprint == used.fingerprint).count() >= MAX_STATEMENTS {
            let reason = format!("the key signed more than {MAX_STATEMENTS} statements in a few minutes");
            return Err(Reply::refusal(StatusCode::TOO_MANY_REQUESTS, reason));
        }
        past.insert(used.clone(), Past { text: text.to_owned(), until_ms, answer: None });
        Ok(())
    }

    fn settle(&self, used: &Use, answer: Option<Answer>) {
        // Nothing here can panic half-way.
        let mut past = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(answer) => {
                if let Some(past) = past.get_mut(used) {
                    past.answer = Some(answer);
                }
            }
            // Nothing was counted, so it can be sent again.
            None => {
                past.remove(used);
            }
        }
    }
}

/// An act that may be handed over.
struct Checked {
    act: Act,
    used: Use,
}

/// What the daemon said, for whoever called.
fn told(answer: &Answer, repeated: bool) -> Reply {
    let Answer { counted, text } = answer;
    let status = if *counted { StatusCode::OK } else { StatusCode::CONFLICT };
    Reply { status, body: json!({ "counted": counted, "answer": text, "repeated": repeated }) }
}

fn status(bad: &BadSignature) -> StatusCode {
    match bad {
        BadSignature::Form(_) | BadSignature::Statement(BadStatement::Form(_)) => StatusCode::BAD_REQUEST,
        BadSignature::Statement(BadStatement::Time { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
        BadSignature::Namespace | BadSignature::KeyType | BadSignature::Untouched | BadSignature::Wrong => {
            StatusCode::UNAUTHORIZED
        }
    }
}

#[cfg(test)]
impl Desk {
    /// As if a key had signed so many statements at this time.
    pub(super) fn fill(&self, fingerprint: &str, statements: usize, at_ms: u64) {
        for number in 0..statements {
            let used = Use { fingerprint: fingerprint.to_owned(), nonce: number.to_string() };
            assert!(self.mark(&used, "", at_ms + REMEMBERED_MS, at_ms).is_ok());
        }
    }
}
