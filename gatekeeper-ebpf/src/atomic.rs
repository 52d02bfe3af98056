//! Atomic instructions, which the compiler does not offer for this target. BPF instruction set v3, kernels since 5.12.

use core::arch::asm;

/// Adds to the number and returns what it was.
#[inline(always)]
pub(crate) unsafe fn fetch_add(number: *mut u64, add: u64) -> u64 {
    let mut value = add;
    // SAFETY: the caller gives a valid, aligned pointer into map memory.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({number} + 0), {value})", number = in(reg) number, value = inout(reg) value);
    }
    value
}

/// Sets the number to `new` if it is `old`. Returns what it was.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(number: *mut u64, old: u64, new: u64) -> u64 {
    let mut value = old;
    // SAFETY: the caller gives a valid, aligned pointer into map memory; the instruction compares with r0.
    unsafe {
        asm!("r0 = cmpxchg_64({number} + 0, r0, {new})", number = in(reg) number, new = in(reg) new, inout("r0") value);
    }
    value
}

/// Hides a number from the compiler, so that it keeps a bound check which it thinks it has proven: the verifier has not
/// seen that proof.
#[inline(always)]
pub(crate) fn opaque(mut number: u64) -> u64 {
    // A real instruction: two source lines at one instruction are a line table that the kernel refuses.
    // SAFETY: moves a register to itself.
    unsafe {
        asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
    }
    number
}
