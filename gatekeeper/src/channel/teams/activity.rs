//! What Teams sends: who did what to which card, and what was typed.
//!
//! Only reading: nothing here is believed before the token of the call was verified.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    channel::{MessageId, Verb, adaptive::MAX_REASON_CHARS, command},
    request::RequestId,
};

/// A call's body.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Activity {
    pub(super) r#type: String,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) channel_id: String,
    pub(super) service_url: String,
    pub(super) from: From,
    pub(super) conversation: Conversation,
    pub(super) channel_data: ChannelData,
    pub(super) reply_to_id: String,
    pub(super) text: String,
    pub(super) value: Value,
}

/// Who acted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct From {
    /// The id by which the server knows them in this bot's conversations.
    pub(super) id: String,
    pub(super) name: String,
    /// The object id in Entra; people without one are from elsewhere.
    pub(super) aad_object_id: String,
    pub(super) role: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Conversation {
    pub(super) id: String,
    pub(super) tenant_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChannelData {
    pub(super) tenant: Tenant,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tenant {
    pub(super) id: String,
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) request: RequestId,
    pub(super) verb: Verb,
    pub(super) reason: Option<String>,
    /// Digest of the card with the button.
    pub(super) card: Option<String>,
    /// Whether it was typed.
    pub(super) typed: bool,
}

/// What a button carries.
#[derive(Deserialize)]
struct Carried {
    request: RequestId,
    card: String,
    verb: String,
}

/// Why somebody's wish cannot be understood.
pub(super) const NOT_OURS: &str = "that is no button of gatekeeper's";
/// What can be typed.
pub(super) const USAGE: &str = "write: approve CODE, approve CODE for 10m, deny CODE, stop CODE, escalate CODE, extend CODE or show CODE, and a reason if you like";

impl Activity {
    /// A conversation's own id, without the thread's in it.
    pub(super) fn channel(&self) -> &str {
        self.conversation.id.split(";messageid=").next().unwrap_or_default()
    }

    /// The message that was acted on.
    pub(super) fn card(&self) -> Option<MessageId> {
        (!self.reply_to_id.is_empty()).then(|| message(self.channel(), &self.reply_to_id))
    }

    /// The tenant, if all that name one agree.
    pub(super) fn tenant(&self) -> Option<String> {
        let named: Vec<_> = [&self.conversation.tenant_id, &self.channel_data.tenant.id]
            .into_iter()
            .filter(|id| !id.is_empty())
            .map(|id| id.to_ascii_lowercase())
            .collect();
        let first = named.first()?.clone();
        named.iter().all(|id| *id == first).then_some(first)
    }

    /// What was clicked: the data of an `Action.Execute`, or of an `Action.Submit` that stands in for it.
    pub(super) fn clicked(&self) -> Result<Wish, &'static str> {
        let data = if self.r#type == "invoke" { &self.value["action"]["data"] } else { &self.value };
        let Ok(Carried { request, card, verb }) = serde_json::from_value(data["gatekeeper"].clone()) else {
            return Err(NOT_OURS);
        };
        let verb = Verb::from_carried(&verb).ok_or(NOT_OURS)?;
        let reason = reason(data["reason"].as_str().unwrap_or_default());
        Ok(Wish { request, verb, reason, card: Some(card), typed: false })
    }

    /// What was typed: a verb, a code, a reason.
    pub(super) fn typed(&self) -> Result<Wish, &'static str> {
        let text = without_mentions(&self.text);
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (verb, request, why) = command::read(&line).ok_or(USAGE)?;
        Ok(Wish { request, verb, reason: reason(why.as_deref().unwrap_or_default()), card: None, typed: true })
    }
}

/// How a message of a conversation is named outside.
pub(super) fn message(conversation: &str, id: &str) -> MessageId {
    MessageId(format!("{conversation}/{id}"))
}

/// The parts of a message's name.
pub(super) fn parts(message: &MessageId) -> Option<(&str, &str)> {
    message.0.rsplit_once('/')
}

/// The body of an answer to an invoke: shown to who clicked, and to nobody else.
pub(super) fn told(text: &str) -> Value {
    json!({ "statusCode": 200, "type": "application/vnd.microsoft.activity.message", "value": text })
}

/// The body of an answer to an invoke that cannot be done.
pub(super) fn refused(text: &str) -> Value {
    let error = json!({ "code": "BadRequest", "message": text });
    json!({ "statusCode": 400, "type": "application/vnd.microsoft.error", "value": error })
}

/// A reason in one line and of a sensible length, if there is one.
fn reason(text: &str) -> Option<String> {
    let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let reason: String = words.join(" ").chars().take(MAX_REASON_CHARS).collect();
    (!reason.is_empty()).then_some(reason)
}

/// What is left of a message without `<at>…</at>`, by which bots are called.
fn without_mentions(text: &str) -> String {
    let text = text.replace("&nbsp;", " ");
    let mut left = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("<at>") {
        left.push_str(before);
        left.push(' ');
        rest = after.split_once("</at>").map_or("", |(_, after)| after);
    }
    left + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::GrantLength;

    fn typed(text: &str) -> Result<Wish, &'static str> {
        Activity { text: text.to_owned(), ..Activity::default() }.typed()
    }

    #[test]
    fn commands_are_read_as_people_write_them() {
        let request = RequestId::new(7, 42);
        let wish = |verb, reason: Option<&str>| {
            Ok(Wish { request, verb, reason: reason.map(str::to_owned), card: None, typed: true })
        };
        let code = request.to_string();
        assert_eq!(typed(&format!("<at>gatekeeper</at> approve {code}\n")), wish(Verb::Approve, None));
        assert_eq!(
            typed(&format!("<at>gate keeper</at>&nbsp;Deny {}  not\n now", code.to_lowercase())),
            wish(Verb::Deny, Some("not now"))
        );
        assert_eq!(typed(&format!("stop {code}")), wish(Verb::DenyAndStop, None));
        let run = Verb::ApproveFor(GrantLength::Run);
        assert_eq!(typed(&format!("approve {code}  for run\nit is safe")), wish(run, Some("it is safe")));
        for bad in ["", "approve", "<at>x</at>", "<at>approve", &format!("yes {code}"), "approve AB12"] {
            assert_eq!(typed(bad), Err(USAGE), "{bad}");
        }
    }

    #[test]
    fn tenants_have_to_agree() {
        let activity = |conversation: &str, data: &str| Activity {
            conversation: Conversation { tenant_id: conversation.to_owned(), ..Conversation::default() },
            channel_data: ChannelData { tenant: Tenant { id: data.to_owned() } },
            ..Activity::default()
        };
        assert_eq!(activity("A", "a").tenant().as_deref(), Some("a"));
        assert_eq!(activity("", "a").tenant().as_deref(), Some("a"));
        assert_eq!(activity("a", "b").tenant(), None);
        assert_eq!(activity("", "").tenant(), None);
    }
}
