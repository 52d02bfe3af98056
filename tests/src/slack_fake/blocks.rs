//! Limits of Block Kit, as its reference has them, in characters.

use serde_json::Value;

/// All texts of a message's blocks together. The error is documented (`msg_blocks_too_long`), the number is what people
/// report.
const ALL_TEXTS: usize = 13_200;

/// What is wrong with blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The error's name.
    pub error: &'static str,
    /// What Slack would say about it.
    pub message: String,
}

type Checked = Result<(), Fault>;

fn fault(message: impl Into<String>, at: &str) -> Checked {
    let message = format!("[ERROR] {} [json-pointer:{at}]", message.into());
    Err(Fault { error: "invalid_blocks", message })
}

/// Checks a message's blocks.
///
/// # Errors
/// The first thing that Slack would refuse.
pub fn message(blocks: &Value) -> Checked {
    list(blocks, 50, "/blocks", &["header", "section", "context", "actions", "divider", "rich_text"])?;
    if texts(blocks) > ALL_TEXTS {
        let message = format!("[ERROR] more than {ALL_TEXTS} characters [json-pointer:/blocks]");
        return Err(Fault { error: "msg_blocks_too_long", message });
    }
    Ok(())
}

/// Checks a modal.
///
/// # Errors
/// The first thing that Slack would refuse.
pub fn modal(view: &Value) -> Checked {
    if view["type"] != "modal" {
        return fault("must be a modal", "/view/type");
    }
    plain(&view["title"], 24, "/view/title")?;
    for key in ["submit", "close"] {
        if !view[key].is_null() {
            plain(&view[key], 24, &format!("/view/{key}"))?;
        }
    }
    optional(&view["callback_id"], 255, "/view/callback_id")?;
    optional(&view["private_metadata"], 3_000, "/view/private_metadata")?;
    let blocks = &view["blocks"];
    list(blocks, 100, "/view/blocks", &["header", "section", "context", "actions", "divider", "rich_text", "input"])?;
    let has_input = blocks.as_array().is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "input"));
    if has_input && view["submit"].is_null() {
        return fault("a view with inputs needs `submit`", "/view/submit");
    }
    Ok(())
}

fn list(blocks: &Value, most: usize, at: &str, kinds: &[&str]) -> Checked {
    let Some(blocks) = blocks.as_array() else { return fault("must be an array", at) };
    if blocks.is_empty() || blocks.len() > most {
        return fault(format!("must have 1 to {most} items"), at);
    }
    let mut ids = Vec::new();
    for (number, block) in blocks.iter().enumerate() {
        let at = format!("{at}/{number}");
        let kind = block["type"].as_str().unwrap_or_default();
        if !kinds.contains(&kind) {
            return fault(format!("unsupported type: {kind}"), &at);
        }
        optional(&block["block_id"], 255, &format!("{at}/block_id"))?;
        if let Some(id) = block["block_id"].as_str() {
            if ids.contains(&id) {
                return fault("block_id is not unique", &at);
            }
            ids.push(id);
        }
        block_of(kind, block, &at)?;
    }
    Ok(())
}

