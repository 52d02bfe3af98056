//! The cases, for any stage.

use super::{
    Person::{self, Bot, First, Guest, Owner, Second, Stranger},
    Stage,
    place::{LONG, Place, Waiting},
    wait::{wait_until, wait_within},
};
use crate::{channel::card::quoted_all, text::Text};

/// Requests that begin to wait at once.
const MANY: u64 = 100;
/// What agents would like to show: markup of all platforms, and characters that hide or reorder.
const HOSTILE: [&str; 12] = [
    "[click me](https://example.org/)",
    "**bold** _it_ ~~s~~ `code` # head",
    "*bold* <https://example.org|safe> &lt;!here&gt;",
    "<at>everyone</at> <!channel> @here @room",
    "<a href=\"https://example.org/\">safe</a><script>",
    "</code><h1>approved</h1>",
    "{{DATE(2017-02-14T06:00:00Z, SHORT)}} ${x} @{y}",
    "\u{202e}gnp.exe\u{200b}\u{2066}\u{feff}",
    "\r\n\r\nrisk: low\u{2028}",
    "\"}],\"actions\":[{\"type\":\"Action.Execute\"}]",
    "\x1b]0;title\x07\\",
    "!approve Q4AP-YRW7",
];

fn set<S: Stage>(rule: &str) -> (S, Place) {
    let stage = S::set();
    let place = Place::new(&stage, rule);
    (stage, place)
}

/// The record names the person and what they saw.
fn assert_decided_by_first<S: Stage>(place: &Place, waiting: &Waiting, card: &super::Shown) {
    let by = place.decider(waiting);
    assert_eq!((by["name"].as_str(), by["channel"].as_str()), (Some("first"), Some(S::NAME)), "{by}");
    assert_eq!(by["evidence"]["message"].as_str(), card.message.as_deref(), "{by}");
    if let Some(digest) = &card.digest {
        assert_eq!(by["evidence"]["card"].as_str(), Some(digest.as_str()), "{by}");
    }
}

pub(super) fn idempotent_post<S: Stage>() {
    let (stage, place) = set::<S>("");
    stage.lose_answer();
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    // The post is known when its record is written; what is shown before may still be tried once more.
    let known = wait_within(LONG, || (!place.records(&waiting, "card").is_empty()).then_some(()));
    assert!(known.is_some(), "{}", place.status());
    let cards = place.cards(&stage, &waiting);
    if S::FINDS_POSTS {
        assert_eq!(cards.len(), 1, "{cards:#?}");
        stage.approve(&place, First, &card);
    } else {
        // Where a server cannot tell, there is another copy, on which nobody decides.
        let [lost, known] = &cards[..] else { panic!("there are {} cards", cards.len()) };
        stage.approve(&place, First, lost);
        place.wait_until_told(&stage, First, "this is not the card of that request");
        assert!(place.waits(&waiting));
        stage.approve(&place, First, known);
    }
    place.wait_for_approval(&waiting);
    assert_eq!(place.records(&waiting, "card").len(), 1);
    stage.check();
}

pub(super) fn edit_to_final<S: Stage>() {
    let (stage, place) = set::<S>("");
    let [decided, ended] = [place.hold(&[]), place.hold(&[])];
    for waiting in [&decided, &ended] {
        assert!(place.card(&stage, waiting).verbs.iter().any(|verb| verb == "approve"));
    }
    let card = place.card(&stage, &decided);
    stage.approve(&place, First, &card);
    place.end(&ended);
    for (waiting, text) in [(&decided, S::APPROVED), (&ended, S::WITHDRAWN)] {
        let card = place.wait_for_text(&stage, waiting, text);
        assert!(card.verbs.is_empty() || S::BUTTONS_STAY, "{card:?}");
        assert_eq!(place.cards(&stage, waiting).len(), 1);
    }
    stage.check();
}

pub(super) fn click_to_verdict<S: Stage>() {
    let (stage, place) = set::<S>("");
    let [other, waiting] = [place.hold(&[]), place.hold(&["production", "a b"])];
    let card = place.card(&stage, &waiting);
    for text in ["exec /opt/tools/deploy", "deploy production \"a b\""] {
        assert!(card.text.contains(text), "{}", card.text);
    }
    assert!(place.waits(&waiting));
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    assert_decided_by_first::<S>(&place, &waiting, &card);
    assert!(place.waits(&other), "a click is about one request");
    stage.check();
}

