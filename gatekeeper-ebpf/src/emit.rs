//! Records for the daemon. A record that does not fit is counted; nothing depends on it.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        bpf_ktime_get_boot_ns, bpf_ringbuf_output,
    },
};
use gatekeeper_common::{
    ABI_VERSION, ApprovedExec, Counter, Event, EventHeader, EventKind, Hold, Refusal, TaskKey, limits::TEXT_BYTES,
    sip::Digest,
};

use crate::{
    atomic::opaque,
    layout::offset,
    maps,
    maps::EVENTS,
    scratch::{self, Scratch},
    task::Current,
};

/// What a record says beside the action.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) kind: EventKind,
    pub(crate) reason: u16,
    pub(crate) hold: u64,
    pub(crate) supersedes: u64,
    pub(crate) digest: Digest,
    pub(crate) stage: u16,
}

/// Publishes a record with the slot's action. Returns whether it fitted.
#[inline(always)]
pub(crate) fn with_action(slot: *mut Scratch, record: Record) -> bool {
    let current = Current::new();
    // SAFETY: a claimed slot; the helpers write what they are given.
    unsafe {
        let header = &raw mut (*slot).event.header;
        (*header).reserved = 0;
        fill(header, record, current.key());
        let ids = bpf_get_current_pid_tgid();
        (*header).tgid = (ids >> 32) as u32;
        (*header).tid = ids as u32;
        (*header).real_uid = bpf_get_current_uid_gid() as u32;
        (*header).cgroup = bpf_get_current_cgroup_id();
        (*header).login_uid = current.field(offset!(task_loginuid));
        (*header).session = current.field(offset!(task_sessionid));
        (*header).parent_tgid = current.pointer(offset!(task_real_parent)).field(offset!(task_tgid));
        bpf_get_current_comm((&raw mut (*header).comm).cast(), 16);
        let text = opaque((*slot).walk.end);
        let text = if text > TEXT_BYTES as u64 { TEXT_BYTES as u64 } else { text };
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut (*slot).event).cast(),
            size_of::<Event>() as u64 + text,
            u64::from(BPF_RB_FORCE_WAKEUP),
        ) == 0
    }
}

/// Publishes a record that needs no action: what became of a hold.
#[inline(always)]
pub(crate) fn about_hold(kind: EventKind, reason: u16, task: TaskKey, hold: &Hold) {
    let record = Record { kind, reason, hold: hold.id, supersedes: 0, digest: hold.digest, stage: hold.stage };
    // That a verdict was applied wants nobody to act: the daemon comes to it with the next hold, or when it looks whether a
    // resumed task went on.
    let wake = if kind.0 == EventKind::RELEASED.0 { BPF_RB_NO_WAKEUP } else { BPF_RB_FORCE_WAKEUP };
    without_action(record, task, (hold.tgid, hold.tid), wake);
}

/// Publishes that an approved exec was stopped at the last moment.
#[inline(always)]
pub(crate) fn about_exec(refusal: Refusal, exec: &ApprovedExec) {
    let digest = Digest { low: 0, high: 0 };
    let record =
        Record { kind: EventKind::REFUSED, reason: refusal.0, hold: exec.hold, supersedes: 0, digest, stage: 0 };
    // SAFETY: no preconditions.
    let ids = unsafe { bpf_get_current_pid_tgid() };
    without_action(record, exec.task, ((ids >> 32) as u32, ids as u32), BPF_RB_FORCE_WAKEUP);
}

#[inline(always)]
fn without_action(record: Record, task: TaskKey, (tgid, tid): (u32, u32), wake: u32) {
    let Some(mut entry) = EVENTS.reserve::<EventHeader>(0) else {
        maps::count(Counter::UNPUBLISHED_OTHERS);
        return;
    };
    let header = entry.as_mut_ptr();
    // SAFETY: reserved just now.
    unsafe {
        scratch::clear(header);
        fill(header, record, task);
        (*header).tgid = tgid;
        (*header).tid = tid;
        (*header).login_uid = u32::MAX;
        (*header).session = u32::MAX;
    }
    entry.submit(u64::from(wake));
}

#[inline(always)]
unsafe fn fill(header: *mut EventHeader, record: Record, task: TaskKey) {
    // SAFETY: the caller gives a valid header.
    unsafe {
        (*header).abi = ABI_VERSION;
        (*header).kind = record.kind;
        (*header).reason = record.reason;
        (*header).hold = record.hold;
        (*header).supersedes = record.supersedes;
        (*header).task = task;
        (*header).digest = record.digest;
        (*header).time_ns = bpf_ktime_get_boot_ns();
        (*header).stage = record.stage as u32;
    }
}
