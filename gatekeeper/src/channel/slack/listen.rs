//! Keeps two sockets open, and hands over what people do.
//!
//! Slack gives each envelope to one of the app's sockets, whichever it likes, and may give it twice. A socket that is to be
//! closed is replaced before it goes; one that went is replaced after a pause that grows while that does not help.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{
        Semaphore,
        mpsc::{self, UnboundedSender},
    },
    task::JoinSet,
    time::{self, Instant},
};

use super::{
    super::{Act, Answer, Event, Evidence, Failure, Inbox},
    Shared, payload,
    payload::Wish,
    render,
    socket::{self, Note},
};

/// Sockets that are kept open, so that one is there while the other is replaced.
const SOCKETS: usize = 2;
/// Acts that are remembered, so that one that is delivered twice is handed over once.
const ACTS: usize = 4_096;
/// Acts that may wait for Slack and for the daemon at once.
const AT_ONCE: usize = 64;

/// The sockets and what is known of them.
struct Sockets {
    shared: Arc<Shared>,
    notes: UnboundedSender<Note>,
    running: JoinSet<()>,
    /// Those that are being opened.
    opening: HashSet<u64>,
    /// Those that work and stay, and since when.
    ready: HashMap<u64, Instant>,
    /// Those that work and will be closed.
    leaving: HashSet<u64>,
    next: u64,
    /// How often in a row a socket could not be opened, or did not last.
    failures: u32,
    /// What Slack wants to be waited before the next try.
    limited: Duration,
}

impl Sockets {
    /// Opens what is missing.
    fn top_up(&mut self) {
        while self.opening.len() + self.ready.len() < SOCKETS {
            let times = &self.shared.times;
            let pause = match self.failures {
                0 => Duration::ZERO,
                failures => times.last_pause.min(times.first_pause.saturating_mul(1 << (failures - 1).min(16))),
            };
            let delay = pause.max(std::mem::take(&mut self.limited));
            let (number, shared, notes) = (self.next, self.shared.clone(), self.notes.clone());
            self.next += 1;
            self.opening.insert(number);
            self.running.spawn(socket::run(shared, number, delay, notes));
        }
    }

    /// A socket that lasted shows that things work.
    fn lasted(&mut self, since: Instant) {
        self.failures = if since.elapsed() < self.shared.times.settled { self.failures.saturating_add(1) } else { 0 };
    }

    /// A socket is gone.
    fn ended(&mut self, number: u64, failure: &Failure) {
        self.opening.remove(&number);
        if self.leaving.remove(&number) {
            return;
        }
        match (self.ready.remove(&number), failure) {
            (Some(since), _) => self.lasted(since),
            (None, Failure::Limited(pause)) => self.limited = self.limited.max(*pause),
            (None, _) => self.failures = self.failures.saturating_add(1),
        }
    }

    fn works(&self) -> bool {
        !self.ready.is_empty() || !self.leaving.is_empty()
    }
}

/// Takes what people do until something is fatal.
pub(super) async fn run(shared: &Arc<Shared>, inbox: Inbox) -> Failure {
    let mut told = Told::Nothing;
    if let Some(failure) = start(shared, &inbox, &mut told).await {
        return failure;
    }
    let (sender, mut notes) = mpsc::unbounded_channel();
    let mut sockets = Sockets {
        shared: shared.clone(),
        notes: sender,
        running: JoinSet::new(),
        opening: HashSet::new(),
        ready: HashMap::new(),
        leaving: HashSet::new(),
        next: 0,
        failures: 0,
        limited: Duration::ZERO,
    };
    let mut acts = JoinSet::new();
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut seen = Seen::default();
    loop {
        sockets.top_up();
        tokio::select! {
            Some(note) = notes.recv() => match note {
                Note::Ready(number) => {
                    sockets.opening.remove(&number);
                    sockets.ready.insert(number, Instant::now());
                    told.up(&inbox).await;
                }
                Note::Leaving(number) => {
                    if let Some(since) = sockets.ready.remove(&number) {
                        sockets.leaving.insert(number);
                        sockets.lasted(since);
                    }
                }
                Note::Wish(wish) => if seen.is_new(&wish.event) {
                    let (shared, inbox, at_once) = (shared.clone(), inbox.clone(), at_once.clone());
                    acts.spawn(async move {
                        // It is never closed.
                        let _permit = at_once.acquire().await;
                        carry_out(&shared, &inbox, *wish).await;
                    });
                },
                Note::Ended(number, failure) => {
                    if let Failure::Fatal(_) = failure {
                        return failure;
                    }
                    sockets.ended(number, &failure);
                    // A limit is no outage: it is waited for.
                    if !sockets.works() && !matches!(failure, Failure::Limited(_)) {
                        told.down(&inbox, failure).await;
                    }
                }
            },
            Some(ended) = sockets.running.join_next() => if ended.is_err() {
                return Failure::Fatal("a socket's task was ended; this is a bug in gatekeeper".to_owned());
            },
            Some(_) = acts.join_next() => {}
        }
    }
}

