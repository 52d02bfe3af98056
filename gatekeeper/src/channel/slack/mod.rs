//! A conversation in a Slack workspace, by Socket Mode: the daemon opens all connections, and nothing listens.
//!
//! A card is a message with buttons; its thread has the details. Cards change by edits of the bot's own message. Typed
//! commands with the request's code do what buttons do. Slack keeps nothing for an app that is not connected: what is
//! clicked while the daemon is away is lost, and the person who clicked is told so by Slack.

mod api;
mod listen;
mod manifest;
mod payload;
mod people;
mod posts;
mod render;
mod socket;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::OnceCell;

pub use self::manifest::manifest;
use self::{api::Api, people::People, posts::Posts, render::Rendered};
use super::{Channel, Failure, Inbox, MessageId, card::Card, http, secret::Secret};

/// Where Slack's Web API is.
pub const API: &str = "https://slack.com/api/";

/// Where to go, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base URL of the Web API: [`API`], but for tests.
    pub api: String,
    /// The app-level token, `xapp-…`, with the scope `connections:write`.
    pub app_token: Secret,
    /// The bot token, `xoxb-…`, with the scopes of [`manifest()`].
    pub bot_token: Secret,
    /// The workspace's id, `T…`.
    pub team: String,
    /// The conversation's id, `C…` (`G…` for some private ones).
    pub conversation: String,
    /// How long things may take: the default, but for tests.
    pub times: Times,
}

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Times {
    /// Between two pings of a socket.
    pub ping: Duration,
    /// Without a word from the other side until a socket counts as dead. Slack sends pings of its own, too.
    pub idle: Duration,
    /// For a socket to be opened, and for its greeting.
    pub hello: Duration,
    /// How long a socket that is to be closed is still read. Slack closes it about ten seconds after a warning.
    pub drain: Duration,
    /// How long a socket must last to show that things work.
    pub settled: Duration,
    /// First pause after a failure, and the longest: pauses double.
    pub first_pause: Duration,
    /// The longest pause.
    pub last_pause: Duration,
    /// How long an account's standing is remembered. Ten minutes at most: so long does one that was switched off count.
    pub standing: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            hello: Duration::from_secs(15),
            drain: Duration::from_secs(30),
            settled: Duration::from_secs(10),
            first_pause: Duration::from_secs(1),
            last_pause: Duration::from_secs(60),
            standing: Duration::from_secs(60),
        }
    }
}

/// The longest that an account's standing may be remembered.
const MAX_STANDING: Duration = Duration::from_secs(600);

/// The channel.
#[derive(Debug)]
pub struct Slack {
    shared: Arc<Shared>,
}

/// What the channel's tasks share.
#[derive(Debug)]
struct Shared {
    api: Api,
    team: String,
    conversation: String,
    times: Times,
    people: People,
    posts: Posts,
    identity: OnceCell<Identity>,
}

/// Who the bot is.
#[derive(Clone, Debug)]
struct Identity {
    user: String,
    bot: String,
}

impl Slack {
    /// Makes the channel; nothing is sent yet.
    ///
    /// # Errors
    /// The API's URL is none that tokens may go to, a token is of the wrong kind, or no HTTP client can be made.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let Settings { api, app_token, bot_token, team, conversation, times } = settings;
        for (token, prefix, name) in [(&app_token, "xapp-", "app-level token"), (&bot_token, "xoxb-", "bot token")] {
            if !token.expose().starts_with(prefix) {
                return Err(Failure::Fatal(format!(
                    "what is given as Slack's {name} is none, since those begin with {prefix}; the app's settings have both \
                     tokens"
                )));
            }
        }
        let api = Api::new(http::client()?, &api, app_token, bot_token)?;
        let people = People::new(times.standing.min(MAX_STANDING));
        let (posts, identity) = (Posts::default(), OnceCell::new());
        let shared = Shared { api, team, conversation, times, people, posts, identity };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Puts everything that is known into the thread of a card that could not show it.
    async fn detail(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        self.add(message, &card.detail, &format!("detail {}", card.digest)).await
    }
}

