//! The digests of a channel: which requests stand in them, and when the messages have to change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{
    super::{
        Channel, Event, Failure, MessageId, digest,
        plan::{Waiting, plan},
        store::Shown,
    },
    Below, Note, Outbox,
};
use crate::request::RequestId;

/// The digest of one agent run.
#[derive(Debug, Default)]
struct Digest {
    /// Who stands in it, oldest first.
    requests: Vec<RequestId>,
    message: Option<MessageId>,
    /// Headline of what the message shows.
    headline: String,
    /// Names the post that was tried last.
    once: Option<String>,
    /// How many messages were lost: deleted, perhaps.
    lost: u32,
    /// The message has to change then.
    due: Option<Instant>,
}

/// All digests of a channel.
#[derive(Debug)]
pub(super) struct Gathered {
    digests: BTreeMap<String, Digest>,
    requests: BTreeSet<RequestId>,
    /// Requests whose card somebody wants.
    revealed: BTreeSet<RequestId>,
    /// What is to be said below digests, by what it is, and when.
    notes: BTreeMap<Vec<String>, Vec<RequestId>>,
    notes_due: Option<Instant>,
    /// All requests are known: a digest of an earlier daemon in which none stands is empty.
    knows: bool,
    /// Grows with each content, also from one daemon to the next.
    revision: u64,
}

impl Gathered {
    /// Goes on with what an earlier daemon left.
    pub(super) fn new(shown: &BTreeMap<String, Shown>) -> Self {
        let left = shown.iter().map(|(run, Shown { message, headline })| {
            let digest = Digest { message: Some(message.clone()), headline: headline.clone(), ..Digest::default() };
            (run.clone(), digest)
        });
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let revision = u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2);
        Self {
            digests: left.collect(),
            requests: BTreeSet::new(),
            revealed: BTreeSet::new(),
            notes: BTreeMap::new(),
            notes_due: None,
            knows: false,
            revision,
        }
    }

    /// Whether a request stands in a digest.
    pub(super) fn has(&self, request: RequestId) -> bool {
        self.requests.contains(&request)
    }

    /// Somebody wants a request's card.
    pub(super) fn reveal(&mut self, request: RequestId) {
        self.revealed.insert(request);
    }

    /// All requests are known now.
    pub(super) fn know(&mut self) {
        self.knows = true;
    }

    /// When a digest has to change next, or something has to be said below one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.digests.values().filter_map(|digest| digest.due).chain(self.notes_due).min()
    }

    /// The message that shows a run's digest.
    pub(super) fn message(&self, run: &str) -> Option<&MessageId> {
        self.digests.get(run)?.message.as_ref()
    }

    /// Something is to be said about a request that has no card. What is said of many is said once.
    pub(super) fn note(&mut self, request: RequestId, lines: Vec<String>, pause: Option<Duration>) {
        self.notes.entry(lines).or_default().push(request);
        self.notes_due.get_or_insert_with(|| Instant::now() + pause.unwrap_or_default());
    }

    /// Takes over who stands in which digest. `true`: that has changed.
    fn set(&mut self, mut wanted: BTreeMap<String, Vec<RequestId>>, pause: Duration) -> bool {
        let due = Instant::now() + pause;
        for run in wanted.keys() {
            self.digests.entry(run.clone()).or_default();
        }
        let mut changed = false;
        for (run, digest) in &mut self.digests {
            let requests = wanted.remove(run).unwrap_or_default();
            let is_left = digest.message.is_some() && requests.is_empty() && digest.requests.is_empty() && self.knows;
            if requests != digest.requests || is_left {
                changed |= requests != digest.requests;
                digest.requests = requests;
                digest.due.get_or_insert(due);
            }
        }
        // Nobody has seen it and nobody need.
        self.digests.retain(|_, digest| !(digest.requests.is_empty() && digest.message.is_none()));
        self.requests = self.digests.values().flat_map(|digest| digest.requests.iter().copied()).collect();
        changed
    }
}

