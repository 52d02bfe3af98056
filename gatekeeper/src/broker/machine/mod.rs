//! The transitions.

mod people;
mod scan;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use gatekeeper_common::{TaskKey, sip::Digest};
// Its keys are the kernel side's numbers and digests, which no agent can choose.
use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    Change, Effect, Gone, Health, Held, Input, Interpreter, Now, Outcome, Record, Restored, Settled, StoreVerdict,
    Ticket,
};
use crate::request::{self, Ask, Decider, Decision, Request, RequestId, State};

/// Final requests that stay known, so that `show` can tell how something ended.
pub const RECENT_REQUESTS: usize = 1_000;

/// How long a verdict counts. A task that is frozen or traced may need a while to come round; one that never does must
/// not find an approval lying about hours later.
pub const VERDICT_LIFETIME_NS: u64 = 30_000_000_000;

/// A scan stores a verdict again that has not been applied for so long: before it expires, with room for a slow scan.
pub const RESTORE_AFTER_NS: u64 = 10_000_000_000;

/// Parts of the time to the deadline, in percent, after which reviewers are reminded. At the last one the next reviewers
/// are asked by themselves.
pub const REMINDERS: [u8; 2] = [50, 80];

/// How often a deadline may be moved: a hold has a price for who waits.
pub const EXTENSIONS: u32 = 3;

/// Ended holds that are remembered, so that an event that comes late cannot open one again. Events come in order, so a
/// few would do; this many are more than the ring buffer holds.
const ENDED_HOLDS: usize = 16_384;

/// What a task gets when a deadline passes.
const EPERM: u16 = 1;

/// What makes two holds the same act of the same task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Act {
    key: TaskKey,
    stage: u16,
    digest: Digest,
}

/// How far an open hold has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nobody has decided.
    Pending,
    /// Decided, but the decision is not durable.
    Undurable(Ticket),
    /// The kernel side has the verdict since then, nanoseconds of `CLOCK_BOOTTIME`.
    Stored(u64),
}

/// A hold that has not ended.
#[derive(Debug)]
struct Open {
    act: Act,
    interpreter: Option<Interpreter>,
    since_ns: u64,
    deadline_ns: u64,
    /// When the next reminder is due, and which of [`REMINDERS`] it is.
    reminder: Option<(u64, usize)>,
    progress: Progress,
    /// What was decided; the request, if there is one, has it too.
    effect: Option<request::Effect>,
    /// `None` for holds that were decided without reviewers.
    request: Option<Arc<Request>>,
    has_context: bool,
}

impl Open {
    fn id(&self) -> Option<RequestId> {
        self.request.as_ref().map(|request| request.id)
    }
}

/// A denial whose errno is none would not fail the action: it gets one.
fn failing(effect: request::Effect) -> request::Effect {
    match effect {
        request::Effect::Deny { errno } if !(1..=4095).contains(&errno) => request::Effect::Deny { errno: EPERM },
        effect => effect,
    }
}

/// The state machine. See the module's documentation.
#[derive(Debug)]
pub struct Broker {
    nonce: u64,
    open: FxHashMap<u64, Open>,
    /// Open holds by the name of their request.
    requests: FxHashMap<RequestId, u64>,
    /// Open holds by what waits.
    acts: FxHashMap<Act, u64>,
    /// Pending holds by deadline.
    deadlines: BTreeSet<(u64, u64)>,
    /// Pending holds by the next reminder.
    reminders: BTreeSet<(u64, u64)>,
    /// Holds whose decision is not durable, in the order of its tickets.
    undurable: VecDeque<(Ticket, u64)>,
    next_ticket: u64,
    restored: BTreeMap<u64, Restored>,
    recent: VecDeque<Arc<Request>>,
    recent_by_id: BTreeMap<RequestId, Arc<Request>>,
    ended: VecDeque<u64>,
    ended_set: FxHashSet<u64>,
    log_error: Option<String>,
    timer_ns: Option<u64>,
}

