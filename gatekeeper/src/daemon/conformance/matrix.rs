//! A room on a real Matrix server.

use std::{
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::{
    Person, Shown, Stage,
    place::{LONG, Place, secret},
    synapse::{Synapse, User},
    wait::wait_within,
    wire::Wire,
};

super::channel!(Matrix {
    idempotent_post: tried,
    edit_to_final: tried,
    click_to_verdict: tried,
    duplicate_click: tried,
    stale_click: tried,
    unknown_user: tried,
    self_approval: tried,
    bot: tried,
    guest: tried,
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

/// The server; one for all cases, since it takes long to start.
static SERVER: OnceLock<Mutex<Synapse>> = OnceLock::new();

extern "C" fn end() {
    if let Some(server) = SERVER.get() {
        // A failed test poisons it; the server ends all the same.
        server.lock().unwrap_or_else(PoisonError::into_inner).stop();
    }
}

/// The people have accounts and a room of their own for each case.
struct Matrix {
    /// gatekeeper's.
    bot: User,
    people: [User; 5],
    room: String,
    wire: Wire,
}

impl Matrix {
    fn user(&self, person: Person) -> &User {
        match person {
            Person::First => &self.people[0],
            Person::Second => &self.people[1],
            Person::Owner => &self.people[2],
            Person::Stranger => &self.people[3],
            Person::Guest => &self.people[4],
            // There are no accounts for programs, but gatekeeper's own is one.
            Person::Bot => &self.bot,
        }
    }
}

/// What a client shows of a card's HTML, which has to be of gatekeeper's own elements.
fn text_of(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once('<') {
        text += before;
        let (element, after) = after.split_once('>').expect("an element ends");
        match element {
            "br" => text.push('\n'),
            "b" | "/b" | "code" | "/code" => {}
            other => panic!("<{other}> in {html}"),
        }
        rest = after;
    }
    text += rest;
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

impl Stage for Matrix {
    const BUTTONS_STAY: bool = true;

    fn set() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let server = SERVER.get_or_init(|| {
            let server = Synapse::start();
            // SAFETY: the function takes nothing, returns nothing, and does not unwind.
            unsafe { libc::atexit(end) };
            Mutex::new(server)
        });
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let user = |name: &str| server.lock().unwrap_or_else(PoisonError::into_inner).user(&format!("{name}{number}"));
        let bot = user("bot");
        let people = ["first", "second", "owner", "stranger", "guest"].map(user);
        let [first, others @ ..] = &people;
        let room = first.room(&others.iter().chain([&bot]).collect::<Vec<_>>());
        Self { bot, people, room, wire: Wire::to(Synapse::address()) }
    }

    fn channel(&self, directory: &Path) -> String {
        format!(
            r#"
[[channel]]
name = "chat"
type = "matrix"
homeserver = "http://{}"
room = "{}"
token = "{}"
"#,
            self.wire.address(),
            self.room,
            secret(directory, "token", &self.bot.token),
        )
    }

    fn account(&self, person: Person) -> Option<String> {
        Some(format!("matrix = \"{}\"", self.user(person).id))
    }

    fn shown(&self, _: &Place) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for event in self.people[0].all_events(&self.room) {
            if event["sender"] != self.bot.id.as_str() {
                continue;
            }
            let (content, relation) = (&event["content"], &event["content"]["m.relates_to"]);
            let of = |id: &Value| shown.iter().position(|card| card.message.as_deref() == id.as_str());
            match (event["type"].as_str(), relation["rel_type"].as_str()) {
                // Cards, and digests, which name no request.
                (Some("m.room.message"), None) if content["msgtype"] == "m.text" => shown.push(Shown {
                    message: event["event_id"].as_str().map(str::to_owned),
                    digest: content["org.gatekeeper.card"].as_str().map(str::to_owned),
                    text: text_of(content["formatted_body"].as_str().unwrap()),
                    verbs: Vec::new(),
                }),
                (Some("m.room.message"), Some("m.replace")) => {
                    let at = of(&relation["event_id"]).expect("an edit comes after its card");
                    shown[at].text = text_of(content["m.new_content"]["formatted_body"].as_str().unwrap());
                }
                (Some("m.reaction"), _) => {
                    let verb = if relation["key"] == "✅" { "approve" } else { "another" };
                    if let Some(at) = of(&relation["event_id"]) {
                        shown[at].verbs.push(verb.to_owned());
                    }
                }
                _ => {}
            }
        }
        shown
    }

    fn approve(&self, _: &Place, person: Person, card: &Shown) {
        let (user, card) = (self.user(person), card.message.as_deref().unwrap());
        match person {
            // Who was in the room when they tapped, and is in it no more when that is read.
            Person::Guest => {
                self.wire.cut();
                user.react(&self.room, card, "✅");
                user.leave(&self.room);
                self.wire.mend();
            }
            // Its own reaction is there already: the one that people tap.
            Person::Bot => drop(user.react(&self.room, card, "✅\u{fe0f}")),
            _ => drop(user.react(&self.room, card, "✅")),
        }
    }

    fn approve_twice(&self, _: &Place, person: Person, card: &Shown) {
        // The server takes no second reaction of the same kind while there is one.
        let user = self.user(person);
        for _ in 0..2 {
            let reaction = user.react(&self.room, card.message.as_deref().unwrap(), "✅");
            user.redact(&self.room, &reaction);
        }
    }

    fn approve_unheard(&self, place: &Place, person: Person, card: &Shown) {
        self.wire.cut();
        self.approve(place, person, card);
        self.wire.mend();
    }

    fn told(&self, _: &Place, person: Person) -> String {
        let said = |event: Value| event["content"]["body"].as_str().map(str::to_owned);
        let notes = self.people[0].all_events(&self.room).into_iter().filter_map(said);
        notes.filter(|note| note.starts_with(&self.user(person).id)).collect::<Vec<_>>().join("\n")
    }

    fn refusal(&self, person: Person) -> Option<&'static str> {
        match person {
            Person::First | Person::Second | Person::Bot => None,
            Person::Owner => Some("started this agent or owns it"),
            Person::Stranger => Some("belongs to no reviewer"),
            Person::Guest => Some("not a member of the room any more"),
        }
    }

    fn lose_answer(&self) {
        self.wire.lose("/send/m.room.message/");
    }

    fn half_open(&self, _: &Place) {
        self.wire.freeze();
    }

    fn skew(&self) {
        // Some 300 years.
        self.wire.rewrite(b"\"origin_server_ts\":1", b"\"origin_server_ts\":9");
    }

    fn limit(&self) {
        let body = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":500}"#;
        let head = format!("HTTP/1.1 429 -\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        self.wire.answer("/send/m.room.message/", head + body);
    }

    fn away(&self) {
        self.wire.cut();
    }

    fn back(&self) {
        self.wire.mend();
    }

    fn check(&self) {
        assert!(self.wire.is_done());
    }
}

#[test]
fn a_click_on_a_card_that_is_never_confirmed_keeps_nobody_back() {
    let stage = Matrix::set();
    let place = Place::new(&stage, "");
    let known = place.hold(&[]);
    let known_card = place.card(&stage, &known);
    stage.wire.mute("/send/m.room.message/");
    let unknown = place.hold(&[]);
    let unknown_card = wait_within(LONG, || place.cards(&stage, &unknown).pop()).expect("the server has taken it");
    stage.approve(&place, Person::First, &unknown_card);
    stage.approve(&place, Person::First, &known_card);
    place.wait_for_approval(&known);
    assert!(place.waits(&unknown));
    // Who clicked too early is told when that is possible, and the card counts once it is known.
    stage.wire.unmute();
    place.wait_until_told(&stage, Person::First, "the server has not confirmed this card yet");
    let is_known = wait_within(LONG, || (!place.records(&unknown, "card").is_empty()).then_some(()));
    assert!(is_known.is_some(), "{}", place.status());
    stage.approve(&place, Person::Second, &unknown_card);
    place.wait_for_approval(&unknown);
}
