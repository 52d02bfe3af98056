//! A program that receives events, and people who sign.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};

use super::{
    Person, Shown, Stage,
    place::{Place, secret},
    teams::{free_port, silent, wait_for_listener},
    wire::Wire,
};
use crate::{
    channel::{
        fake_http::{Call, Reply, send},
        webhook_fake::WebhookFake,
    },
    clock::{Clock as _, SystemClock},
    reviewer::{
        signature::NAMESPACE,
        ssh_key::SshKey,
        statement::{self, Statement},
    },
};

super::channel!(Webhook {
    idempotent_post: tried,
    edit_to_final: tried,
    click_to_verdict: tried,
    duplicate_click: tried,
    stale_click: tried,
    unknown_user: tried,
    self_approval: tried,
    bot: "who holds a key is not known beyond the key",
    guest: "who holds a key is not known beyond the key",
    reconnect_during_a_click: tried,
    restart_while_pending: tried,
    a_hundred_at_once: tried,
    shortened_card: tried,
    hostile_text: tried,
    half_open_connection: tried,
    clock_skew: tried,
    rate_limit: tried,
    outage: tried,
});

/// What the signing key is made of.
const SEED: [u8; 32] = [3; 32];

struct Webhook {
    fake: WebhookFake,
    wire: Wire,
    listen: SocketAddr,
    keys: HashMap<Person, SshKey>,
    told: RefCell<HashMap<Person, String>>,
    silent: RefCell<Vec<TcpStream>>,
    /// By how much the signers' clocks are behind, in milliseconds.
    skew: Cell<u64>,
    statements: Cell<u64>,
}

impl Webhook {
    /// A signed decision, as a call.
    fn decision(&self, person: Person, card: &Shown) -> Call {
        self.statements.set(self.statements.get() + 1);
        let at_ms = SystemClock.now().wall_ms - self.skew.get();
        let events = self.fake.events();
        let data = events.iter().map(|event| &event.payload["data"]).find(|data| data["request"] == id(card)).unwrap();
        let place = |name: &str| data[name].as_str().unwrap();
        let statement = Statement {
            request: id(card).parse().unwrap(),
            place: statement::Place::new(place("host"), place("boot")),
            card: card.digest.clone().unwrap(),
            verb: "approve".to_owned(),
            reason: String::new(),
            at_ms: at_ms - at_ms % 1_000,
            nonce: format!("{:016}", self.statements.get()),
        };
        let text = statement.text();
        let body = json!({ "signature": self.keys[&person].sign(&text, NAMESPACE), "statement": text }).to_string();
        Call { method: "POST".to_owned(), path: "/v1/decisions".to_owned(), body, ..Call::default() }
    }

    fn send(&self, person: Person, call: &Call) {
        wait_for_listener(self.listen);
        let Reply { status, body, .. } = send(self.listen, call);
        let mut told = self.told.borrow_mut();
        *told.entry(person).or_default() += &format!("{status} {body}\n");
    }
}

fn id(card: &Shown) -> &str {
    card.text.lines().next().unwrap()
}

impl Stage for Webhook {
    const CARDS_AT_ONCE: usize = usize::MAX;

    fn set() -> Self {
        let fake = WebhookFake::start(SystemClock.now().wall_ms / 1_000);
        let key = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap();
        fake.trust(&format!("whpk_{}", STANDARD.encode(key.public_key())));
        let people = [Person::First, Person::Second, Person::Owner, Person::Stranger];
        Self {
            wire: Wire::to(fake.address()),
            fake,
            listen: free_port(),
            keys: people.into_iter().map(|person| (person, SshKey::generate("ed25519"))).collect(),
            told: RefCell::default(),
            silent: RefCell::default(),
            skew: Cell::new(0),
            statements: Cell::new(0),
        }
    }

    fn channel(&self, directory: &Path) -> String {
        format!(
            r#"
[[channel]]
name = "chat"
type = "webhook"
url = "{}"
signing_key = "{}"
listen = "{}"
"#,
            secret(directory, "url", &format!("http://{}/hook", self.wire.address())),
            secret(directory, "key", &format!("whsk_{}", STANDARD.encode(SEED))),
            self.listen,
        )
    }

    fn account(&self, person: Person) -> Option<String> {
        Some(format!("key = \"{}\"", self.keys.get(&person)?.fingerprint()))
    }

    fn shown(&self, _: &Place) -> Vec<Shown> {
        let mut shown: Vec<(String, Shown)> = Vec::new();
        for event in self.fake.events() {
            let data = &event.payload["data"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let Some(request) = data["request"].as_str() else { continue };
            let lines = data["lines"].as_array().into_iter().flatten().map(|line| text(&line["text"]));
            let status = data["status"].as_array().into_iter().flatten().map(text);
            let first = [request.to_owned(), text(&data["headline"])];
            let mut all: Vec<_> = first.into_iter().chain(lines).chain(status).collect();
            if data["shortened"] == true {
                all.push("shortened".to_owned());
            }
            let card = Shown {
                message: None,
                digest: Some(text(&data["digest"])),
                text: all.join("\n"),
                verbs: data["verbs"].as_array().into_iter().flatten().map(text).collect(),
            };
            let message = text(&data["message"]);
            match shown.iter_mut().find(|(known, _)| *known == message) {
                Some((_, known)) => *known = card,
                None => shown.push((message, card)),
            }
        }
        shown.into_iter().map(|(_, card)| card).collect()
    }

    fn approve(&self, _: &Place, person: Person, card: &Shown) {
        self.send(person, &self.decision(person, card));
    }

    fn approve_twice(&self, _: &Place, person: Person, card: &Shown) {
        let decision = self.decision(person, card);
        self.send(person, &decision);
        self.send(person, &decision);
    }

    fn approve_unheard(&self, _: &Place, person: Person, card: &Shown) {
        let decision = self.decision(person, card);
        // The answer is lost, and the same is sent again.
        wait_for_listener(self.listen);
        let wire = Wire::to(self.listen);
        wire.lose("/v1/decisions");
        let heard = catch_unwind(AssertUnwindSafe(|| send(wire.address(), &decision)));
        assert!(heard.is_err() && wire.is_done());
        self.send(person, &decision);
    }

    fn told(&self, _: &Place, person: Person) -> String {
        self.told.borrow().get(&person).cloned().unwrap_or_default()
    }

    fn refusal(&self, person: Person) -> Option<&'static str> {
        match person {
            Person::Owner => Some("started this agent or owns it"),
            Person::Stranger => Some("is no reviewer's"),
            _ => None,
        }
    }

    fn lose_answer(&self) {
        self.wire.lose("/hook");
    }

    fn half_open(&self, _: &Place) {
        wait_for_listener(self.listen);
        *self.silent.borrow_mut() = silent(self.listen);
    }

    fn skew(&self) {
        self.skew.set(240_000);
    }

    fn limit(&self) {
        self.fake.answer_next(Reply::new(429, "").with("Retry-After", "1"));
    }

    fn away(&self) {
        self.wire.cut();
    }

    fn back(&self) {
        self.wire.mend();
    }

    fn check(&self) {
        assert!(self.wire.is_done());
        assert_eq!(self.fake.faults(), [""; 0]);
    }
}
