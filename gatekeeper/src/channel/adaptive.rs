//! Cards as Adaptive Cards, for what ends in Microsoft Teams.
//!
//! All text is in `TextRun` elements, for which markdown, HTML and mentions mean nothing by their documentation; only
//! `{{DATE(…)}}` and its like would, and are broken up. A message has to stay below 28 KB, so what is too long is
//! shortened here; the card then says so and has no button to approve.

use serde_json::{Value, json};

use super::{
    Verb,
    budget::{self, Budget, escape},
    card::{Card, LABEL_COLUMNS, Line},
    fit::parts,
};
use crate::request::Risk;

/// For all texts of a message, in bytes, with what surrounds each. The limit is 28 KB; buttons need up to 5.
const TEXT_BYTES: usize = 19_000;
/// Of these, for headline and status, which must not be lost to long lines.
const HEAD_BYTES: usize = 4_000;
/// What surrounds a line: its block and two runs.
const LINE_BYTES: usize = 240;
/// Longest reason that can be typed into a card, in characters.
pub const MAX_REASON_CHARS: usize = 500;

/// What a card offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Buttons, which a bot answers.
    Buttons,
    /// The commands to type on the host, where nobody answers buttons.
    Commands,
}

/// A request's card.
pub fn card(card: &Card, offer: Offer) -> Value {
    let title = card.title();
    let Card { request, run: _, more: _, headline, risk, lines, status, is_final: _, verbs, needs, digest, detail: _ } =
        card;
    let mut head = Budget::new(HEAD_BYTES);
    let mut body = vec![block(vec![run(&format!("gatekeeper {title}"), style(*risk))])];
    body.extend(head.text(&harmless(headline), LINE_BYTES).map(|text| block(vec![run(&text, BOLD)])));
    let status: Vec<_> = status.iter().map_while(|line| head.text(&harmless(line), LINE_BYTES)).collect();
    let lines: Vec<Line> = lines.iter().map(|Line { label, text }| Line { label, text: harmless(text) }).collect();
    let (lines, lines_shortened) = budget::lines(&lines, TEXT_BYTES - HEAD_BYTES, LINE_BYTES);
    body.extend(lines.iter().map(|Line { label, text }| {
        block(vec![run(&format!("{label:<LABEL_COLUMNS$}"), LABEL), run(text, MONOSPACE)])
    }));
    body.extend(status.iter().map(|text| block(vec![run(text, BOLD)])));
    let shortened = head.is_shortened() || lines_shortened;
    if shortened {
        let text = format!("This card is shortened. `gatekeeper show {request}` shows all of it.");
        body.push(block(vec![run(&text, WARNING)]));
    }
    let mut content = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.5",
        "fallbackText": format!("gatekeeper {request}: this client shows no cards; see `gatekeeper show {request}`"),
        "msteams": { "width": "Full" },
        "body": body,
    });
    let Some(elements) = content["body"].as_array_mut() else { return content };
    if verbs.is_empty() {
        return content;
    }
    match offer {
        Offer::Commands => {
            let text = format!("On the host: {}", needs.commands(*request));
            elements.push(block(vec![run(&text, MONOSPACE)]));
        }
        Offer::Buttons => {
            let barred = shortened || !needs.only_a_tap(Verb::Approve);
            let verbs: Vec<_> = verbs.iter().filter(|verb| !(barred && verb.is_approval())).collect();
            if barred && !needs.signature {
                let how = needs.word(Verb::Approve, *request);
                elements.push(block(vec![run(&format!("To approve it, mention this bot and write: {how}"), WARNING)]));
            }
            let label = if needs.reason(Verb::Deny) { "Reason, which a denial needs" } else { "Reason" };
            elements.push(json!({
                "type": "Input.Text", "id": "reason", "label": label, "maxLength": MAX_REASON_CHARS,
            }));
            let actions: Vec<Value> = verbs
                .into_iter()
                .map(|verb| button(*verb, json!({ "request": request, "card": digest, "verb": verb.carried() })))
                .collect();
            content["actions"] = Value::Array(actions);
        }
    }
    content
}

