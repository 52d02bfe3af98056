//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;

/// Longest wait of any test for anything: emulation on a busy machine is slow, a bug is for ever.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at a condition that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something.
///
/// # Panics
/// After [`PATIENCE`], with `what`.
pub fn wait_until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, condition).unwrap_or_else(|| panic!("waited {} s in vain until {what}", PATIENCE.as_secs()))
}

/// Waits until `condition` gives something, or `patience` is over.
pub fn wait_within<T>(patience: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until a descriptor can be read (or its other end is closed). False after `patience`.
pub fn readable(descriptor: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec { tv_sec: patience.as_secs().cast_signed(), tv_nsec: patience.subsec_nanos().into() };
    loop {
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("cannot poll: {error}"),
        }
    }
}
