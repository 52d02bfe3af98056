//! Sockets that come and go.

use super::*;

/// Waits until so many sockets are open, and gives their numbers.
async fn open(bench: &Bench, count: usize) -> Vec<u64> {
    let find = |state: &fake::State| (state.sockets.len() == count).then(|| state.sockets.keys().copied().collect());
    bench.fake.wait("sockets", find).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Where in the log something stands.
fn position(bench: &Bench, find: impl Fn(&Value) -> bool) -> Option<usize> {
    bench.fake.look(|state| state.log.iter().position(&find))
}

fn is(line: &Value, saw: &str, socket: u64) -> bool {
    line["saw"] == saw && line["socket"] == socket
}

#[tokio::test]
async fn a_socket_that_is_to_be_closed_is_replaced_before() {
    for reason in ["warning", "refresh_requested"] {
        let strictness = fake::Times { farewell: Duration::from_secs(3_600), ..fake::Times::default() };
        let bench = Bench::with(strictness, times()).await;
        let mut ear = bench.listen().await;
        let old = open(&bench, 2).await[0];
        bench.slack.post(&card(1, "x"), "once").await.unwrap();
        bench.command(&json!({ "do": "disconnect", "socket": old, "reason": reason }));
        let all = open(&bench, 3).await;
        assert!(all.contains(&old), "the old one is still there");
        // And still read.
        bench.command(&json!({ "do": "click", "user": "U1", "action": "approve", "socket": old }));
        assert_eq!(ear.act().await.0.verb, Verb::Approve);
        bench.command(&json!({ "do": "click", "user": "U1", "action": "extend", "socket": all[2] }));
        assert_eq!(ear.act().await.0.verb, Verb::Extend);
        bench.command(&json!({ "do": "close", "socket": old }));
        bench.saw("its end", |line| is(line, "closed", old)).await;
        let replaced = position(&bench, |line| is(line, "connected", all[2]));
        assert!(replaced < position(&bench, |line| is(line, "closed", old)));
        // No more than is wanted, and nothing of it was a failure.
        assert_eq!(open(&bench, 2).await.len(), 2);
        assert!(ear.events.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_socket_that_slack_forgets_to_close_is_closed_from_here() {
    let strictness = fake::Times { farewell: Duration::from_secs(3_600), ..fake::Times::default() };
    let bench = Bench::with(strictness, Times { drain: Duration::from_millis(50), ..times() }).await;
    let _ear = bench.listen().await;
    let old = open(&bench, 2).await[0];
    bench.command(&json!({ "do": "disconnect", "socket": old, "reason": "warning" }));
    bench.saw("its end", |line| is(line, "closed", old)).await;
    open(&bench, 2).await;
}

#[tokio::test]
async fn a_half_open_socket_is_found_out_and_its_click_is_not_lost() {
    let strictness = fake::Times { acknowledge: Duration::from_millis(200), ..fake::Times::default() };
    let bench = Bench::with(strictness, Times { idle: Duration::from_secs(1), ..times() }).await;
    let mut ear = bench.listen().await;
    let sockets = open(&bench, 2).await;
    bench.slack.post(&card(1, "x"), "once").await.unwrap();
    for socket in &sockets {
        bench.saw("a ping", |line| is(line, "ping", *socket)).await;
    }
    bench.command(&json!({ "do": "half_open", "socket": sockets[0] }));
    let click = bench.command(&json!({ "do": "click", "user": "U1", "action": "approve", "socket": sockets[0] }));
    bench.saw("silence", |line| line["saw"] == "unacknowledged" && line["envelope"] == click["envelope"]).await;
    assert_eq!(ear.act().await.0.verb, Verb::Approve);
    // Both are replaced when both are dead, although nothing ever says so.
    bench.command(&json!({ "do": "half_open" }));
    let find = |state: &fake::State| state.sockets.keys().any(|number| *number > sockets[1]).then_some(());
    bench.fake.wait("a replacement", find).await.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn an_outage_is_told_once_and_so_is_its_end() {
    let bench = Bench::new().await;
    let mut ear = bench.listen().await;
    open(&bench, 2).await;
    bench.command(&json!({ "do": "fault", "method": "apps.connections.open", "status": 503, "times": 20 }));
    bench.command(&json!({ "do": "close" }));
    let Event::Down(Failure::Outage(text)) = ear.next().await else { panic!() };
    assert!(!text.contains("ticket"), "{text}");
    assert!(matches!(ear.next().await, Event::Up));
    open(&bench, 2).await;
    bench.slack.post(&card(1, "x"), "once").await.unwrap();
    bench.command(&json!({ "do": "click", "user": "U1", "action": "approve" }));
    assert_eq!(ear.act().await.0.verb, Verb::Approve);
}

#[tokio::test]
async fn an_outage_at_the_start_is_told_and_outlived() {
    let bench = Bench::new().await;
    bench.command(&json!({ "do": "fault", "method": "auth.test", "status": 503 }));
    let mut ear = bench.ear();
    assert!(matches!(ear.next().await, Event::Down(Failure::Outage(_))));
    assert!(matches!(ear.next().await, Event::Up));
}

#[tokio::test]
async fn limits_are_waited_for() {
    let bench = Bench::new().await;
    bench.command(&json!({ "do": "fault", "method": "apps.connections.open", "limited": 0, "times": 3 }));
    bench.command(&json!({ "do": "fault", "method": "auth.test", "limited": 0, "times": 2 }));
    let mut ear = bench.ear();
    assert!(matches!(ear.next().await, Event::Up), "a limit is no outage");
    open(&bench, 2).await;
}

#[tokio::test]
async fn what_only_an_operator_can_mend_ends_it() {
    let ends = async |commands: &[Value], words: &[&str]| {
        let bench = Bench::new().await;
        for command in commands {
            bench.command(command);
        }
        let failure = bench.ear().end().await;
        let Failure::Fatal(text) = failure else { panic!("{failure:?}") };
        for word in words {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
    };
    ends(&[json!({ "do": "revoke", "token": "app" })], &["token_revoked", "app-level token"]).await;
    ends(&[json!({ "do": "revoke", "token": "bot" })], &["token_revoked", "bot token"]).await;
    let scopes = json!(["chat:write", "channels:history", "groups:history"]);
    ends(&[json!({ "do": "scopes", "scopes": scopes })], &["missing_scope", "users:read", "manifest"]).await;
    ends(&[json!({ "do": "conversation", "id": "C1", "member": false })], &["not_in_channel"]).await;
}

#[tokio::test]
async fn another_workspaces_token_is_refused() {
    let bench = Bench::new().await;
    let slack = Slack::new(Settings { team: "T2".to_owned(), ..settings(&bench.fake, times()) }).unwrap();
    let (sender, _events) = mpsc::channel(8);
    let Failure::Fatal(text) = soon(slack.listen(Inbox::new(sender), None)).await else { panic!() };
    assert!(text.contains("belongs to workspace T1, and the configuration names T2"), "{text}");
    let Failure::Fatal(_) = slack.post(&card(1, "x"), "once").await.unwrap_err() else { panic!() };
    assert_eq!(bench.fake.look(|state| state.cards().len()), 0);
}

#[tokio::test]
async fn socket_mode_that_is_switched_off_ends_it() {
    let bench = Bench::new().await;
    let ear = bench.listen().await;
    bench.command(&json!({ "do": "disconnect", "reason": "link_disabled" }));
    let Failure::Fatal(text) = ear.end().await else { panic!() };
    assert!(text.starts_with("link_disabled: ") && text.contains("switch it on"), "{text}");
}

#[tokio::test]
async fn sockets_end_with_whoever_listens() {
    let bench = Bench::new().await;
    let ear = bench.listen().await;
    open(&bench, 2).await;
    drop(ear);
    open(&bench, 0).await;
}
