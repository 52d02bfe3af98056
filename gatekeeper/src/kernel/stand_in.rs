//! A kernel side for tests of the whole daemon where no kernel enforces: what waits is what a test says waits, and a
//! verdict is applied as soon as it is stored.
//!
//! It is as strict about verdicts as the real one: boot, hold and digest have to be right. What is here outlives the daemon
//! of a test, as pinned maps do, and the next daemon takes it over. That a system call really waits and goes on is for the
//! scenarios.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gatekeeper_common::{Effect, Hold, Mode, TaskKey, Verdict, VerdictKey};
use rustix::event::{EventfdFlags, eventfd};

use super::{AgentRoot, KernelError, KernelLog, Limits, Matchers, Start, events, trial};

/// Number that verdicts name.
const NONCE: u64 = 7;

/// All kernel sides of this process, by where they would be pinned.
static PINNED: Mutex<BTreeMap<PathBuf, Arc<Maps>>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct State {
    holds: HashMap<TaskKey, (Hold, events::Held)>,
    /// What was applied, by hold: 0 or the errno.
    applied: BTreeMap<u64, u32>,
    news: VecDeque<events::Event>,
}

/// What stays while daemons come and go.
#[derive(Debug)]
pub(crate) struct Maps {
    state: Mutex<State>,
    bell: OwnedFd,
}

/// The maps that are, or would be, pinned there.
pub(crate) fn maps(pins: &Path) -> Arc<Maps> {
    let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Arc::new(Maps { state: Mutex::default(), bell })
    };
    Arc::clone(pinned.entry(pins.to_owned()).or_insert_with(make))
}

impl Maps {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: events::Event) {
        self.state().news.push_back(event);
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).unwrap();
    }

    /// A task begins to wait.
    pub(crate) fn hold(&self, held: events::Held) {
        let hold = Hold {
            id: held.hold,
            digest: held.digest,
            since_ns: held.time_ns,
            window_ns: 0,
            tgid: held.task.pid,
            tid: held.task.tid,
            reruns: 0,
            reruns_total: 0,
            agent: held.agent,
            kind: held.action.kind.number(),
            stage: held.stage,
            published: 1,
            reserved: 0,
        };
        self.state().holds.insert(held.key, (hold, held.clone()));
        self.tell(events::Event::Held(Box::new(held)));
    }

    /// The task of a hold ends.
    pub(crate) fn end(&self, hold: u64) {
        self.state().holds.retain(|_, (known, _)| known.id != hold);
        self.tell(events::Event::Withdrawn { hold });
    }

    /// Whether a hold still waits.
    pub(crate) fn waits(&self, hold: u64) -> bool {
        self.state().holds.values().any(|(known, _)| known.id == hold)
    }

    /// What was applied to a hold: 0 or the errno.
    pub(crate) fn applied(&self, hold: u64) -> Option<u32> {
        self.state().applied.get(&hold).copied()
    }

    fn store(&self, key: VerdictKey, verdict: Verdict) {
        let mut state = self.state();
        let Some((hold, held)) = state.holds.get(&key.task).cloned() else { return };
        if (verdict.nonce, verdict.hold, verdict.digest) != (NONCE, hold.id, hold.digest) {
            return;
        }
        if verdict.effect == Effect::REPORT {
            drop(state);
            self.tell(events::Event::Held(Box::new(held)));
            return;
        }
        let errno = if verdict.effect == Effect::ALLOW { 0 } else { verdict.errno };
        state.holds.remove(&key.task);
        assert_eq!(state.applied.insert(hold.id, errno), None, "a second verdict on one hold");
        drop(state);
        self.tell(events::Event::Released { hold: hold.id, errno: u16::try_from(errno).unwrap() });
    }
}

/// As [`super::Kernel`], with the same methods.
pub(crate) struct Kernel {
    pub(crate) start: Start,
    pub(crate) nonce: u64,
    maps: Arc<Maps>,
}

#[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "the methods of the real one")]
impl Kernel {
    pub(crate) fn start(pins: &Path, _limits: &Limits) -> Result<Self, KernelError> {
        Ok(Self { start: Start::Adopted, nonce: NONCE, maps: maps(pins) })
    }

    pub(crate) fn events(&self) -> Result<Events, KernelError> {
        Ok(Events { maps: Arc::clone(&self.maps) })
    }

    pub(crate) fn kernel_log(&mut self) -> Option<KernelLog> {
        None
    }

    pub(crate) fn attached(&self) -> Vec<&'static str> {
        Vec::new()
    }

    pub(crate) fn set_mode(&mut self, _: Mode, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    pub(crate) fn set_policy(&mut self, _: &[AgentRoot], _: &Matchers) -> Result<(), KernelError> {
        Ok(())
    }

    pub(crate) fn set_agents(&mut self, _: &[AgentRoot]) -> Result<(), KernelError> {
        Ok(())
    }

    pub(crate) fn holds(&self) -> Result<Vec<(TaskKey, Hold)>, KernelError> {
        Ok(self.maps.state().holds.iter().map(|(key, (hold, _))| (*key, *hold)).collect())
    }

    pub(crate) fn hold(&self, task: &TaskKey) -> Result<Option<Hold>, KernelError> {
        Ok(self.maps.state().holds.get(task).map(|(hold, _)| *hold))
    }

    pub(crate) fn forget_hold(&mut self, task: &TaskKey) -> Result<(), KernelError> {
        self.maps.state().holds.remove(task);
        Ok(())
    }

    pub(crate) fn prolong_verdicts(&mut self, _: VerdictKey, _: u64) -> Result<(), KernelError> {
        Ok(())
    }

    pub(crate) fn store_verdict(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError> {
        self.maps.store(key, verdict);
        Ok(())
    }

    pub(crate) fn verdicts(&self) -> Result<Vec<(VerdictKey, u64)>, KernelError> {
        Ok(Vec::new())
    }

    pub(crate) fn remove_verdict(&mut self, _: &VerdictKey) -> Result<(), KernelError> {
        Ok(())
    }

    pub(crate) fn counters(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        Ok(BTreeMap::new())
    }
}

impl trial::Maps for Kernel {
    fn held(&mut self, _: u32) -> Result<Option<(TaskKey, Hold)>, KernelError> {
        Ok(None)
    }

    fn deny(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError> {
        self.store_verdict(key, verdict)
    }

    fn nonce(&self) -> u64 {
        self.nonce
    }
}

/// As [`super::Events`].
pub(crate) struct Events {
    maps: Arc<Maps>,
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.maps.bell.as_fd().as_raw_fd()
    }
}

impl Events {
    pub(crate) fn take(&mut self) -> Option<Result<events::Event, events::BadEvent>> {
        // Nobody has rung since the last time, if this fails.
        let _ = rustix::io::read(&self.maps.bell, &mut [0; 8]);
        self.maps.state().news.pop_front().map(Ok)
    }
}