/// Lines for below a card, in as many cards as they need.
pub fn notes(lines: &[String]) -> Vec<Value> {
    let mut cards = Vec::new();
    let mut body = Vec::new();
    let mut left = TEXT_BYTES;
    for line in lines {
        for escaped in parts(&[harmless(line)], TEXT_BYTES - LINE_BYTES, escape) {
            let needed = escaped.len() + LINE_BYTES;
            if needed > left {
                cards.push(note(std::mem::take(&mut body)));
                left = TEXT_BYTES;
            }
            left -= needed;
            // Cut between two escapes, so still JSON.
            let text = serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or(escaped);
            body.push(block(vec![run(&text, MONOSPACE)]));
        }
    }
    if !body.is_empty() {
        cards.push(note(body));
    }
    cards
}

fn note(body: Vec<Value>) -> Value {
    json!({ "type": "AdaptiveCard", "version": "1.5", "msteams": { "width": "Full" }, "body": body })
}

/// A card as an attachment. `name` tells posts apart, for whoever compares them.
pub fn attachment(content: Value, name: &str) -> Value {
    json!({ "contentType": "application/vnd.microsoft.card.adaptive", "name": name, "content": content })
}

type Style = &'static [(&'static str, &'static str)];

const BOLD: Style = &[("weight", "Bolder")];
const MONOSPACE: Style = &[("fontType", "Monospace")];
const LABEL: Style = &[("fontType", "Monospace"), ("weight", "Bolder")];
const WARNING: Style = &[("color", "Attention"), ("weight", "Bolder")];

fn style(risk: Risk) -> Style {
    match risk {
        Risk::Low | Risk::Medium => BOLD,
        Risk::High | Risk::Critical => WARNING,
    }
}

fn run(text: &str, style: Style) -> Value {
    // An empty run is no run.
    let mut run = json!({ "type": "TextRun", "text": if text.is_empty() { " " } else { text } });
    for (name, value) in style {
        run[*name] = Value::from(*value);
    }
    run
}

fn block(inlines: Vec<Value>) -> Value {
    json!({ "type": "RichTextBlock", "spacing": "Small", "inlines": inlines })
}

fn button(verb: Verb, data: Value) -> Value {
    let style = match verb {
        Verb::Approve | Verb::ApproveFor(_) => "positive",
        Verb::Deny | Verb::DenyAndStop => "destructive",
        Verb::Escalate | Verb::Extend | Verb::Show => "default",
    };
    let data = json!({ "gatekeeper": data });
    let (title, carried) = (verb.title(), verb.carried());
    json!({
        "type": "Action.Execute", "title": title, "verb": carried, "style": style, "data": data,
        "fallback": { "type": "Action.Submit", "title": title, "data": data },
    })
}

/// `{{DATE(…)}}` and `{{TIME(…)}}` would be computed even here. Two braces are written as the escaped form of agent text
/// could write them, so they can be read back.
fn harmless(text: &str) -> String {
    text.replace("{{", "{\\x7b")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Comment, Request, samples};

    #[test]
    fn what_a_rule_wants_more_is_no_button_to_approve() {
        let mut request = samples::request(1);
        let code = request.id;
        let shown = |request: &Request, offer| {
            let content = super::card(&Card::new(request, "web-1", &[Verb::Approve, Verb::Deny]), offer);
            let verbs: Vec<_> =
                content["actions"].as_array().into_iter().flatten().map(|action| action["verb"].clone()).collect();
            (verbs, content.to_string())
        };
        request.ask.comment = Comment::All;
        let (verbs, text) = shown(&request, Offer::Buttons);
        // A denial can have its reason from the card's own field.
        assert_eq!(verbs, ["deny"]);
        assert!(text.contains("Reason, which a denial needs"), "{text}");
        assert!(text.contains(&format!("mention this bot and write: approve {code} WHY")), "{text}");
        (request.ask.comment, request.ask.second_factor) = (Comment::None, true);
        let (verbs, text) = shown(&request, Offer::Buttons);
        assert_eq!(verbs, ["deny"]);
        assert!(!text.contains("mention this bot"), "{text}");
        let how = format!("gatekeeper approve {code} --key FILE");
        assert!(text.contains(&how) && shown(&request, Offer::Commands).1.contains(&how), "{text}");
    }
}
