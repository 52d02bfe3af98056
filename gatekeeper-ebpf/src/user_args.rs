//! The arguments and the environment of an exec: first as the caller's memory has them, later as the kernel copied them.
//!
//! The first reading is what the reviewer sees and what the digest covers. Other threads or processes may share that
//! memory and change it; so the second reading, of the new program's own stack, is compared before its first
//! instruction.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use gatekeeper_common::{
    Refusal,
    limits::{ARGS_BYTES, ARGS_CHUNK, ARGS_STEPS, TEXT_BYTES},
};

use crate::{
    atomic::opaque,
    layout::offset,
    read,
    scratch::{REFUSED, Scratch},
    task::Registers,
};

/// How an exec's argument registers lie.
#[derive(Clone, Copy)]
pub(crate) struct Vectors {
    arguments: u64,
    environment: u64,
    pointer_bytes: u64,
}

/// Finds the two vectors by the number of the system call. No number means an exec on one ABI and is also an exec on
/// another, so the number alone tells them apart.
#[inline(always)]
pub(crate) fn vectors(registers: Registers) -> Result<Vectors, Refusal> {
    // x32 calls (bit 30) share these numbers' meaning but not their argument layout: refused.
    let (arguments, environment, pointer_bytes) = match registers.number() {
        // execve, x86-64
        59 => (offset!(regs_argument2), offset!(regs_argument3), 8),
        // execveat, x86-64
        322 => (offset!(regs_argument3), offset!(regs_argument4), 8),
        // execve, i386: ebx, ecx, edx
        11 => (offset!(regs_ia32_argument2), offset!(regs_argument3), 4),
        // execveat, i386: ebx, ecx, edx, esi
        358 => (offset!(regs_argument3), offset!(regs_argument2), 4),
        _ => return Err(Refusal::SYSCALL),
    };
    Ok(Vectors { arguments: registers.field(arguments), environment: registers.field(environment), pointer_bytes })
}

/// What a vector held: bytes with all NULs, strings, and the bytes of the first string.
#[derive(Clone, Copy)]
pub(crate) struct Copied {
    pub(crate) bytes: u32,
    pub(crate) strings: u32,
    pub(crate) first: u32,
}

