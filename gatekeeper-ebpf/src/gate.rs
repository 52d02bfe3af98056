//! The gate: what happens to an action. This is the only place that chooses a hook's return value.
//!
//! A value other than 0 from an earlier program is passed on unchanged, and outside agents nothing changes. For an
//! agent, what no rule can match goes on; everything else waits for a verdict. What cannot be decided (unreadable,
//! too long, not restartable) is refused with EPERM, and counted.
//!
//! Return values of LSM programs lie in -4095..=0 (`bpf_lsm_get_retval_range`); the last argument of a hook is the
//! earlier result; the licence must be GPL-compatible for the helpers used.

use aya_ebpf::helpers::generated::bpf_get_current_pid_tgid;
use aya_log_ebpf::debug;
use gatekeeper_common::{ActionKind, Counter, EventKind, Mode, Refusal, sip::Digest};

use crate::{
    atomic::opaque,
    digest, emit,
    hold::{self, Answer, Question},
    layout::offset,
    maps,
    scope::{self, Scope},
    scratch::{self, Scratch},
    task::Current,
};

/// `include/linux/socket.h`.
const AF_UNIX: u16 = 1;
const EPERM: i64 = 1;
/// `ERESTARTNOINTR`, from `include/linux/errno.h`: run the system call again, whatever the handlers say.
const RESTART: i64 = 513;

/// The result of an earlier program, or of a verdict, in the range that the verifier wants to see proven. Each bound is
/// checked on its own: the compiler would make one unsigned comparison of the two, which the verifier cannot follow.
#[inline(always)]
pub(crate) fn bounded(result: i64) -> i64 {
    let result = opaque(result as u64) as i64;
    if result > 0 {
        return -EPERM;
    }
    let result = opaque(result as u64) as i64;
    if result < -4095 {
        return -EPERM;
    }
    result
}

/// Whether any rule can match the action that a hook has described.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// None can: it goes on.
    No,
    /// One may: it waits.
    Maybe,
}

/// Decides about one action. `describe` fills the slot's action and text and says whether a rule may match.
#[inline(always)]
pub(crate) fn decide(kind: ActionKind, describe: impl FnOnce(Scope, *mut Scratch) -> Result<Match, Refusal>) -> i64 {
    let Some(scope) = scope::current() else {
        return 0;
    };
    decide_stage(scope, kind, 0, describe, |_, _| Ok(()))
}

/// Like [`decide`], for a hook that has looked at the scope already and for an exec, whose verdict must stay until the
/// program really starts: `passed` is called when it lets the exec pass.
#[inline(always)]
pub(crate) fn decide_stage(
    scope: Scope,
    kind: ActionKind,
    stage: u16,
    describe: impl FnOnce(Scope, *mut Scratch) -> Result<Match, Refusal>,
    passed: impl FnOnce(*mut Scratch, u64) -> Result<(), Refusal>,
) -> i64 {
    // SAFETY: a valid map entry.
    if !unsafe { (*scope.agent).kinds }.contains(kind) {
        return 0;
    }
    let current = Current::new();
    let slot = match scratch::claim(current.address()) {
        Ok(slot) => slot,
        Err(refusal) => return refuse_without_action(scope, refusal),
    };
    let result = with_slot(scope, kind, stage, slot, describe, passed);
    scratch::release(slot);
    result
}

#[inline(always)]
fn with_slot(
    scope: Scope,
    kind: ActionKind,
    stage: u16,
    slot: *mut Scratch,
    describe: impl FnOnce(Scope, *mut Scratch) -> Result<Match, Refusal>,
    passed: impl FnOnce(*mut Scratch, u64) -> Result<(), Refusal>,
) -> i64 {
    begin(scope, kind, slot);
    match describe(scope, slot) {
        Ok(Match::No) => {
            maps::count(Counter::UNMATCHED);
            if kind.0 == ActionKind::OPEN.0 {
                hold::withdraw_creation(Current::new().key());
            }
            0
        }
        Ok(Match::Maybe) => judge(scope, kind, stage, slot, passed),
        Err(refusal) => refuse(scope, slot, refusal, 0, Digest { low: 0, high: 0 }, stage),
    }
}

/// Clears the slot's action and writes what is known of every action.
#[inline(always)]
fn begin(scope: Scope, kind: ActionKind, slot: *mut Scratch) {
    let cred = Current::new().pointer(offset!(task_cred));
    let action = Scratch::action(slot);
    scratch::clear(action);
    // SAFETY: a claimed slot; a valid map entry.
    unsafe {
        (*slot).walk.end = 0;
        (*action).kind = kind;
        (*action).agent = (*scope.agent).agent;
        (*action).uid = cred.field(offset!(cred_euid));
        (*action).gid = cred.field(offset!(cred_egid));
    }
}

