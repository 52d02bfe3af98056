//! What the daemon tells the kernel side.

use crate::sip::Key;

/// Whether anything waits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode(pub u32);

impl Mode {
    /// Every number but [`Mode::OBSERVE`] enforces, so that a stray value cannot open the gate.
    pub const ENFORCE: Self = Self(1);
    /// Report what would be held, hold nothing.
    pub const OBSERVE: Self = Self(2);
}

/// Words of [`Control::roots`].
pub const ROOT_FILTER_WORDS: usize = 64;

/// The only entry of the map `controls`. Written by the daemon alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// [`crate::ABI_VERSION`] of whoever made the maps.
    pub abi: u32,
    /// Whether anything waits.
    pub mode: Mode,
    /// Random per boot; verdicts must name it.
    pub nonce: u64,
    /// Random per boot, secret: digests cannot be forged without it.
    pub key: Key,
    /// How often a second a hold may be run again without a verdict before the action is denied.
    pub reruns_per_second: u32,
    /// Always 0.
    pub reserved: u32,
    /// Names the build of the kernel side that runs, so that a daemon knows whether it has to replace it.
    pub build: u64,
    /// Bit n: some agent's cgroup lies n levels below the cgroup root.
    pub levels: u64,
    /// A filter before the map `agents`: bit `id % 4096` is set for the id of every agent's cgroup. Tasks outside all
    /// agents, the rest of the host, are sent on their way by it without a map lookup.
    pub roots: [u64; ROOT_FILTER_WORDS],
}

impl Control {
    /// Where in [`Control::roots`] a cgroup id stands: the word and the bit in it.
    pub const fn root_bit(cgroup: u64) -> (usize, u64) {
        let bit = cgroup % (ROOT_FILTER_WORDS as u64 * 64);
        ((bit / 64) as usize, 1 << (bit % 64))
    }
}

/// Deepest level of an agent's cgroup: [`Control::levels`] has no more bits, and the hook looks at no more.
pub const MAX_CGROUP_LEVEL: u32 = 15;
