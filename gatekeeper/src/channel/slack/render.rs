//! Cards as Slack messages.
//!
//! Whatever is not gatekeeper's own stands as the text of preformatted rich text, which Slack shows letter by letter: no
//! markup, no mention, no link. Nothing is ever given as `mrkdwn`. The text for notifications is escaped as Slack wants
//! it, and is no part of what a reviewer has to see.

use serde_json::{Value, json};

use super::super::{
    Verb,
    card::{Card, LABEL_COLUMNS, Line},
    fit::{Fitted, fit, parts},
};

/// Bytes of one line's text in a card.
const LINE_BYTES: usize = 2_000;
/// Bytes of all lines of a card. Slack refuses messages (`msg_blocks_too_long`) with a little more than 13,000 characters
/// in all blocks.
const CARD_BYTES: usize = 8_000;
/// Bytes that must be left for one more line to be worth it.
const LEAST_ROOM: usize = 64;
/// Bytes of one block's text: what Slack documents for a section, which rich text is not known to have more of.
const BLOCK_BYTES: usize = 3_000;
/// Blocks of one message of a thread, by the same measure.
const NOTE_BLOCKS: usize = 4;
/// Bytes of what the status says, and of one of its lines.
const STATUS_BYTES: usize = 2_000;
const STATUS_LINE_BYTES: usize = 600;
/// Bytes of the text for notifications. `chat.update` refuses more than 4,000.
const TEXT_BYTES: usize = 2_000;
/// Characters that may be typed as a reason: Slack's limit for one field.
const REASON_CHARACTERS: u32 = 3_000;

/// A message's content.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rendered {
    /// For notifications, and for clients that show no blocks.
    pub(super) text: String,
    /// What is shown.
    pub(super) blocks: Vec<Value>,
    /// Whether anything of the card had to be left out.
    pub(super) shortened: bool,
}

/// What Slack gives a meaning to in a message's text.
fn mrkdwn(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// Rich text has no escapes.
fn as_it_is(_: char) -> Option<&'static str> {
    None
}

fn plain(text: &str) -> Value {
    json!({ "type": "plain_text", "text": text, "emoji": false })
}

/// Text that is shown letter by letter.
fn preformatted(text: &str) -> Value {
    // Slack refuses empty texts.
    let text = if text.is_empty() { " " } else { text };
    json!({
        "type": "rich_text",
        "elements": [{ "type": "rich_text_preformatted", "elements": [{ "type": "text", "text": text }] }],
    })
}

fn bold(text: &str) -> Value {
    json!({
        "type": "rich_text",
        "elements": [{
            "type": "rich_text_section",
            "elements": [{ "type": "text", "text": text, "style": { "bold": true } }],
        }],
    })
}

/// What has a button: no approval of what was not seen in full, and none that needs a signature. What needs a reason has
/// one, which opens the window that asks for it.
fn offered(card: &Card, shortened: bool) -> impl Iterator<Item = Verb> {
    let barred = shortened || card.needs.signature;
    card.verbs.iter().copied().filter(move |verb| !(barred && verb.is_approval()))
}

/// Stands in a button's value behind request and digest: a reason has to be given.
pub(super) const NEEDS_REASON: &str = "why";

fn button(verb: Verb, card: &Card) -> Value {
    let needs_reason = card.needs.reason(verb);
    let why = if needs_reason { format!(" {NEEDS_REASON}") } else { String::new() };
    let title = match verb {
        verb if verb.is_approval() && needs_reason => format!("{} …", verb.title()).into(),
        verb => verb.title(),
    };
    let mut button = json!({
        "type": "button",
        "action_id": verb.carried(),
        "text": plain(&title),
        "value": format!("{} {}{why}", card.request, card.digest),
    });
    match verb {
        Verb::Approve | Verb::ApproveFor(_) => button["style"] = json!("primary"),
        Verb::Deny | Verb::DenyAndStop => button["style"] = json!("danger"),
        Verb::Escalate | Verb::Extend | Verb::Show => {}
    }
    button
}