/// Appends the arguments to the text. An exec without any gets one empty argument, as the kernel does since 5.18.
#[inline(always)]
pub(crate) fn append_arguments(slot: *mut Scratch, vectors: Vectors) -> Result<Copied, Refusal> {
    let copied = append(slot, vectors.arguments, vectors.pointer_bytes)?;
    if copied.strings != 0 {
        return Ok(copied);
    }
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    let end = opaque(walk.end);
    if end > TEXT_BYTES as u64 {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    // SAFETY: inside the text, which is longer than TEXT_BYTES.
    unsafe { *(&raw mut (*slot).text).cast::<u8>().add(end as usize) = 0 };
    walk.end = end + 1;
    Ok(Copied { bytes: 1, strings: 1, first: 1 })
}

/// Appends the environment to the text.
#[inline(always)]
pub(crate) fn append_environment(slot: *mut Scratch, vectors: Vectors) -> Result<Copied, Refusal> {
    append(slot, vectors.environment, vectors.pointer_bytes)
}

#[inline(always)]
fn append(slot: *mut Scratch, vector: u64, pointer_bytes: u64) -> Result<Copied, Refusal> {
    if vector == 0 {
        return Ok(Copied { bytes: 0, strings: 0, first: 0 });
    }
    // SAFETY: a claimed slot.
    let (copy, start) = unsafe { (&mut (*slot).copy, (*slot).walk.end) };
    copy.vector = vector;
    copy.pointer_bytes = pointer_bytes;
    copy.string = 0;
    copy.strings = 0;
    copy.most = u64::MAX;
    copy.first_len = 0;
    copy.outcome = 0;
    read::repeat(ARGS_STEPS as u32, copy_chunk, slot);
    let bytes = copied_bytes(slot, start)?;
    // SAFETY: a claimed slot.
    let copy = unsafe { &(*slot).copy };
    Ok(Copied { bytes, strings: copy.strings as u32, first: copy.first_len as u32 })
}

#[inline(always)]
fn copied_bytes(slot: *mut Scratch, start: u64) -> Result<u32, Refusal> {
    // SAFETY: a claimed slot.
    let (copy, walk) = unsafe { (&(*slot).copy, &(*slot).walk) };
    match copy.outcome {
        0 => Err(Refusal::ARGS_TOO_LONG),
        1 => Ok((walk.end - start) as u32),
        outcome => Err(Refusal((outcome - REFUSED) as u16)),
    }
}

/// One chunk of one string. Returns 1 to end the loop.
unsafe extern "C" fn copy_chunk(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `append` was given.
    let copy = unsafe { &mut (*slot).copy };
    match chunk(slot) {
        Ok(true) => 0,
        Ok(false) => {
            copy.outcome = 1;
            1
        }
        Err(refusal) => {
            copy.outcome = REFUSED + u64::from(refusal.0);
            1
        }
    }
}

#[inline(always)]
fn chunk(slot: *mut Scratch) -> Result<bool, Refusal> {
    // SAFETY: the slot that `append` was given.
    let (copy, walk) = unsafe { (&mut (*slot).copy, &mut (*slot).walk) };
    if copy.string == 0 {
        if copy.strings >= copy.most {
            return Ok(false);
        }
        let string = if copy.pointer_bytes == 8 {
            read::user::<u64>(copy.vector)?
        } else {
            u64::from(read::user::<u32>(copy.vector)?)
        };
        if string == 0 {
            return Ok(false);
        }
        copy.string = string;
        copy.vector += copy.pointer_bytes;
    }
    let end = opaque(walk.end);
    if end >= TEXT_BYTES as u64 {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    // SAFETY: the text is one chunk longer than TEXT_BYTES.
    let length = unsafe {
        let target = (&raw mut (*slot).text).cast::<u8>().add(end as usize);
        bpf_probe_read_user_str(target.cast(), ARGS_CHUNK as u32, copy.string as *const c_void)
    };
    if length < 0 {
        return Err(Refusal::READ_USER);
    }
    let length = with_nul(length);
    if length == ARGS_CHUNK as u64 {
        // Cut, or exactly full: the next read goes on where the NUL stands now, and finds at least a NUL.
        walk.end = end + length - 1;
        copy.string += length - 1;
        if copy.strings == 0 {
            copy.first_len += length - 1;
        }
        return Ok(true);
    }
    walk.end = end + length;
    if copy.strings == 0 {
        copy.first_len += length;
    }
    copy.strings += 1;
    copy.string = 0;
    Ok(true)
}

/// Bytes that a read string takes up. The helper counts the NUL, but not that of an empty string
/// (`strncpy_from_user_nofault` in `mm/maccess.c`).
#[inline(always)]
fn with_nul(length: i64) -> u64 {
    if length == 0 { 1 } else { length as u64 }
}

/// Skips `count` strings of the new program's stack, from `address`. Returns the address behind them. Overwrites the
/// text.
#[inline(always)]
pub(crate) fn skip_on_stack(slot: *mut Scratch, address: u64, count: u64) -> Result<u64, Refusal> {
    // SAFETY: a claimed slot.
    let copy = unsafe { &mut (*slot).copy };
    copy.string = address;
    copy.strings = 0;
    copy.most = count;
    copy.outcome = 0;
    read::repeat(ARGS_STEPS as u32, skip_chunk, slot);
    match copy.outcome {
        0 => Err(Refusal::ARGS_TOO_LONG),
        1 => Ok(copy.string),
        _ => Err(Refusal::READ_USER),
    }
}

/// One chunk of one skipped string. Returns 1 to end the loop.
unsafe extern "C" fn skip_chunk(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `skip_on_stack` was given.
    let copy = unsafe { &mut (*slot).copy };
    if copy.strings >= copy.most {
        copy.outcome = 1;
        return 1;
    }
    // SAFETY: the text is longer than one chunk.
    let length = unsafe {
        bpf_probe_read_user_str((&raw mut (*slot).text).cast(), ARGS_CHUNK as u32, copy.string as *const c_void)
    };
    if length < 0 {
        copy.outcome = REFUSED;
        return 1;
    }
    let length = with_nul(length);
    if length == ARGS_CHUNK as u64 {
        copy.string += length - 1;
    } else {
        copy.string += length;
        copy.strings += 1;
    }
    0
}

/// Reads a part of the new program's stack to the start of the text.
#[inline(always)]
pub(crate) fn read_stack(slot: *mut Scratch, address: u64, bytes: u32) -> Result<(), Refusal> {
    let bytes = opaque(u64::from(bytes));
    if bytes > ARGS_BYTES as u64 {
        return Err(Refusal::ARGS_TOO_LONG);
    }
    // SAFETY: the text is longer than ARGS_BYTES.
    let failed = unsafe { bpf_probe_read_user((&raw mut (*slot).text).cast(), bytes as u32, address as *const c_void) };
    if failed != 0 { Err(Refusal::READ_USER) } else { Ok(()) }
}
