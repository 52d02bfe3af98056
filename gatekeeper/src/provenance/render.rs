//! One record, one line, for people. The whole record is in the leaf; this is a summary that can forge nothing.

use std::fmt::Write as _;

use serde_json::Value;

use crate::text::Text;

/// Characters of one value; agents choose how long theirs are.
const VALUE_CHARS: usize = 160;

/// Summarises a leaf in one line of plain text without a line end.
pub fn line(leaf: &[u8]) -> String {
    let Ok(record) = serde_json::from_slice::<Value>(leaf) else {
        return format!("unreadable record: {}", shown(&Text::from(leaf).to_string()));
    };
    let number = |name: &str| record.get(name).and_then(Value::as_u64);
    let kind = record.get("type").and_then(Value::as_str).unwrap_or("?");
    let mut line =
        format!("{} {:>6} {:<13}", utc(number("wall_ms").unwrap_or(0)), number("index").unwrap_or(0), escaped(kind));
    // Writing to a `String` cannot fail.
    if let Some(id) = record.get("id").and_then(Value::as_str) {
        let _ = write!(line, " {}", escaped(id));
    } else if let Some(hold) = number("hold") {
        let _ = write!(line, " hold {hold}");
    }
    if let Some(action) = record.get("action") {
        describe_action(&mut line, action);
    }
    if let Some(task) = record.get("task") {
        let field = |name: &str| task.get(name).and_then(Value::as_u64).unwrap_or(0);
        let comm = task.get("comm").and_then(Value::as_str).unwrap_or("?");
        let _ = write!(line, " by {}[{}] uid {}", escaped(comm), field("pid"), field("real_uid"));
    }
    if let Some(rule) = record.get("ask").and_then(|ask| ask.get("rule")).and_then(Value::as_str) {
        let _ = write!(line, " rule {}", quoted(rule));
    }
    let decision = record.get("decision").or_else(|| record.get("vote"));
    if let Some(effect) = record.get("effect").or_else(|| decision.and_then(|decision| decision.get("effect"))) {
        let _ = write!(line, " {}", effect_word(effect));
    }
    if let Some(decision) = decision {
        describe_decision(&mut line, decision);
    }
    if let Some(grant) = record.get("grant") {
        describe_grant(&mut line, grant);
    }
    if let Some(end) = record.get("end") {
        describe_grant_end(&mut line, end);
    }
    for name in SIMPLE_FIELDS {
        match record.get(*name) {
            None | Some(Value::Null | Value::Object(_) | Value::Bool(false)) => {}
            Some(Value::Bool(true)) => {
                let _ = write!(line, " {name}");
            }
            Some(Value::String(text)) => {
                let _ = write!(line, " {name} {}", quoted(text));
            }
            Some(Value::Array(items)) => {
                let items: Vec<_> = items.iter().filter_map(Value::as_str).map(escaped).collect();
                let _ = write!(line, " {name} {}", shown(&items.join(" ")));
            }
            Some(other) => {
                let _ = write!(line, " {name} {other}");
            }
        }
    }
    line
}

/// Fields that speak for themselves, in the order in which they are shown.
const SIMPLE_FIELDS: &[&str] = &[
    "state",
    "by",
    "errno",
    "refusal",
    "pid",
    "uid",
    "reason",
    "presumed",
    "of_boot",
    "continues",
    "outcome",
    "rule",
    "version",
    "kernel",
    "mode",
    "config_sha256",
    "error",
    "open_holds",
    "run",
    "agent",
    "cgroup",
    "command",
    "intent",
    "status",
    "signal",
    "segment",
    "offset",
    "dropped_bytes",
    "kept_in",
    "counter",
    "before",
    "now",
    "number",
];

fn describe_action(line: &mut String, action: &Value) {
    let word = |name: &str| action.get(name).and_then(Value::as_str).unwrap_or("?");
    let _ = write!(line, " {} {}", escaped(word("agent")), escaped(word("kind")));
    let target = action.get("target");
    let part = |kind: &str, name: &str| target.and_then(|target| target.get(kind)).and_then(|part| part.get(name));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(escaped);
    if let Some(path) = text(part("program", "path")) {
        let _ = write!(line, " {path}");
        if let Some(args) = part("program", "args").and_then(Value::as_array) {
            let args: Vec<_> = args.iter().skip(1).filter_map(Value::as_str).map(escaped).collect();
            if !args.is_empty() {
                let _ = write!(line, " {}", shown(&args.join(" ")));
            }
        }
    } else if let Some(path) = text(part("file", "path")) {
        let _ = write!(line, " {path}");
        if let Some(new) = text(part("file", "new_path")) {
            let _ = write!(line, " -> {new}");
        }
    } else if let Some(address) = part("socket", "address") {
        let ip = address.get("ip").and_then(|ip| Some((ip.get("ip")?.as_str()?, ip.get("port")?.as_u64()?)));
        match (ip, text(address.get("unix"))) {
            (Some((ip, port)), _) if ip.contains(':') => {
                let _ = write!(line, " [{}]:{port}", escaped(ip));
            }
            (Some((ip, port)), _) => {
                let _ = write!(line, " {}:{port}", escaped(ip));
            }
            (None, Some(name)) => {
                let _ = write!(line, " unix:{name}");
            }
            (None, None) => {
                let _ = write!(line, " {}", shown(&address.to_string()));
            }
        }
    }
}

