//! The webhook against a strict receiver, and decisions by the real `ssh-keygen`.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    channel::{
        Account, Standing, Verb,
        fake_http::{Call, Reply, send},
        stand_in::{self, START_MS, StandIn, StoppedClock, beside, card, card_with, ended},
        webhook_fake::WebhookFake,
    },
    request::RequestId,
    reviewer::{
        signature::NAMESPACE,
        ssh_key::{self, SshKey},
        statement::Statement,
    },
};

fn place() -> Place {
    Place::new("web-1", "00112233-4455-6677-8899-aabbccddeeff")
}

fn settings(url: &str, decisions: Option<Decisions>) -> Settings {
    let signing_key = Secret::new(&format!("whsk_{}", STANDARD.encode([3; 32])));
    Settings { url: Secret::new(url), signing_key, decisions, place: place() }
}

fn webhook() -> (Webhook, WebhookFake, Arc<StoppedClock>) {
    let fake = WebhookFake::start(START_MS / 1_000);
    let clock = stand_in::clock();
    let webhook = Webhook::new(settings(&fake.url(), None), clock.clone()).unwrap();
    fake.trust(&webhook.public_key());
    (webhook, fake, clock)
}

#[tokio::test]
async fn a_post_is_one_event_however_often_it_is_sent() {
    let (webhook, fake, clock) = webhook();
    let message = webhook.post(&card(1), "1/0").await.unwrap();
    assert_eq!(webhook.post(&card(1), "1/0").await.unwrap(), message);
    // As after a restart, when some time has passed.
    clock.advance(Duration::from_secs(100));
    let restarted = Webhook::new(settings(&fake.url(), None), clock).unwrap();
    assert_eq!(restarted.post(&card(1), "1/0").await.unwrap(), message);
    assert_ne!(restarted.post(&card(2), "2/0").await.unwrap(), message);
    let events = fake.events();
    assert_eq!((events.len(), fake.repeated(), fake.faults()), (2, 2, vec![]));
    let data = &events[0].payload["data"];
    assert_eq!(events[0].payload["type"], "request.waiting");
    assert_eq!(data["request"], card(1).request.to_string());
    assert_eq!(data["digest"], card(1).digest);
    assert_eq!((&data["host"], &data["boot"]), (&json!(place().host), &json!(place().boot)));
    assert_eq!(data["headline"], card(1).headline);
    assert_eq!(data["shortened"], false);
    assert_eq!(data["verbs"], json!(["approve", "deny", "escalate"]));
    assert_eq!(data["reasons"], json!(["deny"]));
}

#[tokio::test]
async fn a_card_is_changed_up_to_its_end() {
    let (webhook, fake, _) = webhook();
    let message = webhook.post(&card(1), "1/0").await.unwrap();
    let mut extended = card(1);
    extended.status = vec!["waits until later".to_owned()];
    webhook.edit(&message, &extended).await.unwrap();
    webhook.edit(&message, &ended(1)).await.unwrap();
    webhook.edit(&message, &ended(1)).await.unwrap();
    let kinds: Vec<Value> = fake.events().iter().map(|event| event.payload["type"].clone()).collect();
    assert_eq!(kinds, ["request.waiting", "request.changed", "request.ended"]);
    let last = &fake.events()[2].payload["data"];
    assert_eq!((&last["final"], &last["verbs"], &last["message"]), (&json!(true), &json!([]), &json!(message.0)));
    assert_eq!(last["status"][0], ended(1).status[0]);
    assert_eq!((fake.repeated(), fake.faults()), (1, vec![]));
}

#[tokio::test]
async fn long_notes_take_several_events() {
    let (webhook, fake, _) = webhook();
    let message = webhook.post(&card(1), "1/0").await.unwrap();
    let lines = vec!["short \"quoted\" \\u{202e}".to_owned(), "\\".repeat(50_000)];
    webhook.add(&message, &lines, "1/n").await.unwrap();
    webhook.add(&message, &lines, "1/n").await.unwrap();
    assert_eq!(fake.faults(), [""; 0]);
    let events = fake.events();
    let notes: Vec<_> = events.iter().filter(|event| event.payload["type"] == "request.note").collect();
    assert_eq!(fake.repeated(), notes.len());
    let text: String = notes.iter().filter_map(|note| note.payload["data"]["text"].as_str()).collect();
    assert_eq!(text.replace('\n', ""), lines.concat());
    assert_eq!(notes[0].payload["data"]["parts"], notes.len());
}

