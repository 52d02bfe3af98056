//! `cargo xtask bench`: the benchmark program in a VM whose time counts instructions.

use std::ffi::OsString;

use anyhow::Result;

use crate::checkout::Checkout;
use crate::demo::built_program;
use crate::flags::{BenchFlags, MachineFlags};
use crate::setup::{self, Need};
use crate::{build, vm};

const PROGRAM: &str = "gatekeeper-bench";
/// Counting instructions makes emulation slow, though never this slow.
const PATIENCE_SECONDS: u64 = 3600;

/// `cargo xtask bench`.
///
/// # Errors
/// Setup or build failed, or the VM could not be started.
pub(crate) fn run(checkout: &Checkout, flags: &BenchFlags) -> Result<u8> {
    setup::ensure(checkout, &[Need::Vm])?;
    let kernel = setup::kernels::ensure(checkout, &flags.kernel)?;
    build::everything(checkout)?;
    let program = built_program(checkout, PROGRAM)?;
    let machine = MachineFlags {
        kernel: flags.kernel.clone(),
        smp: 1,
        icount: true,
        memory: 1024,
        timeout: PATIENCE_SECONDS,
        // The base of every comparison is a kernel with this LSM alone; others would add their own cost to each hook.
        append: vec!["lsm=bpf".into()],
        kernel_log: None,
    };
    let mut arguments = vec![OsString::from(program), "--empty-programs".into(), checkout.empty_bpf_object().into()];
    arguments.extend(flags.json.then(|| "--json".into()));
    arguments.extend(flags.arguments.iter().cloned());
    let order = vm::Order { machine: &machine, arguments, environment: Vec::new(), interactive: true };
    vm::pass_through(checkout, &kernel, &order)
}
