//! Where the time comes from, so that tests can bring their own.
//!
//! Deadlines count by `CLOCK_BOOTTIME`, which never jumps and goes on while the host sleeps; people and the log also get
//! the wall clock.

use rustix::time::{ClockId, clock_gettime};

pub use crate::broker::Now;

/// A source of time.
pub trait Clock: Send + Sync {
    /// This moment.
    fn now(&self) -> Now;
}

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        Now { wall_ms: nanoseconds(ClockId::Realtime) / 1_000_000, boot_ns: nanoseconds(ClockId::Boottime) }
    }
}

/// A clock's time in nanoseconds; 0 for a wall clock before the epoch.
fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_forward() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(first.boot_ns > 0 && second.boot_ns >= first.boot_ns);
        assert!(first.wall_ms > 1_700_000_000_000);
    }
}
