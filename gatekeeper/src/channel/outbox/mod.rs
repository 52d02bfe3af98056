//! Keeps the cards of one channel as the daemon wants them: the daemon says what a card is to show, and this posts and
//! edits until it does, however often the server is away or wants to be left in peace.
//!
//! Only the latest state of a card counts, so what was overtaken while the server was away is never sent. What a message
//! shows is remembered on disk before anything else is done, so a restarted daemon edits the cards that are there. Under a
//! flood `plan` says which requests have cards; the others stand in a digest, which `gather` keeps.

mod gather;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time};

use self::gather::Gathered;
use super::{
    Channel, Event, Failure, Inbox, MessageId,
    card::Card,
    store::{Shown, Store},
};
use crate::request::RequestId;

/// First pause after a failure, and the longest: pauses double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// What the daemon wants.
#[derive(Clone, Debug)]
pub enum Order {
    /// This is what the card of its request is to show from now on.
    Show(Arc<Card>),
    /// Add a text below the card of a request, or below the digest in which the request stands. Dropped if there is
    /// neither.
    Add {
        /// Which request.
        request: RequestId,
        /// What to say.
        lines: Vec<String>,
        /// Names this text among those of the request.
        once: String,
    },
    /// Somebody wants the card of a request that stands in a digest.
    Reveal(RequestId),
    /// These requests are known. What other cards are about ended while no daemon ran.
    Known(BTreeSet<RequestId>),
    /// Remember where to go on reading.
    Cursor(String),
}

/// A card and how far it has come.
struct Entry {
    wanted: Arc<Card>,
    /// What the message shows.
    message: Option<MessageId>,
    shows: Option<Arc<Card>>,
    /// What can be tapped has still to be added.
    bare: bool,
}

impl Entry {
    fn is_due(&self) -> bool {
        // What stands in a digest has no message that could be edited.
        self.message.is_some() && self.shows.as_ref() != Some(&self.wanted)
    }
}

/// A text below a message.
struct Note {
    below: Below,
    lines: Vec<String>,
    once: String,
}

/// Below what.
enum Below {
    /// The card of a request, or what stands for it.
    Card(RequestId),
    /// The digest of an agent run.
    Digest(String),
}

struct Outbox<C> {
    channel: Arc<C>,
    store: Store,
    inbox: Inbox,
    entries: BTreeMap<RequestId, Entry>,
    /// The order in which requests came.
    order: VecDeque<RequestId>,
    notes: VecDeque<Note>,
    gathered: Gathered,
    pause: Duration,
}

