//! Cards as Matrix messages.
//!
//! Everything that is not gatekeeper's own stands in `<code>`, HTML-escaped, so no client takes it for a link, a mention or
//! markup; the plain body says the same, for clients and notifications without HTML.

use serde_json::{Value, json};

use super::super::{
    MessageId, Verb,
    card::{Card, Line, risk_name},
    fit::{Fitted, fit},
};

/// Bytes of one line's text in a card. An event has at most 65,536 bytes, in which the text stands twice, escaped.
const LINE_BYTES: usize = 2_000;
/// Bytes of all lines of a card.
const CARD_BYTES: usize = 16_000;
/// Bytes of one message of a thread.
pub(super) const PART_BYTES: usize = 12_000;

/// The reaction that means a verb, if there is one.
pub(super) fn key(verb: Verb) -> Option<&'static str> {
    Some(match verb {
        Verb::Approve => "✅",
        Verb::Deny => "❌",
        Verb::DenyAndStop => "🛑",
        Verb::Escalate => "⏫",
        Verb::Extend => "⏳",
        // An emoji cannot say for how long.
        Verb::ApproveFor(_) | Verb::Show => return None,
    })
}

/// The verb that a reaction means. Clients may add a variation selector to an emoji.
pub(super) fn verb(reaction: &str) -> Option<Verb> {
    let plain = reaction.trim_end_matches('\u{fe0f}');
    Verb::ALL.into_iter().find(|verb| key(*verb) == Some(plain))
}

/// What can be done with one tap: no approval of what was not seen in full, and nothing that needs a reason.
pub(super) fn offered(card: &Card, shortened: bool) -> impl Iterator<Item = (Verb, &'static str)> {
    let needs = card.needs;
    let wanted =
        card.verbs.iter().copied().filter(move |verb| !(shortened && verb.is_approval()) && needs.only_a_tap(*verb));
    wanted.filter_map(|verb| key(verb).map(|key| (verb, key)))
}

fn html(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        _ => None,
    }
}

/// A card's content, and whether anything of it had to be shortened.
pub(super) fn message(card: &Card) -> (Value, bool) {
    let mut left = CARD_BYTES;
    let mut shortened = false;
    let mut bounded = |text: &str| {
        let Fitted { text, shortened: cut } = fit(text, LINE_BYTES.min(left), html);
        left -= text.len();
        shortened |= cut;
        text
    };
    let headline = bounded(&card.headline);
    let rows: Vec<(&str, String)> = card.lines.iter().map(|Line { label, text }| (*label, bounded(text))).collect();
    let title = if card.more.is_some() { card.title() } else { card.request.to_string() };
    let mut formatted = format!("<b>{title}</b> <code>{headline}</code><br>risk {}<br>", risk_name(card.risk));
    let mut body = format!("{title} {}\nrisk {}\n", unescape(&headline), risk_name(card.risk));
    for (label, text) in &rows {
        formatted.push_str(&format!("{label} <code>{text}</code><br>"));
        body.push_str(&format!("{label} {}\n", unescape(text)));
    }
    if shortened {
        let how = if card.needs.signature { "" } else { "; approve it by typing its code" };
        let told = format!("This card is shortened. The whole request is in the thread{how}.");
        formatted.push_str(&format!("<b>{told}</b><br>"));
        body.push_str(&format!("{told}\n"));
    }
    for status in &card.status {
        let status = fit(status, LINE_BYTES, html).text;
        formatted.push_str(&format!("<b>{status}</b><br>"));
        body.push_str(&format!("{}\n", unescape(&status)));
    }
    let words: Vec<_> = offered(card, shortened).map(|(verb, key)| format!("{key} {}", verb.title())).collect();
    if !card.verbs.is_empty() {
        let reactions =
            if words.is_empty() { String::new() } else { format!("React: {}. Or type: ", words.join(", ")) };
        let longer = card.verbs.iter().copied().filter(|verb| matches!(verb, Verb::ApproveFor(_)));
        let longer: String = longer.map(|verb| format!(", {}", card.needs.word(verb, card.request))).collect();
        let how = format!("{reactions}{}{longer}", card.needs.words(card.request));
        formatted.push_str(&how);
        body.push_str(&how);
    }
    let content = json!({
        "msgtype": "m.text",
        "body": body.trim_end(),
        "format": "org.matrix.custom.html",
        "formatted_body": formatted,
        // Nobody is mentioned by what an agent wrote.
        "m.mentions": {},
    });
    (content, shortened)
}