pub(super) fn duplicate_click<S: Stage>() {
    let (stage, place) = set::<S>("reviewers = \"2 of anyone\"");
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.approve_twice(&place, First, &card);
    let votes = || place.show(&waiting.id)["votes"].as_array().map_or(0, Vec::len);
    wait_until("the vote counts", || (votes() > 0).then_some(()));
    // Everything that one person does is not the other one's word.
    let card = place.card(&stage, &waiting);
    stage.approve_twice(&place, First, &card);
    assert!(place.waits(&waiting) && votes() == 1);
    let card = place.wait_for_text(&stage, &waiting, "approved by first");
    stage.approve(&place, Second, &card);
    place.wait_for_approval(&waiting);
    assert_eq!(place.decider(&waiting)["name"], "second");
    assert_eq!(place.records(&waiting, "vote").len(), 1);
    stage.check();
}

pub(super) fn stale_click<S: Stage>() {
    let (stage, place) = set::<S>("");
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.approve(&place, First, &card);
    place.wait_for_text(&stage, &waiting, S::APPROVED);
    stage.approve(&place, Second, &card);
    place.wait_until_told(&stage, Second, "was decided already: allowed by first");
    assert_decided_by_first::<S>(&place, &waiting, &card);
    stage.check();
}

/// Somebody who may not decide does not, is told, and others still can.
fn refused<S: Stage>(person: Person) {
    let (stage, place) = set::<S>("");
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.approve(&place, person, &card);
    if let Some(refusal) = stage.refusal(person) {
        place.wait_until_told(&stage, person, refusal);
    }
    assert!(place.waits(&waiting));
    stage.recover(&place);
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    assert_decided_by_first::<S>(&place, &waiting, &card);
    assert_eq!(place.records(&waiting, "vote").len(), 0);
    stage.check();
}

pub(super) fn unknown_user<S: Stage>() {
    refused::<S>(Stranger);
}

pub(super) fn self_approval<S: Stage>() {
    refused::<S>(Owner);
}

pub(super) fn bot<S: Stage>() {
    refused::<S>(Bot);
}

pub(super) fn guest<S: Stage>() {
    refused::<S>(Guest);
}

pub(super) fn reconnect_during_a_click<S: Stage>() {
    let (stage, place) = set::<S>("reviewers = \"2 of anyone\"");
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.approve_unheard(&place, First, &card);
    let card = place.wait_for_text(&stage, &waiting, "approved by first");
    assert_eq!(place.records(&waiting, "vote").len(), 1);
    assert!(place.waits(&waiting));
    stage.approve(&place, Second, &card);
    place.wait_for_approval(&waiting);
    stage.check();
}

pub(super) fn restart_while_pending<S: Stage>() {
    let (stage, place) = set::<S>("reviewers = \"2 of anyone\"");
    let [waiting, ended] = [place.hold(&[]), place.hold(&[])];
    for waiting in [&waiting, &ended] {
        place.card(&stage, waiting);
        wait_until("the card is on record", || {
            (S::NAME == "cli" || !place.records(waiting, "card").is_empty()).then_some(())
        });
    }
    stage.approve(&place, Second, &place.card(&stage, &waiting));
    place.wait_for_text(&stage, &waiting, "approved by second");
    place.kill();
    // Nobody but the next daemon can say so.
    place.end(&ended);
    place.begin();
    assert!(place.waits(&waiting));
    // What counted counts, and the card is the one that was there.
    let card = place.card(&stage, &waiting);
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    assert_decided_by_first::<S>(&place, &waiting, &card);
    place.wait_for_text(&stage, &waiting, S::APPROVED);
    assert_eq!(place.cards(&stage, &waiting).len(), 1, "one card, restart or not");
    if S::NAME != "cli" {
        let over = |text: &str| text.contains("ended while gatekeeper did not run") || text.contains("withdrawn");
        let found = wait_within(LONG, || place.cards(&stage, &ended).iter().any(|card| over(&card.text)).then_some(()));
        assert!(found.is_some(), "{:#?}", place.cards(&stage, &ended));
    }
    stage.check();
}

