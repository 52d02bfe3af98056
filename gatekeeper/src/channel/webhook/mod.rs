//! A signed webhook: every change of a card is an event for a program of the operator's own, and decisions come back
//! signed by the reviewer's own key.
//!
//! Events follow the Standard Webhooks specification, with asymmetric signatures. The same post, change or note has the
//! same id however often it is sent, so a receiver that keeps to the specification sees it once; nothing has to be
//! remembered here. Decisions are taken only where a listener is configured.

mod decisions;
mod event;
mod key;

#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};

pub use self::key::SigningKey;
use self::{decisions::Desk, event::Event};
use super::{
    Channel, Failure, Inbox, MessageId,
    card::Card,
    http,
    listener::{self, Bound, serve},
    outbound,
    secret::Secret,
};
use crate::{
    clock::Clock,
    reviewer::{
        signature::MAX_SIGNATURE_BYTES,
        statement::{MAX_BYTES, Place},
    },
};

/// Where decisions are sent to.
const PATH: &str = "/v1/decisions";

/// What is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where events go: https, or a port of this host. Kept secret, as tokens are often part of it.
    pub url: Secret,
    /// Signs events: `whsk_` and base64.
    pub signing_key: Secret,
    /// Takes decisions. None: events only.
    pub decisions: Option<Decisions>,
    /// Where requests wait, which statements have to name.
    pub place: Place,
}

/// How decisions are taken.
#[derive(Clone, Debug)]
pub struct Decisions {
    /// Where to listen, without TLS. For other hosts, put a proxy that ends TLS before it.
    pub listen: SocketAddr,
    /// Fingerprints of the reviewers' ed25519 keys, `SHA256:…`. None: nobody.
    pub keys: Vec<String>,
}

/// The channel.
pub struct Webhook {
    client: Client,
    url: Url,
    key: SigningKey,
    clock: Arc<dyn Clock>,
    listen: Option<SocketAddr>,
    place: Place,
    desk: Arc<Desk>,
    bound: Bound,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Webhook {
    /// A channel that has sent nothing yet.
    ///
    /// # Errors
    /// The settings are wrong; says which.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let Settings { url, signing_key, decisions, place } = settings;
        let (listen, keys) = match decisions {
            Some(Decisions { listen, keys }) => (Some(listen), keys),
            None => (None, Vec::new()),
        };
        Ok(Self {
            client: http::client()?,
            url: outbound::address("the webhook", url.expose())?,
            key: SigningKey::read(&signing_key)?,
            desk: Arc::new(Desk::new(keys, Arc::clone(&clock))),
            clock,
            listen,
            place,
            bound: Bound::default(),
        })
    }

    /// The public key that receivers check events with: `whpk_…`.
    pub fn public_key(&self) -> String {
        self.key.public()
    }

    /// Where decisions are taken, once they are.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.address()
    }

    async fn send(&self, Event { id, body }: Event) -> Result<(), Failure> {
        let timestamp = self.clock.now().wall_ms / 1_000;
        let signature = self.key.sign(&id, timestamp, &body);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp.to_string())
            .header("webhook-signature", signature)
            .body(body);
        let response = request.send().await.map_err(http::outage)?;
        let status = response.status();
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::GONE => Err(Failure::Fatal(
                "the webhook was disabled by the receiver (410): enable it there, or remove it here".to_owned(),
            )),
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Limited(outbound::pause(&response))),
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Outage(format!("the webhook's receiver fails: {status}")))
            }
            status if status.is_redirection() => Err(Failure::Refused(format!(
                "the webhook's receiver answers {status}: redirects are not followed, configure the final address"
            ))),
            status => Err(Failure::Refused(format!("the webhook's receiver refuses an event: {status}"))),
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.now().wall_ms
    }
}

impl Channel for Webhook {
    const DIGEST_PAUSE: Option<Duration> = None;

    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        let message = event::message(once);
        self.send(event::card(&message, card, &self.place, false, self.now_ms())).await?;
        Ok(message)
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        self.send(event::card(message, card, &self.place, true, self.now_ms())).await
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        for note in event::notes(message, lines, once, self.now_ms()) {
            self.send(note).await?;
        }
        Ok(())
    }

    async fn listen(&self, inbox: Inbox, _cursor: Option<String>) -> Failure {
        let Some(address) = self.listen else {
            inbox.up().await;
            return std::future::pending().await;
        };
        // JSON may write each byte of what it carries in six.
        let place = listener::Place { address, path: PATH, max_body_bytes: 6 * (MAX_BYTES + MAX_SIGNATURE_BYTES) };
        let desk = Arc::clone(&self.desk);
        let acts = inbox.clone();
        let take = move |received| Arc::clone(&desk).take(received, acts.clone());
        serve(place, &self.bound, &inbox, take).await
    }
}
