//! Scenarios that need a kernel which can enforce, and root: `cargo xtask test` runs them inside its VM.
#![expect(clippy::unwrap_used, reason = "tests panic: that is how they fail")]

mod acts;
mod agents;
mod cases;
mod files;
mod place;
mod programs;

use std::fs;

#[test]
fn the_guest_can_run_bpf_lsm_programs() {
    let list = fs::read_to_string("/sys/kernel/security/lsm").unwrap();
    assert!(list.trim().split(',').any(|name| name == "bpf"), "the LSM list is {list:?}");
    assert!(fs::exists("/sys/kernel/btf/vmlinux").unwrap(), "the kernel has no BTF");
}

#[test]
fn the_guest_runs_the_kernel_that_was_asked_for() {
    let expected = std::env::var("GATEKEEPER_VM_KERNEL").unwrap();
    assert_eq!(rustix::system::uname().release().to_str(), Ok(&*expected));
}
