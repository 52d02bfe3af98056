//! Decisions that come through chat, with the whole daemon on a real kernel.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests panic: that is how they fail")]

mod desk;
mod matrix;
mod slack;
mod stage;
mod teams;
mod webhook;