fn describe_decision(line: &mut String, decision: &Value) {
    let by = decision.get("by");
    let word = |name: &str| by.and_then(|by| by.get(name)).and_then(Value::as_str);
    let _ = match word("kind") {
        Some("reviewer") => write!(
            line,
            " by {} ({} {})",
            quoted(word("name").unwrap_or("?")),
            escaped(word("channel").unwrap_or("?")),
            escaped(word("account").unwrap_or("?"))
        ),
        Some("rule") => write!(line, " by rule {}", quoted(word("name").unwrap_or("?"))),
        Some("no_rule") => write!(line, " because no rule matched"),
        Some("grant") => {
            let names: Vec<_> =
                by.and_then(|by| by.get("by")).and_then(Value::as_array).into_iter().flatten().collect();
            let names: Vec<_> = names.into_iter().filter_map(Value::as_str).map(escaped).collect();
            write!(line, " by grant {} of {}", escaped(word("id").unwrap_or("?")), shown(&names.join(" and ")))
        }
        Some("deadline") => write!(line, " because the deadline passed"),
        _ => write!(line, " by gatekeeper itself"),
    };
    if let Some(length) = decision.get("grant").and_then(Value::as_str) {
        let _ = write!(line, " for {}", escaped(length));
    }
    if by.and_then(|by| by.get("evidence")?.get("signed")).is_some() {
        line.push_str(" signed");
    }
    if let Some(reason) = decision.get("reason").and_then(Value::as_str) {
        let _ = write!(line, ": {}", quoted(reason));
    }
}

fn describe_grant(line: &mut String, grant: &Value) {
    let word = |name: &str| grant.get(name).and_then(Value::as_str).map_or_else(|| "?".to_owned(), escaped);
    let names: Vec<_> = grant.get("by").and_then(Value::as_array).into_iter().flatten().collect();
    let names: Vec<_> = names.into_iter().filter_map(Value::as_str).map(escaped).collect();
    let _ =
        write!(line, " {} {} for {} by {}", word("agent"), word("action"), word("length"), shown(&names.join(" and ")));
}

fn describe_grant_end(line: &mut String, end: &Value) {
    let revoked = end.get("revoked");
    let _ = match (end.as_str(), revoked) {
        (Some(why), _) => write!(line, " {}", escaped(&why.replace('_', " "))),
        (None, Some(revoked)) => {
            let by = revoked.get("by").and_then(|by| by.get("name")).and_then(Value::as_str).unwrap_or("?");
            let reason = revoked.get("reason").and_then(Value::as_str).unwrap_or("?");
            write!(line, " revoked by {}: {}", quoted(by), quoted(reason))
        }
        _ => Ok(()),
    };
}

fn effect_word(effect: &Value) -> String {
    match effect.get("deny").and_then(|deny| deny.get("errno")).and_then(Value::as_u64) {
        Some(errno) => format!("deny (errno {errno})"),
        None if effect == "allow" => "allow".to_owned(),
        None => shown(&effect.to_string()),
    }
}

/// A string of a leaf, harmless. Those that an agent chose are escaped already and stay as they are.
fn escaped(text: &str) -> String {
    let text = Text::unescape(text).unwrap_or_else(|| Text::from(text));
    shown(&text.to_string())
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARS) {
        None => Text::unescape(text).map_or_else(|| Text::from(text).to_string(), |_| text.to_owned()),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A time as RFC 3339 has it, in UTC.
fn utc(wall_ms: u64) -> String {
    let (seconds, milliseconds) = (wall_ms / 1_000, wall_ms % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, so that the leap day ends a year; the year repeats every 400.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_signed_is_told() {
        let leaf = |what: &str, evidence: serde_json::Value| {
            let by = serde_json::json!({
                "kind": "reviewer", "name": "first", "channel": "cli", "account": "0", "evidence": evidence,
            });
            let said = serde_json::json!({ "effect": "allow", "by": by, "reason": "seen", "at_ms": 0 });
            let record = serde_json::json!({ "wall_ms": 0, "index": 1, "type": what, "id": "AB12-CD34", what: said });
            line(record.to_string().as_bytes())
        };
        let start = "1970-01-01T00:00:00.000Z      1";
        let signed = serde_json::json!({ "event": "e", "signed": { "statement": "a\n", "signature": "b" } });
        let expected = format!("{start} vote          AB12-CD34 allow by \"first\" (cli 0) signed: \"seen\"");
        assert_eq!(leaf("vote", signed.clone()), expected);
        let expected = format!("{start} decision      AB12-CD34 allow by \"first\" (cli 0) signed: \"seen\"");
        assert_eq!(leaf("decision", signed), expected);
        let expected = format!("{start} decision      AB12-CD34 allow by \"first\" (cli 0): \"seen\"");
        assert_eq!(leaf("decision", serde_json::json!({ "event": "e" })), expected);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(1_709_251_199_000), "2024-02-29T23:59:59.000Z");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