/// Finds out whether the tokens, the workspace and the conversation are as they have to be. `None`: they are.
async fn start(shared: &Shared, inbox: &Inbox, told: &mut Told) -> Option<Failure> {
    let mut pause = shared.times.first_pause;
    loop {
        match shared.check().await {
            Ok(()) => return None,
            Err(failure @ Failure::Fatal(_)) => return Some(failure),
            Err(Failure::Limited(wait)) => time::sleep(wait).await,
            Err(failure) => {
                told.down(inbox, failure).await;
                time::sleep(pause).await;
                pause = (pause * 2).min(shared.times.last_pause);
            }
        }
    }
}

/// What the daemon was told last of how things are, so that it is told once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Down,
}

impl Told {
    async fn up(&mut self, inbox: &Inbox) {
        if std::mem::replace(self, Self::Up) != Self::Up {
            inbox.up().await;
        }
    }

    async fn down(&mut self, inbox: &Inbox, failure: Failure) {
        if std::mem::replace(self, Self::Down) != Self::Down {
            inbox.down(failure).await;
        }
    }
}

/// Acts that were seen, the oldest first.
#[derive(Default)]
struct Seen {
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Seen {
    fn is_new(&mut self, event: &str) -> bool {
        if !self.known.insert(event.to_owned()) {
            return false;
        }
        self.order.push_back(event.to_owned());
        if self.order.len() > ACTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Asks why first where that is wanted; else has the daemon decide what it is worth, and tells the person.
async fn carry_out(shared: &Shared, inbox: &Inbox, wish: Wish) {
    let done = match &wish.trigger {
        Some(trigger) => ask_why(shared, &wish, trigger).await,
        None => hand_over(shared, inbox, &wish).await,
    };
    match done {
        Ok(()) => {}
        // People leave conversations; what they did was looked at all the same.
        Err(failure @ (Failure::Refused(_) | Failure::Limited(_))) => {
            tracing::info!(user = wish.user, "somebody cannot be answered in Slack: {failure}");
        }
        Err(failure) => inbox.tell(Event::Problem(failure)).await,
    }
}

async fn ask_why(shared: &Shared, wish: &Wish, trigger: &str) -> Result<(), Failure> {
    let view = render::modal(wish.verb, &wish.request.to_string(), wish.needs_reason, &payload::memory(wish));
    let opened = shared.api.write("views.open", &serde_json::json!({ "trigger_id": trigger, "view": view })).await;
    match opened {
        Ok(_) => Ok(()),
        Err(failure) => {
            // Nothing was decided, and they must not believe that it was.
            let (word, code) = (wish.verb.word(), wish.request);
            let text = format!("The window for the reason did not open. Click again, or type: {word} {code} WHY");
            shared.tell(&wish.user, wish.thread.as_deref(), &text).await?;
            Err(failure)
        }
    }
}

async fn hand_over(shared: &Shared, inbox: &Inbox, wish: &Wish) -> Result<(), Failure> {
    let account = shared.people.account(&shared.api, &shared.team, &wish.user).await;
    let (message, event) = (Some(shared.message(&wish.ts)), wish.event.clone());
    let evidence = Evidence { message, event, card: wish.card.clone(), signed: None };
    let act = Act {
        account,
        request: wish.request,
        verb: wish.verb,
        reason: wish.reason.clone(),
        typed: wish.typed,
        evidence,
    };
    let Some(Answer { counted: _, text }) = inbox.act(act).await else { return Ok(()) };
    shared.tell(&wish.user, wish.thread.as_deref(), &text).await
}
