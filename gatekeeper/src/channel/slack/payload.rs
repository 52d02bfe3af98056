//! What Slack tells about what people do, read strictly: whatever is not about a message of this app, in this workspace and
//! conversation, is nothing.

use serde_json::{Value, json};

use super::{
    super::{Verb, command},
    render::{NEEDS_REASON, REASON_BLOCK, REASON_VIEW},
};
use crate::request::RequestId;

/// Somebody wants something done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Who: the user's id.
    pub(super) user: String,
    /// Names this very act; the same act delivered again has the same name.
    pub(super) event: String,
    pub(super) verb: Verb,
    pub(super) request: RequestId,
    /// Digest of the card that was clicked.
    pub(super) card: Option<String>,
    /// Timestamp of the card's message, or of the one that was typed.
    pub(super) ts: String,
    pub(super) reason: Option<String>,
    pub(super) typed: bool,
    /// Whether the rule wants a reason with it.
    pub(super) needs_reason: bool,
    /// In which thread it was typed.
    pub(super) thread: Option<String>,
    /// What opens a window that asks for the reason first. It is good for three seconds.
    pub(super) trigger: Option<String>,
}

/// Where clicks and words count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) team: &'a str,
    pub(super) app: &'a str,
    pub(super) conversation: &'a str,
}

/// Reads an envelope.
pub(super) fn read(envelope: &Value, place: Place<'_>) -> Option<Wish> {
    let payload = &envelope["payload"];
    match (envelope["type"].as_str()?, payload["type"].as_str()?) {
        ("interactive", "block_actions") => click(payload, place),
        ("interactive", "view_submission") => submission(payload, place),
        ("events_api", "event_callback") => message(payload, place),
        _ => None,
    }
}

fn click(payload: &Value, place: Place<'_>) -> Option<Wish> {
    let container = &payload["container"];
    let from_here = payload["team"]["id"] == place.team
        && payload["api_app_id"] == place.app
        && container["type"] == "message"
        && container["channel_id"] == place.conversation;
    let [action] = payload["actions"].as_array()?.as_slice() else { return None };
    if !from_here {
        tracing::warn!("a click in Slack was not on a card of this app in its conversation, and is ignored");
        return None;
    }
    let verb = Verb::from_carried(action["action_id"].as_str()?)?;
    let (request, card, needs_reason) = value(action["value"].as_str()?)?;
    let ts = container["message_ts"].as_str()?.to_owned();
    let user = payload["user"]["id"].as_str()?.to_owned();
    let event = format!("click {} on {ts} by {user}", action["action_ts"].as_str()?);
    let trigger = match verb {
        Verb::Deny | Verb::DenyAndStop => Some(payload["trigger_id"].as_str()?.to_owned()),
        Verb::Approve | Verb::ApproveFor(_) if needs_reason => Some(payload["trigger_id"].as_str()?.to_owned()),
        Verb::Approve | Verb::ApproveFor(_) | Verb::Escalate | Verb::Extend | Verb::Show => None,
    };
    let (card, reason, typed, thread) = (Some(card), None, false, None);
    Some(Wish { user, event, verb, request, card, ts, reason, typed, needs_reason, thread, trigger })
}

fn submission(payload: &Value, place: Place<'_>) -> Option<Wish> {
    let view = &payload["view"];
    let from_here = payload["team"]["id"] == place.team && payload["api_app_id"] == place.app;
    if !from_here || view["callback_id"] != REASON_VIEW {
        return None;
    }
    let memory: Value = serde_json::from_str(view["private_metadata"].as_str()?).ok()?;
    let (request, card, needs_reason) = value(memory["value"].as_str()?)?;
    let reason = view["state"]["values"][REASON_BLOCK][REASON_BLOCK]["value"].as_str();
    let reason = reason.map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned);
    Some(Wish {
        user: payload["user"]["id"].as_str()?.to_owned(),
        event: format!("view {}", view["id"].as_str()?),
        verb: Verb::from_word(memory["verb"].as_str()?)?,
        request,
        card: Some(card),
        ts: memory["ts"].as_str()?.to_owned(),
        reason,
        typed: false,
        needs_reason,
        thread: None,
        trigger: None,
    })
}

/// What the window for the reason has to bring back.
pub(super) fn memory(wish: &Wish) -> String {
    let why = if wish.needs_reason { format!(" {NEEDS_REASON}") } else { String::new() };
    let value = format!("{} {}{why}", wish.request, wish.card.as_deref().unwrap_or_default());
    json!({ "verb": wish.verb.word(), "value": value, "ts": wish.ts }).to_string()
}

fn message(payload: &Value, place: Place<'_>) -> Option<Wish> {
    let event = &payload["event"];
    let from_here = payload["team_id"] == place.team
        && payload["api_app_id"] == place.app
        && event["type"] == "message"
        && event["channel"] == place.conversation;
    // Edits, messages of programs, people who join: none of them is a person's own new word.
    let has = |key: &str| !event[key].is_null();
    if !from_here || ["subtype", "bot_id", "app_id", "bot_profile", "edited", "hidden"].into_iter().any(has) {
        return None;
    }
    let (verb, request, reason) = command::read(&typed(event["text"].as_str()?))?;
    Some(Wish {
        user: event["user"].as_str()?.to_owned(),
        event: payload["event_id"].as_str()?.to_owned(),
        verb,
        request,
        card: None,
        ts: event["ts"].as_str()?.to_owned(),
        reason,
        typed: true,
        needs_reason: false,
        thread: event["thread_ts"].as_str().map(str::to_owned),
        trigger: None,
    })
}

