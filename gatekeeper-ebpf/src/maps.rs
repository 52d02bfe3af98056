//! All maps: who writes, who reads, what happens when one is full. Sizes here are the least; the daemon sets the real
//! ones from its configuration.
//!
//! None of them evicts (LRU): an evicted hold or agent would be an open gate.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use gatekeeper_common::{
    AgentEntry, ApprovedExec, COUNTERS as COUNTER_COUNT, Control, Counter, Hold, PathPrefix, PortKey, TaskKey, Verdict,
    VerdictKey,
};

use crate::{atomic, scratch::Scratch};

/// Written by the daemon.
#[map(name = "controls")]
pub(crate) static CONTROLS: Array<Control> = Array::with_max_entries(1, 0);

/// Counted here: the number of the newest hold.
#[map(name = "serials")]
static SERIALS: Array<u64> = Array::with_max_entries(1, 0);

/// Written by the daemon. Full: the daemon refuses the agent.
#[map(name = "agents")]
pub(crate) static AGENTS: HashMap<u64, AgentEntry> = HashMap::with_max_entries(64, 0);

/// Written by the daemon. Full: the daemon refuses the policy.
#[map(name = "prefixes")]
pub(crate) static PREFIXES: LpmTrie<PathPrefix, u32> = LpmTrie::with_max_entries(64, 0);

/// Written by the daemon. Full: the daemon refuses the policy.
#[map(name = "ports")]
pub(crate) static PORTS: HashMap<PortKey, u8> = HashMap::with_max_entries(64, 0);

/// Written here; read by the daemon. Full: the action is denied.
#[map(name = "holds")]
pub(crate) static HOLDS: HashMap<TaskKey, Hold> = HashMap::with_max_entries(64, 0);

/// Written by the daemon, consumed here. Full: the daemon tries again; the action stays held.
#[map(name = "verdicts")]
pub(crate) static VERDICTS: HashMap<VerdictKey, Verdict> = HashMap::with_max_entries(64, 0);

/// Written and read here, by address of the task. Full: the exec is denied.
#[map(name = "execs")]
pub(crate) static EXECS: HashMap<u64, ApprovedExec> = HashMap::with_max_entries(64, 0);

/// Counted here, read by the daemon.
#[map(name = "counters")]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Working space, used here only. Full: the action is denied.
#[map(name = "scratches")]
pub(crate) static SCRATCHES: Array<Scratch> = Array::with_max_entries(1, 0);

/// Written here, read by the daemon. Full: counted; a hold stays, and the daemon finds it in `holds`.
#[map(name = "events")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// A number that no other hold of this boot has, from 1.
#[inline(always)]
pub(crate) fn next_serial() -> u64 {
    match SERIALS.get_ptr_mut(0) {
        // SAFETY: a valid map entry.
        Some(serial) => unsafe { atomic::fetch_add(serial, 1) + 1 },
        // Unreachable: an array has all its entries.
        None => 0,
    }
}

/// Counts one.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter.0) {
        // SAFETY: this CPU's own entry; a preempted increment loses a count, nothing else.
        unsafe { *value = (*value).wrapping_add(1) };
    }
}
