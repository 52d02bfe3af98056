//! The channels as the loop sees them: what they are to show, and what people do there.
//!
//! They run on one thread of their own. Here is decided whether an account may do what it did; what its word is worth is
//! for the broker. Cards follow what the broker says of a request, so all copies of a card tell the same, and say "it went
//! on" only when it did.

mod lines;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    DaemonError, Event,
    acts::{DENIED, Uncounted, Wish},
    agents::Agents,
    core::{Daemon, Waiter},
    judge,
};
use crate::{
    broker::{Change, Reply},
    channel::{
        Act, Answer, Event as ChannelEvent, Failure, Inbox, MessageId, Standing, Verb, card::Card, outbox::Order,
        store::Store,
    },
    config::{ChannelConfig, Config},
    control::protocol::ChannelStatus,
    provenance::Record,
    request::{Request, RequestId, lengths},
};

pub use self::lines::{public_key, try_channel};

/// Events of channels that may wait for the loop.
const EVENTS: usize = 256;
/// Acts that are remembered, so that one that is delivered twice counts once.
const ACTS: usize = 4096;
/// Acts that may wait for their card, and for how long: as long as an answer may be on its way. What waits keeps those
/// back who did something later, so it must not wait for an answer that never comes.
const EARLY: usize = 64;
const EARLY_NS: u64 = if cfg!(test) { 1 } else { 10 } * 1_000_000_000;

/// One channel.
struct Line {
    config: ChannelConfig,
    orders: mpsc::UnboundedSender<Order>,
    /// Why it does not work, if so.
    problem: Option<String>,
    /// It does not until the daemon starts anew.
    is_over: bool,
    /// Which message shows which request.
    shown: HashMap<RequestId, MessageId>,
    /// Requests that stand in a digest there and have no card.
    gathered: BTreeSet<RequestId>,
    /// Acts on cards that the server has and of which the answer to their post has not come yet.
    early: Vec<Early>,
}

struct Early {
    act: Act,
    answer: oneshot::Sender<Answer>,
    /// When it waits no more, nanoseconds of `CLOCK_BOOTTIME`.
    until_ns: u64,
}

impl Line {
    /// It works. Whether that is news: half of a channel that does not work is not one that does.
    fn works(&mut self) -> bool {
        !self.is_over && self.problem.take().is_some()
    }

    /// It does not work. The problem, if that is news.
    fn fails(&mut self, failure: &Failure) -> Option<String> {
        let is_fatal = matches!(failure, Failure::Fatal(_));
        if self.is_over && !is_fatal {
            return None;
        }
        self.is_over |= is_fatal;
        let advice = if is_fatal { "; then `systemctl restart gatekeeper`" } else { "" };
        let problem = Some(format!("{failure}{advice}"));
        let is_news = self.problem != problem;
        self.problem.clone_from(&problem);
        problem.filter(|_| is_news)
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Channels {
    lines: Vec<Line>,
    /// Events of acts that were seen, the oldest first.
    acts: VecDeque<(usize, String)>,
    pub(super) host: String,
    /// Digest of the latest card of each open request.
    digests: HashMap<RequestId, String>,
    /// Whether they were told which requests there are.
    know: bool,
    /// Cgroups whose processes end when the request does.
    pub(super) stops: HashMap<RequestId, String>,
    /// Their thread runs for as long as this is there.
    _running: Option<oneshot::Sender<()>>,
}

impl Channels {
    /// Starts the thread and what runs on it, if there is any channel.
    ///
    /// # Errors
    /// A secret cannot be read, or the thread cannot be started.
    pub(super) fn start(config: &Config, events: &mpsc::UnboundedSender<Event>) -> Result<Self, DaemonError> {
        let mut channels = Self { host: lines::host_name(), ..Self::default() };
        if config.channels.is_empty() {
            return Ok(channels);
        }
        let directory = judge::ensure_directory(&config.paths.state.join("channels"), 0o700)
            .map_err(|err| DaemonError::System("make the channels' directory", err))?;
        let mut starts: Vec<lines::Start> = Vec::new();
        for (number, channel) in config.channels.iter().enumerate() {
            let (store, damage) = Store::open(directory.join(format!("{}.json", channel.name)));
            let (orders, receiver) = mpsc::unbounded_channel();
            let (sender, mut receiving) = mpsc::channel::<ChannelEvent>(EVENTS);
            let loop_events = events.clone();
            let forward = async move {
                while let Some(event) = receiving.recv().await {
                    // The daemon has stopped otherwise.
                    let _ = loop_events.send(Event::Channel { number, event });
                }
            };
            starts.push(lines::prepare(channel, &config.reviewers, store, Inbox::new(sender), receiver, forward)?);
            let problem = damage.map(|err| format!("what it showed before is forgotten: {err}"));
            channels.lines.push(Line {
                config: channel.clone(),
                orders,
                problem,
                is_over: false,
                shown: HashMap::new(),
                gathered: BTreeSet::new(),
                early: Vec::new(),
            });
        }
        let (running, ended) = oneshot::channel::<()>();
        channels._running = Some(running);
        let events = events.clone();
        thread::Builder::new()
            .name("channels".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                lines::carry(runtime, starts, ended, &events);
            })
            .map_err(|err| DaemonError::System("start the channels' thread", err))?;
        Ok(channels)
    }

    /// How they are.
    pub(super) fn status(&self) -> Vec<ChannelStatus> {
        self.lines
            .iter()
            .map(|line| ChannelStatus {
                name: line.config.name.clone(),
                kind: line.config.kind.name().to_owned(),
                problem: line.problem.clone(),
                shown: line.shown.len() as u64,
            })
            .collect()
    }

    /// When the first act has waited long enough for its card.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.lines.iter().flat_map(|line| &line.early).map(|early| early.until_ns).min()
    }

