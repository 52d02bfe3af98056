//! Is the current task an agent's?
//!
//! An agent is a cgroup subtree. For each level at which some agent's cgroup lies, the current task's ancestor there is
//! looked at: nothing is cached per process or per cgroup, so nothing can be out of date, and a cgroup that an agent
//! makes is inside from its first moment. The rest of the host pays for one helper call per such level.

use aya_ebpf::helpers::generated::bpf_get_current_ancestor_cgroup_id;
use gatekeeper_common::{AgentEntry, Control, MAX_CGROUP_LEVEL, ROOT_FILTER_WORDS};

use crate::maps::{AGENTS, CONTROLS};

/// The agent of the current task, and what the daemon says.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) control: *mut Control,
    pub(crate) agent: *const AgentEntry,
}

/// Where the current task belongs; `None` outside all agents.
#[inline(always)]
pub(crate) fn current() -> Option<Scope> {
    let control = CONTROLS.get_ptr_mut(0)?;
    // SAFETY: a valid map entry.
    let mut rest = unsafe { (*control).levels };
    let mut level = 0_u32;
    // Zero, since there is no level 63; but the verifier must take it for any number. With a known one it would follow
    // each combination of levels on its own.
    let mut candidates = rest & 1 << 63;
    while rest != 0 && level <= MAX_CGROUP_LEVEL {
        if rest & 1 != 0 {
            // SAFETY: no preconditions; 0 for a level that the task does not reach.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            let bit = id % (ROOT_FILTER_WORDS as u64 * 64);
            // SAFETY: the word is below ROOT_FILTER_WORDS.
            let word = unsafe { *(&raw const (*control).roots).cast::<u64>().add((bit >> 6) as usize) };
            candidates |= (word >> (bit & 63) & 1) << level;
        }
        rest >>= 1;
        level += 1;
    }
    if candidates == 0 {
        return None;
    }
    innermost(candidates).map(|agent| Scope { control, agent })
}

/// The innermost agent among the levels that passed the filter.
#[inline(always)]
fn innermost(candidates: u64) -> Option<*const AgentEntry> {
    let mut level = MAX_CGROUP_LEVEL;
    loop {
        if candidates >> level & 1 != 0 {
            // SAFETY: no preconditions.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            if let Some(agent) = AGENTS.get_ptr(id) {
                return Some(agent);
            }
        }
        if level == 0 {
            return None;
        }
        level -= 1;
    }
}