#[tokio::test]
async fn a_card_that_had_to_be_shortened_says_so_and_cannot_be_approved_by_it() {
    let (webhook, fake, _) = webhook();
    webhook.post(&card_with(&["x".repeat(1 << 20).as_str()]), "long").await.unwrap();
    webhook.post(&card_with(&["\"\\\u{202e}".repeat(1 << 18).as_str()]), "quotes").await.unwrap();
    assert_eq!(fake.faults(), [""; 0]);
    for event in fake.events() {
        let data = &event.payload["data"];
        assert_eq!(data["shortened"], true);
        assert_eq!(data["verbs"], json!(["deny", "stop", "escalate", "extend"]));
        assert_eq!(data["digest"].as_str().unwrap().len(), 64);
        let lines = data["lines"].to_string();
        assert!(lines.contains("… (shortened)") && lines.contains("git-push, risk high"), "{lines}");
    }
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    let (webhook, fake, _) = webhook();
    let limited = |seconds| Err(Failure::Limited(Duration::from_secs(seconds)));
    let cases = [
        (Reply::new(429, "").with("Retry-After", "7"), limited(7)),
        (Reply::new(429, ""), limited(30)),
        (Reply::new(429, "").with("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"), limited(30)),
        (Reply::new(429, "").with("Retry-After", "999999999"), limited(3_600)),
    ];
    for (reply, expected) in cases {
        fake.answer_next(reply);
        assert_eq!(webhook.post(&card(1), "1").await, expected);
    }
    for (status, word) in [(500, "outage"), (503, "outage"), (302, "refused"), (400, "refused"), (401, "refused")] {
        fake.answer_next(Reply::new(status, "").with("Location", "http://127.0.0.1:9/"));
        let failure = webhook.post(&card(1), "1").await.unwrap_err();
        let kind = match failure {
            Failure::Outage(_) => "outage",
            Failure::Refused(_) => "refused",
            _ => "another",
        };
        assert_eq!(kind, word, "{status}: {failure}");
    }
    fake.answer_next(Reply::new(410, ""));
    let Err(Failure::Fatal(text)) = webhook.post(&card(1), "1").await else { panic!("not fatal") };
    assert!(text.contains("disabled by the receiver"), "{text}");
    // The connection breaks after the event arrived.
    fake.answer_next(Reply::new(0, ""));
    assert!(matches!(webhook.post(&card(1), "1").await, Err(Failure::Outage(_))));
    assert!(webhook.post(&card(1), "1").await.is_ok());
    assert_eq!((fake.events().len(), fake.faults()), (1, vec![]));
}

#[tokio::test]
async fn an_outage_tells_no_address() {
    let (webhook, fake, _) = webhook();
    drop(fake);
    let Err(Failure::Outage(text)) = webhook.post(&card(1), "1").await else { panic!("no outage") };
    assert!(!text.contains("/hook"), "{text}");
}

