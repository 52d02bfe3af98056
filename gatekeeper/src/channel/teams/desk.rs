//! Calls that come in: proven to be the Bot Framework's, then turned into acts, then answered in time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::StatusCode;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::time::timeout;
use tracing::debug;

use super::{
    activity::{Activity, NOT_OURS, Wish, refused, told},
    connector::{Connector, Member},
    keys::{Keys, NoKey},
    token::{BadToken, Expected, Token},
};
use crate::{
    channel::{
        Account, Act, Evidence, Failure, Inbox, Standing, adaptive,
        listener::{Received, Reply},
    },
    clock::Clock,
};

/// The one channel of the Bot Framework that is believed.
const CHANNEL: &str = "msteams";
/// How long what is known of somebody holds.
const MEMBER_TIME: Duration = Duration::from_secs(600);
/// People who are remembered. Reviewers are few.
const MAX_MEMBERS: usize = 1_000;

/// Takes calls in.
pub(super) struct Desk {
    pub(super) app_id: String,
    /// In lower case.
    pub(super) tenant: String,
    pub(super) conversation: String,
    pub(super) service: Url,
    pub(super) keys: Keys,
    pub(super) connector: Arc<Connector>,
    pub(super) clock: Arc<dyn Clock>,
    /// Who clicks is told within this time, be it that the answer will follow.
    pub(super) answer_time: Duration,
    pub(super) members: Mutex<HashMap<String, (Member, Duration)>>,
}

impl Desk {
    /// Checks a call, hands the act over, and answers.
    pub(super) async fn take(self: Arc<Self>, received: Received, inbox: Inbox) -> Reply {
        let activity = match self.prove(&received).await {
            Ok(activity) => activity,
            Err(refusal) => return refusal,
        };
        match (activity.r#type.as_str(), activity.name.as_str()) {
            ("invoke", "adaptiveCard/action") => ok(self.click(activity, inbox).await),
            // What the Bot Framework expects of bots that do not know an invoke.
            ("invoke", _) => Reply::refusal(StatusCode::NOT_IMPLEMENTED, "gatekeeper knows no such invoke"),
            ("message", _) => {
                let answered = tokio::spawn(self.clone().message(activity, inbox));
                // It goes on by itself; the server only wants to know that it arrived.
                let _ = timeout(self.answer_time, answered).await;
                ok(json!({}))
            }
            // Such as that the bot was added to the team.
            _ => ok(json!({})),
        }
    }

