//! Cards and their threads.

use super::*;

/// All texts of a message's blocks that are shown letter by letter.
fn letters(blocks: &Value) -> String {
    let texts = blocks.as_array().into_iter().flatten().filter(|block| block["type"] == "rich_text");
    texts.filter_map(|block| block["elements"][0]["elements"][0]["text"].as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_card_is_posted_and_ends_in_its_final_state() {
    let bench = Bench::new().await;
    let card = card(1, "x");
    let message = bench.slack.post(&card, "once").await.unwrap();
    let ts = bench.fake.look(|state| {
        let [posted] = state.cards()[..] else { panic!("one card") };
        assert!(letters(&posted.blocks).contains("arguments    git push --force \"a b\\nc\" x"), "{}", posted.blocks);
        posted.ts.clone()
    });
    assert_eq!(message.0, format!("C1/{ts}"));
    bench.slack.edit(&message, &ended(&card)).await.unwrap();
    bench.fake.look(|state| {
        let [posted] = state.cards()[..] else { panic!("one card") };
        assert!(letters(&posted.blocks).ends_with("denied by U1 through slack after 3s; it failed"));
        assert!(!posted.blocks.to_string().contains("button"));
        assert_eq!(posted.metadata["event_payload"]["once"], "once", "an edit keeps the name");
    });
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_card() {
    let bench = Bench::new().await;
    bench.command(&json!({ "do": "fault", "method": "chat.postMessage", "lose": true }));
    let failure = bench.slack.post(&card(1, "x"), "once").await.unwrap_err();
    assert!(matches!(failure, Failure::Outage(_)), "{failure:?}");
    let message = bench.slack.post(&card(1, "x"), "once").await.unwrap();
    let again = bench.slack.post(&card(1, "x"), "once").await.unwrap();
    let cards: Vec<_> = bench.fake.look(|state| state.cards().iter().map(|card| format!("C1/{}", card.ts)).collect());
    assert_eq!(cards, [message.0.as_str()]);
    assert_eq!(again, message);
    bench.slack.post(&card(2, "x"), "another").await.unwrap();
    assert_eq!(bench.fake.look(|state| state.cards().len()), 2);
    // At the start, and after what was not known; not for what is known for sure.
    assert_eq!(bench.calls("conversations.history"), 2);
}

#[tokio::test]
async fn a_restarted_daemon_finds_the_card_that_is_there() {
    let bench = Bench::new().await;
    let message = bench.slack.post(&card(1, "x"), "once").await.unwrap();
    // More than one page of others.
    for hold in 2..205 {
        bench.slack.post(&card(hold, "x"), &format!("once {hold}")).await.unwrap();
    }
    let restarted = bench.restarted();
    assert_eq!(restarted.post(&card(1, "x"), "once").await.unwrap(), message);
    assert_eq!(bench.fake.look(|state| state.cards().len()), 204);
    restarted.edit(&message, &ended(&card(1, "x"))).await.unwrap();
}

#[tokio::test]
async fn somebody_elses_message_is_not_taken_for_a_card() {
    let bench = Bench::new().await;
    let metadata = json!({ "event_type": "gatekeeper_post", "event_payload": { "once": "once" } });
    for bot in [json!("B9"), Value::Null] {
        bench.command(&json!({ "do": "type", "user": "U1", "text": "x", "bot": bot, "metadata": metadata }));
    }
    let message = bench.slack.post(&card(1, "x"), "once").await.unwrap();
    bench.fake.look(|state| {
        assert_eq!(state.cards().len(), 3);
        assert_eq!(message.0, format!("C1/{}", state.cards()[2].ts));
    });
}

#[tokio::test]
async fn a_post_that_is_given_up_halfway_is_looked_for() {
    let bench = Bench::new().await;
    bench.slack.post(&card(1, "x"), "first").await.unwrap();
    let second = card(2, "x");
    {
        let mut post = Box::pin(bench.slack.post(&second, "second"));
        // Until the fake has it, and before its answer was looked at.
        let posted = bench.fake.wait("the post", |state| (state.cards().len() == 2).then_some(()));
        tokio::select! {
            biased;
            posted = posted => posted.unwrap(),
            _ = &mut post => {}
        }
    }
    bench.slack.post(&second, "second").await.unwrap();
    assert_eq!(bench.fake.look(|state| state.cards().len()), 2);
}

#[tokio::test]
async fn a_hundred_posts_get_through_limits_each_once() {
    let bench = Bench::new().await;
    let mut limited = 0;
    for hold in 0..100 {
        if hold % 3 == 0 {
            bench.command(&json!({ "do": "fault", "method": "chat.postMessage", "limited": 7 }));
        }
        let (card, once) = (card(hold, "x"), format!("once {hold}"));
        while let Err(failure) = bench.slack.post(&card, &once).await {
            assert_eq!(failure, Failure::Limited(Duration::from_secs(7)));
            limited += 1;
        }
    }
    assert_eq!(limited, 34);
    assert_eq!(bench.fake.look(|state| state.cards().len()), 100);
    assert_eq!(bench.calls("conversations.history"), 1, "a limit says for sure that nothing was done");
}

#[tokio::test]
async fn rates_are_obeyed() {
    let bench = Bench::new().await;
    bench.command(&json!({ "do": "rate", "method": "chat.postMessage", "calls": 2, "per_ms": 600_000 }));
    for hold in 0..2 {
        bench.slack.post(&card(hold, "x"), &format!("once {hold}")).await.unwrap();
    }
    let failure = bench.slack.post(&card(2, "x"), "once 2").await.unwrap_err();
    let Failure::Limited(pause) = failure else { panic!("{failure:?}") };
    assert!(pause <= Duration::from_secs(601), "{pause:?}");
    bench.command(&json!({ "do": "tiers" }));
    bench.slack.post(&card(2, "x"), "once 2").await.unwrap();
}

#[tokio::test]
async fn a_shortened_card_has_all_of_it_in_the_thread_once() {
    let bench = Bench::new().await;
    // The worst that can be shown: each character takes eight.
    let card = card(1, &"\u{202e}".repeat(1 << 17));
    bench.command(&json!({ "do": "fault", "method": "chat.postMessage", "limited": 1 }));
    assert!(matches!(bench.slack.post(&card, "once").await, Err(Failure::Limited(_))));
    let message = bench.slack.post(&card, "once").await.unwrap();
    let ts = message.0.trim_start_matches("C1/").to_owned();
    let whole = |thread: &str| {
        bench.fake.look(|state| {
            let texts: String = state.thread(thread).iter().map(|note| letters(&note.blocks)).collect();
            (texts.replace('\n', ""), state.thread(thread).len())
        })
    };
    let (texts, notes) = whole(&ts);
    assert!(texts.len() > 1 << 20, "{}", texts.len());
    assert_eq!(texts, card.detail.concat());
    bench.fake.look(|state| {
        let [posted] = state.cards()[..] else { panic!("one card") };
        let shown = posted.blocks.to_string();
        assert!(shown.contains("This card is shortened.") && shown.contains("approve it by typing: approve "));
        assert!(!shown.contains("\"approve\"") && shown.contains("\"deny\""));
    });
    // Neither an edit nor another daemon tells it again.
    bench.slack.edit(&message, &card).await.unwrap();
    bench.restarted().edit(&message, &card).await.unwrap();
    assert_eq!(whole(&ts).1, notes);
}

#[tokio::test]
async fn a_thread_goes_on_where_it_was_interrupted() {
    let bench = Bench::new().await;
    let message = bench.slack.post(&card(1, "x"), "once").await.unwrap();
    let lines: Vec<_> = (0..40).map(|number| format!("{number} {}", "y".repeat(1_000))).collect();
    bench.command(&json!({ "do": "fault", "method": "chat.postMessage", "lose": true }));
    assert!(matches!(bench.slack.add(&message, &lines, "note").await, Err(Failure::Outage(_))));
    bench.slack.add(&message, &lines, "note").await.unwrap();
    bench.slack.add(&message, &lines, "note").await.unwrap();
    let ts = message.0.trim_start_matches("C1/");
    let texts: String = bench.fake.look(|state| state.thread(ts).iter().map(|note| letters(&note.blocks)).collect());
    assert_eq!(texts.replace('\n', ""), lines.concat());
}

#[tokio::test]
async fn hostile_text_arrives_letter_by_letter() {
    let bench = Bench::new().await;
    let hostile = "<!channel> <https://evil.example|ok> *b* `c` ```d``` &lt; :smile: \u{202e}\u{200b}\0";
    bench.slack.post(&card(1, hostile), "once").await.unwrap();
    bench.fake.look(|state| {
        let [posted] = state.cards()[..] else { panic!("one card") };
        let shown = "<!channel> <https://evil.example|ok> *b* `c` ```d``` &lt; :smile: \\u{202e}\\u{200b}\\x00";
        assert!(letters(&posted.blocks).contains(shown), "{}", posted.blocks);
        assert!(posted.text.contains("&lt;!channel&gt;") && !posted.text.contains('<'), "{}", posted.text);
        assert!(!posted.blocks.to_string().contains("mrkdwn"));
    });
}

#[tokio::test]
async fn what_slack_says_no_to_is_told_with_the_way_out() {
    let bench = Bench::new().await;
    let card = card(1, "x");
    let post = async |once: &str| bench.slack.post(&card, once).await.unwrap_err();
    let fault = |what: Value| {
        let mut command = json!({ "do": "fault", "method": "chat.postMessage" });
        command.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        bench.command(&command);
    };
    fault(json!({ "status": 503 }));
    assert!(matches!(post("outage").await, Failure::Outage(_)));
    fault(json!({ "error": "msg_too_long" }));
    assert!(matches!(post("too long").await, Failure::Refused(_)));
    fault(json!({ "error": "fatal_error" }));
    assert!(matches!(post("outage").await, Failure::Outage(_)));
    let fatal = |failure: Failure, words: &[&str]| {
        let Failure::Fatal(text) = failure else { panic!("{failure:?}") };
        for word in words {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
    };
    bench.command(&json!({ "do": "conversation", "id": "C1", "member": false }));
    fatal(post("1").await, &["not_in_channel", "/invite"]);
    bench.command(&json!({ "do": "conversation", "id": "C1", "visible": false }));
    fatal(post("1").await, &["channel_not_found", "`conversation`"]);
    bench.command(&json!({ "do": "conversation", "id": "C1", "archived": true }));
    fatal(post("1").await, &["is_archived"]);
    bench.command(&json!({ "do": "conversation", "id": "C1" }));
    bench.command(&json!({ "do": "scopes", "scopes": ["users:read", "channels:history"] }));
    fatal(post("1").await, &["missing_scope", "chat:write"]);
    bench.command(&json!({ "do": "revoke", "token": "bot" }));
    fatal(post("1").await, &["token_revoked", "bot token", "install the app"]);
}

#[tokio::test]
async fn messages_that_are_not_there_or_not_its_own_are_refused() {
    let bench = Bench::new().await;
    let card = card(1, "x");
    let of_another = bench.command(&json!({ "do": "type", "user": "U1", "text": "hello" }));
    assert!(of_another["envelope"].is_string());
    let ts = bench.fake.look(|state| state.messages[0].ts.clone());
    for message in [format!("C1/{ts}"), "C1/1.000001".to_owned(), format!("C2/{ts}"), "nonsense".to_owned()] {
        let failure = bench.slack.edit(&crate::channel::MessageId(message), &card).await.unwrap_err();
        assert!(matches!(failure, Failure::Refused(_)), "{failure:?}");
    }
}
