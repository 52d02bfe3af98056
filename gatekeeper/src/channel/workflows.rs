//! A workflow of Microsoft Teams that posts what it is sent: cards one way, for where no bot can be reached.
//!
//! Nobody answers buttons there, so cards have none: they say which commands decide on the host. Posts cannot be changed
//! either; a change is a card of its own.

use std::fmt;

use reqwest::{Client, StatusCode, Url};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Channel, Failure, Inbox, MessageId,
    adaptive::{self, Offer},
    card::Card,
    http,
    once::Once,
    outbound,
    secret::Secret,
};

/// What is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that the workflow "Send webhook alerts to a channel" shows. Who knows it can post.
    pub url: Secret,
}

/// The channel.
pub struct Workflows {
    client: Client,
    url: Url,
    posts: Once,
}

impl fmt::Debug for Workflows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workflows")
    }
}

impl Workflows {
    /// A channel that has posted nothing yet.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let url = outbound::address("the workflow", settings.url.expose())?;
        Ok(Self { client: http::client()?, url, posts: Once::default() })
    }

    /// Sends a card once in the life of this process.
    async fn send(&self, content: Value, once: &str) -> Result<MessageId, Failure> {
        self.posts.post(once, || self.deliver(content, once)).await
    }

    async fn deliver(&self, content: Value, once: &str) -> Result<MessageId, Failure> {
        let body = json!({ "type": "message", "attachments": [adaptive::attachment(content, once)] });
        let response = self.client.post(self.url.clone()).json(&body).send().await.map_err(http::outage)?;
        let way_out = "make a new one and put its address into the file";
        match response.status() {
            status if status.is_success() => Ok(MessageId(once.to_owned())),
            StatusCode::TOO_MANY_REQUESTS => Err(Failure::Limited(outbound::pause(&response))),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE) => {
                Err(Failure::Fatal(format!("the workflow is not there or was switched off ({status}): {way_out}")))
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Err(Failure::Outage(format!("the workflow fails: {status}")))
            }
            status => Err(Failure::Refused(format!("the workflow refuses a card: {status}"))),
        }
    }
}

impl Channel for Workflows {
    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        self.send(adaptive::card(card, Offer::Commands), once).await
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let content = adaptive::card(card, Offer::Commands);
        // The same change again is the same card.
        let digest: String =
            Sha256::digest(content.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.send(content, &format!("{message}/{digest}")).await.map(drop)
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        for (number, card) in adaptive::notes(lines).into_iter().enumerate() {
            self.send(card, &format!("{message}/{once}/{number}")).await?;
        }
        Ok(())
    }

    async fn listen(&self, inbox: Inbox, _cursor: Option<String>) -> Failure {
        inbox.up().await;
        std::future::pending().await
    }
}
