//! What people do with cards.

use super::*;
use crate::channel::{MessageId, Standing};

/// Posts a card, and gives its message.
async fn posted(bench: &Bench, card: &Card) -> MessageId {
    bench.slack.post(card, &card.request.to_string()).await.unwrap()
}

/// Waits until somebody was told something in private.
async fn told(bench: &Bench, user: &str, text: &str) {
    let find = |state: &fake::State| state.told(user).contains(&text).then_some(());
    bench.fake.wait(text, find).await.unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until so many windows were opened.
async fn windows(bench: &Bench, count: usize) {
    let find = |state: &fake::State| (state.views.len() == count).then_some(());
    bench.fake.wait("a window", find).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn a_click_is_acknowledged_at_once_and_answered_in_private() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    let card = card(1, "x");
    let message = posted(&bench, &card).await;
    let click = bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
    let (act, answer) = ear.act().await;
    // The daemon has not answered yet.
    bench
        .saw("the acknowledgement", |line| line["saw"] == "acknowledged" && line["envelope"] == click["envelope"])
        .await;
    assert_eq!((act.account.id.as_str(), act.account.standing), ("T1/U1", Standing::Member));
    assert_eq!((act.request, act.verb, act.reason, act.typed), (card.request, Verb::Approve, None, false));
    assert_eq!(act.evidence.message, Some(message));
    assert_eq!(act.evidence.card, Some(card.digest));
    answer.send(counted("Approve once: <&>")).unwrap();
    told(&bench, "U1", "Approve once: &lt;&amp;&gt;").await;
}

#[tokio::test]
async fn a_denial_asks_why_first() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    let card = card(1, "x");
    let message = posted(&bench, &card).await;
    for (number, (action, verb)) in [("deny", Verb::Deny), ("stop", Verb::DenyAndStop)].into_iter().enumerate() {
        bench.command(&json!({ "do": "click", "user": "U1", "action": action }));
        windows(&bench, number + 1).await;
        bench.command(&json!({ "do": "submit", "user": "U1", "reason": "not <now> & here" }));
        let (act, answer) = ear.act().await;
        assert_eq!((act.request, act.verb, act.reason.as_deref()), (card.request, verb, Some("not <now> & here")));
        assert_eq!((act.evidence.message.as_ref(), act.evidence.card.as_ref()), (Some(&message), Some(&card.digest)));
        answer.send(counted("done")).unwrap();
    }
}

#[tokio::test]
async fn a_denial_needs_no_reason() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    posted(&bench, &card(1, "x")).await;
    bench.command(&json!({ "do": "click", "user": "U1", "action": "deny" }));
    windows(&bench, 1).await;
    bench.command(&json!({ "do": "submit", "user": "U1", "reason": null }));
    assert_eq!(ear.act().await.0.reason, None);
}

#[tokio::test]
async fn a_window_that_does_not_open_decides_nothing_and_is_told() {
    let strictness = fake::Times { trigger: Duration::ZERO, ..fake::Times::default() };
    let bench = Bench::with(strictness, times()).await;
    let mut ear = bench.listen().await;
    let card = card(1, "x");
    posted(&bench, &card).await;
    bench.command(&json!({ "do": "click", "user": "U1", "action": "deny" }));
    let text = format!("The window for the reason did not open. Click again, or type: deny {} WHY", card.request);
    told(&bench, "U1", &text).await;
    bench.saw("why", |line| line["method"] == "views.open" && line["error"] == "expired_trigger_id").await;
    bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
    assert_eq!(ear.act().await.0.verb, Verb::Approve, "the first act");
}

#[tokio::test]
async fn a_stale_click_is_handed_over_with_what_was_clicked() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    let card = card(1, "x");
    let message = posted(&bench, &card).await;
    bench.slack.edit(&message, &ended(&card)).await.unwrap();
    bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
    let (act, answer) = ear.act().await;
    assert_eq!((act.request, act.evidence.message), (card.request, Some(message)));
    answer.send(Answer { counted: false, text: "already denied".to_owned() }).unwrap();
    told(&bench, "U1", "already denied").await;
}

#[tokio::test]
async fn clicks_from_elsewhere_are_nothing() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    posted(&bench, &card(1, "x")).await;
    for (key, other) in [("team", "T2"), ("app", "A2"), ("channel", "C2")] {
        let mut click = json!({ "do": "click", "user": "U1", "action": "approve" });
        click[key] = json!(other);
        let click = bench.command(&click);
        bench.saw(key, |line| line["saw"] == "acknowledged" && line["envelope"] == click["envelope"]).await;
    }
    bench.command(&json!({ "do": "click", "user": "U1", "action": "escalate" }));
    assert_eq!(ear.act().await.0.verb, Verb::Escalate, "the first act");
}