impl Shared {
    /// Who the bot is, and that it is in the right workspace.
    async fn identity(&self) -> Result<&Identity, Failure> {
        self.identity
            .get_or_try_init(|| async {
                let reply = self.api.read("auth.test", &[]).await?;
                let said = |key: &str| reply.body[key].as_str().unwrap_or_default().to_owned();
                let team = said("team_id");
                if team != self.team {
                    return Err(Failure::Fatal(format!(
                        "the bot token belongs to workspace {team}, and the configuration names {}; correct `team`, or \
                         install the app there and use that token",
                        self.team
                    )));
                }
                if let Some(scopes) = &reply.scopes {
                    let has: Vec<_> = scopes.split(',').map(str::trim).collect();
                    let lacks: Vec<_> = manifest::SCOPES.into_iter().filter(|scope| !has.contains(scope)).collect();
                    if !lacks.is_empty() {
                        return Err(Failure::Fatal(format!(
                            "missing_scope: the bot token lacks {}; add that to the app as in its manifest, install it in \
                             the workspace again, and put the new token into its file",
                            lacks.join(", ")
                        )));
                    }
                }
                Ok(Identity { user: said("user_id"), bot: said("bot_id") })
            })
            .await
    }

    /// Whether everything is as it has to be: tokens, workspace, scopes, and a conversation that the bot is in.
    async fn check(&self) -> Result<(), Failure> {
        self.identity().await?;
        self.posts.prepare(self).await
    }

    /// Names a message of the conversation.
    fn message(&self, ts: &str) -> MessageId {
        MessageId(format!("{}/{ts}", self.conversation))
    }

    /// The timestamp of a message of the conversation.
    fn timestamp<'a>(&self, message: &'a MessageId) -> Result<&'a str, Failure> {
        match message.0.split_once('/') {
            Some((conversation, ts)) if conversation == self.conversation => Ok(ts),
            _ => Err(Failure::Refused(format!("the message {message} is in another conversation"))),
        }
    }

    /// Tells one person something that nobody else sees.
    async fn tell(&self, user: &str, thread: Option<&str>, text: &str) -> Result<(), Failure> {
        let Rendered { text, blocks, .. } = render::answer(text);
        let mut message = json!({
            "channel": self.conversation,
            "user": user,
            "text": text,
            "blocks": blocks,
            "parse": "none",
            "link_names": false,
        });
        if let Some(thread) = thread {
            message["thread_ts"] = json!(thread);
        }
        self.api.write("chat.postEphemeral", &message).await.map(drop)
    }
}

impl Channel for Slack {
    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        let rendered = render::card(card);
        let ts = self.shared.posts.post(&self.shared, None, once, &rendered).await?;
        let message = self.shared.message(&ts);
        if rendered.shortened {
            self.detail(&message, card).await?;
        }
        Ok(message)
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let ts = self.shared.timestamp(message)?;
        let Rendered { text, blocks, shortened } = render::card(card);
        // Its name as metadata stays, since none is given.
        let content = json!({
            "channel": self.shared.conversation,
            "ts": ts,
            "text": text,
            "blocks": blocks,
            "parse": "none",
            "link_names": false,
        });
        self.shared.api.write("chat.update", &content).await?;
        if shortened && !card.is_final {
            self.detail(message, card).await?;
        }
        Ok(())
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        let thread = self.shared.timestamp(message)?;
        for (number, part) in render::notes(lines).iter().enumerate() {
            self.shared.posts.post(&self.shared, Some(thread), &format!("{once} part {number}"), part).await?;
        }
        Ok(())
    }

    async fn listen(&self, inbox: Inbox, _cursor: Option<String>) -> Failure {
        // Slack has nothing to go on reading from.
        listen::run(&self.shared, inbox).await
    }
}
