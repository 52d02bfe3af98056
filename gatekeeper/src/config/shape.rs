//! From text to the files' shape, with the parser's complaints turned into messages that name a way out.

use serde::de::DeserializeOwned;

use super::problem::{Problem, Source};
use crate::policy::{Fault, suggest};

/// Keys that stand in the main file only.
const MAIN_KEYS: [&str; 8] = ["mode", "paths", "limits", "control", "defaults", "agent", "reviewer", "channel"];

/// Reads the text of a file into its shape.
pub(super) fn parse<T: DeserializeOwned>(source: &Source) -> Result<T, Problem> {
    toml::from_str(&source.text).map_err(|error| {
        let fault = fault(error.message());
        match error.span() {
            Some(span) => source.problem(span, fault),
            None => Problem::of_file(&source.path, fault),
        }
    })
}

fn fault(message: &str) -> Fault {
    // The parser's words for wrong keys and types are fixed by serde; anything else passes through as it is.
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let mut words = rest.split('`').skip(1).step_by(2);
        let key = words.next().unwrap_or_default();
        let known: Vec<&str> = words.collect();
        let way_out = if known == ["rule"] && MAIN_KEYS.contains(&key) {
            "move it to gatekeeper.toml: a rule file holds only `[[rule]]`".to_owned()
        } else {
            suggest(key, known)
        };
        return Fault::new(format!("unknown key `{key}`"), way_out);
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return wrong_type(found, expected);
    }
    if let Some(key) = message.strip_prefix("duplicate field ") {
        return Fault::new(format!("the key {key} stands here twice"), "keep one of them");
    }
    if message == "duplicate key" {
        return Fault::new("the same key stands here twice", "keep one of them");
    }
    Fault::new(message.replace('\n', ", "), "correct the TOML syntax; see https://toml.io")
}

/// `found` and `expected` in serde's words.
fn wrong_type(found: &str, expected: &str) -> Fault {
    let value = found.split('`').nth(1).unwrap_or_default();
    if expected == "i64" && found.starts_with("integer") {
        return Fault::new(format!("{value} is out of range"), "write a smaller number");
    }
    let found = match found {
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        _ if found.starts_with("integer") || found.starts_with("floating point") => format!("the number {value}"),
        _ if found.starts_with("boolean") => value.to_owned(),
        _ => found.strip_prefix("string ").map_or_else(|| found.to_owned(), |text| format!("the text {text}")),
    };
    let (expected, way_out) = match expected {
        "a sequence" => ("a list of tables", "head each table in two brackets, such as `[[agent]]` or `[[rule]]`"),
        "a string" => ("text", "put the value in quotes"),
        "a boolean" => ("true or false", "write true or false, without quotes"),
        "i64" => ("a whole number", "write a whole number, without quotes"),
        "a table" | "a map" => ("a table", "head it with its name in one pair of brackets, such as `[limits]`"),
        other => (other, "write it in that form"),
    };
    Fault::new(format!("found {found}, expected {expected}"), way_out)
}