    /// Digest of a request's card as it is now.
    pub(super) fn card_digest(&self, request: &Request) -> String {
        let shown = self.digests.get(&request.id).cloned();
        shown.unwrap_or_else(|| Card::new(request, &self.host, &[]).digest)
    }

    fn order(&self, order: &Order) {
        for line in &self.lines {
            // Its thread has ended otherwise, which was told.
            let _ = line.orders.send(order.clone());
        }
    }

    /// Whether an act is new. Platforms deliver at least once.
    pub(super) fn is_new(&mut self, number: usize, event: &str) -> bool {
        let known = self.acts.iter().any(|(line, known)| *line == number && known == event);
        if !known {
            if self.acts.len() == ACTS {
                self.acts.pop_front();
            }
            self.acts.push_back((number, event.to_owned()));
        }
        !known
    }
}

impl Daemon {
    /// A request is new or changed: its cards are to show that.
    pub(super) fn show(&mut self, request: &Arc<Request>, change: Change) {
        if self.channels.lines.is_empty() {
            return;
        }
        // A card tells who asks and from where; that follows a moment after the request.
        if change != Change::Asked {
            let mut verbs = vec![Verb::Approve];
            verbs.extend(request.ask.grants.iter().copied().map(Verb::ApproveFor));
            verbs.extend([Verb::Deny, Verb::DenyAndStop]);
            if usize::try_from(request.escalated).is_ok_and(|done| done < request.ask.escalation.len()) {
                verbs.push(Verb::Escalate);
            }
            if request.extended < crate::broker::EXTENSIONS {
                verbs.push(Verb::Extend);
            }
            let run = self.notices.run_of(request.id).map(|run| format!("{} {}", run.cgroup, run.cgroup_id));
            let mut card = Card::new(request, &self.channels.host, &verbs);
            if let Some(run) = run {
                card.run = run;
            }
            self.channels.digests.insert(request.id, card.digest.clone());
            self.channels.order(&Order::Show(Arc::new(card)));
        }
        let line = match change {
            Change::Reminder(part) => format!("Reminder: {part} % of the time to decide is over."),
            Change::Escalated => format!(
                "Escalated: now {} can approve.",
                request.quorum().map_or_else(|| "anyone".to_owned(), |quorum| quorum.to_string())
            ),
            Change::Extended => "The deadline was moved.".to_owned(),
            Change::Asked | Change::Context | Change::Voted | Change::Decided | Change::Ended => return,
        };
        let once = format!("{change:?} {} {}", request.escalated, request.extended);
        self.channels.order(&Order::Add { request: request.id, lines: vec![line], once });
    }

    /// Tells the channels which requests there are, once that is known: cards of others are about what ended while no
    /// daemon ran.
    pub(super) fn tell_known(&mut self) {
        if self.channels.know || self.broker.awaits_adopted() {
            return;
        }
        self.channels.know = true;
        let known = self.broker.open_requests().map(|request| request.id).collect();
        self.channels.order(&Order::Known(known));
    }

