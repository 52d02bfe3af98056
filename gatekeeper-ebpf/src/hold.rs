//! Holding: a task that waits, and the verdict that lets it go on.
//!
//! A hold is the entry in `holds`, a pending SIGSTOP and the result -ERESTARTNOINTR: the task leaves the kernel, stops
//! before its next user instruction and, when resumed, runs the same system call again. Being resumed means nothing.
//! Only a verdict for this task, boot and digest lets the action pass.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_send_signal, bpf_send_signal_thread};
use aya_log_ebpf::debug;
use gatekeeper_common::{
    ActionKind, Control, Counter, Effect, EventKind, Hold, Refusal, TaskKey, Verdict, VerdictKey, sip::Digest,
};

use crate::{
    emit,
    maps::{self, HOLDS, VERDICTS},
    scratch::Scratch,
};

const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
const SECOND_NS: u64 = 1_000_000_000;

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) task: TaskKey,
    pub(crate) digest: Digest,
    pub(crate) kind: ActionKind,
    pub(crate) stage: u16,
    pub(crate) agent: u32,
    pub(crate) tgid: u32,
    pub(crate) tid: u32,
}

/// What the verdicts say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Go on.
    Allow,
    /// Fail with this errno.
    Deny(u16),
    /// Keep waiting, but say once more what for.
    Report,
    /// There is none.
    None,
}

/// Looks for a verdict on exactly this and consumes it. With `keep`, an Allow stays in the map: an exec may have to run
/// again for its interpreter, and consumes all its verdicts at the end; a bind may have to run again for its file's name,
/// and its verdict names the socket, which is bound but once.
#[inline(always)]
pub(crate) fn answer(control: *mut Control, question: &Question, keep: bool) -> Answer {
    let key = VerdictKey { task: question.task, stage: question.stage as u64 };
    // SAFETY: copied at once; the daemon replaces a verdict only by the same one.
    let Some(verdict) = (unsafe { VERDICTS.get(key) }) else {
        return Answer::None;
    };
    let Verdict { nonce, digest, expires_ns, effect, errno, .. } = *verdict;
    // SAFETY: a valid map entry; no preconditions.
    let (this_boot, now) = unsafe { ((*control).nonce, bpf_ktime_get_boot_ns()) };
    if nonce != this_boot
        || digest.low != question.digest.low
        || digest.high != question.digest.high
        || now > expires_ns
    {
        maps::count(Counter::STALE_VERDICTS);
        let _ = VERDICTS.remove(key);
        return Answer::None;
    }
    if keep && effect.0 == Effect::ALLOW.0 {
        return Answer::Allow;
    }
    if VERDICTS.remove(key).is_err() {
        // Another run consumed it, or the bucket was busy: it does not count for this one.
        maps::count(Counter::LOST_VERDICTS);
        return Answer::None;
    }
    if effect.0 == Effect::ALLOW.0 {
        Answer::Allow
    } else if effect.0 == Effect::REPORT.0 {
        Answer::Report
    } else {
        let errno = if matches!(errno, 1..=4095) { errno as u16 } else { 1 };
        Answer::Deny(errno)
    }
}

/// The hold of an action is over because a verdict was applied. Another action of the same system call that waits goes on
/// waiting: the call runs from its beginning each time.
#[inline(always)]
pub(crate) fn end(question: &Question, errno: u16) {
    let task = question.task;
    maps::count(if errno == 0 { Counter::ALLOWED } else { Counter::DENIED });
    debug!((), "a verdict is applied: errno {}", errno);
    // SAFETY: copied at once; only this task's own runs write it.
    if let Some(hold) = unsafe { HOLDS.get(task) } {
        let hold = *hold;
        if hold.digest.low != question.digest.low
            || hold.digest.high != question.digest.high
            || hold.stage != question.stage
        {
            if question.kind.0 == ActionKind::OPEN.0 {
                withdraw_creation(task);
            }
            return;
        }
        let _ = HOLDS.remove(task);
        emit::about_hold(EventKind::RELEASED, errno, task, &hold);
    }
}

/// The hold of a task is over because the task ended or does something else.
#[inline(always)]
pub(crate) fn withdraw(task: TaskKey) -> bool {
    // SAFETY: copied at once; only this task's own runs write it.
    let Some(hold) = (unsafe { HOLDS.get(task) }) else {
        return false;
    };
    let hold = *hold;
    let _ = HOLDS.remove(task);
    maps::count(Counter::WITHDRAWN);
    emit::about_hold(EventKind::WITHDRAWN, 0, task, &hold);
    true
}

