//! `cargo xtask build`: the BPF object first, then the programs, which embed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::checkout::Checkout;
use crate::command;
use crate::flags::BuildFlags;
use crate::setup::bpf::{self, Compiler, TARGET, Toolchain};

/// Unlike RUSTFLAGS, this one takes flags with spaces in them.
const FLAGS_VARIABLE: &str = "CARGO_ENCODED_RUSTFLAGS";
const FLAGS_SEPARATOR: &str = "\x1f";

/// `cargo xtask build`.
///
/// # Errors
/// Setup or a build failed.
pub(crate) fn run(checkout: &Checkout, flags: &BuildFlags) -> Result<()> {
    if flags.bpf_only { bpf_object(checkout).map(drop) } else { everything(checkout) }
}

/// Builds all that the VM, the tests and the demo run.
///
/// # Errors
/// Setup or a build failed.
pub(crate) fn everything(checkout: &Checkout) -> Result<()> {
    bpf_object(checkout)?;
    let mut cargo = command::cargo(checkout);
    cargo.args(["build", "--release", "--package", "gatekeeper", "--package", "gatekeeper-tests", "--bins"]);
    command::run_build(&mut cargo)
}

/// Builds the BPF object, with its BTF, and tells with what.
///
/// # Errors
/// Setup or the build failed.
pub(crate) fn bpf_object(checkout: &Checkout) -> Result<Toolchain> {
    let toolchain = bpf::ensure(checkout)?;
    let mut cargo = cargo_for_bpf(checkout, &toolchain);
    cargo.args(["build", "--release", "--package", "gatekeeper-ebpf"]);
    command::run_build(&mut cargo).context("cannot build the BPF programs")?;
    let built = bpf_target_directory(checkout).join(TARGET).join("release");
    install_object(&built.join("gatekeeper-ebpf"), &checkout.bpf_object())?;
    install_object(&built.join("gatekeeper-empty"), &checkout.empty_bpf_object())?;
    Ok(toolchain)
}

/// cargo with everything but the subcommand, for the BPF target.
pub(crate) fn cargo_for_bpf(checkout: &Checkout, toolchain: &Toolchain) -> Command {
    let mut cargo = command::cargo(checkout);
    let flags = [
        &format!("-Clinker={}", toolchain.linker.display()),
        "-Clinker-plugin-lto",
        // v3 has 32-bit arithmetic and jumps; kernels since 5.1 know it.
        "-Ctarget-cpu=v3",
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
    ];
    cargo.env(FLAGS_VARIABLE, flags.join(FLAGS_SEPARATOR));
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_TARGET_DIR", bpf_target_directory(checkout));
    match &toolchain.compiler {
        // aya-ebpf uses unstable features of the language, which a stable rustc allows with this variable.
        Compiler::Prebuilt(rustc) => drop(cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1")),
        Compiler::BuildStd(nightly) => {
            let mut nightly_cargo = Command::new("cargo");
            nightly_cargo.current_dir(checkout.root());
            nightly_cargo.envs(cargo.get_envs().filter_map(|(name, value)| Some((name, value?))));
            nightly_cargo.env("RUSTUP_TOOLCHAIN", nightly).args(["-Z", "build-std=core"]);
            cargo = nightly_cargo;
        }
    }
    cargo.env("CARGO_BUILD_TARGET", TARGET);
    cargo
}

/// Adds one more flag for the compiler to a command of `cargo_for_bpf`.
pub(crate) fn add_rust_flag(cargo: &mut Command, flag: &str) {
    let flags = cargo.get_envs().find(|(name, _)| *name == FLAGS_VARIABLE).and_then(|(_, value)| value);
    let mut flags = flags.unwrap_or_default().to_owned();
    flags.push(FLAGS_SEPARATOR);
    flags.push(flag);
    cargo.env(FLAGS_VARIABLE, flags);
}

fn bpf_target_directory(checkout: &Checkout) -> PathBuf {
    checkout.own("bpf-target")
}

/// Copies the object without the debugging information that only people read, which is four fifths of it; BTF stays.
/// An object that has not changed is left untouched, which saves rebuilding what embeds it.
fn install_object(built: &Path, installed: &Path) -> Result<()> {
    let stripped = match find_strip() {
        Some(strip) => {
            let stripped = built.with_extension("stripped");
            command::run(Command::new(strip).arg("--strip-debug").arg(built).arg("-o").arg(&stripped))?;
            stripped
        }
        None => built.to_path_buf(),
    };
    copy_if_changed(&stripped, installed)
}

/// Debian keeps LLVM's tools out of PATH, in a directory per version; any version can strip.
fn find_strip() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let llvm =
        directories.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"llvm-")));
    let mut tools = llvm.map(|directory| directory.join("bin/llvm-strip")).filter(|tool| tool.is_file());
    command::find_program("llvm-strip").or_else(|| tools.next())
}

fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    fs::write(to, new).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a"), directory.path().join("b/c"));
        fs::write(&from, b"one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let before = fs::metadata(&to).unwrap().modified().unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), before);
        fs::write(&from, b"two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }
}
