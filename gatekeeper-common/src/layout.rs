//! Layout promises, checked when this crate is compiled: both halves are built from it, perhaps years apart.

use core::mem::{align_of, size_of};

use crate::*;

macro_rules! assert_layout {
    ($($type:ty: $size:literal;)+) => {
        $(
            const _: () = assert!(size_of::<$type>() == $size, concat!("size of ", stringify!($type)));
            const _: () = assert!(size_of::<$type>() % align_of::<$type>() == 0);
        )+

        // SAFETY (all of them): `repr(C)` structs of integers and byte arrays; the sizes above leave no room for padding, and
        // every bit pattern is valid.
        $(
            #[cfg(feature = "user")]
            // SAFETY: see above.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

assert_layout! {
    Object: 48;
    Action: 144;
    TaskKey: 16;
    Hold: 72;
    VerdictKey: 24;
    Verdict: 64;
    ApprovedExec: 80;
    EventHeader: 120;
    Event: 264;
    Control: 568;
    AgentEntry: 16;
    PathPrefix: 256;
    PortKey: 8;
    KernelLayout: 276;
}
