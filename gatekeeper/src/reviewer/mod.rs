//! People who may decide, and how they prove that a decision is theirs.
//!
//! Pure: bytes and times come in, facts come out. Where statements and signatures come from is for the channels, and what
//! a reviewer's word is worth for the daemon.

pub mod signature;
pub mod statement;

#[cfg(test)]
#[path = "../../../tests/src/ssh_key.rs"]
#[allow(unreachable_pub, reason = "public for the scenario tests, private here")]
pub(crate) mod ssh_key;
