//! The daemon's loop and what follows from each event.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use gatekeeper_common::{self as abi, Refusal, TaskKey, VerdictKey};
use rustc_hash::FxHashMap;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    Event, Kernel, KernelEvents, Options, SCRIPT_SECONDS,
    agents::Agents,
    channels::Channels,
    enrolment::is_below,
    grants::GrantDesk,
    judge,
    notices::Notices,
    parents,
    parents::{Family, Parents},
    resume,
    resume::Resumes,
};
use crate::{
    broker::{self, Broker, Change, Effect, Gone, Input, Reply, StoreVerdict, Ticket},
    channel::{self, Verb},
    clock::{Clock, Now},
    config::{Config, Mode},
    context::{Gatherer, Job},
    control::{
        protocol::{CallError, ErrorCode, ErrorNote},
        server::Answer,
    },
    kernel::{self, KernelError, events},
    provenance::{Log, Record},
    request::{self, NoticeKind, Request, RequestId},
};

/// How often the kernel side's holds are compared with the broker's while there are any. Events tell everything sooner;
/// this finds what a full ring buffer swallowed.
const SCAN_NS: u64 = 1_000_000_000;
/// A hold that was shorter cannot have been noticed by a parent.
const NOTICED_NS: u64 = 10_000_000;
/// A hold this young needs no look before its task is resumed: in so short a time no process number is given away twice.
const FRESH_NS: u64 = 50_000_000;
/// How soon a log that failed is tried again.
const LOG_RETRY_NS: u64 = 1_000_000_000;
/// Errors that `gatekeeper status` shows.
const ERRORS: usize = 20;

/// Who waits for what the broker says.
pub(super) enum Waiter {
    /// A call of the control socket.
    Call { id: RequestId, verb: Verb, reply: DecideReply },
    /// Somebody on a channel.
    Act { id: RequestId, verb: Verb, answer: oneshot::Sender<channel::Answer> },
}

/// The calls that wait until their request has ended.
pub(super) type DecideReply = oneshot::Sender<Result<Answer, CallError>>;

/// Who waits behind a hold.
#[derive(Debug)]
pub(super) struct HeldTask {
    key: TaskKey,
    tgid: u32,
    /// When the hold began, nanoseconds of `CLOCK_BOOTTIME`.
    since_ns: u64,
    /// 0: unknown.
    parent: u32,
    /// Those above, as far as they are known.
    ancestors: Vec<u32>,
}

impl HeldTask {
    fn is_noticed(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.since_ns) > NOTICED_NS
    }

    fn into_family(self, now_ns: u64) -> Family {
        let noticed = self.is_noticed(now_ns);
        Family { tgid: self.tgid, parent: self.parent, ancestors: self.ancestors, noticed }
    }
}

pub(super) struct Daemon {
    pub(super) options: Options,
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) kernel: Kernel,
    pub(super) agents: Agents,
    pub(super) roots: Vec<kernel::AgentRoot>,
    /// What the control socket asks whether a caller is an agent's.
    pub(super) scope: Arc<RwLock<HashSet<u64>>>,
    pub(super) broker: Broker,
    pub(super) log: Log,
    pub(super) gatherer: Gatherer,
    pub(super) events: mpsc::UnboundedSender<Event>,
    pub(super) changes: broadcast::Sender<Arc<Request>>,
    pub(super) started: Instant,
    pub(super) errors: VecDeque<ErrorNote>,
    /// Tasks of the holds that the broker knows.
    pub(super) tasks: FxHashMap<u64, HeldTask>,
    pub(super) resumes: Resumes,
    pub(super) parents: Parents,
    pub(super) channels: Channels,
    pub(super) grants: GrantDesk,
    pub(super) notices: Notices,
    pub(super) deciders: HashMap<u64, Waiter>,
    pub(super) answered: HashMap<RequestId, Vec<DecideReply>>,
    pub(super) next_reply: u64,
    pub(super) deadline_ns: Option<u64>,
    pub(super) scan_ns: Option<u64>,
    pub(super) log_retry_ns: Option<u64>,
    /// Latest ticket that waits for the log.
    pub(super) ticket: Option<Ticket>,
    pub(super) stopping: bool,
}

