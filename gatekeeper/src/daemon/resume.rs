//! Waking tasks whose verdict is stored.
//!
//! A SIGCONT can come before the stop that it should end, and is then lost; so it is repeated, with growing pauses, until
//! the kernel side says that the verdict was applied. A signal alone lets nothing pass, so one too many does no harm.
//!
//! Where ancestors had stopped with the task (`parents`), they come first: sudo sends SIGCONT to its command itself once it
//! runs again, and takes it for a failure to find the command gone.

use std::{cmp::Reverse, collections::BinaryHeap};

use gatekeeper_common::TaskKey;
use rustc_hash::FxHashMap;
use rustix::process::{Pid, Signal};

use super::parents;

/// First pause, nanoseconds: longer than a stop takes, shorter than anybody notices.
const FIRST_NS: u64 = 2_000_000;
/// Longest pause. Where several threads of a process are held, each resume runs all of them again, and those without a verdict
/// stop the process again, maybe before the one that has a verdict came to it: with eight threads most attempts fail.
const LAST_NS: u64 = 100_000_000;
/// How long a task waits for its ancestors to come round: they need milliseconds, on a busy host more.
const ANCESTORS_NS: u64 = 1_000_000_000;

/// A task that is to run again.
#[derive(Debug)]
struct Waiting {
    key: TaskKey,
    tgid: u32,
    at_ns: u64,
    pause_ns: u64,
    /// Processes that were woken and shall do their part first.
    ancestors: Vec<u32>,
    /// Until when.
    ancestors_until_ns: u64,
}

/// All tasks that are to run again, by hold.
#[derive(Debug, Default)]
pub(super) struct Resumes {
    waiting: FxHashMap<u64, Waiting>,
    /// When to look after which hold. A time that its hold does not have any more means nothing: nearly all holds are gone
    /// before their first time comes, and to find each of these times costs more than to drop it once it is the first.
    times: BinaryHeap<Reverse<(u64, u64)>>,
}

impl Resumes {
    /// Resumes the task of a hold now, or once its woken `ancestors` have settled, and again until [`Self::done`].
    /// `is_held` says whether the kernel side still has this hold: then the task lives, and the pid is its own.
    pub(super) fn start(
        &mut self,
        hold: u64,
        key: TaskKey,
        tgid: u32,
        ancestors: Vec<u32>,
        now_ns: u64,
        is_held: impl Fn(&TaskKey) -> bool,
    ) {
        self.done(hold);
        let first = ancestors.is_empty();
        let (at_ns, ancestors_until_ns) = (now_ns + FIRST_NS, now_ns + ANCESTORS_NS);
        self.schedule(hold, Waiting { key, tgid, at_ns, pause_ns: FIRST_NS, ancestors, ancestors_until_ns });
        if first {
            resume(key, tgid, is_held);
        }
    }

    fn schedule(&mut self, hold: u64, waiting: Waiting) {
        self.times.push(Reverse((waiting.at_ns, hold)));
        self.waiting.insert(hold, waiting);
    }

    /// The verdict was applied, or the task is gone.
    pub(super) fn done(&mut self, hold: u64) {
        self.waiting.remove(&hold);
    }

    /// When to call [`Self::due`] next.
    pub(super) fn next_ns(&mut self) -> Option<u64> {
        self.first().map(|(at_ns, _)| at_ns)
    }

    /// The first time that means something, and its hold.
    fn first(&mut self) -> Option<(u64, u64)> {
        loop {
            let &Reverse((at_ns, hold)) = self.times.peek()?;
            if self.waiting.get(&hold).is_some_and(|waiting| waiting.at_ns == at_ns) {
                return Some((at_ns, hold));
            }
            self.times.pop();
        }
    }

    /// Resumes again what is due. Returns holds that the kernel side does not have any more.
    pub(super) fn due(&mut self, now_ns: u64, is_held: impl Fn(&TaskKey) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        while let Some((at_ns, hold)) = self.first()
            && at_ns <= now_ns
            && let Some(mut waiting) = self.waiting.remove(&hold)
        {
            if !is_held(&waiting.key) {
                gone.push(hold);
                continue;
            }
            waiting.ancestors.retain(|pid| !parents::is_settled(*pid));
            if waiting.ancestors.is_empty() || waiting.ancestors_until_ns <= now_ns {
                resume(waiting.key, waiting.tgid, &is_held);
            }
            waiting.pause_ns = (waiting.pause_ns * 2).min(LAST_NS);
            waiting.at_ns = now_ns + waiting.pause_ns;
            self.schedule(hold, waiting);
        }
        gone
    }
}

/// Sends SIGCONT to a process, if it still has the held task. Between the look and the signal the task could be killed and
/// its number given away; then another process is resumed that somebody had stopped, or nothing happens at all. (A pidfd
/// would close that gap for three more system calls each time.)
pub(super) fn resume(key: TaskKey, tgid: u32, is_held: impl Fn(&TaskKey) -> bool) {
    if is_held(&key) {
        resume_process(tgid);
    }
}

/// Sends SIGCONT to a process. A signal alone lets nothing pass.
pub(super) fn resume_process(tgid: u32) {
    if let Some(pid) = Pid::from_raw(tgid.cast_signed()) {
        // It may be gone.
        let _ = rustix::process::kill_process(pid, Signal::CONT);
    }
}
