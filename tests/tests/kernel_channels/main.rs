//! Decisions that come through chat, with the whole daemon on a real kernel.
#![expect(clippy::unwrap_used, reason = "tests panic: that is how they fail")]

mod matrix;