impl Daemon {
    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Remembers an error for `gatekeeper status`, and logs it.
    pub(super) fn error(&mut self, text: impl Into<String>) {
        let text = text.into();
        tracing::error!("{text}");
        if self.errors.len() == ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(ErrorNote { at_ms: self.now().wall_ms, text });
    }

    /// Takes everything that the kernel side has written.
    pub(super) fn drain(&mut self, ring: &mut KernelEvents) {
        let now = self.now();
        while let Some(event) = ring.take() {
            match event {
                Ok(event) => self.kernel_event(event, now),
                Err(err) => self.error(err.to_string()),
            }
        }
    }

    fn kernel_event(&mut self, event: events::Event, now: Now) {
        match event {
            events::Event::Held(held) => self.held(held, now),
            events::Event::Released { hold, errno } => {
                let effect = if errno == 0 { request::Effect::Allow } else { request::Effect::Deny { errno } };
                self.ended(hold, now);
                self.step_at(Input::Applied { hold, effect }, now);
            }
            events::Event::Withdrawn { hold } => {
                self.ended(hold, now);
                self.step_at(Input::Gone { hold, why: Gone::TaskEnded }, now);
            }
            events::Event::Refused { refusal, hold, task, action, agent } => {
                let (name, reason) = refusal_text(refusal);
                if refusal == Refusal::ARGS_CHANGED {
                    // Its hold has ended already, by the verdict that let it go on.
                    self.error(format!("process {} was killed: {reason}", task.pid));
                    let record =
                        Record::Refused { task, action: None, refusal: name.to_owned(), reason: reason.to_owned() };
                    self.record(&record);
                    return;
                }
                if hold != 0 {
                    self.ended(hold, now);
                    self.step_at(Input::Refused { hold, errno: 1, reason: reason.to_owned() }, now);
                    return;
                }
                let action = action.map(|mut action| {
                    action.agent = self.agent_name(agent.unwrap_or_default());
                    *action
                });
                if let Some(action) = &action {
                    let why = Some(reason.to_owned());
                    self.notice_unasked(&task, action, NoticeKind::Refused, None, why);
                }
                let record = Record::Refused { task, action, refusal: name.to_owned(), reason: reason.to_owned() };
                self.record(&record);
            }
            events::Event::Observed(held) => self.observed(*held),
        }
    }

    fn agent_name(&self, number: u32) -> String {
        self.agents.name(number).unwrap_or("unknown").to_owned()
    }

    fn held(&mut self, mut held: Box<events::Held>, now: Now) {
        if held.agent == kernel::trial::AGENT {
            return;
        }
        if let Some(known) = self.tasks.get(&held.hold) {
            // The daemon asked for this record; the hold began earlier, and so does its deadline.
            held.time_ns = known.since_ns;
        }
        let agent = self.agent_name(held.agent);
        judge::complete(&mut held, agent);
        if judge::may_be_script(&held) {
            // Known already, or harmless whatever runs it: no need to look into the file.
            self.remember(&held);
            self.look_into(held);
            return;
        }
        self.judged(held, None, now);
    }

