//! Slack, as the fake has it.

use std::{cell::Cell, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    Person, Shown, Stage,
    place::{Place, secret},
    wait::wait_until,
    wire::Wire,
};
use crate::channel::slack_fake::{Fake, Times, state};

super::channel!(Slack {
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

struct Slack {
    fake: Fake,
    wire: Wire,
    /// A socket that does nothing any more, to which the next click is sent.
    frozen: Cell<Option<u64>>,
    runtime: Handle,
    /// The runtime's thread ends with this.
    _running: oneshot::Sender<()>,
}

fn account(person: Person) -> &'static str {
    match person {
        Person::First => "U1",
        Person::Second => "U2",
        Person::Owner => "U3",
        Person::Stranger => "U4",
        Person::Bot => "U5",
        Person::Guest => "U6",
    }
}

/// All texts below a value, one a line.
fn texts(value: &Value, found: &mut String) {
    match value {
        Value::Object(fields) => {
            if let Some(text) = fields.get("text").and_then(Value::as_str) {
                *found += text;
                found.push('\n');
            }
            fields.values().for_each(|value| texts(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        _ => {}
    }
}

impl Slack {
    fn command(&self, command: &Value) -> Value {
        let _inside = self.runtime.enter();
        self.fake.command(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn sockets(&self) -> Vec<u64> {
        self.fake.look(|state| state.sockets.keys().copied().collect())
    }
}

impl Stage for Slack {
    fn set() -> Self {
        let (running, ended) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let fake = runtime.block_on(Fake::start(Times::default())).unwrap();
            ready.send((fake, runtime.handle().clone())).unwrap();
            // Nothing is ever sent.
            let _ = runtime.block_on(ended);
        });
        let (fake, runtime) = is_ready.recv().unwrap();
        let wire = Wire::to(SocketAddr::from(([127, 0, 0, 1], fake.port())));
        let slack = Self { fake, wire, frozen: Cell::new(None), runtime, _running: running };
        for (person, kind) in [
            (Person::Second, "member"),
            (Person::Owner, "member"),
            (Person::Stranger, "member"),
            (Person::Bot, "bot"),
            (Person::Guest, "guest"),
        ] {
            slack.command(&json!({ "do": "user", "id": account(person), "kind": kind }));
        }
        slack
    }

    fn channel(&self, directory: &Path) -> String {
        let app = secret(directory, "app", state::APP_TOKEN);
        let bot = secret(directory, "bot", state::BOT_TOKEN);
        format!(
            r#"
[[channel]]
name = "chat"
type = "slack"
api = "http://{}/api"
workspace = "T1"
conversation = "C1"
app_token = "{app}"
bot_token = "{bot}"
"#,
            self.wire.address()
        )
    }

    fn account(&self, person: Person) -> Option<String> {
        Some(format!("slack = \"T1/{}\"", account(person)))
    }

    fn shown(&self, _: &Place) -> Vec<Shown> {
        let shown = |message: &&state::Message| {
            let mut text = String::new();
            texts(&message.blocks, &mut text);
            let buttons = message.blocks.as_array().into_iter().flatten().filter(|block| block["type"] == "actions");
            let buttons = buttons.flat_map(|block| block["elements"].as_array().into_iter().flatten());
            Shown {
                message: Some(format!("C1/{}", message.ts)),
                digest: None,
                text,
                verbs: buttons.map(|button| button["action_id"].as_str().unwrap().to_owned()).collect(),
            }
        };
        self.fake.look(|state| state.cards().iter().map(shown).collect())
    }

    fn approve(&self, _: &Place, person: Person, card: &Shown) {
        wait_until("a socket is open", || (!self.sockets().is_empty()).then_some(()));
        let ts = card.message.as_deref().unwrap().trim_start_matches("C1/");
        let mut click = json!({ "do": "click", "user": account(person), "action": "approve", "ts": ts });
        if let Some(socket) = self.frozen.take() {
            click["socket"] = json!(socket);
        }
        self.command(&click);
    }

    fn approve_twice(&self, place: &Place, person: Person, card: &Shown) {
        self.command(&json!({ "do": "duplicate", "times": 1 }));
        self.approve(place, person, card);
    }

    fn approve_unheard(&self, place: &Place, person: Person, card: &Shown) {
        let open = self.sockets();
        self.approve(place, person, card);
        // Whether it had been read or not.
        self.command(&json!({ "do": "close" }));
        wait_until("the sockets are replaced", || {
            self.sockets().iter().any(|socket| !open.contains(socket)).then_some(())
        });
    }

    fn told(&self, _: &Place, person: Person) -> String {
        self.fake.look(|state| state.told(account(person)).join("\n"))
    }

    fn lose_answer(&self) {
        self.command(&json!({ "do": "fault", "method": "chat.postMessage", "lose": true }));
    }

    fn half_open(&self, _: &Place) {
        let socket = wait_until("two sockets are open", || self.sockets().get(1).copied());
        self.command(&json!({ "do": "half_open", "socket": socket }));
        self.frozen.set(Some(socket));
    }

    fn skew(&self) {
        self.command(&json!({ "do": "skew", "seconds": 3_600 }));
    }

    fn limit(&self) {
        self.command(&json!({ "do": "fault", "method": "chat.postMessage", "limited": 1 }));
    }

    fn away(&self) {
        self.wire.cut();
        self.command(&json!({ "do": "close" }));
    }

    fn back(&self) {
        self.wire.mend();
    }

    fn check(&self) {
        assert!(self.fake.look(|state| state.faults.values().all(Vec::is_empty)), "a fault did not come about");
        let refused = |line: &&Value| !line["details"].is_null() || line["error"] == "invalid_blocks";
        let refused = self.fake.look(|state| state.log.iter().find(refused).cloned());
        assert_eq!(refused, None);
    }
}
