//! Local commands: the control socket, and what `gatekeeper show` writes.
//!
//! A person is a user of this host. As tests cannot be several, the configuration says which person this user is each time
//! that somebody acts.

use std::{cell::RefCell, collections::HashMap, io::Write as _, os::unix::net::UnixStream, path::Path};

use serde_json::{Value, json};

use super::{
    Person, Shown, Stage,
    place::{Place, Waiting, own_uid},
};
use crate::{
    channel::card::{Line, detail},
    request::{Request, State},
};

super::channel!(Terminal {
    idempotent_post: "nothing is posted: who asks is shown what waits",
    edit_to_final: tried,
    click_to_verdict: tried,
    duplicate_click: tried,
    stale_click: tried,
    unknown_user: tried,
    self_approval: tried,
    bot: tried,
    guest: "a user of the host is a reviewer or none",
    reconnect_during_a_click: tried,
    restart_while_pending: tried,
    a_hundred_at_once: tried,
    shortened_card: tried,
    hostile_text: tried,
    half_open_connection: tried,
    clock_skew: "both ends have the same clock",
    rate_limit: "there is no server that could limit it",
    outage: "there is no server that could be away but the daemon: see restart while pending",
});

#[derive(Default)]
struct Terminal {
    told: RefCell<HashMap<Person, String>>,
    silent: RefCell<Vec<UnixStream>>,
}

impl Terminal {
    /// Makes this user that person.
    fn become_person(&self, place: &Place, person: Person) {
        let declared = Person::DECLARED.iter().enumerate().map(|(number, (other, name))| {
            let uid = if *other == person { own_uid() } else { 60_001 + number as u32 };
            format!("[[reviewer]]\nname = \"{name}\"\nuser = {uid}\n")
        });
        place.declare(&declared.collect::<String>());
    }

    fn call(card: &Shown) -> Value {
        json!({ "decide": { "id": id(card), "effect": "allow", "reason": null } })
    }
}

/// The request's id, which is on each card.
fn id(card: &Shown) -> &str {
    let line = card.text.lines().find_map(|line| line.strip_prefix("request"));
    line.expect("a line with the request's id").trim().split(',').next().unwrap()
}

impl Stage for Terminal {
    const CARDS_AT_ONCE: usize = usize::MAX;
    const NAME: &'static str = "cli";
    const APPROVED: &'static str = "decision allow, by first";
    const WITHDRAWN: &'static str = ", withdrawn";

    fn set() -> Self {
        Self::default()
    }

    fn channel(&self, _: &Path) -> String {
        String::new()
    }

    fn account(&self, person: Person) -> Option<String> {
        Some(format!("user = {}", 61_000 + person as u32))
    }

    fn shown(&self, place: &Place) -> Vec<Shown> {
        let mut client = place.client();
        let shown = place.ids().into_iter().filter_map(|id| {
            // One that ended while no daemon ran is forgotten.
            let mut answer = client.try_call(json!({ "show": { "id": id } }))?.ok()?;
            let request: Request = serde_json::from_value(answer["request"].take()).unwrap();
            let lines = detail(&request, request.held_at_ms);
            let lines = lines.iter().map(|Line { label, text }| format!("{label} {text}\n"));
            let verbs = if request.state == State::Pending { vec!["approve".to_owned()] } else { Vec::new() };
            Some(Shown { text: lines.collect(), verbs, ..Shown::default() })
        });
        shown.collect()
    }

    fn approve(&self, place: &Place, person: Person, card: &Shown) {
        match person {
            Person::Bot => place.become_agent(true),
            _ => self.become_person(place, person),
        }
        let answer = match place.client().try_call(Self::call(card)) {
            Some(Ok(_)) => "it counts".to_owned(),
            Some(Err(error)) => error["message"].as_str().unwrap().to_owned(),
            None => "the daemon hung up".to_owned(),
        };
        *self.told.borrow_mut().entry(person).or_default() += &answer;
    }

    fn approve_twice(&self, place: &Place, person: Person, card: &Shown) {
        self.approve(place, person, card);
        self.approve(place, person, card);
    }

    fn approve_unheard(&self, place: &Place, person: Person, card: &Shown) {
        self.become_person(place, person);
        place.client().send(&Self::call(card)).expect("the daemon listens");
    }

    fn told(&self, _: &Place, person: Person) -> String {
        self.told.borrow().get(&person).cloned().unwrap_or_default()
    }

    fn refusal(&self, person: Person) -> Option<&'static str> {
        match person {
            Person::Owner => Some("started this agent or owns it"),
            Person::Stranger => Some("belongs to no reviewer"),
            Person::Bot => Some("this process belongs to an agent"),
            _ => None,
        }
    }

    fn approve_here(&self, place: &Place, _: &Waiting, card: &Shown) {
        self.approve(place, Person::First, card);
    }

    fn recover(&self, place: &Place) {
        if self.told.borrow().contains_key(&Person::Bot) {
            place.become_agent(false);
        }
    }

    fn half_open(&self, place: &Place) {
        for _ in 0..20 {
            let mut connection = place.client().closer();
            connection.write_all(b"{\"version\":1,").unwrap();
            self.silent.borrow_mut().push(connection);
        }
    }
}
