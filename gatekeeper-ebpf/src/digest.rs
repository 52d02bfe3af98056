//! Keyed hashes over what a scratch slot holds. See `gatekeeper_common::sip`.

use core::{arch::asm, mem::offset_of};

use gatekeeper_common::{
    Refusal,
    limits::TEXT_BYTES,
    sip::{Digest, Key, Sip},
};

use crate::{
    atomic::opaque,
    read,
    scratch::{ACTION_WORDS, Scratch, TEXT_SPACE},
};

/// Where the text lies in a slot.
const TEXT: u64 = offset_of!(Scratch, text) as u64;
/// Where the packed action lies.
const PACKED: u64 = offset_of!(Scratch, packed) as u64;
/// The last place in a slot where eight bytes can be read.
const LAST: u64 = TEXT + TEXT_SPACE as u64 - 8;

/// Hashes the slot's action and its text.
///
/// Most of an action is zero, and hashing a word costs ten times as much as looking at it: the words that are not zero
/// are hashed, behind one that says which they are, so that no two actions are hashed alike.
#[inline(always)]
pub(crate) fn of_action(slot: *mut Scratch, key: Key) -> Result<Digest, Refusal> {
    let action = Scratch::action(slot).cast::<u64>();
    // SAFETY: a claimed slot.
    let packed = unsafe { (&raw mut (*slot).packed).cast::<u64>() };
    let (mut which, mut count, mut index) = (0_u64, 1_u64, 0);
    while index < ACTION_WORDS {
        // SAFETY: inside the action.
        let word = unsafe { core::ptr::read_volatile(action.add(index)) };
        // Without a branch: the verifier would look at each combination of zero words on its own.
        let some = opaque(word | word.wrapping_neg()) >> 63;
        // SAFETY: inside the packed words, as no more than `index` words lie between; the next one overwrites a zero.
        unsafe { core::ptr::write_volatile(packed.add(count as usize), word) };
        which |= some << index;
        count += some;
        index += 1;
    }
    // SAFETY: a claimed slot.
    let text = unsafe {
        *packed = which;
        (*slot).sip = Sip::new(key);
        (*slot).walk.end
    };
    words(slot, PACKED, count);
    finish(slot, TEXT, text)
}

/// Hashes `length` bytes that begin `start` bytes behind the start of the slot's text. Bytes up to the next multiple of
/// eight are read but do not count.
#[inline(always)]
pub(crate) fn of_text(slot: *mut Scratch, key: Key, start: u64, length: u64) -> Result<Digest, Refusal> {
    if start > TEXT_BYTES as u64 {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    // SAFETY: a claimed slot.
    unsafe { (*slot).sip = Sip::new(key) };
    finish(slot, TEXT + start, length)
}

/// Takes in `length` bytes, and ends the hash.
#[inline(always)]
fn finish(slot: *mut Scratch, start: u64, length: u64) -> Result<Digest, Refusal> {
    if length > TEXT_BYTES as u64 {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    words(slot, start, length >> 3);
    let rest = length & 7;
    // SAFETY: a claimed slot.
    let (sip, at) = unsafe { ((*slot).sip, (*slot).sip_at) };
    let tail = if rest == 0 { 0 } else { word(slot, at) & ((1_u64 << (8 * rest)) - 1) };
    Ok(sip.finish(tail, length))
}

/// Takes in `count` words from there on, four at a time, which saves most of the calls.
#[inline(always)]
fn words(slot: *mut Scratch, start: u64, count: u64) {
    // SAFETY: a claimed slot.
    unsafe { (*slot).sip_at = start };
    read::repeat((count >> 2) as u32, take_four, slot);
    read::repeat((count & 3) as u32, take_word, slot);
}

/// Takes in four words.
unsafe extern "C" fn take_four(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `words` was given.
    unsafe {
        let at = (*slot).sip_at;
        let mut sip = (*slot).sip;
        sip.word(word(slot, at));
        sip.word(word(slot, at + 8));
        sip.word(word(slot, at + 16));
        sip.word(word(slot, at + 24));
        (*slot).sip = sip;
        (*slot).sip_at = at + 32;
    }
    0
}

/// Takes in one word.
unsafe extern "C" fn take_word(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `words` was given.
    unsafe {
        let at = (*slot).sip_at;
        let mut sip = (*slot).sip;
        sip.word(word(slot, at));
        (*slot).sip = sip;
        (*slot).sip_at = at + 8;
    }
    0
}

/// Eight bytes, wherever they begin. Rust has no unaligned load on this target, but the instruction set has.
#[inline(always)]
fn word(slot: *mut Scratch, at: u64) -> u64 {
    let at = opaque(at);
    if at > LAST {
        return 0;
    }
    let value;
    // SAFETY: inside the slot.
    unsafe {
        let address = slot.cast::<u8>().add(at as usize);
        asm!("{value} = *(u64 *)({address} + 0)", value = out(reg) value, address = in(reg) address, options(readonly, nostack));
    }
    value
}