impl<C: Channel> Outbox<C> {
    /// Decides anew which requests have cards, and tells the daemon which have none.
    pub(super) async fn arrange(&mut self) {
        let Some(pause) = C::DIGEST_PAUSE else { return };
        let open = self.order.iter().filter_map(|id| self.entries.get(id)).filter(|entry| !entry.wanted.is_final);
        let waiting: Vec<_> = open
            .map(|entry| {
                let request = entry.wanted.request;
                let has_card = entry.message.is_some() || self.gathered.revealed.contains(&request);
                Waiting { request, run: entry.wanted.run.clone(), has_card }
            })
            .collect();
        let entries = &self.entries;
        self.gathered.revealed.retain(|id| entries.get(id).is_some_and(|entry| entry.message.is_none()));
        if self.gathered.set(plan(&waiting).digests, pause) {
            self.inbox.tell(Event::Gathered(self.gathered.requests.clone())).await;
        }
    }

    /// Has that said which is due, each text once below each digest. A request that got a card meanwhile has it there.
    pub(super) fn gather_notes(&mut self) {
        let now = Instant::now();
        if self.gathered.notes_due.is_none_or(|due| due > now) {
            return;
        }
        self.gathered.notes_due = None;
        for (lines, mut about) in std::mem::take(&mut self.gathered.notes) {
            for (run, digest) in &self.gathered.digests {
                let here: Vec<_> = about.extract_if(.., |request| digest.requests.contains(request)).collect();
                let Some(first) = here.first() else { continue };
                if let (None, Some(due)) = (&digest.message, digest.due) {
                    // It follows.
                    self.gathered.notes_due = self.gathered.notes_due.max(Some(due));
                    self.gathered.notes.entry(lines.clone()).or_default().extend(here);
                    continue;
                }
                self.gathered.revision += 1;
                let once = format!("{first} in a digest {}", self.gathered.revision);
                let lines = lines.iter().cloned().chain([digest::about(&here)]).collect();
                self.notes.push_back(Note { below: Below::Digest(run.clone()), lines, once });
            }
            for request in about {
                if self.entries.get(&request).is_some_and(|entry| entry.message.is_some()) {
                    self.gathered.revision += 1;
                    let once = format!("{request} after a digest {}", self.gathered.revision);
                    self.notes.push_back(Note { below: Below::Card(request), lines: lines.clone(), once });
                }
            }
        }
    }

    /// Posts or edits a digest that has to change. `false`: none has to now.
    pub(super) async fn send_digest(&mut self) -> Result<bool, Failure> {
        let now = Instant::now();
        let due = self.gathered.digests.iter().find(|(_, digest)| digest.due.is_some_and(|due| due <= now));
        let Some((run, digest)) = due else { return Ok(false) };
        let run = run.clone();
        self.gathered.revision += 1;
        let revision = self.gathered.revision;
        let cards: Vec<_> = digest
            .requests
            .iter()
            .filter_map(|id| self.entries.get(id))
            .map(|entry| Arc::clone(&entry.wanted))
            .collect();
        let card = match digest::digest(&cards, revision) {
            Some(card) => card,
            None => {
                let request = RequestId::new(0, revision);
                digest::emptied(request, digest.headline.clone(), revision)
            }
        };
        // The oldest request stands in one digest only, so a daemon that starts again names the same post the same.
        let tried = digest.once.clone();
        let is_second_try = digest.message.is_none() && tried.is_some();
        let once = tried.unwrap_or_else(|| format!("digest {} {}", card.request, digest.lost));
        let sent = match &digest.message {
            Some(message) => self.channel.edit(message, &card).await.map(|()| message.clone()),
            None => {
                // The same post, should the answer be lost.
                if let Some(digest) = self.gathered.digests.get_mut(&run) {
                    digest.once = Some(once.clone());
                }
                self.channel.post(&card, &once).await
            }
        };
        let message = match sent {
            Ok(message) => Some(message),
            Err(failure @ Failure::Refused(_)) => {
                // It was deleted, perhaps: the next change makes another.
                self.inbox.tell(Event::Problem(failure)).await;
                None
            }
            Err(failure) => return Err(failure),
        };
        let shown = message.clone().filter(|_| !card.is_final);
        let result =
            self.store.set_digest(&run, shown.map(|message| Shown { message, headline: card.headline.clone() }));
        self.told(result).await;
        if card.is_final || message.is_none() && cards.is_empty() {
            self.gathered.digests.remove(&run);
        } else if let Some(digest) = self.gathered.digests.get_mut(&run) {
            // The first try may have been the one that counted, with what was true then.
            digest.due = is_second_try.then_some(now);
            digest.headline = card.headline;
            if message.is_none() {
                digest.once = None;
                digest.lost += 1;
            }
            digest.message = message;
        }
        Ok(true)
    }
}
