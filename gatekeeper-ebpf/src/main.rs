//! The LSM programs of gatekeeper: they stop an agent's privileged action inside its own system call.
//!
//! Reading order: `gate` says what happens to an action and is the only place that chooses a return value; `hooks` are
//! the thin programs that read their arguments and call it; the rest serves these two.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod digest;
mod emit;
mod gate;
mod hold;
mod hooks;
mod layout;
mod maps;
mod path;
mod read;
mod scope;
mod scratch;
mod tables;
mod task;
mod user_args;

/// Helpers that gatekeeper uses are lent to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop without an end: the verifier refuses any program in which a panic can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