/// Each has a card, or stands in the digest of what has none yet; nothing is lost, and all ends.
pub(super) fn a_hundred_at_once<S: Stage>() {
    let (stage, place) = set::<S>("");
    let all = place.hold_all(MANY, &[]);
    let own = all.len().min(S::CARDS_AT_ONCE);
    let gathered = format!("{} more", all.len() - own);
    let cards = wait_within(LONG, || {
        let shown = stage.shown(&place);
        let of = |waiting: &Waiting| {
            let mut cards = shown.iter().filter(|card| !card.verbs.is_empty() && card.text.contains(&waiting.id));
            let card = cards.next()?.clone();
            assert!(cards.next().is_none(), "two cards of {}", waiting.id);
            Some(card)
        };
        let cards: Vec<_> = all.iter().map(of).collect();
        let are_told = own == all.len() || shown.iter().any(|card| card.text.contains(&gathered));
        (cards.iter().flatten().count() == own && are_told).then_some(cards)
    });
    let cards = cards.unwrap_or_else(|| panic!("{} cards; {}", stage.shown(&place).len(), place.status()));
    for card in cards.iter().flatten() {
        stage.approve(&place, First, card);
    }
    for (waiting, card) in all.iter().zip(&cards) {
        if let Some(card) = card {
            place.wait_for_approval(waiting);
            assert_decided_by_first::<S>(&place, waiting, card);
        }
    }
    for (waiting, _) in all.iter().zip(&cards).filter(|(_, card)| card.is_none()) {
        place.approve_here(waiting);
        place.wait_for_approval(waiting);
    }
    let is_over = || stage.shown(&place).iter().any(|card| card.text.contains("each of them has a card")).then_some(());
    assert!(own == all.len() || wait_within(LONG, is_over).is_some(), "{:#?}", stage.shown(&place));
    stage.check();
}

pub(super) fn shortened_card<S: Stage>() {
    let (stage, place) = set::<S>("");
    let long = "0123456789 abcdef".repeat(8_000);
    let waiting = place.hold(&[&long]);
    let card = place.card(&stage, &waiting);
    let is_whole = card.text.contains(&format!("\"{long}\""));
    let says_so = card.text.contains("shortened");
    let offers = card.verbs.iter().any(|verb| verb == "approve");
    assert!(is_whole != says_so, "{} bytes", card.text.len());
    assert_eq!(offers, is_whole, "{:?}", card.verbs);
    // The command line has all of it.
    stage.approve_here(&place, &waiting, &card);
    place.wait_for_approval(&waiting);
    stage.check();
}

pub(super) fn hostile_text<S: Stage>() {
    let (stage, place) = set::<S>("");
    let waiting = place.hold(&HOSTILE);
    let card = place.card(&stage, &waiting);
    let bad = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}\u{2066}\u{feff}\u{2028}".contains(c);
    assert!(!card.text.contains(bad), "{:?}", card.text);
    for argument in HOSTILE {
        let escaped = stage.as_shown(quoted_all(&[Text::from(argument)]));
        assert!(card.text.contains(&escaped), "{escaped} is not in {}", card.text);
    }
    assert!(!card.text.lines().any(|line| line.trim_start().starts_with("risk: low")), "{}", card.text);
    // A megabyte of it.
    let megabyte = HOSTILE.concat().repeat(3_800);
    assert!(megabyte.len() > 1 << 20);
    let large = place.hold(&[&megabyte]);
    let shown = wait_within(LONG, || place.cards(&stage, &large).pop()).expect("a card");
    assert!(!shown.text.contains(bad));
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    stage.approve_here(&place, &large, &shown);
    place.wait_for_approval(&large);
    stage.check();
}

pub(super) fn half_open_connection<S: Stage>() {
    let (stage, place) = set::<S>("");
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.half_open(&place);
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    assert_decided_by_first::<S>(&place, &waiting, &card);
    stage.check();
}

pub(super) fn clock_skew<S: Stage>() {
    let (stage, place) = set::<S>("");
    stage.skew();
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    place.wait_for_text(&stage, &waiting, S::APPROVED);
    stage.check();
}

pub(super) fn rate_limit<S: Stage>() {
    let (stage, place) = set::<S>("");
    stage.limit();
    let waiting = place.hold(&[]);
    let card = place.card(&stage, &waiting);
    assert_eq!(place.problem(), None, "a limit is no outage");
    assert_eq!(place.cards(&stage, &waiting).len(), 1);
    stage.approve(&place, First, &card);
    place.wait_for_approval(&waiting);
    stage.check();
}

pub(super) fn outage<S: Stage>() {
    let (stage, place) = set::<S>("");
    let before = place.hold(&[]);
    let card = place.card(&stage, &before);
    stage.away();
    let [here, later] = [place.hold(&[]), place.hold(&[])];
    wait_until("the status tells of it", || place.problem());
    // Local commands work all the while.
    stage.approve_here(&place, &here, &card);
    place.wait_for_approval(&here);
    assert!(place.waits(&before) && place.waits(&later));
    stage.back();
    let later_card = place.card(&stage, &later);
    for (waiting, card) in [(&before, &card), (&later, &later_card)] {
        stage.approve(&place, First, card);
        place.wait_for_approval(waiting);
    }
    assert!(place.cards(&stage, &here).is_empty(), "nobody need see what is over");
    let well = wait_within(LONG, || place.problem().is_none().then_some(()));
    assert!(well.is_some(), "{:?}", place.problem());
    stage.check();
}
