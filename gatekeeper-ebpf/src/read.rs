//! Bounded reads of kernel and user memory. A read that fails is a [`Refusal`], never a zero.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use gatekeeper_common::Refusal;

/// A field of a kernel structure, read by helper: works on any pointer.
#[inline(always)]
pub(crate) fn kernel<T: Copy>(structure: u64, offset: usize) -> Result<T, Refusal> {
    let mut value = MaybeUninit::<T>::uninit();
    let source = structure.wrapping_add(offset as u64);
    // SAFETY: the helper writes exactly that many bytes or fails.
    let failed =
        unsafe { bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, source as *const c_void) };
    if failed != 0 {
        return Err(Refusal::READ_KERNEL);
    }
    // SAFETY: written above; T is an integer wherever this is used.
    Ok(unsafe { value.assume_init() })
}

/// A field of the calling process.
#[inline(always)]
pub(crate) fn user<T: Copy>(address: u64) -> Result<T, Refusal> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly that many bytes or fails.
    let failed =
        unsafe { bpf_probe_read_user(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const c_void) };
    if failed != 0 {
        return Err(Refusal::READ_USER);
    }
    // SAFETY: written above; T is an integer wherever this is used.
    Ok(unsafe { value.assume_init() })
}

/// A pointer into the kernel whose type the verifier knows: a hook's argument, the current task, and what is loaded from
/// them. Fields are read by one load instruction instead of a helper call; the kernel handles a fault, and yields zero.
/// The verifier refuses a program in which the pointer is anything else.
#[derive(Clone, Copy)]
pub(crate) struct Typed(*const c_void);

impl Typed {
    /// The verifier checks that the type is known, at each [`Self::field`].
    #[inline(always)]
    pub(crate) const fn new(pointer: *const c_void) -> Self {
        Self(pointer)
    }

    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0 as u64
    }

    #[inline(always)]
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// A number.
    #[inline(always)]
    pub(crate) fn field<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier refuses the program unless the pointer is typed, and the kernel handles a fault.
        unsafe { core::ptr::read_volatile(self.0.byte_add(offset).cast::<T>()) }
    }

    /// A pointer, typed as well.
    #[inline(always)]
    pub(crate) fn pointer(self, offset: usize) -> Self {
        Self(self.field(offset))
    }

    /// A structure inside this one.
    #[inline(always)]
    pub(crate) fn inner(self, offset: usize) -> Self {
        // SAFETY: only computes an address.
        Self(unsafe { self.0.byte_add(offset) })
    }
}

/// `bpf_loop`, which the bindings lack: helper 181 (`include/uapi/linux/bpf.h`), kernels since 5.17. Runs `step` at most
/// `times` times, until it returns 1. The kernel wants the context on the stack, so `step` gets a pointer to `context`.
#[inline(always)]
pub(crate) fn repeat<T>(times: u32, step: unsafe extern "C" fn(u32, *const *mut T) -> i64, context: *mut T) {
    type BpfLoop = unsafe extern "C" fn(u32, *const c_void, *mut c_void, u64) -> i64;
    // SAFETY: a call to an address below the number of helpers is a helper call; the verifier checks the arguments.
    unsafe {
        let bpf_loop: BpfLoop = core::mem::transmute(181_usize);
        bpf_loop(times, step as *const c_void, (&raw const context).cast_mut().cast(), 0);
    }
}