    /// Reads a call and makes sure that it is from the Bot Framework, for this bot and from Teams.
    async fn prove(&self, received: &Received) -> Result<Activity, Reply> {
        let token = received.authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| Reply::refusal(StatusCode::UNAUTHORIZED, "there is no token"))?;
        let activity: Activity = serde_json::from_slice(&received.body)
            .map_err(|error| Reply::refusal(StatusCode::BAD_REQUEST, format!("no activity: {error}")))?;
        let expected = Expected {
            app_id: &self.app_id,
            channel_id: &activity.channel_id,
            service_url: &activity.service_url,
            now: self.clock.now().wall_ms / 1_000,
        };
        let token = Token::read(token).and_then(|token| token.check(expected).map(|()| token)).map_err(no_token)?;
        let key = self.keys.key(&token.key_id).await.map_err(|error| match error {
            NoKey::Bad(bad) => no_token(bad),
            NoKey::Failed(failure) => {
                debug!(%failure, "a call from Teams cannot be checked");
                Reply::refusal(StatusCode::SERVICE_UNAVAILABLE, "the token cannot be checked now")
            }
        })?;
        token.verify(&key, expected).map_err(no_token)?;
        let is_ours = Url::parse(&activity.service_url).is_ok_and(|url| url.origin() == self.service.origin());
        if activity.channel_id != CHANNEL || !is_ours {
            return Err(Reply::refusal(
                StatusCode::FORBIDDEN,
                "calls are taken from the configured server of Teams only",
            ));
        }
        Ok(activity)
    }

    /// A button of a card; the answer is shown to who clicked.
    async fn click(self: Arc<Self>, activity: Activity, inbox: Inbox) -> Value {
        let wish = match activity.clicked() {
            Ok(wish) => wish,
            Err(reason) => return refused(reason),
        };
        if activity.reply_to_id.is_empty() {
            return refused(NOT_OURS);
        }
        let time = self.answer_time;
        // On a task of its own: the act counts, also when the answer comes too late for Teams.
        let acted = tokio::spawn(async move { self.act(&activity, wish, &inbox).await });
        match timeout(time, acted).await {
            Ok(Ok(text)) => told(&text),
            Ok(Err(_)) => refused("gatekeeper stops; nothing was counted"),
            Err(_) => told("gatekeeper is at it; the card will show what came of it"),
        }
    }

    /// Something that was typed, or a button of a client that knows no `Action.Execute`; the answer is a message.
    async fn message(self: Arc<Self>, activity: Activity, inbox: Inbox) {
        let wish = if activity.value.is_null() { activity.typed() } else { activity.clicked() };
        let text = match wish {
            Ok(wish) => self.act(&activity, wish, &inbox).await,
            // Anything else that people say to a bot.
            Err(usage) if activity.channel() == self.conversation => usage.to_owned(),
            Err(_) => return,
        };
        let Some(card) = adaptive::notes(&[text]).pop() else { return };
        let reply = json!({
            "type": "message",
            "replyToId": activity.id,
            "attachments": [adaptive::attachment(card, "gatekeeper-answer")],
        });
        if let Err(failure) = self.connector.post(&activity.conversation.id, &reply).await {
            debug!(%failure, "who typed a command could not be answered");
        }
    }

    /// Hands an act over and returns what to say.
    async fn act(&self, activity: &Activity, wish: Wish, inbox: &Inbox) -> String {
        if activity.channel() != self.conversation {
            return "gatekeeper takes decisions only in the conversation that it posts to".to_owned();
        }
        let Wish { request, verb, reason, card, typed } = wish;
        let message =
            if typed { Some(super::activity::message(activity.channel(), &activity.id)) } else { activity.card() };
        let act = Act {
            account: self.account(activity).await,
            request,
            verb,
            reason,
            typed,
            evidence: Evidence { message, event: activity.id.clone(), card, signed: None },
        };
        match inbox.act(act).await {
            Some(answer) => answer.text,
            None => "gatekeeper stops; nothing was counted".to_owned(),
        }
    }

    /// Who acted, and what they are. Names are as they come; ids are not.
    async fn account(&self, activity: &Activity) -> Account {
        let from = &activity.from;
        let name = from.name.clone();
        let (tenant, object) = (activity.tenant(), from.aad_object_id.to_ascii_lowercase());
        let id = match &tenant {
            Some(tenant) if !object.is_empty() => format!("{tenant}/{object}"),
            // A name that no reviewer is declared by.
            _ => format!("?/{}", from.id),
        };
        let standing = if matches!(from.role.as_str(), "bot" | "skill") || from.id.starts_with("28:") {
            Standing::Bot
        } else if object.is_empty() {
            Standing::External
        } else if let Some(tenant) = tenant {
            if tenant == self.tenant { self.standing(&from.id, &object).await } else { Standing::External }
        } else {
            Standing::Unknown("the call does not say which tenant it is from".to_owned())
        };
        Account { id, name, standing }
    }

    /// What the server knows about somebody of this tenant, or of a guest in it.
    async fn standing(&self, user: &str, object: &str) -> Standing {
        let member = match self.member(user).await {
            Ok(member) => member,
            Err(failure) => return Standing::Unknown(failure.to_string()),
        };
        let Member { object_id, tenant_id, user_role, user_principal_name } = member;
        // The name of a guest's account has this in it, whatever their role is called.
        let is_guest = user_principal_name.to_ascii_uppercase().contains("#EXT#");
        match user_role.to_ascii_lowercase().as_str() {
            "guest" => Standing::Guest,
            _ if is_guest => Standing::Guest,
            "anonymous" => Standing::External,
            _ if !tenant_id.eq_ignore_ascii_case(&self.tenant) => Standing::External,
            _ if !object_id.eq_ignore_ascii_case(object) => {
                Standing::Unknown("Teams knows them by another object id".to_owned())
            }
            "user" => Standing::Member,
            _ => Standing::Unknown("Teams does not say what their role is".to_owned()),
        }
    }

    async fn member(&self, user: &str) -> Result<Member, Failure> {
        let now = Duration::from_nanos(self.clock.now().boot_ns);
        // Nothing here can panic half-way.
        let known = self.members.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned();
        if let Some((member, since)) = known
            && now.saturating_sub(since) < MEMBER_TIME
        {
            return Ok(member);
        }
        let member = self.connector.member(&self.conversation, user).await?;
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, (_, since)| now.saturating_sub(*since) < MEMBER_TIME);
        if members.len() < MAX_MEMBERS {
            members.insert(user.to_owned(), (member.clone(), now));
        }
        Ok(member)
    }
}

fn ok(body: Value) -> Reply {
    Reply { status: StatusCode::OK, body }
}

fn no_token(bad: BadToken) -> Reply {
    let status = match bad {
        BadToken::Endorsement | BadToken::Service => StatusCode::FORBIDDEN,
        _ => StatusCode::UNAUTHORIZED,
    };
    Reply::refusal(status, bad.to_string())
}
