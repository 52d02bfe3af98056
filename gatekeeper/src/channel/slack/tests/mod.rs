//! The channel against the fake of Slack, which is strict about what Slack documents.

mod acts;
mod flood;
mod posts;
mod sockets;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time,
};

use super::{Settings, Slack, Times};
use crate::{
    action::Target,
    channel::{
        Act, Answer, Channel as _, Event, Failure, Inbox, Verb,
        card::Card,
        secret::Secret,
        slack_fake::{self as fake, Fake, state},
    },
    control::samples,
    text::Text,
};

/// A fake, and a channel that talks to it.
struct Bench {
    fake: Fake,
    slack: Arc<Slack>,
}

/// Quick, and no pause depends on how long things take.
fn times() -> Times {
    Times {
        ping: Duration::from_millis(100),
        first_pause: Duration::from_millis(5),
        last_pause: Duration::from_millis(20),
        settled: Duration::ZERO,
        ..Times::default()
    }
}

fn settings(fake: &Fake, times: Times) -> Settings {
    Settings {
        api: fake.api(),
        app_token: Secret::new(state::APP_TOKEN),
        bot_token: Secret::new(state::BOT_TOKEN),
        team: state::TEAM.to_owned(),
        conversation: "C1".to_owned(),
        times,
    }
}

/// A card of a request, with one more argument.
fn card(hold: u64, argument: &str) -> Card {
    let mut request = samples::request(hold);
    let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
    args.push(Text::from(argument));
    Card::new(&request, "host-1", &Verb::ALL)
}

/// The same card when its request has ended.
fn ended(card: &Card) -> Card {
    let status = vec!["denied by U1 through slack after 3s; it failed".to_owned()];
    Card { status, is_final: true, verbs: Vec::new(), ..card.clone() }
}

impl Bench {
    async fn new() -> Self {
        Self::with(fake::Times::default(), times()).await
    }

    async fn with(strictness: fake::Times, times: Times) -> Self {
        let fake = Fake::start(strictness).await.unwrap();
        let slack = Arc::new(Slack::new(settings(&fake, times)).unwrap());
        Self { fake, slack }
    }

    /// Another daemon's channel, which remembers nothing.
    fn restarted(&self) -> Slack {
        Slack::new(settings(&self.fake, times())).unwrap()
    }

    fn command(&self, command: &Value) -> Value {
        self.fake.command(command).unwrap()
    }

    /// Waits for something that the fake sees.
    async fn saw(&self, what: &str, find: impl Fn(&Value) -> bool) -> Value {
        let found = self.fake.wait(what, |state| state.log.iter().find(|line| find(line)).cloned()).await;
        found.unwrap_or_else(|error| panic!("{error}"))
    }

    /// How many calls of a method were made.
    fn calls(&self, method: &str) -> usize {
        self.fake.look(|state| state.log.iter().filter(|line| line["method"] == method).count())
    }

    /// Starts to listen, and waits until that works.
    async fn listen(&self) -> Ear {
        let mut ear = self.ear();
        assert!(matches!(ear.next().await, Event::Up));
        ear
    }

    /// Starts to listen.
    fn ear(&self) -> Ear {
        let (sender, events) = mpsc::channel(256);
        let slack = self.slack.clone();
        let listening = tokio::spawn(async move { slack.listen(Inbox::new(sender), None).await });
        Ear { events, listening }
    }
}

/// The daemon's end.
struct Ear {
    events: mpsc::Receiver<Event>,
    listening: JoinHandle<Failure>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Waits for something that is bound to come. What does not come is a failed test, not one that hangs.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    time::timeout(Duration::from_secs(30), what).await.expect("it did not happen")
}

impl Ear {
    async fn next(&mut self) -> Event {
        soon(self.events.recv()).await.expect("the channel has ended")
    }

    /// The next act, and where to answer it.
    async fn act(&mut self) -> (Act, oneshot::Sender<Answer>) {
        match self.next().await {
            Event::Act(act, answer) => (act, answer),
            other => panic!("{other:?} is no act"),
        }
    }

    /// Why it stopped to listen.
    async fn end(mut self) -> Failure {
        soon(&mut self.listening).await.unwrap()
    }
}

fn counted(text: &str) -> Answer {
    Answer { counted: true, text: text.to_owned() }
}

#[tokio::test]
async fn tokens_are_told_apart_before_anything_is_sent() {
    let bench = Bench::new().await;
    let mut swapped = settings(&bench.fake, times());
    std::mem::swap(&mut swapped.app_token, &mut swapped.bot_token);
    let Failure::Fatal(text) = Slack::new(swapped).unwrap_err() else { panic!() };
    assert!(text.contains("since those begin with xapp-") && !text.contains("fake"), "{text}");
    let clear = Settings { api: "http://slack.example/api/".to_owned(), ..settings(&bench.fake, times()) };
    let Failure::Fatal(text) = Slack::new(clear).unwrap_err() else { panic!() };
    assert!(text.contains("would send secrets in the clear"), "{text}");
    assert_eq!(bench.fake.look(|state| state.log.len()), 0);
}

#[test]
fn settings_do_not_show_their_tokens() {
    let settings = Settings {
        api: super::API.to_owned(),
        app_token: Secret::new("xapp-hunter2"),
        bot_token: Secret::new("xoxb-hunter2"),
        team: "T1".to_owned(),
        conversation: "C1".to_owned(),
        times: Times::default(),
    };
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert!(!format!("{:?}", Slack::new(settings).unwrap()).contains("hunter2"));
}
