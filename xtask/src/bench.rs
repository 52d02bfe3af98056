//! `cargo xtask bench`: the benchmark program in a VM whose time counts instructions, then in one with a clock.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

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
    let interactive = !flags.json;
    let costs = vm::Order { machine: &counting, arguments, environment: Vec::new(), interactive, server: None };
    let costs = (!flags.latency).then_some(costs);
    // One processor would measure how the daemon waits for who clicks.
    let with_clock = MachineFlags { smp: 2, icount: false, memory: 2048, append: Vec::new(), ..counting.clone() };
    let latency = || -> Result<_> {
        let matrix = MatrixServer::start(&program, &synapse)?;
        let order = latency(&program, &with_clock, &matrix, interactive);
        Ok((matrix, order))
    };
    if !flags.json {
        let status = costs.map(|costs| vm::pass_through(checkout, &kernel, &costs)).transpose()?;
        let (_matrix, latency) = latency()?;
        return Ok(status.unwrap_or_default().max(vm::pass_through(checkout, &kernel, &latency)?));
    }
    let costs = costs.map(|costs| self::report(checkout, &kernel, &costs)).transpose()?;
    let (status, mut report) = costs.unwrap_or_else(|| (0, json!({})));
    let (_matrix, latency) = latency()?;
    let (other_status, other) = self::report(checkout, &kernel, &latency)?;
    report["latency"] = other;
    let text = serde_json::to_string_pretty(&report).context("the report has no JSON form")?;
    vm::write_through(vm::Stream::Output, format!("{text}\n").as_bytes()).context("cannot write the report")?;
    Ok(status.max(other_status))
}

/// The run that measures how long people wait.
fn latency<'a>(
    program: &OsString,
    machine: &'a MachineFlags,
    matrix: &MatrixServer,
    interactive: bool,
) -> vm::Order<'a> {
    let relay = vec![program.clone(), "relay".into(), matrix.port.to_string().into()];
    let server = vm::Server { port: matrix.port, relay };
    let mut arguments =
        vec![program.clone(), "latency".into(), "--matrix".into(), server.in_guest().to_string().into()];
    arguments.extend((!interactive).then(|| "--json".into()));
    vm::Order { machine, arguments, environment: Vec::new(), interactive, server: Some(server) }
}

/// A Matrix server of this machine: emulated with the rest, it would be what is measured. It ends with this value.
struct MatrixServer {
    port: u16,
    child: Child,
}

impl MatrixServer {
    fn start(program: &OsString, python: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("matrix-server").env(setup::synapse::VARIABLE, python);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run Synapse")?;
        let output = child.stdout.take().context("a child without the output that it was given")?;
        // From here on it is ended, whatever happens.
        let mut server = Self { port: 0, child };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("cannot read what Synapse's port is")?;
        server.port = line.trim().parse().context("Synapse did not start; it says above why")?;
        Ok(server)
    }
}

impl Drop for MatrixServer {
    fn drop(&mut self) {
        // It takes the end of its input for an order to end.
        drop(self.child.stdin.take());
        // It has ended already otherwise.
        let _ = self.child.wait();
    }
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
