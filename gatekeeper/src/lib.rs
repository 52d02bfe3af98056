//! gatekeeper: makes privileged actions of AI agents wait for a person.
//!
//! Dependencies point one way: `main → cli → daemon → {kernel, context, channel, control, provenance} → {broker, policy} →
//! {action, request, text} → gatekeeper-common`. `policy` and `broker` know no runtime, file, clock or kernel.

pub mod action;
pub mod broker;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod config;
pub mod context;
pub mod control;
pub mod daemon;
pub mod exit;
pub mod kernel;
pub mod policy;
pub mod provenance;
pub mod request;
pub mod reviewer;
pub mod text;