/// A card's content.
pub(super) fn card(card: &Card) -> Rendered {
    let (code, title) = (card.request, card.title());
    let mut left = CARD_BYTES;
    let mut shortened = false;
    let mut bounded = |text: &str, left: &mut usize| {
        let Fitted { text, shortened: cut } = fit(text, LINE_BYTES.min(*left), as_it_is);
        *left -= text.len();
        shortened |= cut;
        text
    };
    let headline = bounded(&card.headline, &mut left);
    let mut lines = Vec::new();
    let mut left_out = false;
    for (number, Line { label, text }) in card.lines.iter().enumerate() {
        if left < LEAST_ROOM {
            lines.push(format!("… ({} more lines)", card.lines.len() - number));
            left_out = true;
            break;
        }
        // With the line's end.
        left -= LABEL_COLUMNS + 1;
        lines.push(format!("{label:<LABEL_COLUMNS$}{}", bounded(text, &mut left)));
    }
    let shortened = shortened || left_out;

    let mut blocks = vec![json!({ "type": "header", "text": plain(&title) })];
    blocks.push(preformatted(&headline));
    if !lines.is_empty() {
        blocks.extend(parts(&lines, BLOCK_BYTES, as_it_is).iter().map(|part| preformatted(part)));
    }
    if shortened {
        let told = "This card is shortened. The whole request is in the thread";
        let how = if card.verbs.is_empty() || card.needs.signature {
            ".".to_owned()
        } else {
            format!("; approve it by typing: {}", card.needs.word(Verb::Approve, code))
        };
        blocks.push(bold(&format!("{told}{how}")));
    }
    let status: Vec<_> = card.status.iter().map(|line| fit(line, STATUS_LINE_BYTES, as_it_is).text).collect();
    if !status.is_empty() {
        blocks.push(preformatted(&fit(&status.join("\n"), STATUS_BYTES, as_it_is).text));
    }
    let buttons: Vec<_> = offered(card, shortened).map(|verb| button(verb, card)).collect();
    if !buttons.is_empty() {
        blocks.push(json!({ "type": "actions", "elements": buttons }));
    }
    if !card.verbs.is_empty() {
        let digest: String = card.digest.chars().take(12).collect();
        let how = format!("Or type: {}. Card {digest}", card.needs.words(code));
        blocks.push(json!({ "type": "context", "elements": [plain(&how)] }));
    }
    let said = if card.is_final { status.first().map_or("", String::as_str) } else { card.headline.as_str() };
    let text = fit(&format!("{title}: {said}"), TEXT_BYTES, mrkdwn).text;
    Rendered { text, blocks, shortened }
}

/// Lines for a thread, as messages with text and blocks.
pub(super) fn notes(lines: &[String]) -> Vec<Rendered> {
    parts(lines, BLOCK_BYTES, as_it_is)
        .chunks(NOTE_BLOCKS)
        .map(|parts| Rendered {
            text: fit(parts.first().map_or("", String::as_str), TEXT_BYTES, mrkdwn).text,
            blocks: parts.iter().map(|part| preformatted(part)).collect(),
            shortened: false,
        })
        .collect()
}

/// One line for one person.
pub(super) fn answer(text: &str) -> Rendered {
    let shown = fit(text, BLOCK_BYTES, as_it_is).text;
    Rendered { text: fit(text, TEXT_BYTES, mrkdwn).text, blocks: vec![preformatted(&shown)], shortened: false }
}

/// Names the field of [`modal`] within its state.
pub(super) const REASON_BLOCK: &str = "reason";
/// Names the modal.
pub(super) const REASON_VIEW: &str = "gatekeeper_reason";

