//! The first stage of the policy: can any rule match? A wrong yes costs time, a wrong no would open the gate.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_probe_read_kernel};
use gatekeeper_common::{ActionKind, AgentEntry, KindSet, PREFIX_BYTES, PortKey, Refusal, limits::TEXT_BYTES};

use crate::{
    atomic::opaque,
    maps::{PORTS, PREFIXES},
    scratch::Scratch,
};

/// `include/linux/socket.h`.
pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

/// Whether a rule may match a path of `length` bytes that begins at `start` in the text.
#[inline(always)]
pub(crate) fn path_may_match(
    slot: *mut Scratch,
    agent: *const AgentEntry,
    kind: ActionKind,
    start: u32,
    length: u32,
) -> Result<bool, Refusal> {
    let start = opaque(u64::from(start));
    if start > TEXT_BYTES as u64 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    let compared = opaque(u64::from(length));
    let compared = if compared > PREFIX_BYTES as u64 { PREFIX_BYTES as u64 } else { compared };
    // SAFETY: a claimed slot; the text is more than PREFIX_BYTES longer than TEXT_BYTES. The key is the number of
    // significant bits followed by the prefix, as `struct bpf_lpm_trie_key` wants.
    let found = unsafe {
        (*slot).prefix_len = (4 + compared as u32) * 8;
        (*slot).prefix.agent = (*agent).agent.to_be_bytes();
        let text = (&raw const (*slot).text).cast::<u8>().add(start as usize);
        // What is behind the significant bits does not count.
        if bpf_probe_read_kernel((&raw mut (*slot).prefix.path).cast(), compared as u32, text.cast()) != 0 {
            return Err(Refusal::READ_KERNEL);
        }
        bpf_map_lookup_elem((&raw const PREFIXES).cast_mut().cast(), (&raw const (*slot).prefix_len).cast::<c_void>())
    };
    if found.is_null() {
        return Ok(false);
    }
    // SAFETY: a value of the map.
    Ok(KindSet(unsafe { *found.cast::<u32>() }).contains(kind))
}

/// Whether a rule may match this address family and port.
#[inline(always)]
pub(crate) fn socket_may_match(agent: *const AgentEntry, kind: ActionKind, family: u16, port: u16) -> bool {
    // SAFETY: a valid map entry.
    let agent = unsafe { &*agent };
    if family != AF_INET && family != AF_INET6 {
        return agent.other_families.contains(kind);
    }
    if agent.any_port.contains(kind) {
        return true;
    }
    let key = PortKey { agent: agent.agent, kind, port };
    PORTS.get_ptr(key).is_some()
}
