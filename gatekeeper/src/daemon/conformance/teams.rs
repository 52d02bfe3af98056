//! Microsoft Teams, as the fake has it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde_json::{Value, json};

use super::{
    Person, Shown, Stage,
    place::{Place, secret},
    wait::wait_until,
    wire::Wire,
};
use crate::{
    channel::{
        fake_http::Reply,
        teams_fake::{self as fake, APP_ID, CONVERSATION, SECRET, TENANT, TeamsFake, TokenSpec},
    },
    clock::{Clock as _, SystemClock},
};

super::channel!(Teams {
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

struct Teams {
    fake: TeamsFake,
    wire: Wire,
    listen: SocketAddr,
    told: RefCell<HashMap<Person, String>>,
    silent: RefCell<Vec<TcpStream>>,
    /// By how much Microsoft's clock is ahead, in seconds.
    skew: Cell<i64>,
}

fn account(person: Person) -> fake::Person {
    let mut account = fake::Person::member(person as u8 + 1);
    match person {
        Person::Bot => "28:99".clone_into(&mut account.id),
        Person::Guest => "guest".clone_into(&mut account.role),
        _ => {}
    }
    account
}

/// A port that is free.
pub(super) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Connections that begin a request and say no more.
pub(super) fn silent(address: SocketAddr) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"POST /").unwrap();
        stream
    };
    (0..10).map(connect).collect()
}

/// Waits until somebody listens there.
pub(super) fn wait_for_listener(address: SocketAddr) {
    wait_until("the daemon listens", || TcpStream::connect(address).ok());
}

impl Teams {
    fn service_url(&self) -> String {
        format!("http://{}/emea/", self.wire.address())
    }

    /// What the click sends, as a call.
    fn click(&self, person: Person, card: &Shown) -> Value {
        let (_, message) = card.message.as_deref().unwrap().split_once('/').unwrap();
        let mut activity = self.fake.click(&account(person), message, "approve", "").expect("there is such a button");
        activity["serviceUrl"] = json!(self.service_url());
        activity
    }

    fn spec(&self) -> TokenSpec {
        let skew = self.skew.get();
        TokenSpec { service_url: self.service_url(), lifetime: (skew, skew + 3_600), ..TokenSpec::default() }
    }

    fn call(&self, person: Person, activity: &Value) {
        wait_for_listener(self.listen);
        let Reply { status, body, .. } = self.fake.call(self.listen, activity, &self.spec());
        let mut told = self.told.borrow_mut();
        *told.entry(person).or_default() += &format!("{status} {body}\n");
    }
}

impl Stage for Teams {
    const FINDS_POSTS: bool = false;

    fn set() -> Self {
        let fake = TeamsFake::start(SystemClock.now().wall_ms / 1_000);
        use Person::{Bot, First, Guest, Owner, Second, Stranger};
        [First, Second, Owner, Stranger, Bot, Guest].into_iter().for_each(|person| fake.welcome(&account(person)));
        let server = fake.service_url();
        let server = server.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
        Self {
            fake,
            wire: Wire::to(server),
            listen: free_port(),
            told: RefCell::default(),
            silent: RefCell::default(),
            skew: Cell::new(0),
        }
    }

    fn channel(&self, directory: &Path) -> String {
        format!(
            r#"
[[channel]]
name = "chat"
type = "teams"
app_id = "{APP_ID}"
tenant = "{TENANT}"
secret = "{secret}"
conversation = "{CONVERSATION}"
service_url = "{service}"
listen = "{listen}"
token_url = "{token}"
openid_url = "{openid}"
"#,
            secret = secret(directory, "secret", SECRET),
            service = self.service_url(),
            listen = self.listen,
            token = self.fake.token_url(),
            openid = self.fake.openid_url(),
        )
    }

    fn account(&self, person: Person) -> Option<String> {
        Some(format!("teams = \"{}\"", account(person).account()))
    }

    fn shown(&self, _: &Place) -> Vec<Shown> {
        let messages = self.fake.messages();
        let cards = messages.into_iter().filter(|(conversation, ..)| conversation == CONVERSATION);
        let shown = cards.map(|(conversation, id, message)| {
            let card = &message["attachments"][0]["content"];
            let runs = |element: &Value| -> String {
                let runs = element["inlines"].as_array().into_iter().flatten();
                runs.filter_map(|run| run["text"].as_str()).collect()
            };
            let body = card["body"].as_array().into_iter().flatten().map(runs);
            let actions = card["actions"].as_array().into_iter().flatten();
            Shown {
                message: Some(format!("{conversation}/{id}")),
                digest: None,
                text: body.collect::<Vec<_>>().join("\n"),
                verbs: actions.map(|action| action["verb"].as_str().unwrap().to_owned()).collect(),
            }
        });
        shown.collect()
    }

    fn approve(&self, _: &Place, person: Person, card: &Shown) {
        self.call(person, &self.click(person, card));
    }

    fn approve_twice(&self, _: &Place, person: Person, card: &Shown) {
        let click = self.click(person, card);
        self.call(person, &click);
        self.call(person, &click);
    }

    fn approve_unheard(&self, _: &Place, person: Person, card: &Shown) {
        let click = self.click(person, card);
        // Teams hangs up before the answer, and calls again.
        wait_for_listener(self.listen);
        let wire = Wire::to(self.listen);
        wire.lose("/api/messages");
        let heard = catch_unwind(AssertUnwindSafe(|| self.fake.call(wire.address(), &click, &self.spec())));
        assert!(heard.is_err() && wire.is_done());
        self.call(person, &click);
    }

    fn told(&self, _: &Place, person: Person) -> String {
        self.told.borrow().get(&person).cloned().unwrap_or_default()
    }

    fn as_shown(&self, text: String) -> String {
        // Cards take two braces for the beginning of something to be filled in.
        text.replace("{{", "{\\x7b")
    }

    fn lose_answer(&self) {
        self.wire.lose("/activities");
    }

    fn half_open(&self, _: &Place) {
        wait_for_listener(self.listen);
        *self.silent.borrow_mut() = silent(self.listen);
    }

    fn skew(&self) {
        self.skew.set(240);
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