/// A channel that takes decisions, and a reviewer.
struct Inbound {
    key: SshKey,
    daemon: StandIn,
    webhook: Arc<Webhook>,
    clock: Arc<StoppedClock>,
    listening: JoinHandle<Failure>,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Inbound {
    async fn start() -> Self {
        let key = SshKey::generate("ed25519");
        let fingerprint = key.fingerprint();
        let clock = stand_in::clock();
        let decisions = Decisions { listen: "127.0.0.1:0".parse().unwrap(), keys: vec![fingerprint.clone()] };
        let settings = settings("http://127.0.0.1:9/", Some(decisions));
        let webhook = Arc::new(Webhook::new(settings, clock.clone()).unwrap());
        let (mut daemon, inbox) = StandIn::start(&[&fingerprint], &[]);
        let listening = tokio::spawn({
            let webhook = Arc::clone(&webhook);
            async move { webhook.listen(inbox, None).await }
        });
        daemon.up().await;
        Self { key, daemon, webhook, clock, listening }
    }

    async fn send(&self, body: String) -> (u16, Value) {
        self.call("POST", PATH, body).await
    }

    async fn call(&self, method: &str, path: &str, body: String) -> (u16, Value) {
        let address = self.webhook.address().unwrap();
        let call = Call { method: method.to_owned(), path: path.to_owned(), body, ..Call::default() };
        let reply = beside(move || send(address, &call)).await;
        (reply.status, serde_json::from_str(&reply.body).unwrap_or_default())
    }

    async fn decide(&self, statement: &Statement) -> (u16, Value) {
        let text = statement.text();
        self.send(body(&text, &self.key.sign(&text, NAMESPACE))).await
    }
}

fn body(statement: &str, signature: &str) -> String {
    json!({ "statement": statement, "signature": signature }).to_string()
}

fn statement(request: RequestId, nonce: &str) -> Statement {
    Statement {
        request,
        place: place(),
        card: card(1).digest,
        verb: "approve".to_owned(),
        reason: "looked at it".to_owned(),
        at_ms: START_MS,
        nonce: format!("{nonce}-0123456789abcdef"),
    }
}

#[tokio::test]
async fn a_signed_decision_is_an_act_of_its_key() {
    let mut inbound = Inbound::start().await;
    let statement = statement(card(1).request, "a");
    let answer = inbound.decide(&statement).await;
    assert_eq!(answer, (200, json!({ "counted": true, "answer": "approve counted", "repeated": false })));
    let [act] = &inbound.daemon.acted(1).await[..] else { panic!("not one act") };
    let fingerprint = inbound.key.fingerprint();
    let account = Account { id: fingerprint.clone(), name: fingerprint.clone(), standing: Standing::Member };
    assert_eq!((&act.account, act.request, act.verb), (&account, card(1).request, Verb::Approve));
    assert_eq!((act.reason.as_deref(), act.typed), (Some("looked at it"), true));
    assert_eq!(act.evidence.card, Some(card(1).digest));
    assert_eq!(act.evidence.event, format!("{fingerprint} {}", statement.nonce));
    // Byte for byte what was signed, for whoever verifies it later.
    let signed = act.evidence.signed.clone().unwrap();
    assert_eq!(signed.statement, statement.text());
    assert!(ssh_key::accepts(&inbound.key.public(), &signed.statement, &signed.signature));
}

#[tokio::test]
async fn a_statement_counts_once() {
    let inbound = Inbound::start().await;
    let first = statement(card(1).request, "a");
    assert_eq!(inbound.decide(&first).await.0, 200);
    // The very same again: the same answer, and nothing more happens.
    let again = json!({ "counted": true, "answer": "approve counted", "repeated": true });
    assert_eq!(inbound.decide(&first).await, (200, again));
    // Its nonce for something else.
    let (status, answer) = inbound.decide(&Statement { verb: "deny".to_owned(), ..first.clone() }).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("nonce"), "{answer}");
    assert_eq!(inbound.daemon.acts().len(), 1);
    // Late, but in its own right.
    let (status, answer) = inbound.decide(&statement(card(1).request, "b")).await;
    assert_eq!((status, &answer["counted"]), (409, &json!(false)));
    assert!(answer["answer"].as_str().unwrap().starts_with("already decided by SHA256:"), "{answer}");
    // It is not forgotten while it could count.
    inbound.clock.advance(Duration::from_secs(299));
    assert_eq!(inbound.decide(&first).await.1["repeated"], true);
    inbound.clock.advance(Duration::from_secs(2));
    assert_eq!(inbound.decide(&first).await.0, 422);
    assert_eq!(inbound.daemon.acts().len(), 2);
}

