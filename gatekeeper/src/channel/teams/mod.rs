//! Microsoft Teams: a bot that posts cards into one conversation and is called when somebody clicks or types.
//!
//! Teams has no outbound way to be told of clicks, so there is a listener, which the Bot Framework reaches through a proxy
//! that ends TLS. Calls prove themselves by tokens, people by tenant and object id, and what they are is asked of
//! the server. Teams knows no names for posts: a post is made once in the life of this process; a crash between a post
//! and the caller's record of it can leave a second card, on which nobody can decide, as it is not the known one.

mod activity;
mod connector;
mod desk;
mod keys;
mod token;

#[cfg(test)]
mod tests;

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::{
    activity::{message, parts},
    connector::{Connector, Places},
    desk::Desk,
    keys::Keys,
};
use super::{
    Channel, Failure, Inbox, MessageId,
    adaptive::{self, Offer},
    card::{Card, risk_name},
    http,
    listener::{Bound, Place, serve},
    once::Once,
    outbound,
    secret::Secret,
};
use crate::clock::Clock;

/// Where the Bot Framework calls.
const PATH: &str = "/api/messages";
/// Longest call, in bytes. Teams itself stays below 100 kB.
const MAX_CALL_BYTES: usize = 256 << 10;
/// Where the Bot Framework says which keys it has.
const OPENID_URL: &str = "https://login.botframework.com/v1/.well-known/openidconfiguration";
/// Teams waits some seconds for the answer to a click, and then shows an error.
const ANSWER_TIME: Duration = Duration::from_secs(4);

/// What is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The app's id, as its registration shows it.
    pub app_id: String,
    /// The tenant whose people may decide.
    pub tenant: String,
    /// The app's client secret.
    pub secret: Secret,
    /// Where cards are posted: the id of a channel (`19:…@thread.tacv2`) or chat that the bot is in.
    pub conversation: String,
    /// The server of the tenant's region, such as `https://smba.trafficmanager.net/emea/`. Tokens are sent there only.
    pub service_url: String,
    /// Where to listen, without TLS.
    pub listen: SocketAddr,
    /// Where tokens come from. None: Entra's address for the tenant.
    pub token_url: Option<String>,
    /// Where the Bot Framework's keys are named. None: its public address.
    pub openid_url: Option<String>,
}

/// The channel.
pub struct Teams {
    desk: Arc<Desk>,
    connector: Arc<Connector>,
    conversation: String,
    listen: SocketAddr,
    bound: Bound,
    posts: Once,
}

impl fmt::Debug for Teams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teams").field("conversation", &self.conversation).finish_non_exhaustive()
    }
}

impl Teams {
    /// A channel that has called nobody yet.
    ///
    /// # Errors
    /// The settings are wrong; says which.
    pub fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, Failure> {
        let Settings { app_id, tenant, secret, conversation, service_url, listen, token_url, openid_url } = settings;
        let app_id = guid("app_id", &app_id)?;
        let tenant = guid("tenant", &tenant)?;
        if conversation.is_empty() || conversation.contains(['/', ';']) {
            let way_out = "take its id alone, such as 19:…@thread.tacv2";
            return Err(Failure::Fatal(format!("`conversation` is no conversation's id: {way_out}")));
        }
        let service = outbound::address("the server of Teams (`service_url`)", &service_url)?;
        let token_url =
            token_url.unwrap_or_else(|| format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"));
        let token = outbound::address("Entra's tokens", &token_url)?;
        let openid_url =
            outbound::address("the Bot Framework's configuration", openid_url.as_deref().unwrap_or(OPENID_URL))?;
        let client = http::client()?;
        let places = Places { service: service.clone(), token };
        let connector = Arc::new(Connector::new(client.clone(), places, app_id.clone(), secret, Arc::clone(&clock)));
        let desk = Desk {
            app_id,
            tenant,
            conversation: conversation.clone(),
            service,
            keys: Keys::new(client, openid_url, Arc::clone(&clock)),
            connector: Arc::clone(&connector),
            clock,
            answer_time: ANSWER_TIME,
            members: Default::default(),
        };
        Ok(Self {
            desk: Arc::new(desk),
            connector,
            conversation,
            listen,
            bound: Bound::default(),
            posts: Once::default(),
        })
    }

    /// Where calls are taken, once they are.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.address()
    }
}

impl Channel for Teams {
    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        let post = || async {
            let id = self.connector.post(&self.conversation, &shown(card, &name(once))).await?;
            Ok(message(&self.conversation, &id))
        };
        self.posts.post(once, post).await
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let (conversation, id) = known(message)?;
        let mut activity = shown(card, &name(&message.0));
        activity["id"] = Value::from(id);
        self.connector.update(conversation, id, &activity).await
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        let (conversation, id) = known(message)?;
        // Only channels of teams have threads; in chats a reply follows.
        let has_threads = conversation.ends_with("@thread.tacv2") || conversation.ends_with("@thread.skype");
        let thread = if has_threads { format!("{conversation};messageid={id}") } else { conversation.to_owned() };
        for (number, card) in adaptive::notes(lines).into_iter().enumerate() {
            let once = format!("{once}/{number}");
            let activity = json!({
                "type": "message",
                "replyToId": id,
                "attachments": [adaptive::attachment(card, &name(&once))],
            });
            let post = || async { self.connector.post(&thread, &activity).await.map(MessageId) };
            self.posts.post(&once, post).await?;
        }
        Ok(())
    }

    async fn listen(&self, inbox: Inbox, _cursor: Option<String>) -> Failure {
        // Better to know now than with the first card. What passes by itself shows with the posts.
        if let Err(fatal @ Failure::Fatal(_)) = self.connector.sign_in().await {
            return fatal;
        }
        let place = Place { address: self.listen, path: PATH, max_body_bytes: MAX_CALL_BYTES };
        let desk = Arc::clone(&self.desk);
        let acts = inbox.clone();
        serve(place, &self.bound, &inbox, move |received| Arc::clone(&desk).take(received, acts.clone())).await
    }
}

/// A message with a card.
fn shown(card: &Card, name: &str) -> Value {
    let summary = match (card.more, card.is_final) {
        (Some(_), _) => card.title(),
        (None, true) => format!("{} has ended, risk {}", card.request, risk_name(card.risk)),
        (None, false) => format!("{} waits, risk {}", card.request, risk_name(card.risk)),
    };
    json!({
        "type": "message",
        // For notifications. Nothing that an agent chose.
        "summary": format!("gatekeeper: {summary}"),
        "attachments": [adaptive::attachment(adaptive::card(card, Offer::Buttons), name)],
    })
}

/// The name of a post's attachment: the same for the same post, so that a second copy can be told for what it is.
fn name(once: &str) -> String {
    Sha256::digest(once).iter().take(8).fold("gatekeeper-".to_owned(), |mut name, byte| {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn known(message: &MessageId) -> Result<(&str, &str), Failure> {
    parts(message).ok_or_else(|| Failure::Refused(format!("{message} is no message of Teams")))
}

fn guid(setting: &str, text: &str) -> Result<String, Failure> {
    let text = text.trim().to_ascii_lowercase();
    let shape = |(at, c): (usize, char)| match at {
        8 | 13 | 18 | 23 => c == '-',
        _ => c.is_ascii_hexdigit(),
    };
    if text.len() != 36 || !text.chars().enumerate().all(shape) {
        let way_out = "such as 00000000-0000-0000-0000-000000000000; the app's registration shows it";
        return Err(Failure::Fatal(format!("`{setting}` is no id {way_out}")));
    }
    Ok(text)
}
