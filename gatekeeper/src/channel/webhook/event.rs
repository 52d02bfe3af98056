//! What is sent: events with the card in fields, each small enough for any receiver.

use std::fmt::Write as _;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    channel::{
        MessageId, Verb,
        budget::{self, Budget, escape},
        card::{Card, Line, risk_name, time},
        fit::parts,
    },
    reviewer::statement::Place,
};

/// Longest payload, in bytes: what the specification recommends.
const MAX_PAYLOAD_BYTES: usize = 20_000;
/// Of these, for the headline, for the status, and for the lines.
const TEXT_BYTES: [usize; 3] = [2_000, 4_000, 12_000];
/// Of these, for names and for what is always short.
const FRAME_BYTES: usize = 1_500;
const _: () = assert!(TEXT_BYTES[0] + TEXT_BYTES[1] + TEXT_BYTES[2] + FRAME_BYTES < MAX_PAYLOAD_BYTES);
/// What surrounds a line: its label, names, quotes, brackets.
const LINE_BYTES: usize = 48;
/// For the texts of one note.
const NOTE_BYTES: usize = 16_000;
const _: () = assert!(NOTE_BYTES + FRAME_BYTES < MAX_PAYLOAD_BYTES);

/// Something to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The same for each try.
    pub(super) id: String,
    /// The signed body.
    pub(super) body: String,
}

#[derive(Serialize)]
struct Payload<'a, T> {
    r#type: &'a str,
    timestamp: String,
    data: T,
}

#[derive(Serialize)]
struct CardData<'a> {
    message: &'a str,
    request: String,
    /// What a reviewer's statement has to name.
    host: &'a str,
    boot: &'a str,
    digest: &'a str,
    risk: &'static str,
    headline: String,
    lines: Vec<LineData<'a>>,
    status: Vec<String>,
    r#final: bool,
    /// Whether something of the card was left out: then nobody can approve by what is here alone.
    shortened: bool,
    verbs: Vec<&'static str>,
    /// Those that count only with a reason.
    reasons: Vec<&'static str>,
}

#[derive(Serialize)]
struct LineData<'a> {
    label: &'a str,
    text: String,
}

#[derive(Serialize)]
struct NoteData<'a> {
    message: &'a str,
    part: usize,
    parts: usize,
    text: &'a str,
}

/// The name of a post, for the receiver.
pub(super) fn message(once: &str) -> MessageId {
    MessageId(id(&["post", once]))
}

/// A request's card as it stands. `known` is false where the receiver has not seen the request before.
pub(super) fn card(message: &MessageId, card: &Card, place: &Place, known: bool, at_ms: u64) -> Event {
    let [headline_bytes, status_bytes, line_bytes] = TEXT_BYTES;
    let (mut headline_left, mut status_left) = (Budget::new(headline_bytes), Budget::new(status_bytes));
    let headline = headline_left.text(&card.headline, 0).unwrap_or_default();
    let status: Vec<String> = card.status.iter().map_while(|line| status_left.text(line, LINE_BYTES)).collect();
    let (lines, lines_shortened) = budget::lines(&card.lines, line_bytes, LINE_BYTES);
    let lines: Vec<LineData<'_>> = lines.into_iter().map(|Line { label, text }| LineData { label, text }).collect();
    let shortened = headline_left.is_shortened() || status_left.is_shortened() || lines_shortened;
    // A signed statement says nothing of how long, so grants are not offered here.
    let once = |verb: &Verb| Verb::ALL.contains(verb) && !(shortened && verb.is_approval());
    let offered = || card.verbs.iter().copied().filter(once);
    let data = CardData {
        message: &message.0,
        request: card.request.to_string(),
        host: &place.host,
        boot: &place.boot,
        digest: &card.digest,
        risk: risk_name(card.risk),
        headline,
        lines,
        status,
        r#final: card.is_final,
        shortened,
        verbs: offered().map(Verb::word).collect(),
        // Statements are typed.
        reasons: offered().filter(|verb| card.needs.typed_reason(*verb)).map(Verb::word).collect(),
    };
    let kind = match (card.is_final, known) {
        (true, _) => "request.ended",
        (false, true) => "request.changed",
        (false, false) => "request.waiting",
    };
    // A post keeps the id of its message; a change is named by what is shown after it.
    let id = match known {
        true => id(&["edit", &message.0, &serde_json::to_string(&data).unwrap_or_default()]),
        false => message.0.clone(),
    };
    event(id, kind, at_ms, data)
}

/// Lines for below a card, in as many events as they need.
pub(super) fn notes(message: &MessageId, lines: &[String], once: &str, at_ms: u64) -> Vec<Event> {
    let texts = parts(lines, NOTE_BYTES, escape);
    let count = texts.len();
    let events = texts.into_iter().enumerate().map(|(number, escaped)| {
        // Cut between two escapes, so still JSON; the line ends between lines are the only ones.
        let text = serde_json::from_str(&format!("\"{}\"", escaped.replace('\n', "\\n"))).unwrap_or(escaped);
        let data = NoteData { message: &message.0, part: number + 1, parts: count, text: &text };
        event(id(&["note", once, &number.to_string()]), "request.note", at_ms, data)
    });
    events.collect()
}

fn event(id: String, kind: &str, at_ms: u64, data: impl Serialize) -> Event {
    let payload = Payload { r#type: kind, timestamp: time::rfc3339(at_ms), data };
    // Strings, numbers and lists of them can always be written.
    Event { id, body: serde_json::to_string(&payload).unwrap_or_default() }
}

/// An id that nobody outside chose, without a full stop in it.
fn id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        // Lengths keep the parts apart.
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).fold("msg_".to_owned(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}