/// The window that asks why, and whether it can be left open. `memory` comes back with what was typed.
pub(super) fn modal(verb: Verb, code: &str, needs_reason: bool, memory: &str) -> Value {
    let (title, does) = match verb {
        Verb::Approve => ("Approve once", "It goes on."),
        Verb::DenyAndStop => ("Deny and stop", "It fails, and every process of the agent's run ends."),
        _ => ("Deny", "It fails; the agent goes on with an error."),
    };
    json!({
        "type": "modal",
        "callback_id": REASON_VIEW,
        "private_metadata": memory,
        "title": plain(title),
        "submit": plain(title),
        "close": plain("Back"),
        "blocks": [
            { "type": "section", "text": plain(&format!("{code}: {does}")) },
            {
                "type": "input",
                "block_id": REASON_BLOCK,
                "optional": !needs_reason,
                "label": plain("Why? The agent is told."),
                "element": {
                    "type": "plain_text_input",
                    "action_id": REASON_BLOCK,
                    "multiline": true,
                    "max_length": REASON_CHARACTERS,
                },
            },
        ],
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

    fn card_with(argument: &str) -> Card {
        let mut request = samples::request(1);
        let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
        args.push(Text::from(argument));
        Card::new(&request, "host-1", &Verb::ALL)
    }

    /// All texts that are shown, whatever they are part of.
    fn shown(value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Array(list) => list.iter().for_each(|value| shown(value, found)),
            Value::Object(map) => {
                if let (Some(kind), Some(text)) = (map.get("type"), map.get("text").and_then(Value::as_str)) {
                    found.push((kind.as_str().unwrap().to_owned(), text.to_owned()));
                }
                map.values().for_each(|value| shown(value, found));
            }
            _ => {}
        }
    }

    fn texts(blocks: &[Value]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        shown(&json!(blocks), &mut found);
        found
    }

    #[test]
    fn a_card_says_who_wants_what_and_how_to_decide() {
        let card = Card::new(&samples::request(1), "host-1", &[Verb::Approve, Verb::Deny]);
        let Rendered { text, blocks, shortened } = super::card(&card);
        let code = card.request.to_string();
        assert!(!shortened);
        let headline = "builder on host-1 wants to exec /usr/bin/git: git push --force \"a b\\nc\"";
        assert_eq!(text, format!("{code}, risk high: {headline}"));
        let pre = |text: &str| {
            json!({ "type": "rich_text", "elements": [
                { "type": "rich_text_preformatted", "elements": [{ "type": "text", "text": text }] },
            ] })
        };
        let lines = "\
action       exec /usr/bin/git
called as    git
arguments    git push --force \"a b\\nc\"
rule         git-push, risk high
why it asks  pushes leave this host
";
        let value = format!("{code} {}", card.digest);
        let text_of = |text: &str| json!({ "type": "plain_text", "text": text, "emoji": false });
        assert_eq!(blocks[0], json!({ "type": "header", "text": text_of(&format!("{code}, risk high")) }));
        assert_eq!(blocks[1], pre(headline));
        let rows = blocks[2]["elements"][0]["elements"][0]["text"].as_str().unwrap();
        assert!(rows.starts_with(lines), "{rows}");
        assert_eq!(blocks[3], pre("waits until 2023-11-14T22:18:20Z, then it fails"));
        assert_eq!(
            blocks[4],
            json!({ "type": "actions", "elements": [
                { "type": "button", "action_id": "approve", "text": text_of("Approve once"), "value": value, "style": "primary" },
                { "type": "button", "action_id": "deny", "text": text_of("Deny"), "value": value, "style": "danger" },
            ] })
        );
        let how = format!("Or type: approve {code}, deny {code} WHY. Card {}", &card.digest[..12]);
        assert_eq!(blocks[5], json!({ "type": "context", "elements": [text_of(&how)] }));
        assert_eq!(blocks.len(), 6);
    }

    #[test]
    fn what_a_rule_wants_more_is_no_tap() {
        let mut request = samples::request(1);
        request.ask.comment = Comment::Approve;
        let code = request.id.to_string();
        let shown = |request: &Request| {
            let Rendered { blocks, .. } = super::card(&Card::new(request, "host-1", &[Verb::Approve, Verb::Deny]));
            let actions = blocks.iter().find(|block| block["type"] == "actions").unwrap()["elements"].clone();
            (actions, json!(blocks).to_string())
        };
        // The button opens the window for the reason.
        let (actions, text) = shown(&request);
        assert_eq!(actions[0]["text"]["text"], "Approve once …");
        assert!(actions[0]["value"].as_str().unwrap().ends_with(" why") && actions[1]["text"]["text"] == "Deny");
        assert!(text.contains(&format!("Or type: approve {code} WHY, deny {code}. ")), "{text}");
        assert!(text.contains("to approve   give a reason"), "{text}");
        request.ask.second_factor = true;
        let (actions, text) = shown(&request);
        assert_eq!((actions.as_array().unwrap().len(), &actions[0]["action_id"]), (1, &json!("deny")));
        assert!(text.contains(&format!("gatekeeper approve {code} --key FILE --reason WHY")), "{text}");
        assert!(!text.contains(&format!("type: approve {code}")), "{text}");
    }

    #[test]
    fn a_final_card_says_how_it_ended_and_offers_nothing() {
        let card = Card::of_forgotten(samples::request(1).id, "builder wants <b>".to_owned());
        let Rendered { text, blocks, .. } = super::card(&card);
        assert!(text.contains("ended while gatekeeper did not run"), "{text}");
        assert!(blocks.iter().all(|block| block["type"] != "actions" && block["type"] != "context"));
    }

    #[test]
    fn hostile_text_stays_text() {
        let hostile =
            "<!channel> <https://evil.example|ok> *b* _i_ ~s~ `c` ```x``` &amp; @here :smile: \u{202e}\u{200b}";
        let Rendered { text, blocks, shortened } = super::card(&card_with(hostile));
        assert!(!shortened);
        assert!(
            text.contains("&lt;!channel&gt; &lt;https://evil.example|ok&gt;") && text.contains("&amp;amp;"),
            "{text}"
        );
        assert!(!text.contains('<') && !text.contains('>'), "{text}");
        let texts = texts(&blocks);
        let (_, rows) = texts.iter().find(|(_, text)| text.contains("[4]")).unwrap();
        assert!(rows.contains("<!channel> <https://evil.example|ok> *b* _i_ ~s~ `c` ```x``` &amp; @here"), "{rows}");
        assert!(rows.contains("\\u{202e}\\u{200b}"), "{rows}");
        for (kind, text) in &texts {
            assert_ne!(kind, "mrkdwn", "{text}");
            assert!(!text.contains(['\u{202e}', '\u{200b}', '\u{1b}']), "{text}");
            // What an agent wrote is nowhere but in preformatted rich text.
            assert!(kind == "text" || !text.contains("evil"), "{kind}: {text}");
        }
        for block in blocks.iter().filter(|block| block.to_string().contains("evil")) {
            assert_eq!(block["elements"][0]["type"], "rich_text_preformatted");
        }
    }

    #[test]
    fn what_is_shortened_says_so_and_has_no_approval_at_a_tap() {
        for argument in ["<".repeat(1 << 20), "\u{202e}".repeat(1 << 18), "ü".repeat(1 << 19)] {
            let card = card_with(&argument);
            let Rendered { text, blocks, shortened } = super::card(&card);
            assert!(shortened && text.len() <= TEXT_BYTES);
            let texts = texts(&blocks);
            let all: usize = texts.iter().map(|(_, text)| text.len()).sum();
            assert!(all < 13_000, "{all}");
            assert!(texts.iter().all(|(_, text)| text.len() <= BLOCK_BYTES));
            let told = format!("in the thread; approve it by typing: approve {}", card.request);
            assert!(texts.iter().any(|(_, text)| text.contains(&told)));
            let buttons = blocks.iter().find(|block| block["type"] == "actions").unwrap();
            let ids: Vec<_> =
                buttons["elements"].as_array().unwrap().iter().map(|button| &button["action_id"]).collect();
            assert_eq!(ids, ["deny", "stop", "escalate", "extend"]);
        }
    }

    #[test]
    fn many_lines_fit_too() {
        let mut card = card_with("x");
        for (count, length) in [(400, 70), (60_000, 1), (1_000, 0)] {
            card.lines = vec![Line { label: "", text: "y".repeat(length) }; count];
            let Rendered { blocks, shortened, .. } = super::card(&card);
            assert!(shortened);
            let texts = texts(&blocks);
            let all: usize = texts.iter().map(|(_, text)| text.len()).sum();
            assert!(all < 13_000, "{all}");
            assert!(blocks.len() <= 50);
            assert!(texts.iter().any(|(_, text)| text.ends_with(" more lines)")));
        }
    }

    #[test]
    fn notes_lose_nothing() {
        let lines = vec!["z".repeat(40_000), "end".to_owned()];
        let notes = notes(&lines);
        let whole: String = notes.iter().flat_map(|note| texts(&note.blocks)).map(|(_, text)| text).collect();
        assert_eq!(whole.replace('\n', ""), lines.concat());
        for note in &notes {
            assert!(note.text.len() <= TEXT_BYTES && note.blocks.len() <= NOTE_BLOCKS);
        }
        assert_eq!(super::notes(&[String::new()]).len(), 1);
    }

    #[test]
    fn the_window_for_reasons_keeps_to_its_limits() {
        for (verb, needs_reason) in [(Verb::Deny, false), (Verb::DenyAndStop, true), (Verb::Approve, true)] {
            let view = modal(verb, "AB12-CD34", needs_reason, "memory");
            assert_eq!(view["blocks"][1]["optional"], !needs_reason);
            for key in ["title", "submit", "close"] {
                assert!(view[key]["text"].as_str().unwrap().len() <= 24);
            }
        }
    }
}
