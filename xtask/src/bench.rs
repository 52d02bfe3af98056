//! `cargo xtask bench`: the benchmark program in a VM whose time counts instructions, then in one with a clock.

use std::ffi::OsString;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::demo::built_program;
use crate::flags::{BenchFlags, MachineFlags};
use crate::setup::{self, Need, kernels::Kernel};
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
    let synapse = setup::synapse::ensure(checkout)?;
    let kernel = setup::kernels::ensure(checkout, &flags.kernel)?;
    build::everything(checkout)?;
    let program = OsString::from(built_program(checkout, PROGRAM)?);
    let counting = MachineFlags {
        kernel: flags.kernel.clone(),
        smp: 1,
        icount: true,
        memory: 1024,
        timeout: PATIENCE_SECONDS,
        // The base of every comparison is a kernel with this LSM alone; others would add their own cost to each hook.
        append: vec!["lsm=bpf".into()],
        kernel_log: None,
    };
    let mut arguments = vec![program.clone(), "--empty-programs".into(), checkout.empty_bpf_object().into()];
    arguments.extend(flags.json.then(|| "--json".into()));
    arguments.extend(flags.arguments.iter().cloned());
    let costs = vm::Order { machine: &counting, arguments, environment: Vec::new(), interactive: !flags.json };
    // A server of chat on one processor would measure that.
    let with_clock = MachineFlags { smp: 2, icount: false, memory: 2048, append: Vec::new(), ..counting.clone() };
    let mut arguments = vec![program, "latency".into()];
    arguments.extend(flags.json.then(|| "--json".into()));
    let environment = vec![(setup::synapse::VARIABLE.to_owned(), synapse.into())];
    let latency = vm::Order { machine: &with_clock, arguments, environment, interactive: !flags.json };
    if !flags.json {
        let status = vm::pass_through(checkout, &kernel, &costs)?;
        return Ok(status.max(vm::pass_through(checkout, &kernel, &latency)?));
    }
    let (status, mut report) = report(checkout, &kernel, &costs)?;
    let (other_status, other) = self::report(checkout, &kernel, &latency)?;
    report["latency"] = other;
    let text = serde_json::to_string_pretty(&report).context("the report has no JSON form")?;
    vm::write_through(vm::Stream::Output, format!("{text}\n").as_bytes()).context("cannot write the report")?;
    Ok(status.max(other_status))
}

/// Runs what writes a report as JSON; null if it writes none.
fn report(checkout: &Checkout, kernel: &Kernel, order: &vm::Order<'_>) -> Result<(u8, Value)> {
    let mut output = Vec::new();
    let mut sink = |stream, bytes: &[u8]| {
        if stream == vm::Stream::Output {
            output.extend_from_slice(bytes);
            return Ok(());
        }
        vm::write_through(stream, bytes)
    };
    let status = match vm::boot(checkout, kernel, order, &mut sink)? {
        Ok(status) => status,
        Err(failure) => {
            eprint!("{failure}");
            vm::Failure::STATUS
        }
    };
    Ok((status, serde_json::from_slice(&output).unwrap_or_default()))
}
