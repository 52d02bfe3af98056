//! Kernel structure offsets, set by the daemon before the programs are loaded.
//!
//! The map behind the global is read-only and frozen, so the verifier knows the values and takes them as constant
//! offsets into kernel structures.

use core::mem::MaybeUninit;

use gatekeeper_common::KernelLayout;

/// Never read directly: [`offset!`] reads one field at a time, volatile, so that the compiler cannot fold the zeros in.
#[repr(transparent)]
pub(crate) struct Overridden<T>(MaybeUninit<T>);

#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Overridden<KernelLayout> = Overridden(MaybeUninit::new(KernelLayout::ZERO));

/// Number of entries of the map `scratches`, which the daemon chooses by the number of CPUs.
#[unsafe(no_mangle)]
pub(crate) static SCRATCH_COUNT: Overridden<u32> = Overridden(MaybeUninit::new(0));

impl<T> Overridden<T> {
    /// The global itself; its numbers are to be read with [`number`].
    pub(crate) const fn get(&self) -> &T {
        // SAFETY: initialised above.
        unsafe { self.0.assume_init_ref() }
    }
}

/// A number that the daemon has set, read where it stands.
#[inline(always)]
pub(crate) fn number(place: &u32) -> u32 {
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::read_volatile(place) }
}

/// The offset of one field, in bytes.
macro_rules! offset {
    ($field:ident) => {
        $crate::layout::number(&$crate::layout::LAYOUT.get().$field) as usize
    };
}
pub(crate) use offset;