#[tokio::test]
async fn a_typed_command_counts_like_a_click() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    let card = card(1, "x");
    let thread = posted(&bench, &card).await.0.trim_start_matches("C1/").to_owned();
    let text = format!("deny `{}` a < b & c", card.request.to_string().to_lowercase());
    bench.command(&json!({ "do": "type", "user": "U1", "text": text, "thread": thread }));
    let (act, answer) = ear.act().await;
    assert_eq!((act.request, act.verb, act.reason.as_deref()), (card.request, Verb::Deny, Some("a < b & c")));
    assert!(act.typed && act.evidence.card.is_none());
    assert_eq!((act.account.id.as_str(), act.account.standing), ("T1/U1", Standing::Member));
    answer.send(counted("Deny")).unwrap();
    told(&bench, "U1", "Deny").await;
    let told_in = bench.fake.look(|state| state.messages.last().and_then(|message| message.thread_ts.clone()));
    assert_eq!(told_in, Some(thread));
}

#[tokio::test]
async fn programs_edits_and_other_conversations_type_no_commands() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    let text = format!("approve {}", card(1, "x").request);
    for (key, value) in [("bot", "B9"), ("subtype", "message_changed"), ("subtype", "bot_message"), ("channel", "C2")] {
        let mut typed = json!({ "do": "type", "user": "U1", "text": text });
        typed[key] = json!(value);
        let typed = bench.command(&typed);
        bench.saw(key, |line| line["saw"] == "acknowledged" && line["envelope"] == typed["envelope"]).await;
    }
    bench.command(&json!({ "do": "type", "user": "U1", "text": "hello" }));
    bench.command(&json!({ "do": "type", "user": "U1", "text": format!("{text} fine") }));
    assert_eq!(ear.act().await.0.reason.as_deref(), Some("fine"), "the first act");
}

#[tokio::test]
async fn accounts_that_are_no_members_in_good_standing_show_it() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    posted(&bench, &card(1, "x")).await;
    for (number, (kind, standing)) in [
        ("member", Standing::Member),
        ("bot", Standing::Bot),
        ("app", Standing::Member),
        ("guest", Standing::Guest),
        ("single_channel_guest", Standing::Guest),
        ("deleted", Standing::Deleted),
        ("external", Standing::External),
        ("unconfirmed", Standing::Unconfirmed),
    ]
    .into_iter()
    .enumerate()
    {
        let user = format!("U{}", number + 10);
        bench.command(&json!({ "do": "user", "id": user, "kind": kind }));
        bench.command(&json!({ "do": "click", "user": user, "action": "approve" }));
        let (act, _) = ear.act().await;
        let team = if kind == "external" { "T2" } else { "T1" };
        assert_eq!((act.account.id, act.account.standing), (format!("{team}/{user}"), standing), "{kind}");
    }
}

#[tokio::test]
async fn who_cannot_be_looked_up_is_unknown_until_they_can() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    posted(&bench, &card(1, "x")).await;
    for fault in [json!({ "status": 500 }), json!({ "limited": 3 }), json!({ "error": "user_not_found" })] {
        let mut command = json!({ "do": "fault", "method": "users.info" });
        command.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
        bench.command(&command);
        bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
        let standing = ear.act().await.0.account.standing;
        assert!(matches!(standing, Standing::Unknown(_)), "{standing:?}");
    }
    for _ in 0..2 {
        bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
        assert_eq!(ear.act().await.0.account.standing, Standing::Member);
    }
    assert_eq!(bench.calls("users.info"), 4, "what was found out is remembered");
}

#[tokio::test]
async fn a_standing_is_not_remembered_for_long() {
    let bench = Bench::with(fake::Times::default(), Times { standing: Duration::ZERO, ..times() }).await;
    let mut ear = bench.listen().await;
    posted(&bench, &card(1, "x")).await;
    for (kind, standing) in [("member", Standing::Member), ("deleted", Standing::Deleted)] {
        bench.command(&json!({ "do": "user", "id": "U1", "kind": kind }));
        bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
        assert_eq!(ear.act().await.0.account.standing, standing);
    }
}