/// A message as it was typed: Slack escapes three characters, and people mark up codes.
fn typed(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace('`', "").replace('\u{a0}', " ")
}

/// Reads a button's value: the request's code, the digest of the card, and whether a reason has to be given.
fn value(value: &str) -> Option<(RequestId, String, bool)> {
    let (code, rest) = value.split_once(' ')?;
    let (digest, why) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((code.parse().ok()?, digest.to_owned(), why == NEEDS_REASON))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place { team: "T1", app: "A1", conversation: "C1" };

    fn click() -> Value {
        json!({
            "envelope_id": "E1",
            "type": "interactive",
            "payload": {
                "type": "block_actions",
                "team": { "id": "T1" },
                "user": { "id": "U1", "team_id": "T1" },
                "api_app_id": "A1",
                "container": { "type": "message", "channel_id": "C1", "message_ts": "10.5" },
                "trigger_id": "trigger",
                "actions": [{ "action_id": "approve", "value": "AB12-CD34 digest", "action_ts": "11.5" }],
            },
        })
    }

    fn typed(text: &str) -> Value {
        json!({
            "envelope_id": "E2",
            "type": "events_api",
            "payload": {
                "type": "event_callback",
                "team_id": "T1",
                "api_app_id": "A1",
                "event_id": "Ev1",
                "event": {
                    "type": "message", "channel": "C1", "user": "U1", "text": text, "ts": "12.5", "thread_ts": "10.5",
                },
            },
        })
    }

    #[test]
    fn a_click_counts_only_in_its_workspace_app_and_conversation() {
        let wish = read(&click(), PLACE).unwrap();
        assert_eq!((wish.verb, wish.user.as_str(), wish.ts.as_str()), (Verb::Approve, "U1", "10.5"));
        assert_eq!((wish.card.as_deref(), wish.trigger), (Some("digest"), None));
        assert_eq!(wish.event, "click 11.5 on 10.5 by U1");
        for (path, other) in [
            ("/payload/team/id", json!("T2")),
            ("/payload/api_app_id", json!("A2")),
            ("/payload/container/channel_id", json!("C2")),
            ("/payload/container/type", json!("view")),
            ("/payload/actions/0/value", json!("AB12")),
            ("/payload/actions/0/action_id", json!("yes")),
            ("/payload/user/id", Value::Null),
        ] {
            let mut envelope = click();
            *envelope.pointer_mut(path).unwrap() = other;
            assert_eq!(read(&envelope, PLACE), None, "{path}");
        }
    }

    #[test]
    fn an_approval_asks_why_where_its_button_says_so() {
        let mut envelope = click();
        envelope["payload"]["actions"][0]["value"] = json!("AB12-CD34 digest why");
        let wish = read(&envelope, PLACE).unwrap();
        assert_eq!(
            (wish.verb, wish.card.as_deref(), wish.trigger.as_deref()),
            (Verb::Approve, Some("digest"), Some("trigger"))
        );
        assert!(wish.needs_reason);
        let memory: Value = serde_json::from_str(&memory(&wish)).unwrap();
        assert_eq!(value(memory["value"].as_str().unwrap()), Some((wish.request, "digest".to_owned(), true)));
    }

    #[test]
    fn a_denial_asks_why_and_remembers_what_about() {
        let mut envelope = click();
        envelope["payload"]["actions"][0]["action_id"] = json!("deny");
        let wish = read(&envelope, PLACE).unwrap();
        assert_eq!(wish.trigger.as_deref(), Some("trigger"));
        let view = json!({
            "id": "V1",
            "callback_id": REASON_VIEW,
            "private_metadata": memory(&wish),
            "state": { "values": { "reason": { "reason": { "type": "plain_text_input", "value": " not now " } } } },
        });
        let payload = json!({
            "type": "view_submission", "team": { "id": "T1" }, "user": { "id": "U1" }, "api_app_id": "A1", "view": view,
        });
        let submitted = read(&json!({ "type": "interactive", "payload": payload }), PLACE).unwrap();
        assert_eq!(submitted.reason.as_deref(), Some("not now"));
        let expected = Wish { event: "view V1".to_owned(), reason: submitted.reason.clone(), trigger: None, ..wish };
        assert_eq!(submitted, expected);
    }

    #[test]
    fn a_persons_new_message_is_a_command_and_nothing_else_is() {
        let wish = read(&typed("deny `AB12-CD34` a &lt; b &amp;amp;"), PLACE).unwrap();
        assert_eq!((wish.verb, wish.reason.as_deref()), (Verb::Deny, Some("a < b &amp;")));
        assert!(wish.typed);
        assert_eq!(wish.thread.as_deref(), Some("10.5"));
        for (key, other) in [
            ("subtype", json!("message_changed")),
            ("bot_id", json!("B1")),
            ("app_id", json!("A1")),
            ("edited", json!({ "user": "U1" })),
            ("channel", json!("C2")),
            ("text", json!("hello")),
        ] {
            let mut envelope = typed("approve AB12-CD34");
            assert!(read(&envelope, PLACE).is_some());
            envelope["payload"]["event"][key] = other;
            assert_eq!(read(&envelope, PLACE), None, "{key}");
        }
        let mut elsewhere = typed("approve AB12-CD34");
        elsewhere["payload"]["team_id"] = json!("T2");
        assert_eq!(read(&elsewhere, PLACE), None);
    }
}
