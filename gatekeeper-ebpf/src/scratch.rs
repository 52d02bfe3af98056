//! Working space of one run of a hook.
//!
//! An action with its text is far larger than the 512 bytes of BPF stack. A per-CPU entry would not do: a hook can be
//! preempted, and the next task on that CPU would write into it. So a slot is claimed with one atomic instruction and
//! given back at the end; a program always reaches its end. When all slots are claimed, the action is denied.

use aya_ebpf::{helpers::generated::bpf_get_smp_processor_id, maps::lpm_trie::Key};
use gatekeeper_common::{
    Action, Event, PathPrefix, Refusal,
    limits::{ARGS_CHUNK, PATH_STEPS, TEXT_BYTES},
    sip::Sip,
};

use crate::{atomic, layout, maps::SCRATCHES};

/// Bytes of [`Scratch::text`]: the longest text, and room for one read that begins at its last byte.
pub(crate) const TEXT_SPACE: usize = TEXT_BYTES + ARGS_CHUNK;

/// Words of an action.
pub(crate) const ACTION_WORDS: usize = size_of::<Action>() / 8;
/// As many, and one in front of them.
pub(crate) const PACKED_WORDS: usize = ACTION_WORDS + 1;

/// Slots that are tried before giving up.
const TRIES: u32 = 32;

/// One slot. The fields of `walk` and `copy` live here rather than on the stack so that the callbacks of `bpf_loop` see
/// plain numbers.
#[repr(C)]
pub(crate) struct Scratch {
    /// 0, or the address of the task that works here.
    owner: u64,
    pub(crate) walk: Walk,
    pub(crate) copy: Copy,
    pub(crate) sip: Sip,
    /// Where [`crate::digest`] reads next, in bytes from the start of the slot.
    pub(crate) sip_at: u64,
    /// What [`crate::digest`] hashes of the action.
    pub(crate) packed: [u64; PACKED_WORDS],
    pub(crate) prefix_len: u32,
    pub(crate) prefix: PathPrefix,
    pub(crate) padding: u32,
    /// The names on the path, innermost first.
    pub(crate) chain: [Name; PATH_STEPS],
    pub(crate) event: Event,
    pub(crate) text: [u8; TEXT_SPACE],
}

/// Bytes of a name that are copied while its directory entry is at hand: no more than a kernel keeps in the entry
/// (`DNAME_INLINE_LEN`, 32 or 40).
pub(crate) const SHORT_NAME_BYTES: usize = 32;

/// One name on a path.
#[repr(C)]
pub(crate) struct Name {
    /// Where the kernel has it.
    pub(crate) address: u64,
    /// Bytes of `short` that are the name; 0: it has to be read from `address`.
    pub(crate) length: u64,
    pub(crate) short: [u64; SHORT_NAME_BYTES / 8],
}

/// State of a walk from a directory entry to the root.
#[repr(C)]
pub(crate) struct Walk {
    pub(crate) dentry: u64,
    /// 0 where the hook knows none.
    pub(crate) mount: u64,
    /// The mount that it is mounted on.
    pub(crate) parent: u64,
    /// The directory entry there that it covers.
    pub(crate) point: u64,
    /// Root of the file system part that it shows.
    pub(crate) root: u64,
    /// Entries of `chain` in use.
    pub(crate) depth: u64,
    /// Bytes of text written so far, of all parts.
    pub(crate) end: u64,
    /// Where the path being written starts.
    pub(crate) start: u64,
    /// 0 while under way, 1 at the root, 2 at a root that no mount leads to, more: a refusal plus [`WALK_REFUSED`].
    pub(crate) outcome: u64,
}

/// [`Walk::outcome`] and [`Copy::outcome`] from here on are refusals.
pub(crate) const REFUSED: u64 = 16;

/// State of copying a vector of user strings.
#[repr(C)]
pub(crate) struct Copy {
    /// Address of the next pointer, in the calling process.
    pub(crate) vector: u64,
    /// Bytes of one pointer: 8, or 4 for 32-bit callers.
    pub(crate) pointer_bytes: u64,
    /// Where the string being copied goes on, or 0.
    pub(crate) string: u64,
    /// Strings copied.
    pub(crate) strings: u64,
    /// Strings to copy at the most.
    pub(crate) most: u64,
    /// Bytes of the first string with its NUL, once it is copied.
    pub(crate) first_len: u64,
    /// Bytes that may still be written.
    pub(crate) outcome: u64,
}

const _: () = assert!(core::mem::offset_of!(Scratch, prefix) - core::mem::offset_of!(Scratch, prefix_len) == 4);
const _: () =
    assert!(core::mem::offset_of!(Scratch, text) - core::mem::offset_of!(Scratch, event) == size_of::<Event>());
const _: () = assert!(core::mem::offset_of!(Scratch, event) % 8 == 0);
const _: () = assert!(size_of::<Key<PathPrefix>>() == 4 + size_of::<PathPrefix>());

/// Claims a slot.
#[inline(always)]
pub(crate) fn claim(owner: u64) -> Result<*mut Scratch, Refusal> {
    let count = layout::number(layout::SCRATCH_COUNT.get());
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() as u32 };
    let mut index = cpu.wrapping_mul(gatekeeper_common::limits::SCRATCHES_PER_CPU) % count.max(1);
    let mut tries = 0;
    while tries < TRIES {
        if let Some(slot) = SCRATCHES.get_ptr_mut(index) {
            // SAFETY: a valid map entry.
            if unsafe { atomic::compare_exchange(&raw mut (*slot).owner, 0, owner) } == 0 {
                return Ok(slot);
            }
        }
        index += 1;
        if index >= count {
            index = 0;
        }
        tries += 1;
    }
    Err(Refusal::SCRATCH_FULL)
}

/// Gives a slot back.
#[inline(always)]
pub(crate) fn release(slot: *mut Scratch) {
    // SAFETY: a slot that this run claimed; a plain aligned store, visible before the next claim can succeed.
    unsafe { core::ptr::write_volatile(&raw mut (*slot).owner, 0) };
}

/// Writes zeros over a value whose size is a multiple of eight. The compiler's own way for this target is a call that
/// writes byte by byte.
#[inline(always)]
pub(crate) fn clear<T>(value: *mut T) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let mut index = 0;
    while index < size_of::<T>() / 8 {
        // SAFETY: inside the value that the caller gives; volatile, or the compiler makes that call of it.
        unsafe { core::ptr::write_volatile(value.cast::<u64>().add(index), 0) };
        index += 1;
    }
}

impl Scratch {
    /// The action under construction.
    #[inline(always)]
    pub(crate) fn action(slot: *mut Self) -> *mut Action {
        // SAFETY: only computes an address inside the slot.
        unsafe { &raw mut (*slot).event.action }
    }
}