#[inline(always)]
fn judge(
    scope: Scope,
    kind: ActionKind,
    stage: u16,
    slot: *mut Scratch,
    passed: impl FnOnce(*mut Scratch, u64) -> Result<(), Refusal>,
) -> i64 {
    let none = Digest { low: 0, high: 0 };
    // SAFETY: a valid map entry.
    let digest = match digest::of_action(slot, unsafe { (*scope.control).key }) {
        Ok(digest) => digest,
        Err(refusal) => return refuse(scope, slot, refusal, 0, none, stage),
    };
    if observing(scope) {
        maps::count(Counter::OBSERVED);
        publish(slot, EventKind::OBSERVED, 0, 0, digest, stage);
        return 0;
    }
    // SAFETY: no preconditions; a valid map entry.
    let (ids, agent) = unsafe { (bpf_get_current_pid_tgid(), (*scope.agent).agent) };
    let current = Current::new();
    let question =
        Question { task: current.key(), digest, kind, stage, agent, tgid: (ids >> 32) as u32, tid: ids as u32 };
    let keep = kind.0 == ActionKind::EXEC.0 || kind.0 == ActionKind::BIND.0 && names_a_file(slot);
    let answer = hold::answer(scope.control, &question, keep);
    let report = match answer {
        Answer::Allow => {
            let hold_id = if keep { hold_id(&question) } else { 0 };
            if let Err(refusal) = passed(slot, hold_id) {
                return refuse(scope, slot, refusal, hold_id, digest, stage);
            }
            hold::end(&question, 0);
            return 0;
        }
        Answer::Deny(errno) => {
            hold::end(&question, errno);
            return bounded(-i64::from(errno));
        }
        Answer::Report => true,
        Answer::None => false,
    };
    if let Err(refusal) = current.can_be_held() {
        let hold_id = hold_id(&question);
        return refuse(scope, slot, refusal, hold_id, digest, stage);
    }
    if let Err(refusal) = hold::wait(scope.control, slot, &question, report) {
        let hold_id = hold_id(&question);
        return refuse(scope, slot, refusal, hold_id, digest, stage);
    }
    -RESTART
}

/// Whether a socket is to get a name in a file system, which is a second action of the same system call: `path_mknod`.
#[inline(always)]
fn names_a_file(slot: *mut Scratch) -> bool {
    // SAFETY: a claimed slot, whose text starts with an address and is aligned.
    unsafe {
        let head = (&raw const (*slot).text).cast::<u16>();
        (*slot).walk.end > 2 && *head == AF_UNIX && *head.add(1) as u8 != 0
    }
}

#[inline(always)]
fn hold_id(question: &Question) -> u64 {
    // SAFETY: one number, read at once.
    unsafe { maps::HOLDS.get(question.task) }.map_or(0, |hold| hold.id)
}

#[inline(always)]
fn observing(scope: Scope) -> bool {
    // SAFETY: a valid map entry.
    unsafe { (*scope.control).mode.0 == Mode::OBSERVE.0 }
}

/// Denies because no verdict can be waited for, and ends the hold if there was one.
#[inline(always)]
fn refuse(scope: Scope, slot: *mut Scratch, refusal: Refusal, hold_id: u64, digest: Digest, stage: u16) -> i64 {
    if hold_id != 0 {
        let _ = maps::HOLDS.remove(Current::new().key());
    }
    maps::count(Counter(Counter::REFUSALS.0 + refusal.0 as u32));
    debug!((), "refused: reason {}, hold {}", refusal.0, hold_id);
    publish(slot, EventKind::REFUSED, refusal.0, hold_id, digest, stage);
    if observing(scope) { 0 } else { -EPERM }
}

/// The same when there is no slot to describe the action in.
#[inline(always)]
fn refuse_without_action(scope: Scope, refusal: Refusal) -> i64 {
    maps::count(Counter(Counter::REFUSALS.0 + refusal.0 as u32));
    if observing(scope) { 0 } else { -EPERM }
}

#[inline(always)]
fn publish(slot: *mut Scratch, kind: EventKind, reason: u16, hold: u64, digest: Digest, stage: u16) {
    if !emit::with_action(slot, emit::Record { kind, reason, hold, supersedes: 0, digest, stage }) {
        maps::count(Counter::UNPUBLISHED_OTHERS);
    }
}