/// The hold of a task is over because it did something else in the very same system call: the stop is taken back.
#[inline(always)]
pub(crate) fn withdraw_creation(task: TaskKey) {
    // SAFETY: only this task's own runs write it.
    let creation = unsafe { HOLDS.get(task) }.is_some_and(|hold| hold.kind.0 == ActionKind::CREATE.0);
    if creation && withdraw(task) {
        // A SIGCONT flushes the SIGSTOP that this task has not taken yet. Should it fail, the task stops and the daemon,
        // which sees the withdrawal, resumes it.
        // SAFETY: no preconditions.
        unsafe { bpf_send_signal(SIGCONT) };
    }
}

/// Begins a hold, or goes on with it. `Ok`: the hook returns -ERESTARTNOINTR.
#[inline(always)]
pub(crate) fn wait(
    control: *mut Control,
    slot: *mut Scratch,
    question: &Question,
    report: bool,
) -> Result<(), Refusal> {
    // SAFETY: no preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let mut supersedes = 0;
    if let Some(hold) = HOLDS.get_ptr_mut(question.task) {
        // SAFETY: a map entry that only this task's own runs write.
        let hold = unsafe { &mut *hold };
        if hold.digest.low == question.digest.low
            && hold.digest.high == question.digest.high
            && hold.stage == question.stage
        {
            return again(control, slot, question, hold, now, report);
        }
        supersedes = hold.id;
        let _ = HOLDS.remove(question.task);
    }
    let id = maps::next_serial();
    let hold = Hold {
        id,
        digest: question.digest,
        since_ns: now,
        window_ns: now,
        tgid: question.tgid,
        tid: question.tid,
        reruns: 0,
        reruns_total: 0,
        agent: question.agent,
        kind: question.kind,
        stage: question.stage,
        // Unless publishing fails, below: setting it afterwards would cost each hold one more look into the map.
        published: 1,
        reserved: 0,
    };
    HOLDS.insert(question.task, hold, NO_EXIST).map_err(|_| Refusal::HOLDS_FULL)?;
    stop(question.task)?;
    maps::count(Counter::HOLDS);
    debug!((), "hold {} begins: kind {} of task {}/{}", id, question.kind.0, question.tgid, question.tid);
    publish(slot, question, id, supersedes, 1);
    Ok(())
}

/// The hook ran again without a verdict: somebody resumed the task, or the daemon wants to hear of it again.
#[inline(always)]
fn again(
    control: *mut Control,
    slot: *mut Scratch,
    question: &Question,
    hold: &mut Hold,
    now: u64,
    report: bool,
) -> Result<(), Refusal> {
    maps::count(Counter::RERUNS);
    if now - hold.window_ns > SECOND_NS {
        hold.window_ns = now;
        hold.reruns = 0;
    }
    hold.reruns += 1;
    hold.reruns_total = hold.reruns_total.wrapping_add(1);
    // SAFETY: a valid map entry.
    if hold.reruns > unsafe { (*control).reruns_per_second } {
        return Err(Refusal::RERUN_BUDGET);
    }
    let (id, published) = (hold.id, hold.published);
    stop(question.task)?;
    if published == 0 || report {
        publish(slot, question, id, 0, published);
    }
    Ok(())
}

/// Makes the stop pending that the system call is restarted by. It goes to this thread, though it stops the whole
/// process: one for the process could be pending already on behalf of another thread, the kernel would drop this one
/// (`legacy_queue` in `kernel/signal.c`), and -ERESTARTNOINTR would reach user space as an error.
#[inline(always)]
fn stop(task: TaskKey) -> Result<(), Refusal> {
    // SAFETY: no preconditions.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } != 0 {
        let _ = HOLDS.remove(task);
        return Err(Refusal::SIGNAL);
    }
    Ok(())
}

/// Tells the daemon. `was` is what the hold says of that so far.
#[inline(always)]
fn publish(slot: *mut Scratch, question: &Question, id: u64, supersedes: u64, was: u32) {
    let record = emit::Record {
        kind: EventKind::HELD,
        reason: 0,
        hold: id,
        supersedes,
        digest: question.digest,
        stage: question.stage,
    };
    let published = u32::from(emit::with_action(slot, record));
    if published == 0 {
        maps::count(Counter::UNPUBLISHED_HOLDS);
    }
    if published != was
        && let Some(hold) = HOLDS.get_ptr_mut(question.task)
    {
        // SAFETY: a map entry that only this task's own runs write.
        unsafe { (*hold).published = published };
    }
}
