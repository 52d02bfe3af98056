//! `cargo xtask demo`: the main job, on this machine's kernel where it can enforce, else in a VM.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::checkout::Checkout;
use crate::flags::{DemoChannel, DemoFlags, MachineFlags};
use crate::setup::{self, Need};
use crate::{build, command, vm};

const PROGRAM: &str = "gatekeeper-demo";
const DEFAULT_KERNEL: &str = "6.12";
/// The demo waits for a person.
const PATIENCE_SECONDS: u64 = 24 * 3600;

/// `cargo xtask demo`.
///
/// # Errors
/// Setup or build failed, or the demo could not be started.
pub(crate) fn run(checkout: &Checkout, flags: &DemoFlags) -> Result<u8> {
    setup::ensure(checkout, &[Need::Programs])?;
    build::everything(checkout)?;
    let program = built_program(checkout, PROGRAM)?;
    let mut arguments = flags.arguments.clone();
    let mut environment = Vec::new();
    if let Some(DemoChannel::Matrix) = flags.channel {
        arguments.extend(["--channel".into(), "matrix".into()]);
        environment.push((setup::synapse::VARIABLE.to_owned(), setup::synapse::ensure(checkout)?.into_os_string()));
    }
    if flags.kernel.is_none() && can_enforce_here(checkout)? {
        eprintln!("demo: this machine's kernel, {}, can enforce: the demo runs on it", release());
        let mut demo = Command::new(program);
        demo.envs(environment);
        let status = demo.args(&arguments).status().with_context(|| format!("cannot run {PROGRAM}"))?;
        return Ok(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1));
    }
    setup::ensure(checkout, &[Need::Vm])?;
    let name = flags.kernel.as_deref().unwrap_or(DEFAULT_KERNEL);
    let kernel = setup::kernels::ensure(checkout, name)?;
    if flags.kernel.is_none() {
        eprintln!(
            "demo: this machine's kernel, {}, cannot enforce (`gatekeeper check` says why), so the demo runs in a VM \
             with kernel {}",
            release(),
            kernel.release
        );
    } else {
        eprintln!("demo: running in a VM with kernel {}", kernel.release);
    }
    let machine = MachineFlags {
        kernel: name.to_owned(),
        smp: 2,
        icount: false,
        memory: 2048,
        timeout: PATIENCE_SECONDS,
        append: Vec::new(),
        kernel_log: None,
    };
    let arguments = std::iter::once(OsString::from(program)).chain(arguments).collect();
    let order = vm::Order { machine: &machine, arguments, environment, interactive: true, server: None };
    vm::pass_through(checkout, &kernel, &order)
}

/// A program of the test package, which `build` has just built.
///
/// # Errors
/// The package has no such program.
pub(crate) fn built_program(checkout: &Checkout, name: &str) -> Result<PathBuf> {
    let program = checkout.programs().join(name);
    if !program.is_file() {
        bail!("the build made no {}: package gatekeeper-tests lacks the program {name}", program.display());
    }
    Ok(program)
}

/// Asks the daemon itself, which tries rather than guesses.
fn can_enforce_here(checkout: &Checkout) -> Result<bool> {
    let mut check = Command::new(checkout.programs().join("gatekeeper"));
    check.arg("check").stdin(Stdio::null());
    Ok(command::output(&mut check)?.status.success())
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
