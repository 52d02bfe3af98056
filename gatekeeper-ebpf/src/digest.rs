//! Keyed hashes over what a scratch slot holds. See `gatekeeper_common::sip`.

use core::arch::asm;

use gatekeeper_common::{
    Event, Refusal,
    limits::TEXT_BYTES,
    sip::{Digest, Key, Sip},
};

use crate::{
    atomic::opaque,
    read,
    scratch::{Scratch, TEXT_SPACE},
};

/// Bytes from the start of the event to the end of the longest text.
const MOST: u64 = (size_of::<Event>() + TEXT_BYTES) as u64;
const SPACE: u64 = (size_of::<Event>() + TEXT_SPACE) as u64;

/// Hashes `length` bytes that begin `start` bytes behind the start of the slot's event. Bytes up to the next multiple of
/// eight are read but do not count.
#[inline(always)]
pub(crate) fn of(slot: *mut Scratch, key: Key, start: u64, length: u64) -> Result<Digest, Refusal> {
    if length > MOST || start > MOST {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    // SAFETY: a claimed slot.
    unsafe {
        (*slot).sip = Sip::new(key);
        (*slot).sip_at = start;
    }
    // Four words at a time save most of the calls.
    read::repeat((length >> 5) as u32, take_four, slot);
    read::repeat((length >> 3 & 3) as u32, take_word, slot);
    let rest = length & 7;
    // SAFETY: a claimed slot.
    let (sip, at) = unsafe { ((*slot).sip, (*slot).sip_at) };
    let tail = if rest == 0 { 0 } else { word(slot, at) & ((1_u64 << (8 * rest)) - 1) };
    Ok(sip.finish(tail, length))
}

/// Takes in four words.
unsafe extern "C" fn take_four(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `of` was given.
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
    // SAFETY: the slot that `of` was given.
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
    if at > SPACE - 8 {
        return 0;
    }
    let value;
    // SAFETY: inside the event and its text.
    unsafe {
        let address = (&raw const (*slot).event).cast::<u8>().add(at as usize);
        asm!("{value} = *(u64 *)({address} + 0)", value = out(reg) value, address = in(reg) address, options(readonly, nostack));
    }
    value
}