    /// Reads the first line of a program on a thread that may block, for as long as an agent's file system likes.
    fn look_into(&self, held: Box<events::Held>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let (task, action) = (held.task.clone(), held.action.clone());
            let look = tokio::task::spawn_blocking(move || judge::script_interpreter(&task, &action));
            let interpreter = tokio::time::timeout(Duration::from_secs(SCRIPT_SECONDS), look).await;
            // Too slow, or it failed: the interpreter is judged on its own when the kernel comes to it.
            let interpreter = interpreter.ok().and_then(Result::ok).flatten();
            // The daemon that would receive it has stopped otherwise.
            let _ = events.send(Event::Script { held, interpreter });
        });
    }

    /// Hands a held action to the broker, with what the policy says.
    pub(super) fn judged(&mut self, held: Box<events::Held>, interpreter: Option<judge::ScriptInterpreter>, now: Now) {
        let outcome = judge::outcome(judge::evaluate(&self.config.policy, &held.action, interpreter.as_ref()));
        self.remember(&held);
        if self.needs_facts(held.hold, &outcome) {
            self.find_facts(held, interpreter);
            return;
        }
        self.hand_over(held, interpreter, outcome, now);
    }

    pub(super) fn hand_over(
        &mut self,
        held: Box<events::Held>,
        interpreter: Option<judge::ScriptInterpreter>,
        outcome: broker::Outcome,
        now: Now,
    ) {
        self.notice_rule(&held, &outcome);
        let held = *held;
        let input = Box::new(broker::Held {
            hold: held.hold,
            supersedes: held.supersedes,
            key: held.key,
            task: held.task,
            stage: held.stage,
            digest: held.digest,
            action: held.action,
            interpreter: interpreter.map(|interpreter| interpreter.identity()),
            outcome,
            context: None,
            since_ns: held.time_ns,
        });
        if let Some(superseded) = held.supersedes {
            self.ended(superseded, now);
        }
        self.step_at(Input::Held(input), now);
        self.scan_ns.get_or_insert(now.boot_ns + SCAN_NS);
    }

    fn observed(&mut self, mut held: events::Held) {
        let agent = self.agent_name(held.agent);
        judge::complete(&mut held, agent);
        let evaluation = self.config.policy.evaluate(&held.action);
        let outcome = match &evaluation.outcome {
            crate::policy::Outcome::Allow => return,
            crate::policy::Outcome::Deny { .. } => "deny",
            crate::policy::Outcome::Ask(_) => "ask",
        };
        let record = Record::Observed {
            task: held.task,
            action: held.action,
            outcome: outcome.to_owned(),
            rule: evaluation.rule,
        };
        self.record(&record);
    }

    pub(super) fn remember(&mut self, held: &events::Held) {
        let (key, tgid, since_ns, parent) = (held.key, held.task.pid, held.time_ns, held.task.parent);
        self.tasks.entry(held.hold).or_insert(HeldTask { key, tgid, since_ns, parent, ancestors: Vec::new() });
    }

    /// What surrounds a held action became known.
    pub(super) fn context(&mut self, hold: u64, context: Box<request::Context>) {
        if let Some(task) = self.tasks.get_mut(&hold) {
            task.ancestors.extend(context.ancestry.iter().map(|ancestor| ancestor.pid));
        }
        self.step(Input::Context { hold, context });
    }

    /// Forgets the task of a hold. Parents that stopped with it go on.
    fn ended(&mut self, hold: u64, now: Now) {
        self.resumes.done(hold);
        self.grants.forget(hold);
        if let Some(task) = self.tasks.remove(&hold) {
            self.parents.start(task.into_family(now.boot_ns), now.boot_ns);
        }
    }

    /// Writes a record that nothing waits for.
    pub(super) fn record(&mut self, record: &Record) {
        let now = self.now();
        if let Err(err) = self.log.push(record, now) {
            self.error(format!("a record cannot be written: {err}"));
        }
    }

    /// One step of the broker, and what follows.
    pub(super) fn step(&mut self, input: Input) {
        self.step_at(input, self.now());
    }

    fn step_at(&mut self, input: Input, now: Now) {
        let effects = self.broker.step(input, now);
        for effect in effects {
            self.effect(effect, now);
        }
    }

    fn effect(&mut self, effect: Effect, now: Now) {
        match effect {
            Effect::Append { ticket, record } => {
                match self.log.push(&record.into(), now) {
                    Ok(()) => self.ticket = self.ticket.max(ticket),
                    // Its ticket never comes: the hold stays, which is what a record that cannot be written means.
                    Err(err) => self.error(format!("a record cannot be written: {err}")),
                }
            }
            Effect::StoreVerdict(verdict) => self.store_verdict(verdict, now),
            Effect::GatherContext(request) => {
                let cgroup = judge::cgroup_of(request.task.pid).unwrap_or_default();
                let hints = self.agents.hints(&request.action.agent, &cgroup, &self.config);
                self.gatherer.submit(Job { hold: request.hold, request, hints });
            }
            Effect::Notify { request, change } => self.notify(request, change),
            Effect::Reply { to, reply } => self.reply(to, reply),
            Effect::Report { hold } => self.ask_again(hold, now),
            Effect::Health(health) => {
                if let Some(error) = health.log_error {
                    self.error(format!("the provenance log cannot be written, so nothing that waits goes on: {error}"));
                }
            }
            Effect::Timer { at_ns } => self.deadline_ns = at_ns,
        }
    }

    fn store_verdict(&mut self, verdict: StoreVerdict, now: Now) {
        let (effect, errno) = match verdict.effect {
            request::Effect::Allow => (abi::Effect::ALLOW, 0),
            request::Effect::Deny { errno } => (abi::Effect::DENY, u32::from(errno)),
        };
        let key = VerdictKey { task: verdict.key, stage: u64::from(verdict.stage) };
        if let Err(err) = self.kernel.prolong_verdicts(key, verdict.expires_ns) {
            self.error(format!("a verdict cannot be prolonged: {err}"));
        }
        let stored = self.kernel.store_verdict(
            key,
            abi::Verdict {
                nonce: self.kernel.nonce,
                hold: verdict.hold,
                digest: verdict.digest,
                expires_ns: verdict.expires_ns,
                interpreter_dev: verdict.interpreter.map_or(0, |interpreter| interpreter.dev),
                interpreter_ino: verdict.interpreter.map_or(0, |interpreter| interpreter.ino),
                effect,
                errno,
            },
        );
        if let Err(err) = stored {
            // The broker has it stored again when the next scan still finds the hold.
            self.error(format!("a verdict cannot be stored: {}", chain(&err)));
            return;
        }
        self.wake(verdict.hold, verdict.key, now);
    }

    fn wake(&mut self, hold: u64, key: TaskKey, now: Now) {
        let kernel = &self.kernel;
        let held = |key: &TaskKey| kernel.hold(key).ok().flatten();
        let (tgid, parent, above, since_ns) = match self.tasks.get(&hold) {
            Some(task) => (task.tgid, task.parent, task.ancestors.as_slice(), task.since_ns),
            None => match held(&key) {
                Some(hold) => (hold.tgid, 0, [].as_slice(), 0),
                None => return,
            },
        };
        let age_ns = now.boot_ns.saturating_sub(since_ns);
        let ancestors = if age_ns > NOTICED_NS {
            let family = Family { tgid, parent, ancestors: above.to_vec(), noticed: true };
            let is_agents = |cgroup: &str| self.is_agents(cgroup);
            parents::wake(&family, self.agents.cgroup_root(), &is_agents, &|| holding(kernel))
        } else {
            Vec::new()
        };
        let fresh = age_ns < FRESH_NS;
        self.resumes.start(hold, key, tgid, ancestors, now.boot_ns, |key| {
            fresh || held(key).is_some_and(|found| found.id == hold)
        });
    }

    /// Has the kernel side publish a hold that the broker does not know.
    fn ask_again(&mut self, hold: u64, now: Now) {
        let Some(key) = self.tasks.get(&hold).map(|task| task.key) else { return };
        if let Ok(Some(found)) = self.kernel.hold(&key)
            && found.id == hold
        {
            self.report(key, found, now);
        }
    }

    fn report(&mut self, key: TaskKey, found: abi::Hold, now: Now) {
        let verdict = abi::Verdict {
            nonce: self.kernel.nonce,
            hold: found.id,
            digest: found.digest,
            expires_ns: now.boot_ns + broker::VERDICT_LIFETIME_NS,
            interpreter_dev: 0,
            interpreter_ino: 0,
            effect: abi::Effect::REPORT,
            errno: 0,
        };
        if let Err(err) = self.kernel.store_verdict(VerdictKey { task: key, stage: u64::from(found.stage) }, verdict) {
            self.error(format!("a hold cannot be asked for: {err}"));
            return;
        }
        let kernel = &self.kernel;
        resume::resume(key, found.tgid, |key| kernel.hold(key).ok().flatten().is_some_and(|now| now.id == found.id));
    }

    fn notify(&mut self, request: Arc<Request>, change: Change) {
        self.notice_request(&request, change);
        if change == Change::Decided {
            self.give_grant(&request);
        }
        self.show(&request, change);
        if change == Change::Ended {
            let stopped = self.request_ended(request.id);
            self.gatherer.cancel(request.hold);
            for reply in self.answered.remove(&request.id).unwrap_or_default() {
                let not = stopped.clone().map_err(|text| CallError::new(ErrorCode::Internal, text));
                // The caller may be gone.
                let _ = reply.send(not.map(|()| Answer::Request(request.clone())));
            }
        }
        // Nobody may be watching.
        let _ = self.changes.send(request);
    }

    fn reply(&mut self, to: u64, reply: Reply) {
        let (id, verb, sender) = match self.deciders.remove(&to) {
            Some(Waiter::Call { id, verb, reply }) => (id, verb, reply),
            Some(Waiter::Act { id, verb, answer }) => {
                // Their connection may be gone.
                let _ = answer.send(super::channels::answer(&reply, verb, id));
                return;
            }
            None => return,
        };
        let result = match reply {
            Reply::Decided => {
                self.answered.entry(id).or_default().push(sender);
                return;
            }
            Reply::AlreadyDecided(decision) => Err(CallError::new(
                ErrorCode::AlreadyDecided,
                format!("{id} was decided already: {}", super::calls::decision_text(&decision)),
            )),
            Reply::NotPending(state) => Err(CallError::new(
                ErrorCode::AlreadyDecided,
                format!("{id} does not wait any more: {}", super::calls::state_text(&state)),
            )),
            Reply::Unknown => Err(super::calls::no_such_request(id)),
            // An approval counts, and more are wanted: the caller gets the request as it stands.
            Reply::Voted | Reply::Done => match self.broker.request(id) {
                Some(request) => Ok(Answer::Request(request.clone())),
                None => Err(super::calls::no_such_request(id)),
            },
            Reply::VotedBefore | Reply::NoMore | Reply::NotOffered(_) => {
                let code = match reply {
                    Reply::NoMore => ErrorCode::NoMore,
                    Reply::NotOffered(_) => ErrorCode::Invalid,
                    _ => ErrorCode::AlreadyDecided,
                };
                Err(CallError::new(code, super::channels::answer(&reply, verb, id).text))
            }
        };
        let _ = sender.send(result);
    }

    /// Has whoever waits told what the broker says. Returns what to give the broker for that.
    pub(super) fn wait_for_reply(&mut self, waiter: Waiter) -> u64 {
        let to = self.next_reply;
        self.next_reply += 1;
        self.deciders.insert(to, waiter);
        to
    }

    /// Makes durable what waits for it, until nothing follows from that any more.
    pub(super) fn settle(&mut self) {
        while let Some(ticket) = self.ticket.take() {
            match self.log.commit() {
                Ok(()) => {
                    self.log_retry_ns = None;
                    self.step(Input::Logged { through: ticket });
                }
                Err(err) => {
                    self.ticket = Some(ticket);
                    self.log_retry_ns = Some(self.now().boot_ns + LOG_RETRY_NS);
                    self.step(Input::LogFailed { error: chain(&err) });
                    self.answer_undurable();
                    return;
                }
            }
        }
        self.tell_known();
        if self.log.is_dirty()
            && let Err(err) = self.log.flush()
        {
            self.log_retry_ns = Some(self.now().boot_ns + LOG_RETRY_NS);
            self.step(Input::LogFailed { error: chain(&err) });
        }
    }

    /// Tells those who decided that their decision waits for the log. It counts nevertheless.
    fn answer_undurable(&mut self) {
        let broker = &self.broker;
        for (_, replies) in self.answered.extract_if(|id, _| !broker.is_durable(*id)) {
            for reply in replies {
                let error = CallError::new(
                    ErrorCode::Log,
                    "the decision is taken, but cannot be written to the provenance log",
                )
                .with_hint("it takes effect when the log can be written again; see `gatekeeper status`");
                // The caller may be gone.
                let _ = reply.send(Err(error));
            }
        }
    }

    /// When the loop has to wake up by itself.
    pub(super) fn next_ns(&mut self) -> Option<u64> {
        let asked = [self.deadline_ns, self.grants.next_ns(), self.channels.next_ns()];
        let kernel = [self.scan_ns, self.log_retry_ns, self.resumes.next_ns(), self.parents.next_ns()];
        asked.into_iter().chain(kernel).flatten().min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let now = self.now();
        if self.deadline_ns.is_some_and(|at| at <= now.boot_ns) {
            self.step(Input::Tick);
        }
        if self.grants.next_ns().is_some_and(|at| at <= now.boot_ns) {
            self.end_grants();
        }
        if self.channels.next_ns().is_some_and(|at| at <= now.boot_ns) {
            self.end_early();
        }
        if self.log_retry_ns.is_some_and(|at| at <= now.boot_ns) {
            self.log_retry_ns = None;
            match self.ticket {
                Some(_) => self.settle(),
                None if self.log.is_dirty() => {
                    if self.log.commit().is_ok() {
                        self.step(Input::Logged { through: Ticket(0) });
                    } else {
                        self.log_retry_ns = Some(now.boot_ns + LOG_RETRY_NS);
                    }
                }
                None => {}
            }
        }
        let kernel = &self.kernel;
        for hold in self.resumes.due(now.boot_ns, |key| kernel.hold(key).ok().flatten().is_some()) {
            tracing::debug!(hold, "a hold ended without a record");
        }
        let (kernel, roots) = (&self.kernel, &self.roots);
        self.parents.look(now.boot_ns, self.agents.cgroup_root(), |cgroup| is_below(roots, cgroup), || holding(kernel));
        if self.scan_ns.is_some_and(|at| at <= now.boot_ns) {
            self.scan();
        }
    }

    /// Compares the kernel side's holds with the broker's.
    pub(super) fn scan(&mut self) {
        let now = self.now();
        let holds = match self.kernel.holds() {
            Ok(holds) => holds,
            Err(err) => {
                self.error(format!("the kernel's holds cannot be read: {err}"));
                self.scan_ns = Some(now.boot_ns + SCAN_NS);
                return;
            }
        };
        let mut open = HashSet::with_capacity(holds.len());
        // The verdict on a script waits for the one on its interpreter, however long that takes.
        let stages: HashMap<_, _> = holds.iter().map(|(key, hold)| (*key, u64::from(hold.stage))).collect();
        for (key, hold) in holds {
            if hold.agent == kernel::trial::AGENT {
                continue;
            }
            if is_alive(&hold) {
                open.insert(hold.id);
                self.tasks.entry(hold.id).or_insert_with(|| HeldTask {
                    key,
                    tgid: hold.tgid,
                    since_ns: hold.since_ns,
                    parent: 0,
                    ancestors: Vec::new(),
                });
            } else if let Err(err) = self.kernel.forget_hold(&key) {
                self.error(format!("the hold of an ended task cannot be removed: {}", chain(&err)));
            }
        }
        let gone: Vec<_> = self.tasks.keys().filter(|hold| !open.contains(hold)).copied().collect();
        for hold in gone {
            self.ended(hold, now);
        }
        let any = !open.is_empty() || self.broker.open_holds() > 0;
        self.step(Input::Scan { open, taken_ns: now.boot_ns });
        self.forget_old_verdicts(now, &stages);
        self.scan_ns = any.then_some(now.boot_ns + SCAN_NS);
    }

    fn forget_old_verdicts(&mut self, now: Now, stages: &HashMap<TaskKey, u64>) {
        let Ok(verdicts) = self.kernel.verdicts() else { return };
        for (key, expires_ns) in verdicts {
            let awaited = stages.get(&key.task).is_some_and(|stage| key.stage < *stage);
            if expires_ns < now.boot_ns
                && !awaited
                && let Err(err) = self.kernel.remove_verdict(&key)
            {
                self.error(format!("an old verdict cannot be removed: {}", chain(&err)));
            }
        }
    }

    /// Whether anything is enforced.
    pub(super) fn enforces(&self) -> bool {
        self.config.mode == Mode::Enforce
    }
}

/// The processes that wait.
fn holding(kernel: &Kernel) -> HashSet<u32> {
    kernel.holds().unwrap_or_default().into_iter().map(|(_, hold)| hold.tgid).collect()
}

/// Whether the task of a hold still lives. What cannot be told counts as alive: the hold stays.
fn is_alive(hold: &abi::Hold) -> bool {
    let path = format!("/proc/{}/task/{}", hold.tgid, hold.tid);
    !matches!(std::fs::metadata(path), Err(err) if err.kind() == std::io::ErrorKind::NotFound)
}

fn refusal_text(refusal: Refusal) -> (&'static str, &'static str) {
    Refusal::ALL
        .iter()
        .find(|(known, ..)| *known == refusal)
        .map_or(("unknown", "for a reason that this version does not know"), |(_, name, text)| (name, text))
}

/// An error with all its sources, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

impl From<KernelError> for CallError {
    fn from(error: KernelError) -> Self {
        Self::new(ErrorCode::CannotEnforce, chain(&error))
    }
}
