//! A workflow of Microsoft Teams that posts what it is sent: cards one way, for where no bot can be reached.
//!
//! Nobody answers buttons there, so cards have none: they say which commands decide on the host. Posts cannot be changed
//! either; a change is a card of its own.

use std::{fmt, time::Duration};

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
    // Nothing can be edited: each change is another message.
    const DIGEST_PAUSE: Option<Duration> = Some(Duration::from_secs(60));

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

#[cfg(test)]
mod tests {

    use super::*;
    use crate::channel::{
        fake_http::Reply,
        stand_in::{HOSTILE, StandIn, card, card_with, ended},
        teams_fake::{SIGNATURE, WorkflowFake},
    };

    fn workflows() -> (Workflows, WorkflowFake) {
        let fake = WorkflowFake::start();
        (Workflows::new(Settings { url: Secret::new(&fake.url()) }).unwrap(), fake)
    }

    #[tokio::test]
    async fn a_card_says_which_commands_decide_and_its_end_is_another_card() {
        let (workflows, fake) = workflows();
        let message = workflows.post(&card(1), "1/0").await.unwrap();
        assert_eq!(workflows.post(&card(1), "1/0").await.unwrap(), message);
        workflows.edit(&message, &ended(1)).await.unwrap();
        workflows.edit(&message, &ended(1)).await.unwrap();
        workflows.add(&message, &["still waits".to_owned()], "1/r").await.unwrap();
        workflows.add(&message, &["still waits".to_owned()], "1/r").await.unwrap();
        assert_eq!(fake.faults(), [""; 0]);
        let [first, last, note] = &fake.cards()[..] else { panic!("not three cards") };
        let code = card(1).request;
        let first = first.to_string();
        assert!(first.contains(&format!("gatekeeper approve {code}")) && first.contains("waits until"), "{first}");
        let last = last.to_string();
        assert!(last.contains(&ended(1).status[0]) && !last.contains("gatekeeper approve"), "{last}");
        assert!(note.to_string().contains("still waits"));
    }

    #[tokio::test]
    async fn long_and_hostile_cards_keep_to_the_rules() {
        let (workflows, fake) = workflows();
        workflows.post(&card_with(&["x".repeat(1 << 20).as_str()]), "1").await.unwrap();
        workflows.post(&card_with(&HOSTILE), "2").await.unwrap();
        assert_eq!((fake.cards().len(), fake.faults()), (2, vec![]));
        assert!(fake.cards()[0].to_string().contains("This card is shortened."));
    }

    #[tokio::test]
    async fn every_answer_has_its_meaning() {
        let (workflows, fake) = workflows();
        fake.answer_next(Reply::new(429, "").with("Retry-After", "5"));
        assert_eq!(workflows.post(&card(1), "1").await, Err(Failure::Limited(Duration::from_secs(5))));
        for status in [500, 502, 0] {
            fake.answer_next(Reply::new(status, ""));
            assert!(matches!(workflows.post(&card(1), "1").await, Err(Failure::Outage(_))), "{status}");
        }
        for status in [302, 400, 413] {
            fake.answer_next(Reply::new(status, ""));
            assert!(matches!(workflows.post(&card(1), "1").await, Err(Failure::Refused(_))), "{status}");
        }
        for status in [401, 403, 404, 410] {
            fake.answer_next(Reply::new(status, ""));
            let Err(Failure::Fatal(text)) = workflows.post(&card(1), "1").await else { panic!("{status} passes") };
            assert!(text.contains("make a new one") && !text.contains(SIGNATURE), "{text}");
        }
        drop(fake);
        let Err(Failure::Outage(text)) = workflows.post(&card(1), "1").await else { panic!("no outage") };
        assert!(!text.contains(SIGNATURE), "{text}");
    }

    #[tokio::test]
    async fn it_is_up_and_hears_nothing() {
        let (workflows, _fake) = workflows();
        let (mut daemon, inbox) = StandIn::start(&[], &[]);
        let listening = tokio::spawn(async move { workflows.listen(inbox, None).await });
        daemon.up().await;
        listening.abort();
    }
}
