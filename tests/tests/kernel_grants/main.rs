//! Approvals that hold for longer than once, and what an agent is told about its own requests.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests panic: that is how they fail")]

mod grants;
mod place;
mod why;
