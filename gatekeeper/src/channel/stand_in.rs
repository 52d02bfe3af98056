//! What channels are tested with: cards of all sorts, a clock that stands, and a daemon that answers acts.
//!
//! The daemon here knows who may decide and that the first decision wins, as the real one; nothing else of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use super::{Account, Act, Answer, Event, Failure, Inbox, MessageId, Standing, Verb, card::Card};
use crate::{
    action::Target,
    clock::{Clock, Now},
    control::samples,
    request::{Decider, Decision, Effect, RequestId, State},
    text::Text,
};

/// When the samples' requests are held, milliseconds since the epoch.
pub(super) const START_MS: u64 = 1_700_000_000_000;
/// For anything that has to happen: a bug is for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that stands until it is moved.
#[derive(Debug)]
pub(super) struct StoppedClock(Mutex<u64>);

/// A clock at [`START_MS`].
pub(super) fn clock() -> Arc<StoppedClock> {
    Arc::new(StoppedClock(Mutex::new(START_MS)))
}

impl StoppedClock {
    pub(super) fn advance(&self, time: Duration) {
        *self.0.lock().unwrap() += u64::try_from(time.as_millis()).unwrap();
    }
}

impl Clock for StoppedClock {
    fn now(&self) -> Now {
        let wall_ms = *self.0.lock().unwrap();
        Now { wall_ms, boot_ns: (wall_ms - START_MS + 1) * 1_000_000 }
    }
}

/// A card that waits.
pub(super) fn card(hold: u64) -> Card {
    Card::new(&samples::request(hold), "web-1", &[Verb::Approve, Verb::Deny, Verb::Escalate])
}

/// The same card in its end.
pub(super) fn ended(hold: u64) -> Card {
    let mut request = samples::request(hold);
    request.state = State::Released;
    request.decision = Some(Decision {
        effect: Effect::Allow,
        by: Decider::Reviewer {
            name: "first".to_owned(),
            channel: "chat".to_owned(),
            account: "U1".to_owned(),
            evidence: None,
        },
        reason: Some("fine".to_owned()),
        grant: None,
        at_ms: START_MS + 61_000,
    });
    Card::new(&request, "web-1", &Verb::ALL)
}

/// A card with these arguments.
pub(super) fn card_with(arguments: &[&str]) -> Card {
    let mut request = samples::request(9);
    let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
    args.extend(arguments.iter().map(|argument| Text::from(*argument)));
    request.context.intent = Some(arguments.concat().chars().take(2_000).collect());
    Card::new(&request, "web-1", &Verb::ALL)
}

/// What agents would like to show: markup of all platforms, and characters that hide or reorder.
pub(super) const HOSTILE: [&str; 9] = [
    "[click me](https://example.org/)",
    "**bold** _it_ ~~s~~ `code` # head",
    "<at>everyone</at> <!channel> @here",
    "<a href=\"https://example.org/\">safe</a><script>",
    "{{DATE(2017-02-14T06:00:00Z, SHORT)}} ${x} @{y}",
    "\u{202e}gnp.exe\u{200b}\u{2066}",
    "\r\n\r\nrisk: low\u{2028}",
    "\"}],\"actions\":[{\"type\":\"Action.Execute\"}]",
    "\x1b]0;title\x07\\",
];

#[derive(Debug, Default)]
struct Seen {
    acts: Vec<Act>,
    ups: usize,
    downs: Vec<Failure>,
    cursors: Vec<String>,
}

/// A daemon for one channel.
#[derive(Debug)]
pub(super) struct StandIn {
    seen: watch::Receiver<Arc<Seen>>,
}

impl StandIn {
    /// A daemon in which the accounts `reviewers` may decide. `messages` says on which message the card of a request is;
    /// requests that it does not name may be decided from any.
    pub(super) fn start(reviewers: &[&str], messages: &[(RequestId, MessageId)]) -> (Self, Inbox) {
        let (events, mut received) = mpsc::channel(16);
        let (tell, seen) = watch::channel(Arc::new(Seen::default()));
        let reviewers: Vec<String> = reviewers.iter().map(|id| (*id).to_owned()).collect();
        let messages: HashMap<RequestId, MessageId> = messages.iter().cloned().collect();
        tokio::spawn(async move {
            let mut decided: BTreeMap<RequestId, String> = BTreeMap::new();
            let mut seen = Seen::default();
            while let Some(event) = received.recv().await {
                match event {
                    Event::Act(act, answer) => {
                        // Who called may have gone.
                        let _ = answer.send(judge(&act, &reviewers, &messages, &mut decided));
                        seen.acts.push(act);
                    }
                    Event::Up => seen.ups += 1,
                    Event::Down(failure) => seen.downs.push(failure),
                    Event::Cursor(cursor) => seen.cursors.push(cursor),
                    Event::Problem(_) | Event::Gathered(_) | Event::Shown { .. } => {}
                }
                let Seen { acts, ups, downs, cursors } = &seen;
                let copy = Seen { acts: acts.clone(), ups: *ups, downs: downs.clone(), cursors: cursors.clone() };
                tell.send_replace(Arc::new(copy));
            }
        });
        (Self { seen }, Inbox::new(events))
    }

    /// The acts so far.
    pub(super) fn acts(&self) -> Vec<Act> {
        self.seen.borrow().acts.clone()
    }

    /// Waits until the channel says that it works.
    pub(super) async fn up(&mut self) {
        self.wait(|seen| seen.ups > 0).await;
    }

    /// Waits until the channel says that it does not, and returns why.
    pub(super) async fn down(&mut self) -> Failure {
        self.wait(|seen| !seen.downs.is_empty()).await;
        self.seen.borrow().downs[0].clone()
    }

    /// Waits for so many acts.
    pub(super) async fn acted(&mut self, count: usize) -> Vec<Act> {
        self.wait(|seen| seen.acts.len() >= count).await;
        self.acts()
    }

    async fn wait(&mut self, condition: impl Fn(&Seen) -> bool) {
        let seen = tokio::time::timeout(PATIENCE, self.seen.wait_for(|seen| condition(seen))).await;
        seen.expect("waited in vain").expect("the daemon runs");
    }
}

fn judge(
    act: &Act,
    reviewers: &[String],
    messages: &HashMap<RequestId, MessageId>,
    decided: &mut BTreeMap<RequestId, String>,
) -> Answer {
    let no = |text: &str| Answer { counted: false, text: text.to_owned() };
    let Account { id, name, standing } = &act.account;
    if *standing != Standing::Member || !reviewers.contains(id) {
        return no("you may not decide this");
    }
    if !act.typed && messages.get(&act.request).is_some_and(|known| act.evidence.message.as_ref() != Some(known)) {
        return no("that card is not the one of this request");
    }
    if let Some(by) = decided.get(&act.request) {
        return no(&format!("already decided by {by}"));
    }
    decided.insert(act.request, name.clone());
    Answer { counted: true, text: format!("{} counted", act.verb.word()) }
}

/// Runs what would block, such as a fake's client, beside the test.
pub(super) async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it does not panic")
}