/// Carries out orders until there can be no more, or nothing goes any more: then says why.
pub async fn run<C: Channel>(
    channel: Arc<C>,
    store: Store,
    inbox: Inbox,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Option<Failure> {
    let gathered = Gathered::new(store.digests());
    let mut outbox = Outbox {
        channel,
        store,
        inbox,
        entries: BTreeMap::new(),
        order: VecDeque::new(),
        notes: VecDeque::new(),
        gathered,
        pause: FIRST_PAUSE,
    };
    loop {
        // Nothing is to be sent now; a digest may be later.
        match outbox.gathered.next_due() {
            Some(due) => {
                if let Ok(order) = time::timeout_at(due, orders.recv()).await {
                    outbox.take(order?).await;
                }
            }
            None => outbox.take(orders.recv().await?).await,
        }
        loop {
            // All that is there already, so that nothing is sent that was overtaken.
            while let Ok(order) = orders.try_recv() {
                outbox.take(order).await;
            }
            match outbox.send_next().await {
                Ok(true) if outbox.pause != FIRST_PAUSE => {
                    outbox.pause = FIRST_PAUSE;
                    outbox.inbox.up().await;
                }
                Ok(true) => {}
                Ok(false) => break,
                Err(failure @ Failure::Fatal(_)) => return Some(failure),
                Err(failure) => {
                    let pause = match failure {
                        Failure::Limited(pause) => pause,
                        _ => {
                            let longer = (outbox.pause * 2).min(LAST_PAUSE);
                            std::mem::replace(&mut outbox.pause, longer)
                        }
                    };
                    if !matches!(failure, Failure::Limited(_)) {
                        outbox.inbox.down(failure).await;
                    }
                    if !outbox.wait(pause, &mut orders).await {
                        return None;
                    }
                }
            }
        }
    }
}

impl<C: Channel> Outbox<C> {
    /// Takes orders for a while, without sending. `false`: there will be no more.
    async fn wait(&mut self, pause: Duration, orders: &mut mpsc::UnboundedReceiver<Order>) -> bool {
        let until = time::Instant::now() + pause;
        loop {
            match time::timeout_at(until, orders.recv()).await {
                Ok(Some(order)) => self.take(order).await,
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Show(card) => {
                let request = card.request;
                if let Some(entry) = self.entries.get_mut(&request) {
                    entry.wanted = card;
                } else {
                    let message = self.store.shown().get(&request).map(|shown| shown.message.clone());
                    if let Some(message) = &message {
                        self.posted(request, message.clone(), &card).await;
                    }
                    self.entries.insert(request, Entry { wanted: card, message, shows: None, bare: false });
                    self.order.push_back(request);
                }
            }
            Order::Reveal(request) => self.gathered.reveal(request),
            Order::Add { request, lines, once } => {
                let once = format!("{request} {once}");
                self.notes.push_back(Note { below: Below::Card(request), lines, once });
            }
            Order::Known(known) => {
                self.gathered.know();
                let left: Vec<_> = self
                    .store
                    .shown()
                    .iter()
                    .filter(|(id, _)| !known.contains(id))
                    .map(|(id, s)| (*id, s.clone()))
                    .collect();
                for (request, Shown { message, headline }) in left {
                    let wanted = Arc::new(Card::of_forgotten(request, headline));
                    self.order.push_back(request);
                    self.entries.entry(request).or_insert(Entry {
                        wanted,
                        message: Some(message),
                        shows: None,
                        bare: false,
                    });
                }
            }
            Order::Cursor(cursor) => {
                let result = self.store.set_cursor(cursor);
                self.told(result).await;
            }
        }
    }

    /// Tells when the store cannot be written: then a restarted daemon may post cards a second time.
    async fn told(&self, result: std::io::Result<()>) {
        if let Err(err) = result {
            let failure = Failure::Outage(format!("cannot remember what is shown: {err}"));
            self.inbox.tell(Event::Problem(failure)).await;
        }
    }

    async fn posted(&self, request: RequestId, message: MessageId, card: &Card) {
        self.inbox.tell(Event::Shown { request, message, digest: card.digest.clone() }).await;
    }

    /// Sends one message. `false`: there is nothing to send.
    async fn send_next(&mut self) -> Result<bool, Failure> {
        // Nobody has seen it and nobody need.
        let never_shown = |entry: &Entry| entry.message.is_none() && entry.wanted.is_final;
        self.entries.retain(|_, entry| !never_shown(entry));
        self.order.retain(|request| self.entries.contains_key(request));
        // First what waits for people, then what they were told about it, then what has ended.
        self.arrange().await;
        let of = |request: &RequestId| self.entries.get(request);
        let lacks = |id: &RequestId| of(id).is_some_and(|entry| entry.message.is_none()) && !self.gathered.has(*id);
        let post = self.order.iter().copied().find(lacks);
        if let Some(request) = post {
            self.post(request).await?;
            return Ok(true);
        }
        let bare =
            self.order.iter().copied().find(|id| of(id).is_some_and(|entry| entry.bare && !entry.wanted.is_final));
        if let Some(request) = bare {
            self.offer(request).await?;
            return Ok(true);
        }
        if self.send_digest().await? {
            return Ok(true);
        }
        self.gather_notes();
        if let Some(note) = self.notes.pop_front() {
            self.note(note).await?;
            return Ok(true);
        }
        let of = |request: &RequestId| self.entries.get(request);
        let edit = self.order.iter().copied().find(|id| of(id).is_some_and(Entry::is_due));
        if let Some(request) = edit {
            self.edit(request).await?;
            return Ok(true);
        }
        Ok(false)
    }

    async fn note(&mut self, note: Note) -> Result<(), Failure> {
        let message = match &note.below {
            Below::Card(request) => match self.entries.get(request) {
                Some(Entry { message: Some(message), .. }) => Some(message.clone()),
                Some(_) => {
                    self.gathered.note(*request, note.lines, C::DIGEST_PAUSE);
                    return Ok(());
                }
                None => None,
            },
            Below::Digest(run) => self.gathered.message(run).cloned(),
        };
        // What it was about has ended.
        let Some(message) = message else { return Ok(()) };
        match self.channel.add(&message, &note.lines, &note.once).await {
            Ok(()) => Ok(()),
            Err(failure @ Failure::Refused(_)) => {
                self.inbox.tell(Event::Problem(failure)).await;
                Ok(())
            }
            Err(failure) => {
                self.notes.push_front(note);
                Err(failure)
            }
        }
    }

    async fn post(&mut self, request: RequestId) -> Result<(), Failure> {
        let Some(card) = self.entries.get(&request).map(|entry| entry.wanted.clone()) else { return Ok(()) };
        match self.channel.post(&card, &request.to_string()).await {
            Ok(message) => {
                let shown = Shown { message: message.clone(), headline: card.headline.clone() };
                let result = self.store.set_shown(request, shown);
                self.told(result).await;
                self.posted(request, message.clone(), &card).await;
                if let Some(entry) = self.entries.get_mut(&request) {
                    entry.message = Some(message);
                    entry.shows = Some(card);
                    entry.bare = true;
                }
                Ok(())
            }
            Err(failure @ Failure::Refused(_)) => {
                // It would be refused again; the other channels and the command line have it.
                self.entries.remove(&request);
                self.inbox.tell(Event::Problem(failure)).await;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn offer(&mut self, request: RequestId) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(&request) else { return Ok(()) };
        let (Some(message), card) = (entry.message.clone(), entry.wanted.clone()) else { return Ok(()) };
        match self.channel.offer(&message, &card).await {
            Ok(()) => {}
            // Commands can be typed all the same.
            Err(failure @ Failure::Refused(_)) => self.inbox.tell(Event::Problem(failure)).await,
            Err(failure) => return Err(failure),
        }
        if let Some(entry) = self.entries.get_mut(&request) {
            entry.bare = false;
        }
        Ok(())
    }

    async fn edit(&mut self, request: RequestId) -> Result<(), Failure> {
        let Some(entry) = self.entries.get(&request) else { return Ok(()) };
        let (Some(message), card) = (entry.message.clone(), entry.wanted.clone()) else { return Ok(()) };
        match self.channel.edit(&message, &card).await {
            Ok(()) => {}
            // The message was deleted, perhaps: there is nothing to make true any more.
            Err(failure @ Failure::Refused(_)) => self.inbox.tell(Event::Problem(failure)).await,
            Err(failure) => return Err(failure),
        }
        if card.is_final {
            self.entries.remove(&request);
            let result = self.store.forget(request);
            self.told(result).await;
        } else if let Some(entry) = self.entries.get_mut(&request) {
            entry.shows = Some(card);
        }
        Ok(())
    }
}
