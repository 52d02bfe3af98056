//! Ways to reach reviewers: what each of them must be able to do, and what they share.
//!
//! A channel shows cards and hands over what people do with them. It decides nothing and knows no rule: whether an account
//! may decide, and what its word is worth, is for the daemon. No card changes but on the daemon's word, so all copies of it
//! tell the same. Channels run on a thread of their own, so a slow chat server delays nothing that waits in the kernel.

pub mod adaptive;
pub mod budget;
pub mod card;
pub mod command;
mod digest;
pub mod fit;
pub mod http;
pub mod listener;
pub mod matrix;
pub mod once;
pub mod outbound;
pub mod outbox;
mod plan;
pub mod secret;
pub mod slack;
pub mod store;
pub mod teams;
pub mod webhook;
pub mod workflows;

#[cfg(test)]
#[path = "../../../tests/src/fake_http.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
pub(crate) mod fake_http;
#[cfg(test)]
mod pictures;
#[cfg(test)]
#[path = "../../../tests/src/slack_fake/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a library of another package, which uses and offers more of it")]
pub(crate) mod slack_fake;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
#[path = "../../../tests/src/teams_fake/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
pub(crate) mod teams_fake;
#[cfg(test)]
#[path = "../../../tests/src/webhook_fake/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
pub(crate) mod webhook_fake;

use std::{borrow::Cow, collections::BTreeSet, future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use self::card::Card;
use crate::request::{Effect, GrantLength, RequestId};
pub use crate::request::{Evidence, MessageId};

/// What somebody wants done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Let it go on, once.
    Approve,
    /// Let it go on, and the same action by the same agent run again for a while.
    ApproveFor(GrantLength),
    /// Make it fail.
    Deny,
    /// Make it fail, and end every process of the agent's run.
    DenyAndStop,
    /// Ask the next reviewers now.
    Escalate,
    /// Move the deadline once more by its own length.
    Extend,
    /// Have the request's card posted, where it stands in a digest only. Nothing is decided.
    Show,
}

impl Verb {
    /// Those that any request may offer, in their order. [`Verb::ApproveFor`] is offered where the rule does.
    pub const ALL: [Self; 5] = [Self::Approve, Self::Deny, Self::DenyAndStop, Self::Escalate, Self::Extend];

    /// The word that is typed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Approve | Self::ApproveFor(_) => "approve",
            Self::Deny => "deny",
            Self::DenyAndStop => "stop",
            Self::Escalate => "escalate",
            Self::Extend => "extend",
            Self::Show => "show",
        }
    }

    /// What a button says.
    pub fn title(self) -> Cow<'static, str> {
        let title = match self {
            Self::ApproveFor(length) => return format!("Approve {}", length.in_words()).into(),
            Self::Approve => "Approve once",
            Self::Deny => "Deny",
            Self::DenyAndStop => "Deny and stop the agent",
            Self::Escalate => "Escalate",
            Self::Extend => "Extend",
            Self::Show => "Show",
        };
        title.into()
    }

    /// What it decides, if it is a decision; `denial` is what a denied action fails with.
    pub fn effect(self, denial: Effect) -> Option<Effect> {
        match self {
            Self::Approve | Self::ApproveFor(_) => Some(Effect::Allow),
            Self::Deny | Self::DenyAndStop => Some(denial),
            Self::Escalate | Self::Extend | Self::Show => None,
        }
    }

    /// Whether it lets the action go on.
    pub fn is_approval(self) -> bool {
        matches!(self, Self::Approve | Self::ApproveFor(_))
    }

    /// What a channel's button carries: [`Verb::word`], and for how long.
    pub fn carried(self) -> String {
        match self {
            Self::ApproveFor(length) => format!("approve for {length}"),
            verb => verb.word().to_owned(),
        }
    }

    /// Reads what a button carried.
    pub fn from_carried(carried: &str) -> Option<Self> {
        match carried.strip_prefix("approve for ") {
            Some(length) => length.parse().ok().map(Self::ApproveFor),
            None => Self::from_word(carried),
        }
    }

    /// Reads the word of one of [`Verb::ALL`].
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.word() == word)
    }
}

/// What is known of an account beyond its id. Whatever is not a person in good standing decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// An active account of a person who belongs there.
    Member,
    /// A program.
    Bot,
    /// Somebody with fewer rights than members.
    Guest,
    /// Switched off.
    Deleted,
    /// Somebody of another organisation.
    External,
    /// Whose address was never confirmed.
    Unconfirmed,
    /// It could not be found out, and why.
    Unknown(String),
}

/// An account on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The platform's immutable id, with the workspace where ids repeat between workspaces: what the configuration names.
    pub id: String,
    /// How it is called there. For people to read, never to decide by.
    pub name: String,
    /// What is known of it.
    pub standing: Standing,
}

