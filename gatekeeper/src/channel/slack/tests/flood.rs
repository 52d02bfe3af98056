//! Very many requests at once, at the rates that Slack keeps.

use super::*;
use crate::channel::{
    outbox::{self, Order},
    plan::CARDS_PER_RUN,
    store::Store,
};

#[tokio::test]
async fn a_hundred_requests_at_once_are_five_cards_and_a_digest_within_the_rates() {
    let bench = Bench::new().await;
    bench.command(&json!({ "do": "tiers" }));
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(directory.path().join("chat.json"));
    let (orders, receiver) = mpsc::unbounded_channel();
    let (sender, mut events) = mpsc::channel(4_096);
    let running = tokio::spawn(outbox::run(bench.slack.clone(), store, Inbox::new(sender), receiver));
    let cards: Vec<_> = (0..100).map(|hold| card(hold, "x")).collect();
    for card in &cards {
        orders.send(Order::Show(Arc::new(card.clone()))).unwrap();
    }
    let shown = |what: &'static str| {
        let find = move |state: &state::State| {
            let cards = state.cards();
            cards.iter().map(|message| message.blocks.to_string()).find(|blocks| blocks.contains(what))
        };
        let fake = &bench.fake;
        async move { fake.wait(what, find).await.unwrap_or_else(|error| panic!("{error}")) }
    };
    let digest = shown("95 more requests").await;
    assert!(digest.contains("show CODE") && digest.contains(&cards[5].request.to_string()), "{digest}");
    assert!(!digest.contains("\"actions\""), "nothing to tap: {digest}");
    assert_eq!(bench.fake.look(|state| state.cards().len()), CARDS_PER_RUN + 1);
    // Those with cards end: the next five have cards, and the digest shrinks.
    for card in &cards[..5] {
        orders.send(Order::Show(Arc::new(ended(card)))).unwrap();
    }
    shown("90 more requests").await;
    let own = cards[9].request.to_string();
    let title = format!("{own}, risk");
    let find =
        |state: &state::State| state.cards().iter().any(|message| message.text.starts_with(&title)).then_some(());
    bench.fake.wait("the tenth card", find).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(!running.is_finished());
    running.abort();
    let mut gathered = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            Event::Gathered(requests) => gathered = requests.len(),
            Event::Problem(failure) | Event::Down(failure) => panic!("{failure}"),
            _ => {}
        }
    }
    assert_eq!(gathered, 90);
}
