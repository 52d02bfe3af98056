//! Threads that gather contexts, and the deadline after which nobody waits for them.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Gathering, Hints, gather_into};
use crate::request::{Context, Request};

/// How long one context may take. What is not there then becomes a gap.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// How long a job may wait for a thread.
const QUEUE_DEADLINE: Duration = Duration::from_secs(10);

/// Jobs that may wait for a thread.
const QUEUE: usize = 4_096;

/// Threads that work.
pub(super) const THREADS: usize = 2;

/// Threads that may be stuck in something an agent controls; each of them was replaced by another.
pub(super) const STUCK_THREADS: usize = 8;

/// One context to gather.
#[derive(Clone, Debug)]
pub struct Job {
    /// Number of the hold; comes back with the context.
    pub hold: u64,
    /// Who acts, and what.
    pub request: Arc<Request>,
    /// What the daemon knows already.
    pub hints: Hints,
}

type Deliver = dyn Fn(u64, Context) + Send + Sync;

/// What a thread does with a job. It may block for as long as an agent likes.
pub(super) type Gather = dyn Fn(&Gathering, &Job) + Send + Sync;

/// Gathers contexts on a few threads of its own. Every job is answered once, in time, whatever an agent does.
pub struct Gatherer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// A job waits, or it is over.
    work: Condvar,
    /// A job has been started, or it is over.
    watch: Condvar,
    deliver: Box<Deliver>,
    gather: Box<Gather>,
    deadline: Duration,
    timeouts: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Job, Instant)>,
    running: Vec<Running>,
    threads: usize,
    stuck: usize,
    next: u64,
    /// Until when the watching thread sleeps, if anything wakes it.
    watching_until: Option<Instant>,
    closed: bool,
}

/// A job that a thread is at work on.
struct Running {
    number: u64,
    hold: u64,
    until: Instant,
    gathering: Arc<Gathering>,
}

impl fmt::Debug for Gatherer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatherer").field("timeouts", &self.timeouts()).finish_non_exhaustive()
    }
}

impl Gatherer {
    /// Starts the threads. `deliver` is called on one of them, with the number of the hold, and must not block.
    ///
    /// # Errors
    ///
    /// No thread can be started.
    pub fn new(deliver: impl Fn(u64, Context) + Send + Sync + 'static) -> io::Result<Self> {
        let gather = |gathering: &Gathering, Job { request, hints, .. }: &Job| {
            gather_into(gathering, &request.task, &request.action, hints);
        };
        Self::with(Box::new(deliver), Box::new(gather), DEADLINE)
    }

    /// The same with another deadline and other work.
    pub(super) fn with(deliver: Box<Deliver>, gather: Box<Gather>, deadline: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            watch: Condvar::new(),
            deliver,
            gather,
            deadline,
            timeouts: AtomicU64::new(0),
        });
        let gatherer = Self { shared: shared.clone() };
        for _ in 0..THREADS {
            spawn(&shared, &mut shared.lock())?;
        }
        thread::Builder::new().name("context-watch".to_owned()).spawn(move || shared.watch())?;
        Ok(gatherer)
    }

    /// Takes a job. Its context is delivered later, or at once and with a gap if too many wait already.
    pub fn submit(&self, job: Job) {
        let mut state = self.shared.lock();
        if state.queue.len() >= QUEUE {
            drop(state);
            self.shared.give_up(job, "nothing was gathered: too many actions wait at the same moment");
            return;
        }
        let until = Instant::now() + QUEUE_DEADLINE;
        state.queue.push_back((job, until));
        self.shared.watch_until(&mut state, until);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Nobody needs the context of this hold any more. It may still be delivered.
    pub fn cancel(&self, hold: u64) {
        self.shared.lock().queue.retain(|(job, _)| job.hold != hold);
    }

    /// Contexts that were delivered incomplete because they took too long.
    pub fn timeouts(&self) -> u64 {
        self.shared.timeouts.load(Ordering::Relaxed)
    }

    /// Threads that are stuck now.
    pub fn stuck_threads(&self) -> usize {
        self.shared.lock().stuck
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.watch.notify_all();
    }
}

fn spawn(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
    let worker = shared.clone();
    thread::Builder::new().name("context".to_owned()).spawn(move || worker.work())?;
    state.threads += 1;
    Ok(())
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the watching thread if it would sleep too long. Deadlines mostly come in order, so it seldom has to.
    fn watch_until(&self, state: &mut State, until: Instant) {
        if state.watching_until.is_none_or(|watching| until < watching) {
            state.watching_until = Some(until);
            self.watch.notify_one();
        }
    }

    /// What each thread does.
    fn work(&self) {
        let mut state = self.lock();
        while !state.closed && state.threads <= THREADS {
            let Some((job, _)) = state.queue.pop_front() else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let gathering = Arc::new(Gathering::default());
            let number = state.next;
            state.next += 1;
            let until = Instant::now() + self.deadline;
            state.running.push(Running { number, hold: job.hold, until, gathering: gathering.clone() });
            self.watch_until(&mut state, until);
            drop(state);
            (self.gather)(&gathering, &job);
            let hold = job.hold;
            // Before the answer: the broker changes the request in place if nobody else looks at it.
            drop(job);
            state = self.lock();
            if let Some(at) = state.running.iter().position(|running| running.number == number) {
                state.running.swap_remove(at);
                drop(state);
                (self.deliver)(hold, gathering.so_far());
                state = self.lock();
            } else {
                // The deadline answered, and this thread counted as stuck. It works again; there may be one too many.
                state.stuck -= 1;
                state.threads += 1;
            }
        }
        state.threads -= 1;
    }

    /// What the watching thread does: it wakes only for deadlines of jobs that are there.
    fn watch(self: Arc<Self>) {
        let mut state = self.lock();
        while !state.closed {
            let now = Instant::now();
            if let Some(at) = state.running.iter().position(|running| running.until <= now) {
                let Running { hold, gathering, .. } = state.running.swap_remove(at);
                gathering.abandoned.store(true, Ordering::Relaxed);
                state.threads -= 1;
                state.stuck += 1;
                if state.stuck <= STUCK_THREADS
                    && let Err(error) = spawn(&self, &mut state)
                {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot replace a stuck thread");
                }
                drop(state);
                self.timeouts.fetch_add(1, Ordering::Relaxed);
                let mut context = gathering.so_far();
                context.gaps.push(format!("the rest could not be read within {} ms", self.deadline.as_millis()));
                (self.deliver)(hold, context);
                state = self.lock();
                continue;
            }
            if state.queue.front().is_some_and(|(_, until)| *until <= now)
                && let Some((job, _)) = state.queue.pop_front()
            {
                drop(state);
                self.timeouts.fetch_add(1, Ordering::Relaxed);
                self.give_up(job, "nothing was gathered: every thread was busy or stuck");
                state = self.lock();
                continue;
            }
            let running = state.running.iter().map(|running| running.until).min();
            let next = running.into_iter().chain(state.queue.front().map(|(_, until)| *until)).min();
            state.watching_until = next;
            state = match next {
                Some(until) => {
                    let wait = self.watch.wait_timeout(state, until.saturating_duration_since(now));
                    wait.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.watch.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn give_up(&self, job: Job, gap: &str) {
        let Hints { intent, labels } = job.hints;
        let context = Context { intent, labels, gaps: vec![gap.to_owned()], ..Context::default() };
        (self.deliver)(job.hold, context);
    }
}