/// The escaped text as it was.
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// A text in the thread of a card.
pub(super) fn note(text: &str, message: &MessageId) -> Value {
    let escaped: String = text.chars().map(|c| html(c).map_or(c.to_string(), str::to_owned)).collect();
    json!({
        "msgtype": "m.notice",
        "body": text,
        "format": "org.matrix.custom.html",
        "formatted_body": format!("<pre><code>{escaped}</code></pre>"),
        "m.mentions": {},
        "m.relates_to": {
            "rel_type": "m.thread",
            "event_id": message.0,
            "is_falling_back": true,
            "m.in_reply_to": { "event_id": message.0 },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        action::Target,
        control::samples,
        request::{Comment, Request},
        text::Text,
    };

    fn card(argument: &str) -> Card {
        let mut request = samples::request(1);
        let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
        args.push(Text::from(argument));
        Card::new(&request, "host-1", &[Verb::Approve, Verb::Deny])
    }

    #[test]
    fn what_a_rule_wants_more_is_no_reaction() {
        let mut request = samples::request(1);
        let code = request.id;
        let shown = |request: &Request| {
            let card = Card::new(request, "host-1", &[Verb::Approve, Verb::Deny, Verb::Extend]);
            let (content, shortened) = message(&card);
            (
                offered(&card, shortened).map(|(verb, _)| verb).collect::<Vec<_>>(),
                content["body"].as_str().unwrap().to_owned(),
            )
        };
        request.ask.comment = Comment::All;
        let (taps, body) = shown(&request);
        assert_eq!(taps, [Verb::Extend]);
        assert!(body.ends_with(&format!("React: ⏳ Extend. Or type: approve {code} WHY, deny {code} WHY")), "{body}");
        assert!(body.contains("to approve give a reason\nto deny give a reason\n"), "{body}");
        (request.ask.comment, request.ask.second_factor) = (Comment::default(), true);
        let (taps, body) = shown(&request);
        assert_eq!(taps, [Verb::Deny, Verb::Extend]);
        assert!(
            body.contains(&format!("to approve sign with your own key on the host: gatekeeper approve {code} --key"))
        );
        assert!(body.ends_with(&format!("Or type: deny {code} WHY")), "{body}");
    }

    #[test]
    fn a_card_says_who_wants_what_and_how_to_decide() {
        let (content, shortened) = message(&card("x"));
        let body = content["body"].as_str().unwrap();
        assert!(!shortened);
        for expected in
            ["builder on host-1 wants to exec /usr/bin/git", "risk high", "rule git-push", "✅ Approve once"]
        {
            assert!(body.contains(expected), "{expected} is missing in {body}");
        }
        assert!(!body.contains("shortened"), "{body}");
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "</code><a href=\"https://matrix.to/#/@room\">@room</a>\u{202e}\u{200b}&amp;";
        let (content, _) = message(&card(hostile));
        let formatted = content["formatted_body"].as_str().unwrap();
        assert!(formatted.contains("&lt;/code&gt;&lt;a href=") && !formatted.contains("<a "), "{formatted}");
        assert!(!formatted.contains('\u{202e}') && !formatted.contains('\u{200b}'), "{formatted}");
        assert!(formatted.contains("&amp;amp;"), "{formatted}");
    }

    #[test]
    fn what_is_shortened_says_so_and_has_no_approval_at_a_tap() {
        let card = card(&"<".repeat(1 << 20));
        let (content, shortened) = message(&card);
        assert!(shortened);
        assert!(serde_json::to_vec(&content).unwrap().len() < 60_000);
        assert!(content["body"].as_str().unwrap().contains("This card is shortened"));
        assert!(!content["body"].as_str().unwrap().contains("✅"));
        assert_eq!(offered(&card, shortened).collect::<Vec<_>>(), [(Verb::Deny, "❌")]);
    }

    #[test]
    fn reactions_read_back() {
        for verb in Verb::ALL {
            assert_eq!(super::verb(key(verb).unwrap()), Some(verb));
        }
        assert_eq!(super::verb("⏫\u{fe0f}"), Some(Verb::Escalate));
        assert_eq!(super::verb("👍"), None);
    }
}
