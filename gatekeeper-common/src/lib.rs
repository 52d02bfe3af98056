//! The words that gatekeeper's kernel programs and its daemon exchange, and nothing else.
//!
//! Everything here crosses a trust boundary as raw bytes: map values, map keys and ring buffer records. So there are
//! only fixed-size `#[repr(C)]` structs of integers and byte arrays without padding; no `bool`, `Option` or Rust enum,
//! whose invalid bit patterns would be undefined behaviour on the other side. Enumerations are newtypes over integers
//! with associated constants: an unknown value is data, to be refused by whoever reads it. `layout.rs` asserts every
//! size at compile time.
//!
//! Programs and maps outlive the daemon that loaded them, so an old kernel half can meet a new daemon: [`ABI_VERSION`]
//! stands in [`Control`] and in every [`EventHeader`], and the daemon compares before it reads further.
#![cfg_attr(not(test), no_std)]

mod action;
mod control;
mod counter;
mod event;
mod hold;
mod kernel_layout;
mod layout;
pub mod limits;
pub mod names;
pub mod sip;
mod tables;

pub use action::*;
pub use control::*;
pub use counter::*;
pub use event::*;
pub use hold::*;
pub use kernel_layout::*;
pub use tables::*;

/// Changes whenever the size or the meaning of anything in this crate changes.
pub const ABI_VERSION: u32 = 1;