impl Broker {
    /// Nothing is held yet. `nonce` is this boot's, [`gatekeeper_common::Control::nonce`].
    pub fn new(nonce: u64) -> Self {
        Self {
            nonce,
            open: FxHashMap::default(),
            requests: FxHashMap::default(),
            acts: FxHashMap::default(),
            deadlines: BTreeSet::new(),
            reminders: BTreeSet::new(),
            undurable: VecDeque::new(),
            next_ticket: 1,
            restored: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_by_id: BTreeMap::new(),
            ended: VecDeque::new(),
            ended_set: FxHashSet::default(),
            log_error: None,
            timer_ns: None,
        }
    }

    /// Takes one input and says what follows from it. The effects are to be carried out in their order.
    pub fn step(&mut self, input: Input, now: Now) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(4);
        // First, so that a decision that comes after the deadline never beats it.
        self.expire(now, &mut effects);
        self.remind_due(now, &mut effects);
        match input {
            Input::Adopt(holds) => {
                self.restored.extend(holds.into_iter().map(|restored| (restored.hold, restored)));
            }
            Input::Held(held) => self.held(held, now, &mut effects),
            Input::Context { hold, context } => self.context(hold, *context, &mut effects),
            Input::Decide { reply_to, id, decision, groups } => {
                let reply = self.decide(id, decision, groups, &mut effects);
                effects.push(Effect::Reply { to: reply_to, reply });
            }
            Input::Escalate { reply_to, id, by } => {
                let reply = self.escalate(id, by, &mut effects);
                effects.push(Effect::Reply { to: reply_to, reply });
            }
            Input::Extend { reply_to, id, by } => {
                let reply = self.extend(id, by, now, &mut effects);
                effects.push(Effect::Reply { to: reply_to, reply });
            }
            Input::Logged { through } => self.logged(through, now, &mut effects),
            Input::LogFailed { error } => {
                if self.log_error.as_ref() != Some(&error) {
                    self.log_error = Some(error);
                    effects.push(Effect::Health(self.health()));
                }
            }
            Input::Applied { hold, effect } => self.applied(hold, effect, false, &mut effects),
            Input::Refused { hold, errno, reason } => self.refused(hold, errno, reason, now, &mut effects),
            Input::Gone { hold, why: Gone::TaskEnded } => self.withdraw(hold, false, &mut effects),
            Input::Gone { hold, why: Gone::Superseded } => self.supersede(hold, None, &mut effects),
            Input::Tick => {}
            Input::Scan { open, taken_ns } => self.scan(&open, taken_ns, now, &mut effects),
        }
        let deadline = self.deadlines.first().map(|(at_ns, _)| *at_ns);
        let timer_ns = self.reminders.first().map(|(at_ns, _)| *at_ns).into_iter().chain(deadline).min();
        if timer_ns != self.timer_ns {
            self.timer_ns = timer_ns;
            effects.push(Effect::Timer { at_ns: timer_ns });
        }
        effects
    }

    /// Requests that have not ended, oldest hold first. Those that are decided, but not applied yet, are among them.
    pub fn open_requests(&self) -> impl Iterator<Item = &Arc<Request>> {
        let mut requests: Vec<_> = self.open.values().filter_map(|open| open.request.as_ref()).collect();
        requests.sort_unstable_by_key(|request| request.hold);
        requests.into_iter()
    }

    /// A request, if it has not ended or not long ago.
    pub fn request(&self, id: RequestId) -> Option<&Arc<Request>> {
        match self.requests.get(&id) {
            Some(hold) => self.open.get(hold)?.request.as_ref(),
            None => self.recent_by_id.get(&id),
        }
    }

    /// The latest [`RECENT_REQUESTS`] requests that ended, latest first.
    pub fn recent_requests(&self) -> impl Iterator<Item = &Arc<Request>> {
        self.recent.iter().rev()
    }

    /// Whether holds of an earlier daemon have not been found again yet, or found to have ended.
    pub fn awaits_adopted(&self) -> bool {
        !self.restored.is_empty()
    }

    /// Whether a hold is new: neither open, nor ended, nor asked about by an earlier daemon.
    pub fn is_new(&self, hold: u64) -> bool {
        !self.open.contains_key(&hold) && !self.ended_set.contains(&hold) && !self.restored.contains_key(&hold)
    }

    /// Number of holds that have not ended, those without a request included.
    pub fn open_holds(&self) -> usize {
        self.open.len()
    }

    /// Whether no decision on this request waits for the log.
    pub fn is_durable(&self, id: RequestId) -> bool {
        let open = self.requests.get(&id).and_then(|hold| self.open.get(hold));
        !open.is_some_and(|open| matches!(open.progress, Progress::Undurable(_)))
    }

    /// Whether decisions can become durable.
    pub fn health(&self) -> Health {
        Health { log_error: self.log_error.clone(), undurable: self.undurable.len() }
    }

    fn held(&mut self, held: Box<Held>, now: Now, effects: &mut Vec<Effect>) {
        if self.open.contains_key(&held.hold) || self.ended_set.contains(&held.hold) {
            return;
        }
        let act = Act { key: held.key, stage: held.stage, digest: held.digest };
        let earlier = self.acts.get(&act).copied();
        let takes_over = earlier.is_some_and(|earlier| {
            matches!(held.outcome, Outcome::Ask(_))
                && !self.restored.contains_key(&held.hold)
                && self.open.get(&earlier).is_some_and(|open| open.progress == Progress::Pending)
        });
        if let Some(earlier) = earlier {
            if takes_over {
                self.take_over(earlier, held, effects);
                return;
            }
            // A decision counts for one act. The same act again means that it was used, unless it cannot have been.
            let stored = self.open.get(&earlier).is_some_and(|open| matches!(open.progress, Progress::Stored(_)));
            if stored && held.supersedes != Some(earlier) {
                self.applied_presumably(earlier, effects);
            } else {
                self.supersede(earlier, Some(held.hold), effects);
            }
        }
        if let Some(superseded) = held.supersedes {
            self.supersede(superseded, Some(held.hold), effects);
        }
        let restored = self.restored.remove(&held.hold);
        self.acts.insert(act, held.hold);
        match held.outcome {
            Outcome::Ask(ref ask) => {
                let ask = ask.clone();
                self.ask(held, act, ask, restored, now, effects);
            }
            Outcome::Allow { ref by } => {
                let by = by.clone();
                self.settle(held, act, request::Effect::Allow, by, restored, now, effects);
            }
            Outcome::Deny { errno, ref by } => {
                let by = by.clone();
                self.settle(held, act, request::Effect::Deny { errno }, by, restored, now, effects);
            }
        }
    }

    /// Makes a request of a hold.
    fn ask(
        &mut self,
        held: Box<Held>,
        act: Act,
        ask: Ask,
        restored: Option<Restored>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let held = *held;
        let is_restored = restored.is_some();
        let waited_ms = now.boot_ns.saturating_sub(held.since_ns) / 1_000_000;
        let held_at_ms = now.wall_ms.saturating_sub(waited_ms);
        let deadline = ask.deadline;
        let Restored { hold: _, id, held_at_ms, deadline_ms, deadline_ns, decision, votes, escalated, extended } =
            restored.unwrap_or_else(|| Restored {
                hold: held.hold,
                id: RequestId::new(self.nonce, held.hold),
                held_at_ms,
                deadline_ms: held_at_ms.saturating_add(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
                deadline_ns: held.since_ns.saturating_add(u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX)),
                decision: None,
                votes: Vec::new(),
                escalated: 0,
                extended: 0,
            });
        let votes = people::still_counting(votes, &ask);
        let has_context = held.context.is_some();
        let effect = decision.as_ref().map(|decision| decision.effect);
        let request = Arc::new(Request {
            id,
            hold: held.hold,
            task: held.task,
            action: held.action,
            context: held.context.map_or_else(request::Context::default, |context| *context),
            ask,
            held_at_ms,
            deadline_ms,
            state: if decision.is_some() { State::Decided } else { State::Pending },
            decision,
            votes,
            escalated,
            extended,
        });
        self.requests.insert(id, held.hold);
        self.open.insert(
            held.hold,
            Open {
                act,
                interpreter: held.interpreter,
                since_ns: held.since_ns,
                deadline_ns,
                reminder: None,
                progress: Progress::Pending,
                effect,
                request: Some(request.clone()),
                has_context,
            },
        );
        if !is_restored {
            let record = Record::Hold {
                request: request.clone(),
                stage: act.stage,
                since_ns: held.since_ns,
                deadline_ns,
                continues: None,
            };
            effects.push(Effect::Append { ticket: None, record });
            if has_context {
                effects.push(Effect::Append { ticket: None, record: Record::Context(request.clone()) });
            }
        }
        if !has_context {
            effects.push(Effect::GatherContext(request.clone()));
        }
        effects.push(Effect::Notify { request, change: Change::Asked });
        if effect.is_some() {
            // The decision was read from the log, so it is durable.
            self.store(held.hold, now, effects);
        } else {
            self.deadlines.insert((deadline_ns, held.hold));
            self.remind(held.hold, held.since_ns, now);
        }
    }

    /// Decides a hold without reviewers.
    #[expect(clippy::too_many_arguments, reason = "all of it is one hold; a struct would exist for this call only")]
    fn settle(
        &mut self,
        held: Box<Held>,
        act: Act,
        effect: request::Effect,
        by: Decider,
        restored: Option<Restored>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        // The policy may have changed since a reviewer decided; the first decision wins.
        let durable = restored.and_then(|restored| restored.decision);
        let effect = failing(effect);
        let effect = durable.as_ref().map_or(effect, |decision| decision.effect);
        let ticket = durable.is_none().then(|| self.ticket(held.hold));
        self.open.insert(
            held.hold,
            Open {
                act,
                interpreter: held.interpreter,
                since_ns: held.since_ns,
                deadline_ns: u64::MAX,
                reminder: None,
                progress: ticket.map_or(Progress::Pending, Progress::Undurable),
                effect: Some(effect),
                request: None,
                has_context: true,
            },
        );
        if let Some(ticket) = ticket {
            let decision = Decision { effect, by, reason: None, grant: None, at_ms: now.wall_ms };
            let Held { hold, task, action, stage, .. } = *held;
            let record = Record::Settled(Box::new(Settled { hold, task, action, stage, decision }));
            effects.push(Effect::Append { ticket: Some(ticket), record });
        } else {
            self.store(held.hold, now, effects);
        }
    }

    /// The same task waits for the same thing under another number: the request goes on.
    fn take_over(&mut self, earlier: u64, held: Box<Held>, effects: &mut Vec<Effect>) {
        let Some(mut open) = self.open.remove(&earlier) else { return };
        let hold = held.hold;
        if let Some((at_ns, _)) = open.reminder {
            self.reminders.remove(&(at_ns, earlier));
            self.reminders.insert((at_ns, hold));
        }
        let Some(request) = &mut open.request else { return };
        Arc::make_mut(request).hold = hold;
        let request = request.clone();
        self.deadlines.remove(&(open.deadline_ns, earlier));
        self.deadlines.insert((open.deadline_ns, hold));
        self.acts.insert(open.act, hold);
        self.requests.insert(request.id, hold);
        self.remember_ended(earlier);
        // In this order, so that a reader of the log still has what people said when the other hold takes it over.
        let record = Record::Hold {
            request: request.clone(),
            stage: open.act.stage,
            since_ns: held.since_ns,
            deadline_ns: open.deadline_ns,
            continues: Some(earlier),
        };
        effects.push(Effect::Append { ticket: None, record });
        let record = Record::Superseded { hold: earlier, id: Some(request.id), by: Some(hold) };
        effects.push(Effect::Append { ticket: None, record });
        if !open.has_context {
            // The answer to the earlier question will name the earlier hold.
            effects.push(Effect::GatherContext(request));
        }
        open.since_ns = held.since_ns;
        open.interpreter = held.interpreter;
        self.open.insert(hold, open);
        if let Some(superseded) = held.supersedes {
            self.supersede(superseded, Some(hold), effects);
        }
    }

    fn context(&mut self, hold: u64, context: request::Context, effects: &mut Vec<Effect>) {
        let Some(open) = self.open.get_mut(&hold) else { return };
        let Some(request) = &mut open.request else { return };
        if open.has_context {
            return;
        }
        open.has_context = true;
        Arc::make_mut(request).context = context;
        effects.push(Effect::Append { ticket: None, record: Record::Context(request.clone()) });
        effects.push(Effect::Notify { request: request.clone(), change: Change::Context });
    }

    /// Deadlines that have passed decide.
    fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(deadline_ns, hold)) = self.deadlines.first() {
            if deadline_ns > now.boot_ns {
                return;
            }
            self.deadlines.pop_first();
            let Some(request) = self.open.get(&hold).and_then(|open| open.request.as_ref()) else { continue };
            let effect = if request.ask.danger_allow_on_timeout {
                request::Effect::Allow
            } else {
                request::Effect::Deny { errno: EPERM }
            };
            let decision = Decision { effect, by: Decider::Deadline, reason: None, grant: None, at_ms: now.wall_ms };
            let record = Record::Expiry { hold, id: request.id, decision: decision.clone() };
            self.accept(hold, decision, record, effects);
        }
    }

    /// A pending request becomes decided; its verdict waits until the record is durable.
    fn accept(&mut self, hold: u64, decision: Decision, record: Record, effects: &mut Vec<Effect>) {
        let ticket = self.ticket(hold);
        self.forget_reminder(hold);
        let Some(open) = self.open.get_mut(&hold) else { return };
        self.deadlines.remove(&(open.deadline_ns, hold));
        open.progress = Progress::Undurable(ticket);
        open.effect = Some(decision.effect);
        effects.push(Effect::Append { ticket: Some(ticket), record });
        if let Some(request) = &mut open.request {
            let changed = Arc::make_mut(request);
            changed.state = State::Decided;
            changed.decision = Some(decision);
            effects.push(Effect::Notify { request: request.clone(), change: Change::Decided });
        }
    }

    fn logged(&mut self, through: Ticket, now: Now, effects: &mut Vec<Effect>) {
        while let Some((_, hold)) = self.undurable.pop_front_if(|(ticket, _)| *ticket <= through) {
            self.store(hold, now, effects);
            if let Some(open) = self.open.get(&hold)
                && let (Some(id), Some(effect)) = (open.id(), open.effect)
            {
                effects.push(Effect::Append { ticket: None, record: Record::Verdict { hold, id, effect } });
            }
        }
        if self.log_error.take().is_some() {
            effects.push(Effect::Health(self.health()));
        }
    }

    /// Hands a durable decision to the kernel side.
    fn store(&mut self, hold: u64, now: Now, effects: &mut Vec<Effect>) {
        let Some(open) = self.open.get_mut(&hold) else { return };
        let Some(effect) = open.effect else { return };
        open.progress = Progress::Stored(now.boot_ns);
        let Act { key, stage, digest } = open.act;
        effects.push(Effect::StoreVerdict(StoreVerdict {
            hold,
            key,
            stage,
            digest,
            effect,
            interpreter: open.interpreter,
            expires_ns: now.boot_ns.saturating_add(VERDICT_LIFETIME_NS),
        }));
    }

    fn applied(&mut self, hold: u64, effect: request::Effect, presumed: bool, effects: &mut Vec<Effect>) {
        let Some(open) = self.open.get(&hold) else {
            self.restored_applied(hold, effect, presumed, effects);
            return;
        };
        if !matches!(open.progress, Progress::Stored(_)) || open.effect != Some(effect) {
            let text = format!("the kernel side applied {effect:?}, but {:?} was decided", open.effect);
            effects.push(Effect::Append { ticket: None, record: Record::Alarm { hold, text } });
        }
        let by_deadline = open.request.as_ref().and_then(|request| request.decision.as_ref());
        let by_deadline = by_deadline.is_some_and(|decision| decision.by == Decider::Deadline);
        let state = match effect {
            request::Effect::Allow => State::Released,
            request::Effect::Deny { .. } if by_deadline => State::TimedOut,
            request::Effect::Deny { .. } => State::Denied,
        };
        let record = open.id().map(|id| Record::Release { hold, id, state: state.clone(), effect, presumed });
        self.end(hold, state, record, effects);
    }

    /// A hold that this daemon never saw open, but the one before it did.
    fn restored_applied(&mut self, hold: u64, effect: request::Effect, presumed: bool, effects: &mut Vec<Effect>) {
        let Some(restored) = self.restored.remove(&hold) else { return };
        let decision = restored.decision.as_ref();
        let state = match effect {
            request::Effect::Allow => State::Released,
            request::Effect::Deny { .. } if decision.is_some_and(|d| d.by == Decider::Deadline) => State::TimedOut,
            request::Effect::Deny { .. } => State::Denied,
        };
        if decision.map(|decision| decision.effect) != Some(effect) {
            let text = format!("the kernel side applied {effect:?}, but {decision:?} was decided");
            effects.push(Effect::Append { ticket: None, record: Record::Alarm { hold, text } });
        }
        self.remember_ended(hold);
        let record = Record::Release { hold, id: restored.id, state, effect, presumed };
        effects.push(Effect::Append { ticket: None, record });
    }

    /// The event that says so was lost, but the verdict had been stored and the hold is gone.
    fn applied_presumably(&mut self, hold: u64, effects: &mut Vec<Effect>) {
        if let Some(effect) = self.open.get(&hold).and_then(|open| open.effect) {
            self.applied(hold, effect, true, effects);
        }
    }

    fn refused(&mut self, hold: u64, errno: u16, reason: String, now: Now, effects: &mut Vec<Effect>) {
        let id = match self.open.get_mut(&hold) {
            Some(open) => {
                if let Some(request) = &mut open.request
                    && request.decision.is_none()
                {
                    Arc::make_mut(request).decision = Some(Decision {
                        effect: request::Effect::Deny { errno },
                        by: Decider::Daemon,
                        reason: Some(reason.clone()),
                        grant: None,
                        at_ms: now.wall_ms,
                    });
                }
                open.id()
            }
            None => match self.restored.remove(&hold) {
                Some(restored) => {
                    self.remember_ended(hold);
                    let record = Record::Refused { hold, id: Some(restored.id), errno, reason };
                    effects.push(Effect::Append { ticket: None, record });
                    return;
                }
                None => return,
            },
        };
        self.end(hold, State::Denied, Some(Record::Refused { hold, id, errno, reason }), effects);
    }

    fn withdraw(&mut self, hold: u64, presumed: bool, effects: &mut Vec<Effect>) {
        let record = |id| Record::Withdrawn { hold, id, presumed };
        self.end_without_verdict(hold, State::Withdrawn, record, effects);
    }

    fn supersede(&mut self, hold: u64, by: Option<u64>, effects: &mut Vec<Effect>) {
        self.end_without_verdict(hold, State::Superseded, |id| Record::Superseded { hold, id, by }, effects);
    }

    fn end_without_verdict(
        &mut self,
        hold: u64,
        state: State,
        record: impl FnOnce(Option<RequestId>) -> Record,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(open) = self.open.get(&hold) {
            let record = record(open.id());
            self.end(hold, state, Some(record), effects);
        } else if let Some(restored) = self.restored.remove(&hold) {
            self.remember_ended(hold);
            effects.push(Effect::Append { ticket: None, record: record(Some(restored.id)) });
        }
    }

    /// The only way out for an open hold, but for [`Self::take_over`].
    fn end(&mut self, hold: u64, state: State, record: Option<Record>, effects: &mut Vec<Effect>) {
        self.forget_reminder(hold);
        let Some(open) = self.open.remove(&hold) else { return };
        self.deadlines.remove(&(open.deadline_ns, hold));
        if let Progress::Undurable(ticket) = open.progress {
            self.undurable.retain(|(other, _)| *other != ticket);
        }
        if self.acts.get(&open.act) == Some(&hold) {
            self.acts.remove(&open.act);
        }
        self.remember_ended(hold);
        if let Some(record) = record {
            effects.push(Effect::Append { ticket: None, record });
        }
        let Some(mut request) = open.request else { return };
        self.requests.remove(&request.id);
        Arc::make_mut(&mut request).state = state;
        if self.recent.len() == RECENT_REQUESTS
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_by_id.remove(&oldest.id);
        }
        self.recent.push_back(request.clone());
        self.recent_by_id.insert(request.id, request.clone());
        effects.push(Effect::Notify { request, change: Change::Ended });
    }

    fn ticket(&mut self, hold: u64) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.undurable.push_back((ticket, hold));
        ticket
    }

    fn remember_ended(&mut self, hold: u64) {
        if self.ended.len() == ENDED_HOLDS
            && let Some(oldest) = self.ended.pop_front()
        {
            self.ended_set.remove(&oldest);
        }
        self.ended.push_back(hold);
        self.ended_set.insert(hold);
    }
}
