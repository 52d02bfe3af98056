//! What Teams demands of messages, and what gatekeeper promises about them.

use serde_json::Value;

/// Longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 28 << 10;
/// Most buttons that Teams shows.
const MAX_ACTIONS: usize = 6;

/// Checks a message.
pub(super) fn check(body: &str, message: &Value) -> Result<(), String> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(format!("{} bytes are too many", body.len()));
    }
    if message["type"] != "message" {
        return Err("not a message".to_owned());
    }
    let attachments = message["attachments"].as_array().ok_or("no attachments")?;
    for attachment in attachments {
        if attachment["contentType"] != "application/vnd.microsoft.card.adaptive" {
            return Err("an attachment is no Adaptive Card".to_owned());
        }
        card(&attachment["content"])?;
    }
    // Whatever is outside of cards is shown with formatting.
    for text in [&message["text"], &message["summary"]] {
        if text.as_str().is_some_and(|text| text.contains(['<', '[', '*', '`', '\\', '{'])) {
            return Err(format!("text with formatting outside of a card: {text}"));
        }
    }
    Ok(())
}

fn card(card: &Value) -> Result<(), String> {
    if card["type"] != "AdaptiveCard" || !matches!(card["version"].as_str(), Some("1.5")) {
        return Err("no Adaptive Card of version 1.5".to_owned());
    }
    for element in card["body"].as_array().ok_or("a card without a body")? {
        match element["type"].as_str() {
            Some("RichTextBlock") => runs(element)?,
            Some("Input.Text") if element["id"].is_string() && element["label"].is_string() => {}
            // A TextBlock would show markdown.
            other => return Err(format!("the element {other:?} is not for text that agents chose")),
        }
    }
    let none = Vec::new();
    let actions = card["actions"].as_array().unwrap_or(&none);
    if actions.len() > MAX_ACTIONS {
        return Err(format!("{} buttons", actions.len()));
    }
    for action in actions {
        let fallback = &action["fallback"];
        if action["type"] != "Action.Execute" || action["verb"].as_str().is_none_or(str::is_empty) {
            return Err("a button without a verb".to_owned());
        }
        if fallback["type"] != "Action.Submit" || fallback["data"] != action["data"] {
            return Err("a button without the same one for older clients".to_owned());
        }
    }
    Ok(())
}

fn runs(block: &Value) -> Result<(), String> {
    let inlines = block["inlines"].as_array().filter(|inlines| !inlines.is_empty()).ok_or("a block without text")?;
    for inline in inlines {
        let text = inline["text"].as_str().filter(|text| !text.is_empty()).ok_or("a run without text")?;
        if inline["type"] != "TextRun" {
            return Err(format!("the inline {} is no TextRun", inline["type"]));
        }
        if text.contains("{{") || text.chars().any(|c| c.is_control() || matches!(c, '\u{200b}' | '\u{202e}')) {
            return Err(format!("text that does not show as it is: {text:?}"));
        }
    }
    Ok(())
}
