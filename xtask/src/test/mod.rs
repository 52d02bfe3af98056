//! `cargo xtask test`: the tests of this machine, then the scenarios inside one VM per kernel.
//!
//! A failing suite does not keep the others from running; a suite that ran no test has failed.

mod summary;

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use self::summary::{Suite, Summary};
use crate::checkout::Checkout;
use crate::flags::{MachineFlags, TestFlags};
use crate::setup::{self, KERNELS, Need};
use crate::{build, command, vm};

/// Test targets that need a kernel which can enforce, and root, by the start of their names.
const SCENARIO_PREFIX: &str = "kernel";
/// A thousand held processes need some room.
const GUEST_MEMORY_MIB: u32 = 4096;
/// For all scenarios on one kernel, under emulation, on a busy machine of two processors.
const GUEST_PATIENCE_SECONDS: u64 = 2400;
/// Runs each test binary; `Running` is what cargo says, too, and what the summary goes by.
const SCRIPT: &str = r#"filter=$1; shift; status=0
for binary; do
    name=${binary##*/}
    echo "     Running ${name%-*}"
    "$binary" --test-threads=1 ${filter:+"$filter"} || status=1
done
exit $status"#;

/// `cargo xtask test`.
///
/// # Errors
/// Setup or a build failed, so that tests could not even start.
pub(crate) fn run(checkout: &Checkout, flags: &TestFlags) -> Result<u8> {
    setup::ensure(checkout, &[Need::Vm, Need::Programs])?;
    let synapse = setup::synapse::ensure(checkout)?;
    let names: Vec<&str> =
        if flags.kernel.is_empty() { KERNELS.to_vec() } else { flags.kernel.iter().map(String::as_str).collect() };
    let kernels = names.iter().map(|name| setup::kernels::ensure(checkout, name)).collect::<Result<Vec<_>>>()?;
    build::everything(checkout)?;
    let targets = Targets::find(&checkout.root().join("tests/tests"))?;

    let mut summary = Summary::new(flags.filter.is_some());
    if !flags.skip_host {
        let mut cargo = command::cargo(checkout);
        cargo.arg("test").arg("--no-fail-fast");
        // The channels are tried on this machine, one of them with a real server.
        cargo.env(setup::synapse::VARIABLE, &synapse);
        summary.add(run_on_host(cargo, "units", flags)?);
        // The same profile as the scenarios: the harness is built once.
        let mut cargo = command::cargo(checkout);
        cargo.args(["test", "--release", "--no-fail-fast", "--package", "gatekeeper-tests", "--lib", "--bins"]);
        cargo.args(targets.host.iter().flat_map(|name| ["--test", name]));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::iter::once(checkout.programs()).chain(std::env::split_paths(&path));
        cargo.env("PATH", std::env::join_paths(directories).context("a directory in PATH has a colon in its name")?);
        summary.add(run_on_host(cargo, "cli", flags)?);
    }
    let scenarios = build_scenarios(checkout, &targets.scenarios)?;
    for kernel in &kernels {
        eprintln!("\nbooting {} for the scenarios", kernel.release);
        summary.add(run_in_guest(checkout, kernel, &scenarios, &synapse, flags)?);
    }
    show(format!("\n{summary}").as_bytes())?;
    Ok(u8::from(!summary.is_success()))
}

/// Runs `cargo test`, shows what it writes and counts.
fn run_on_host(mut cargo: Command, name: &str, flags: &TestFlags) -> Result<Suite> {
    // The filter goes to cargo, which hands it to documentation tests, too.
    cargo.args(&flags.filter);
    let line = command::display(&cargo);
    eprintln!("\n{line}");
    // Names of test binaries come on standard error, results on standard output: one pipe keeps their order.
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let errors = writer.try_clone().context("cannot duplicate a pipe")?;
    cargo.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mut child = cargo.spawn().with_context(|| format!("cannot run `{line}`"))?;
    // The command holds this program's copies of the pipe's end, which would never let the reader finish.
    drop(cargo);
    let mut suite = Suite::new(name);
    for text in BufReader::new(reader).split(b'\n') {
        let mut text = text.with_context(|| format!("cannot read what `{line}` writes"))?;
        suite.take_line(&String::from_utf8_lossy(&text));
        text.push(b'\n');
        show(&text)?;
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() {
        suite.fail(format!("`{line}` failed ({status})"));
    }
    Ok(suite)
}

/// Names of the test targets of `tests/`, each of which runs somewhere.
#[derive(Debug, PartialEq, Eq)]
struct Targets {
    /// Those that run on this machine.
    host: Vec<String>,
    /// Those that run inside the VM.
    scenarios: Vec<String>,
}

impl Targets {
    fn find(directory: &Path) -> Result<Self> {
        let problem = || format!("cannot list {}", directory.display());
        let mut names = Vec::new();
        for target in fs::read_dir(directory).with_context(problem)? {
            let path = target.with_context(problem)?.path();
            // A directory is a target when it has a main file, else it holds modules of one.
            if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
                names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        names.sort();
        let (scenarios, host): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with(SCENARIO_PREFIX));
        if scenarios.is_empty() {
            bail!(
                "there is no scenario test: {} has no target that starts with {SCENARIO_PREFIX}",
                directory.display()
            );
        }
        Ok(Self { host, scenarios })
    }
}

/// Builds the scenario tests and returns their binaries.
fn build_scenarios(checkout: &Checkout, names: &[String]) -> Result<Vec<PathBuf>> {
    let mut cargo = command::cargo(checkout);
    cargo.args(["test", "--release", "--no-run", "--package", "gatekeeper-tests"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.args(names.iter().flat_map(|name| ["--test", name]));
    cargo.stderr(Stdio::inherit());
    let output = command::output(&mut cargo)?;
    if !output.status.success() {
        bail!("`{}` failed ({})", command::display(&cargo), output.status);
    }
    let binaries = test_binaries(&String::from_utf8_lossy(&output.stdout));
    if binaries.len() != names.len() {
        bail!("cargo built {} test binaries of the {} scenario targets", binaries.len(), names.len());
    }
    Ok(binaries)
}

/// The test binaries in cargo's messages.
fn test_binaries(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let tests = messages.filter(|message| {
        message["reason"] == "compiler-artifact"
            && message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "test"))
    });
    tests.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect()
}

fn run_in_guest(
    checkout: &Checkout,
    kernel: &setup::kernels::Kernel,
    scenarios: &[PathBuf],
    synapse: &Path,
    flags: &TestFlags,
) -> Result<Suite> {
    let machine = MachineFlags {
        kernel: kernel.label.clone(),
        smp: 2,
        icount: false,
        memory: GUEST_MEMORY_MIB,
        timeout: GUEST_PATIENCE_SECONDS,
        append: Vec::new(),
        kernel_log: None,
    };
    let mut arguments: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(OsString::from).into();
    arguments.push(flags.filter.clone().unwrap_or_default().into());
    arguments.extend(scenarios.iter().map(OsString::from));
    let environment = vec![(setup::synapse::VARIABLE.to_owned(), synapse.into())];
    let order = vm::Order { machine: &machine, arguments, environment, interactive: false, server: None };

    let mut suite = Suite::new(format!("kernel {}", kernel.label));
    let mut pending = Vec::new();
    let mut sink = |stream: vm::Stream, bytes: &[u8]| -> io::Result<()> {
        vm::write_through(stream, bytes)?;
        if stream == vm::Stream::Output {
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                suite.take_line(&String::from_utf8_lossy(&pending[..end]));
                pending.drain(..=end);
            }
        }
        Ok(())
    };
    match vm::boot(checkout, kernel, &order, &mut sink)? {
        Ok(0) => {}
        Ok(status) => suite.fail(format!("exit status {status}")),
        Err(failure) => {
            eprint!("{failure}");
            suite.fail(failure.reason().to_owned());
        }
    }
    Ok(suite)
}

fn show(bytes: &[u8]) -> Result<()> {
    io::stdout().lock().write_all(bytes).context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_runs_somewhere() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cli.rs", "review.rs", "kernel_one.rs"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        for name in ["kernel", "modules"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("kernel/main.rs"), "").unwrap();
        fs::write(directory.path().join("modules/mod.rs"), "").unwrap();
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected = Targets { host: names(&["cli", "review"]), scenarios: names(&["kernel", "kernel_one"]) };
        assert_eq!(Targets::find(directory.path()).unwrap(), expected);
        let none = tempfile::tempdir().unwrap();
        assert!(Targets::find(none.path()).unwrap_err().to_string().contains("no scenario test"));
    }

    #[test]
    fn test_binaries_are_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/t/probe"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/t/deps/kernel-1"}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(test_binaries(messages), [PathBuf::from("/t/deps/kernel-1")]);
    }
}
