//! The programs. Each reads its hook's arguments and asks the gate; the comment above each gives the kernel's signature,
//! from `include/linux/lsm_hook_defs.h`. The last argument of a program is the earlier program's result.

/// Makes a function the program of the LSM hook of its name. As aya's attribute does, but the result has 64 bits: the
/// verifier checks the whole register, and the compiler would leave the upper half of a 32-bit negative number clear.
macro_rules! lsm {
    ($($(#[doc = $doc:literal])* fn $name:ident($context:ident) $body:block)+) => {$(
        $(#[doc = $doc])*
        #[unsafe(no_mangle)]
        #[unsafe(link_section = concat!("lsm/", stringify!($name)))]
        extern "C" fn $name(context: *mut core::ffi::c_void) -> i64 {
            let $context = aya_ebpf::programs::LsmContext::new(context);
            $body
        }
    )+};
}

mod exec;
mod file;
mod lineage;
mod names;
mod object;
mod socket;