fn block_of(kind: &str, block: &Value, at: &str) -> Checked {
    match kind {
        "header" => plain(&block["text"], 150, &format!("{at}/text")),
        "section" => {
            let fields = block["fields"].as_array();
            if block["text"].is_null() && fields.is_none() {
                return fault("needs text or fields", at);
            }
            if !block["text"].is_null() {
                text(&block["text"], 3_000, &format!("{at}/text"))?;
            }
            let fields = fields.map_or(&[][..], Vec::as_slice);
            if fields.len() > 10 {
                return fault("must have at most 10 fields", at);
            }
            fields.iter().try_for_each(|field| text(field, 2_000, &format!("{at}/fields")))
        }
        "context" => {
            let elements = elements(block, 10, at)?;
            elements.iter().try_for_each(|element| text(element, 2_000, &format!("{at}/elements")))
        }
        "actions" => {
            let mut ids = Vec::new();
            for element in elements(block, 25, at)? {
                button(element, &format!("{at}/elements"))?;
                if ids.contains(&&element["action_id"]) {
                    return fault("action_id is not unique", at);
                }
                ids.push(&element["action_id"]);
            }
            Ok(())
        }
        "rich_text" => {
            let elements = elements(block, usize::MAX, at)?;
            elements.iter().try_for_each(|element| rich(element, &format!("{at}/elements")))
        }
        "input" => {
            plain(&block["label"], 2_000, &format!("{at}/label"))?;
            let element = &block["element"];
            if element["type"] != "plain_text_input" {
                return fault("unsupported type of input", at);
            }
            required(&element["action_id"], 255, &format!("{at}/element/action_id"))?;
            let most = element["max_length"].as_u64();
            if most.is_some_and(|most| !(1..=3_000).contains(&most)) {
                return fault("max_length must be 1 to 3000", at);
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn elements<'a>(block: &'a Value, most: usize, at: &str) -> Result<&'a [Value], Fault> {
    match block["elements"].as_array() {
        Some(elements) if !elements.is_empty() && elements.len() <= most => Ok(elements),
        _ => fault(format!("must have 1 to {most} elements"), at).map(|()| &[][..]),
    }
}

fn button(button: &Value, at: &str) -> Checked {
    if button["type"] != "button" {
        return fault("unsupported type of element", at);
    }
    plain(&button["text"], 75, &format!("{at}/text"))?;
    required(&button["action_id"], 255, &format!("{at}/action_id"))?;
    optional(&button["value"], 2_000, &format!("{at}/value"))?;
    optional(&button["url"], 3_000, &format!("{at}/url"))?;
    match button["style"].as_str() {
        None if button["style"].is_null() => Ok(()),
        Some("primary" | "danger") => Ok(()),
        _ => fault("style must be primary or danger", at),
    }
}

fn rich(element: &Value, at: &str) -> Checked {
    let kind = element["type"].as_str().unwrap_or_default();
    if !matches!(kind, "rich_text_section" | "rich_text_preformatted" | "rich_text_quote") {
        return fault(format!("unsupported type: {kind}"), at);
    }
    for part in elements(element, usize::MAX, at)? {
        let allowed = matches!(part["type"].as_str(), Some("text" | "link" | "emoji" | "user" | "broadcast" | "date"));
        if !allowed || (kind == "rich_text_preformatted" && !matches!(part["type"].as_str(), Some("text" | "link"))) {
            return fault("unsupported type of rich text", at);
        }
        if part["type"] == "text" {
            // Not documented for rich text; a section's text has this limit.
            required(&part["text"], 3_000, at)?;
        }
    }
    Ok(())
}

fn plain(object: &Value, most: usize, at: &str) -> Checked {
    if object["type"] != "plain_text" {
        return fault("must be plain_text", at);
    }
    required(&object["text"], most, at)
}

fn text(object: &Value, most: usize, at: &str) -> Checked {
    match object["type"].as_str() {
        Some("plain_text" | "mrkdwn") => required(&object["text"], most, at),
        _ => fault("must be a text object", at),
    }
}

fn required(value: &Value, most: usize, at: &str) -> Checked {
    match value.as_str() {
        None => fault("must be a string", at),
        Some("") => fault("must be more than 0 characters", at),
        Some(text) if text.chars().count() > most => fault(format!("must be less than {} characters", most + 1), at),
        Some(_) => Ok(()),
    }
}

fn optional(value: &Value, most: usize, at: &str) -> Checked {
    if value.is_null() { Ok(()) } else { required(value, most, at) }
}

/// Characters of all texts.
fn texts(value: &Value) -> usize {
    match value {
        Value::Array(list) => list.iter().map(texts).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match value {
                Value::String(text) if key == "text" => text.chars().count(),
                value => texts(value),
            })
            .sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_limit_is_kept() {
        let plain = |length: usize| json!({ "type": "plain_text", "text": "x".repeat(length) });
        let button = |id: &str, text: usize, value: usize| json!({ "type": "button", "action_id": id, "text": plain(text), "value": "x".repeat(value) });
        let actions = |elements: Vec<Value>| json!([{ "type": "actions", "elements": elements }]);
        let pre = |text: &str| {
            json!([{ "type": "rich_text", "elements": [
                { "type": "rich_text_preformatted", "elements": [{ "type": "text", "text": text }] },
            ] }])
        };
        let divider = json!({ "type": "divider" });
        for (good, bad) in [
            (json!([{ "type": "header", "text": plain(150) }]), json!([{ "type": "header", "text": plain(151) }])),
            (
                json!([{ "type": "section", "text": plain(3_000) }]),
                json!([{ "type": "section", "text": plain(3_001) }]),
            ),
            (json!(vec![&divider; 50]), json!(vec![&divider; 51])),
            (actions(vec![button("a", 75, 2_000)]), actions(vec![button("a", 76, 1)])),
            (actions(vec![button("a", 1, 1), button("b", 1, 1)]), actions(vec![button("a", 1, 1), button("a", 1, 1)])),
            (actions(vec![button("a", 1, 1)]), actions(vec![button("a", 1, 2_001)])),
            (pre("x"), pre("")),
            (
                json!([{ "type": "context", "elements": vec![plain(1); 10] }]),
                json!([{ "type": "context", "elements": vec![plain(1); 11] }]),
            ),
        ] {
            assert_eq!(message(&good), Ok(()));
            assert_eq!(message(&bad).map_err(|fault| fault.error), Err("invalid_blocks"), "{bad}");
        }
        let long = json!(vec![json!({ "type": "section", "text": plain(2_700) }); 5]);
        assert_eq!(message(&long).map_err(|fault| fault.error), Err("msg_blocks_too_long"));
    }
}