/// Somebody did something about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// Who.
    pub account: Account,
    /// Which request.
    pub request: RequestId,
    /// What is to be done.
    pub verb: Verb,
    /// Why, in their words.
    pub reason: Option<String>,
    /// Whether it was typed with the request's code. A click instead must be on the card that is known for this request.
    pub typed: bool,
    /// What proves it.
    pub evidence: Evidence,
}

/// What the daemon says to who acted, in private where the channel can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether the act counted.
    pub counted: bool,
    /// What to tell them: safe to show, one line.
    pub text: String,
}

/// Why a channel could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too many requests: not before this time has passed.
    #[error("the server takes no more requests for {} s", .0.as_secs_f32())]
    Limited(Duration),
    /// The server cannot be reached or does not work. It is tried again, with growing pauses.
    #[error("{0}")]
    Outage(String),
    /// The server refuses this one message, and would again.
    #[error("{0}")]
    Refused(String),
    /// Nothing goes until an operator acts: a token that was revoked, a room that is not there. Says what to do.
    #[error("{0}")]
    Fatal(String),
}

/// What a channel tells the daemon.
#[derive(Debug)]
pub enum Event {
    /// Somebody acted. The answer may not come when the daemon stops.
    Act(Act, oneshot::Sender<Answer>),
    /// It works (again).
    Up,
    /// It does not work at the moment, and why.
    Down(Failure),
    /// One thing could not be done; others can.
    Problem(Failure),
    /// Where reading is to go on after a restart, in the channel's own words.
    Cursor(String),
    /// These requests stand in digests and have no card of their own.
    Gathered(BTreeSet<RequestId>),
    /// A message shows the card of a request.
    Shown {
        /// Which request.
        request: RequestId,
        /// The message.
        message: MessageId,
        /// The card's digest.
        digest: String,
    },
}

/// A channel's way to the daemon.
#[derive(Clone, Debug)]
pub struct Inbox {
    events: mpsc::Sender<Event>,
}

impl Inbox {
    /// Delivers to `events`.
    pub fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }

    /// Hands over an act and waits for what the daemon says. `None`: the daemon stops, and nothing was counted.
    pub async fn act(&self, act: Act) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        self.events.send(Event::Act(act, sender)).await.ok()?;
        answer.await.ok()
    }

    /// Tells the daemon something.
    pub(crate) async fn tell(&self, event: Event) {
        // The daemon has stopped otherwise.
        let _ = self.events.send(event).await;
    }

    /// Tells that the channel works.
    pub async fn up(&self) {
        self.tell(Event::Up).await;
    }

    /// Tells that it does not.
    pub async fn down(&self, failure: Failure) {
        self.tell(Event::Down(failure)).await;
    }

    /// Has the daemon remember where to go on reading. Must follow the acts that lie before it.
    pub async fn cursor(&self, cursor: String) {
        self.tell(Event::Cursor(cursor)).await;
    }
}

/// A way to reach reviewers.
///
/// All methods may be called at once. None may retry by itself but [`Channel::listen`]: pauses and repetitions are the
/// caller's, who knows what else is to be sent.
pub trait Channel: Send + Sync + 'static {
    /// How long changes of a digest are gathered before it is posted or edited. `None`: there are no digests, and each
    /// request has a card at once, because programs read them.
    const DIGEST_PAUSE: Option<Duration> = Some(Duration::from_millis(1_500));

    /// Shows a card for the first time. `once` names this post: called again with the same one (the first answer was lost,
    /// the daemon was killed) it must find the message that is there rather than make another.
    fn post(&self, card: &Card, once: &str) -> impl Future<Output = Result<MessageId, Failure>> + Send;

    /// Adds what can be tapped to a card that was just posted, where that is no part of the message itself.
    fn offer(&self, message: &MessageId, card: &Card) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = (message, card);
        async { Ok(()) }
    }

    /// Makes a message show this card instead.
    fn edit(&self, message: &MessageId, card: &Card) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Adds a text below a card, in a thread where there are threads: details, reminders. `once` as for [`Self::post`].
    /// Lines are safe to show, and may be longer than one message: then it takes several.
    fn add(
        &self,
        message: &MessageId,
        lines: &[String],
        once: &str,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes what people do, from `cursor` on if reading can go on, until the daemon drops it. It connects again by itself,
    /// tells the inbox when it is up or down, and returns only what is fatal.
    fn listen(&self, inbox: Inbox, cursor: Option<String>) -> impl Future<Output = Failure> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_words_read_back() {
        for verb in Verb::ALL {
            assert_eq!(Verb::from_word(verb.word()), Some(verb));
        }
        assert_eq!(Verb::from_word("yes"), None);
        for length in [GrantLength::Run, GrantLength::For(Duration::from_secs(600))] {
            let verb = Verb::ApproveFor(length);
            assert_eq!(Verb::from_carried(&verb.carried()), Some(verb));
        }
        assert_eq!(Verb::from_carried("deny"), Some(Verb::Deny));
        assert_eq!(Verb::from_carried("approve for ever"), None);
    }
}