    /// Something came from a channel.
    pub(super) fn channel(&mut self, number: usize, event: ChannelEvent) {
        let Some(line) = self.channels.lines.get_mut(number) else { return };
        let name = line.config.name.clone();
        match event {
            ChannelEvent::Act(act, answer) => self.act(number, act, answer),
            ChannelEvent::Up => {
                if line.works() {
                    tracing::info!(channel = name, "the channel works again");
                    self.record(&Record::Channel { channel: name, problem: None });
                }
            }
            ChannelEvent::Down(failure) => {
                if let Some(problem) = line.fails(&failure) {
                    self.error(format!("channel {name} does not work: {problem}"));
                    self.record(&Record::Channel { channel: name, problem: Some(problem) });
                }
            }
            ChannelEvent::Problem(failure) => self.error(format!("channel {name}: {failure}")),
            ChannelEvent::Cursor(cursor) => {
                // Its thread has ended otherwise, which was told.
                let _ = line.orders.send(Order::Cursor(cursor));
            }
            ChannelEvent::Gathered(requests) => line.gathered = requests,
            ChannelEvent::Shown { request, message, digest } => {
                let is_news = line.shown.insert(request, message.clone()).as_ref() != Some(&message);
                let early: Vec<_> = line.early.extract_if(.., |early| early.act.request == request).collect();
                if is_news {
                    self.record(&Record::Card { request, channel: name, message, digest });
                }
                for Early { act, answer, .. } in early {
                    self.act(number, act, answer);
                }
            }
        }
    }

    /// Takes an act, which waits for a moment if its card is not known yet.
    fn act(&mut self, number: usize, act: Act, answer: oneshot::Sender<Answer>) {
        let waits = self.broker.request(act.request).is_some_and(|request| !request.state.is_final());
        let until_ns = self.now().boot_ns + EARLY_NS;
        if let Some(line) = self.channels.lines.get_mut(number)
            && (waits && !act.typed && !line.shown.contains_key(&act.request) && line.early.len() < EARLY)
        {
            line.early.push(Early { act, answer, until_ns });
            return;
        }
        self.take_act(number, act, answer);
    }

    /// Lets those acts go whose card did not become known in time.
    pub(super) fn end_early(&mut self) {
        let now_ns = self.now().boot_ns;
        let late = self.channels.lines.iter_mut().enumerate().flat_map(|(number, line)| {
            let late = line.early.extract_if(.., |early| early.until_ns <= now_ns);
            late.map(move |early| (number, early)).collect::<Vec<_>>()
        });
        for (number, Early { act, answer, .. }) in late.collect::<Vec<_>>() {
            self.take_act(number, act, answer);
        }
    }

    fn take_act(&mut self, number: usize, act: Act, answer: oneshot::Sender<Answer>) {
        let (id, verb, event) = (act.request, act.verb, act.evidence.event.clone());
        let judged = match self.is_from_where_it_should(number, &act) {
            Ok(()) => {
                let Some(wish) = self.wish(number, act) else { return };
                self.judge(wish, None).map_err(|uncounted| {
                    let (wish, uncounted) = *uncounted;
                    let text = uncounted.for_channel(id, &self.channels.host);
                    (wish, text)
                })
            }
            Err(text) => match self.wish(number, act) {
                Some(wish) => Err((wish, text)),
                None => return,
            },
        };
        match judged {
            Ok(judged) if verb == Verb::Show => {
                let Some(line) = self.channels.lines.get(number) else { return };
                // Their connection may be gone.
                let _ = answer.send(reveal(line, judged.request()));
            }
            Ok(judged) => self.carry_out(judged, Waiter::Act { id, verb, answer }),
            Err((wish, text)) => {
                self.record_uncounted(&wish, event, &text);
                // Its connection may be gone.
                let _ = answer.send(Answer { counted: false, text });
            }
        }
    }

    fn wish(&self, number: usize, act: Act) -> Option<Wish> {
        let line = self.channels.lines.get(number)?;
        let Act { account, request, verb, reason, typed, evidence } = act;
        let (channel, kind) = (line.config.name.clone(), line.config.kind.name());
        let (account, evidence) = (account.id, Some(evidence));
        Some(Wish { request, verb, denial: DENIED, reason, typed, channel, kind, account, evidence })
    }

