//! The card of a digest: the requests of one agent run that have no card of their own yet, a short line each.
//!
//! A line does not show enough to approve by it, so a digest has no buttons, and says how to get a request's own card.

use std::{fmt::Write as _, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::card::{Card, Line, Needs, risk_name};
use crate::request::{RequestId, Risk};

/// Requests that are listed. The others are counted.
const LISTED: usize = 20;
/// Characters of a listed action.
const ACTION_CHARACTERS: usize = 120;

/// A digest of these requests' cards, oldest first. `revision` tells the digests of one message apart. `None`: there are
/// none.
pub(super) fn digest(cards: &[Arc<Card>], revision: u64) -> Option<Card> {
    let first = cards.first()?;
    let (who, _) = parts(&first.headline);
    let count = cards.len();
    let headline = format!("{who} asks more than fits on cards: {count} more {}", wait(count));
    let listed = cards.iter().take(LISTED).map(|card| {
        let (_, what) = parts(&card.headline);
        let cut = if what.chars().count() > ACTION_CHARACTERS { "…" } else { "" };
        let what: String = what.chars().take(ACTION_CHARACTERS).collect();
        format!("{} {}: {what}{cut}", card.request, risk_name(card.risk))
    });
    let mut texts: Vec<String> = listed.collect();
    if count > LISTED {
        texts.push(format!("and {} more: `gatekeeper pending` on the host lists all", count - LISTED));
    }
    let mut lines = Vec::new();
    for (number, text) in texts.into_iter().enumerate() {
        lines.push(Line { label: if number == 0 { "waiting" } else { "" }, text });
    }
    let status = vec![
        "the oldest get cards of their own as others end".to_owned(),
        "to decide about one sooner, type: show CODE".to_owned(),
    ];
    let risk = cards.iter().map(|card| card.risk).max().unwrap_or(first.risk);
    Some(card(first.request, headline, risk, lines, status, false, count, revision))
}

/// Which of a digest's requests a text below it is about.
pub(super) fn about(requests: &[RequestId]) -> String {
    let listed: Vec<_> = requests.iter().take(LISTED).map(ToString::to_string).collect();
    let more = requests.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("This is about {}{more}.", listed.join(", "))
}

/// What a digest's message shows when nothing stands in it any more. `request` is one that stood there.
pub(super) fn emptied(request: RequestId, headline: String, revision: u64) -> Card {
    let status = vec!["each of them has a card of its own now, or has ended".to_owned()];
    card(request, headline, Risk::Low, Vec::new(), status, true, 0, revision)
}

#[expect(clippy::too_many_arguments, reason = "all of it is one card, made at two places just above")]
fn card(
    request: RequestId,
    headline: String,
    risk: Risk,
    lines: Vec<Line>,
    status: Vec<String>,
    is_final: bool,
    count: usize,
    revision: u64,
) -> Card {
    let mut hash = Sha256::new();
    hash.update(format!("digest {revision}\n{headline}\n"));
    for Line { label, text } in &lines {
        hash.update(format!("{label}\t{text}\n"));
    }
    let digest = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    Card {
        request,
        run: String::new(),
        more: Some(count),
        headline,
        risk,
        lines,
        status,
        is_final,
        verbs: Vec::new(),
        needs: Needs::default(),
        digest,
        detail: Vec::new(),
    }
}

/// Who, and what: the two sides of a card's headline.
fn parts(headline: &str) -> (&str, &str) {
    headline.split_once(" wants to ").unwrap_or((headline, headline))
}

fn wait(count: usize) -> &'static str {
    if count == 1 { "request waits" } else { "requests wait" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::stand_in;

    fn cards(count: u64) -> Vec<Arc<Card>> {
        (1..=count).map(|hold| Arc::new(stand_in::card(hold))).collect()
    }

    #[test]
    fn a_digest_lists_codes_and_offers_nothing_to_tap() {
        let cards = cards(7);
        let digest = digest(&cards, 1).unwrap();
        assert_eq!(digest.title(), "7 more requests");
        assert_eq!(digest.headline, "builder on web-1 asks more than fits on cards: 7 more requests wait");
        assert!(digest.verbs.is_empty() && !digest.is_final && digest.lines.len() == 7);
        for (card, line) in cards.iter().zip(&digest.lines) {
            assert!(line.text.starts_with(&format!("{} high: exec /usr/bin/git: git push", card.request)), "{line:?}");
        }
        assert_eq!(super::digest(&[], 1), None);
    }

    #[test]
    fn a_long_digest_is_bounded_and_counts_the_rest() {
        let mut cards = cards(100);
        let mut long = stand_in::card_with(&["x".repeat(1 << 20).as_str()]);
        long.risk = Risk::Critical;
        cards[0] = Arc::new(long);
        let digest = digest(&cards, 1).unwrap();
        assert_eq!((digest.lines.len(), digest.risk), (LISTED + 1, Risk::Critical));
        assert!(digest.lines[LISTED].text.starts_with("and 80 more"), "{:?}", digest.lines[LISTED]);
        assert!(digest.lines.iter().all(|line| line.text.chars().count() < 200));
        assert!(digest.lines[0].text.ends_with('…'));
    }

    #[test]
    fn what_is_shown_again_later_is_another_message_content() {
        let (one, two) = (digest(&cards(3), 1).unwrap(), digest(&cards(3), 2).unwrap());
        assert_ne!(one.digest, two.digest);
        assert_eq!(one.lines, two.lines);
    }
}