#[tokio::test]
async fn what_is_not_signed_by_a_reviewer_now_for_this_is_refused() {
    let inbound = Inbound::start().await;
    let good = statement(card(1).request, "a");
    let text = good.text();
    let signature = inbound.key.sign(&text, NAMESPACE);
    let stranger = SshKey::generate("ed25519");
    let at = |at_ms| {
        let text = Statement { at_ms, ..good.clone() }.text();
        body(&text, &inbound.key.sign(&text, NAMESPACE))
    };
    let verb = Statement { verb: "permit".to_owned(), ..good.clone() }.text();
    let cases = [
        ("another text", 401, body(&text.replace("approve", "deny"), &signature)),
        ("another purpose", 401, body(&text, &inbound.key.sign(&text, "file"))),
        ("another kind of key", 401, body(&text, &SshKey::generate("ecdsa").sign(&text, NAMESPACE))),
        ("a stranger", 403, body(&text, &stranger.sign(&text, NAMESPACE))),
        ("too old", 422, at(START_MS - 301_000)),
        ("too early", 422, at(START_MS + 301_000)),
        ("no verb", 400, body(&verb, &inbound.key.sign(&verb, NAMESPACE))),
        ("no signature", 400, body(&text, "")),
        ("not JSON", 400, "approve".to_owned()),
        ("another field", 400, json!({ "statement": text, "signature": signature, "force": true }).to_string()),
        ("too long", 413, "x".repeat(100_000)),
    ];
    for (name, expected, body) in cases {
        let (status, answer) = inbound.send(body).await;
        assert_eq!(status, expected, "{name}: {answer}");
        assert!(answer["error"].is_string(), "{name}: {answer}");
    }
    assert_eq!(inbound.call("GET", PATH, String::new()).await.0, 405);
    assert_eq!(inbound.call("POST", "/", String::new()).await.0, 404);
    assert_eq!(inbound.daemon.acts(), []);
    let (_, answer) = inbound.send(body(&text, &stranger.sign(&text, NAMESPACE))).await;
    assert!(answer["error"].as_str().unwrap().contains(&stranger.fingerprint()), "{answer}");
}

#[tokio::test]
async fn one_key_cannot_fill_the_memory() {
    let inbound = Inbound::start().await;
    let desk = Arc::clone(&inbound.webhook.desk);
    let request = card(1).request;
    desk.fill(&inbound.key.fingerprint(), 256, START_MS);
    assert_eq!(inbound.decide(&statement(request, "one-more")).await.0, 429);
    // Room again, once what was used cannot count any more.
    inbound.clock.advance(Duration::from_secs(901));
    let later = Statement { at_ms: START_MS + 901_000, ..statement(request, "later") };
    assert_eq!(inbound.decide(&later).await.0, 200);
}

#[tokio::test]
async fn callers_that_say_nothing_hold_nobody_up() {
    let inbound = Inbound::start().await;
    let address = inbound.webhook.address().unwrap();
    let silent: Vec<_> = (0..10).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    // One stops in the middle of its body.
    let begun = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
    std::io::Write::write_all(&mut &silent[0], begun.as_bytes()).unwrap();
    assert_eq!(inbound.decide(&statement(card(1).request, "a")).await.0, 200);
}

#[tokio::test]
async fn a_listener_waits_for_an_address_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let settings = settings("http://127.0.0.1:9/", Some(Decisions { listen, keys: Vec::new() }));
    let webhook = Webhook::new(settings, stand_in::clock()).unwrap();
    let (mut daemon, inbox) = StandIn::start(&[], &[]);
    let listening = tokio::spawn(async move { webhook.listen(inbox, None).await });
    let Failure::Outage(text) = daemon.down().await else { panic!("no outage") };
    assert!(text.starts_with(&format!("cannot listen on {listen}")), "{text}");
    drop(taken);
    daemon.up().await;
    listening.abort();
}

#[test]
fn wrong_settings_say_which_they_are() {
    let plain = Webhook::new(settings("http://example.org/", None), stand_in::clock()).unwrap_err();
    assert!(plain.to_string().contains("https://"), "{plain}");
    let signing_key = Secret::new("hunter2");
    let bad = Settings { signing_key, ..settings("https://example.org/", None) };
    let error = Webhook::new(bad, stand_in::clock()).unwrap_err().to_string();
    assert!(error.contains("signing key") && !error.contains("hunter2"), "{error}");
}
