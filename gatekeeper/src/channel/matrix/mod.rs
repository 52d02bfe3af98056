//! A room on a Matrix server, over the client-server API (version 3, as in the specification 1.11): outbound HTTP only.
//!
//! A card is a message with a reaction of the bot's own for each thing that can be done, so that a tap is enough; typed
//! commands with the request's code do the same. Cards change by edits of the bot's own message. The room must not be
//! encrypted: what the bot cannot read it cannot take for a decision.

mod api;
mod listen;
mod render;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use reqwest::Client;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::api::Api;
use super::{Channel, Failure, Inbox, MessageId, card::Card, fit, http, secret::Secret};
use crate::request::RequestId;

/// Field of a card's content with the request's id, for whoever finds a reaction to it.
const REQUEST_FIELD: &str = "org.gatekeeper.request";
/// Field of a card's content with the card's digest.
const DIGEST_FIELD: &str = "org.gatekeeper.card";
/// Cards that are remembered, so that the server need not be asked which request a reaction is about.
const CARDS: usize = 1_000;

/// Where to go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server's base URL, without a slash at the end.
    pub homeserver: String,
    /// The room's id.
    pub room: String,
    /// The bot's access token.
    pub token: Secret,
}

/// The channel.
#[derive(Debug)]
pub struct Matrix {
    api: Api,
    room: String,
    cards: Mutex<BTreeMap<String, KnownCard>>,
}

/// Which card a message of the bot's is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownCard {
    request: RequestId,
    digest: Option<String>,
}

impl Matrix {
    /// Makes the channel; nothing is sent yet.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let Settings { homeserver, room, token } = settings;
        let client: Client = http::client()?;
        Ok(Self { api: Api::new(client, homeserver, token), room, cards: Mutex::default() })
    }

    fn cards(&self) -> MutexGuard<'_, BTreeMap<String, KnownCard>> {
        // Nothing that has it can panic half-way.
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, message: &str) -> Option<KnownCard> {
        self.cards().get(message).cloned()
    }

    fn remember(&self, message: &str, card: KnownCard) {
        let mut cards = self.cards();
        if cards.len() == CARDS {
            cards.pop_first();
        }
        cards.insert(message.to_owned(), card);
    }

    /// Sends an event into the room. The same `once` gives the same event.
    async fn send(&self, kind: &str, once: &str, content: &Value) -> Result<MessageId, Failure> {
        // The server keeps transaction ids for each token, so they need not be unique beyond this bot.
        let id: String = Sha256::digest(once).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let answer = self.api.put(&["rooms", &self.room, "send", kind, &format!("gk{id}")], content).await?;
        match answer["event_id"].as_str() {
            Some(event) => Ok(MessageId(event.to_owned())),
            None => Err(Failure::Outage("the server named no event for what it took".to_owned())),
        }
    }
}

/// Says which request a message is about. A digest is about none: a reaction to it means nothing.
fn name_request(content: &mut Value, card: &Card) {
    if card.more.is_none() {
        content[REQUEST_FIELD] = json!(card.request);
        content[DIGEST_FIELD] = json!(card.digest);
    }
}

impl Channel for Matrix {
    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        let (mut content, _) = render::message(card);
        name_request(&mut content, card);
        let message = self.send("m.room.message", once, &content).await?;
        if card.more.is_none() {
            self.remember(&message.0, KnownCard { request: card.request, digest: Some(card.digest.clone()) });
        }
        Ok(message)
    }

    async fn offer(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let (_, shortened) = render::message(card);
        let once = card.request;
        if shortened {
            self.add(message, &card.detail, &format!("{once} detail")).await?;
        }
        for (_, key) in render::offered(card, shortened) {
            let relation = json!({ "rel_type": "m.annotation", "event_id": message.0, "key": key });
            let content = json!({ "m.relates_to": relation });
            match self.send("m.reaction", &format!("{once} {key}"), &content).await {
                // Its own reaction is there already: an earlier attempt made it.
                Ok(_) | Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let (mut content, _) = render::message(card);
        name_request(&mut content, card);
        let mut edit = content.clone();
        edit["body"] = json!(format!("* {}", content["body"].as_str().unwrap_or_default()));
        edit["m.new_content"] = content;
        edit["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": message.0 });
        // What it shows names the edit: the same once more is the same event.
        let once = format!("{} edit {} {:?}", card.request, card.digest, card.status);
        self.send("m.room.message", &once, &edit).await.map(drop)
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        for (number, part) in fit::parts(lines, render::PART_BYTES, |_| None).iter().enumerate() {
            let content = render::note(part, message);
            self.send("m.room.message", &format!("{once} part {number}"), &content).await?;
        }
        Ok(())
    }

    async fn listen(&self, inbox: Inbox, cursor: Option<String>) -> Failure {
        listen::run(self, &inbox, cursor).await
    }
}