    /// Whether an act is new, of a person in good standing, and was done where it counts.
    fn is_from_where_it_should(&mut self, number: usize, act: &Act) -> Result<(), String> {
        let Some(line) = self.channels.lines.get(number) else { return Err("there is no such channel".to_owned()) };
        let on_its_card =
            act.evidence.message.is_some() && line.shown.get(&act.request) == act.evidence.message.as_ref();
        let is_known = line.shown.contains_key(&act.request);
        let has_no_card = line.gathered.contains(&act.request);
        if !self.channels.is_new(number, &act.evidence.event) {
            return Err("this was looked at before".to_owned());
        }
        match &act.account.standing {
            Standing::Member => {}
            Standing::Bot => return Err("programs do not decide".to_owned()),
            Standing::Guest => return Err("guests do not decide".to_owned()),
            Standing::Deleted => return Err("this account is switched off".to_owned()),
            Standing::External => return Err("accounts of another organisation do not decide".to_owned()),
            Standing::Unconfirmed => return Err("this account's address was never confirmed".to_owned()),
            Standing::Unknown(why) => return Err(format!("it cannot be told whose account this is: {why}")),
        }
        let request = self.broker.request(act.request);
        let request = request.ok_or_else(|| super::calls::no_such_request(act.request).message)?;
        // A click counts on the very message that was posted for the request, and nowhere else.
        if !act.typed && !on_its_card && !request.state.is_final() {
            let known = "this is not the card of that request";
            let unknown = "the server has not confirmed this card yet; type it, or do it again later";
            return Err(if is_known { known } else { unknown }.to_owned());
        }
        // A digest's line does not show what would run.
        if act.typed && act.verb.is_approval() && has_no_card {
            let id = act.request;
            return Err(format!(
                "{id} stands in a digest only, which does not show enough to approve it; type: show {id}"
            ));
        }
        // What was seen is what is decided about.
        let latest = self.channels.digests.get(&act.request);
        if act.evidence.card.is_some() && latest.is_some() && latest != act.evidence.card.as_ref() {
            return Err(Uncounted::Changed(act.request).to_string());
        }
        Ok(())
    }

    /// What is left to do when a request has ended: its agent may have to end with it.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn request_ended(&mut self, request: RequestId) -> Result<(), String> {
        for line in &mut self.channels.lines {
            line.shown.remove(&request);
            // Dropped senders tell that nothing was counted.
            line.early.retain(|early| early.act.request != request);
        }
        self.channels.digests.remove(&request);
        let Some(cgroup) = self.channels.stops.remove(&request) else { return Ok(()) };
        let path = self.agents.cgroup_root().join(Agents::run_of(&cgroup).trim_start_matches('/'));
        match std::fs::write(path.join("cgroup.kill"), "1") {
            Ok(()) => self.record(&Record::AgentStopped { request, cgroup: cgroup.as_str().into() }),
            // It has ended by itself.
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
            Err(err) => {
                let text = format!("the agent in {cgroup} cannot be stopped: {err}");
                self.error(text.clone());
                return Err(text);
            }
        }
        Ok(())
    }
}

/// Has the card of a request posted where it stands in a digest only.
fn reveal(line: &Line, request: &Request) -> Answer {
    let id = request.id;
    if request.state.is_final() {
        return Answer { counted: false, text: format!("{id} does not wait any more") };
    }
    if !line.gathered.contains(&id) {
        return Answer { counted: false, text: format!("{id} has a card of its own here already") };
    }
    // Its thread has ended otherwise, which was told.
    let _ = line.orders.send(Order::Reveal(id));
    Answer { counted: true, text: format!("the card of {id} follows") }
}

/// What to tell somebody who acted, by what the broker says.
pub(super) fn answer(reply: &Reply, verb: Verb, id: RequestId) -> Answer {
    let (counted, text) = match reply {
        Reply::Decided => (true, format!("{}: {id}", verb.title())),
        Reply::Voted => (true, format!("your approval of {id} counts; more are wanted")),
        Reply::Done => (true, format!("{}: {id}", verb.title())),
        Reply::VotedBefore => (false, format!("you approved {id} before; somebody else has to, too")),
        Reply::NoMore if verb == Verb::Extend => {
            (false, format!("the deadline of {id} was moved as often as it may be"))
        }
        Reply::NoMore => (false, format!("there is nobody else to ask about {id}")),
        Reply::AlreadyDecided(decision) => {
            (false, format!("{id} was decided already: {}", super::calls::decision_text(decision)))
        }
        Reply::NotPending(state) => {
            (false, format!("{id} does not wait any more: {}", super::calls::state_text(state)))
        }
        Reply::NotOffered(offered) if offered.is_empty() => {
            (false, format!("{id} can be approved only once: its rule offers no grant for it"))
        }
        Reply::NotOffered(offered) => {
            (false, format!("its rule does not offer that; {id} can be approved once, or for {}", lengths(offered)))
        }
        Reply::Unknown => (false, super::calls::no_such_request(id).message),
    };
    Answer { counted, text }
}
