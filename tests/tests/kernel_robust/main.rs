//! Holds under strain: many at once, against signals, with a daemon that dies, a full table, a full ring, a full disk,
//! and with the parents that real agents have.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests panic: that is how they fail")]

mod approvals;
mod daemon_death;
mod limits;
mod parents;
mod place;
mod quiet;
mod resumes;
mod tasks;
