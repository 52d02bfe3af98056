//! The toolchain for the BPF programs: a rustc that has `core` for BPF, or can build it, and bpf-linker.
//!
//! Debian packages `core` for `bpfel-unknown-none`, so a stable rustc suffices there; elsewhere a nightly toolchain with
//! `rust-src` builds it. bpf-linker has to know an LLVM that is not older than that of rustc.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Package};
use super::say;
use crate::checkout::Checkout;
use crate::command::{self, find_program};

/// The target of the BPF programs: little endian, as x86-64 is.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const RUSTC_VARIABLE: &str = "GATEKEEPER_BPF_RUSTC";
const LINKER_VARIABLE: &str = "GATEKEEPER_BPF_LINKER";
/// Debian's packages of rustc and of `core` for BPF: the ones kept current for web browsers first.
const DEBIAN_PACKAGES: [[&str; 2]; 2] = [["rustc-web", "libstd-rust-web-dev-bpf"], ["rustc", "libstd-rust-dev-bpf"]];

/// What builds the BPF programs.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

/// A Rust compiler for BPF.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// This rustc has `core` for BPF in its sysroot.
    Prebuilt(PathBuf),
    /// The nightly toolchain of this name has `rust-src`, so cargo builds `core`.
    BuildStd(String),
}

/// What lints the BPF programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Linter {
    /// The clippy-driver that belongs to the compiler.
    Driver(PathBuf),
    /// The clippy component of the nightly toolchain.
    Component,
    /// The compiler has none.
    None,
}

/// Finds or installs the toolchain.
///
/// # Errors
/// There is none and none can be installed; the message names the ways to get one.
pub(crate) fn ensure(checkout: &Checkout) -> Result<Toolchain> {
    let own = env::var_os(LINKER_VARIABLE).map(PathBuf::from);
    let installed = checkout.tools().join("bin/bpf-linker");
    if let Some(compiler) = find_compiler()? {
        if let Some(linker) = own.clone() {
            check_linker(&linker).with_context(|| format!("{LINKER_VARIABLE} is of no use"))?;
            return Ok(Toolchain { compiler, linker });
        }
        if check_linker(&installed).is_ok() {
            return Ok(Toolchain { compiler, linker: installed });
        }
    }

    let _lock = super::lock(checkout)?;
    let compiler = match find_compiler()? {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if own.is_none() && check_linker(&installed).is_err() {
        install_linker(checkout, &compiler)?;
        check_linker(&installed)?;
    }
    Ok(Toolchain { compiler, linker: own.unwrap_or(installed) })
}

/// Finds or installs the clippy that belongs to the compiler: any other cannot read its libraries.
///
/// # Errors
/// Debian's compiler lacks Debian's clippy, which cannot be installed.
pub(crate) fn ensure_linter(checkout: &Checkout, compiler: &Compiler) -> Result<Linter> {
    let Compiler::Prebuilt(rustc) = compiler else { return Ok(Linter::Component) };
    let driver = rustc.with_file_name("clippy-driver");
    if !driver.is_file() && rustc.starts_with("/usr/bin") && apt::is_here() {
        let _lock = super::lock(checkout)?;
        let package = if find_program_package(rustc)?.contains("web") { "rust-web-clippy" } else { "rust-clippy" };
        apt::install(&[Package::new(package, "lints the BPF programs")])?;
    }
    Ok(if driver.is_file() { Linter::Driver(driver) } else { Linter::None })
}

/// The Debian package a program came with.
fn find_program_package(program: &Path) -> Result<String> {
    command::capture(Command::new("dpkg-query").arg("--search").arg(program.canonicalize()?))
}

fn find_compiler() -> Result<Option<Compiler>> {
    if let Some(rustc) = env::var_os(RUSTC_VARIABLE).map(PathBuf::from) {
        if !has_bpf_core(&sysroot(&rustc).with_context(|| format!("{RUSTC_VARIABLE} is of no use"))?) {
            bail!("{RUSTC_VARIABLE}: {} has no core library for {TARGET} in its sysroot", rustc.display());
        }
        return Ok(Some(Compiler::Prebuilt(rustc)));
    }
    // The distribution's first: its sysroot is known without asking.
    let debian = PathBuf::from("/usr/bin/rustc");
    if debian.is_file() && has_bpf_core(Path::new("/usr")) {
        return Ok(Some(Compiler::Prebuilt(debian)));
    }
    if let Some(rustc) = find_program("rustc")
        && sysroot(&rustc).is_ok_and(|sysroot| has_bpf_core(&sysroot))
    {
        return Ok(Some(Compiler::Prebuilt(rustc)));
    }
    Ok(nightly_with_source().map(Compiler::BuildStd))
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    let sysroot = command::capture(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

fn has_bpf_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

/// A nightly toolchain is of use only with the source of `core`, which rustup installs as a component.
fn nightly_with_source() -> Option<String> {
    let list = command::capture(Command::new("rustup").args(["toolchain", "list", "--verbose"])).ok()?;
    toolchains(&list)
        .find(|(name, path)| name.starts_with("nightly") && has_source(Path::new(path)))
        .map(|(name, _)| name)
}

fn has_source(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

/// Names and directories in what `rustup toolchain list --verbose` prints.
fn toolchains(list: &str) -> impl Iterator<Item = (String, String)> {
    list.lines().filter_map(|line| {
        let name = line.split_whitespace().next()?;
        let path = line.split_whitespace().last()?;
        path.starts_with('/').then(|| (name.to_owned(), path.to_owned()))
    })
}

fn install_compiler() -> Result<Compiler> {
    let manual = format!(
        "the BPF programs need a Rust compiler with the core library for {TARGET}. Any of these will do:\n  \
         - Debian: apt-get install {}\n  \
         - rustup: rustup toolchain install nightly --component rust-src\n  \
         - your own: {RUSTC_VARIABLE}=/path/to/rustc",
        DEBIAN_PACKAGES[0].join(" ")
    );
    if !apt::is_here() {
        bail!(manual);
    }
    let available = || DEBIAN_PACKAGES.iter().find(|names| names.iter().all(|name| apt::has_candidate(name)));
    let mut packages = available();
    if packages.is_none() {
        apt::update()?;
        packages = available();
    }
    let Some([rustc, core]) = packages else { bail!("this distribution has no package of it; {manual}") };
    apt::install(&[
        Package::new(*rustc, "compiles the BPF programs"),
        Package::new(*core, format!("the core library for {TARGET}")),
    ])?;
    find_compiler()?.with_context(|| format!("{rustc} and {core} are installed, yet of no use; {manual}"))
}

fn check_linker(linker: &Path) -> Result<()> {
    // Running it also finds a missing LLVM library.
    let version = command::capture(Command::new(linker).arg("--version"))?;
    if version.trim().is_empty() {
        bail!("{} does not tell its version", linker.display());
    }
    Ok(())
}

fn install_linker(checkout: &Checkout, compiler: &Compiler) -> Result<()> {
    let mut cargo = command::cargo(checkout);
    cargo.args(["install", "--locked", "--force", "--version", LINKER_VERSION, "bpf-linker", "--root"]);
    let build = checkout.own("tools-target");
    cargo.arg(checkout.tools()).arg("--target-dir").arg(&build);
    match compiler {
        Compiler::Prebuilt(rustc) => {
            let version = command::capture(Command::new(rustc).args(["--version", "--verbose"]))?;
            let llvm = llvm_version(&version).with_context(|| format!("{} does not tell its LLVM", rustc.display()))?;
            let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
            if !prefix.join("lib/libLLVM.so").exists() {
                let reason = format!("bpf-linker is linked with LLVM {llvm}, which {} uses", rustc.display());
                apt::install(&[Package::new(format!("llvm-{llvm}-dev"), reason)])?;
            }
            cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]).env("LLVM_PREFIX", prefix);
        }
        // The default features use the LLVM that the nightly rustc itself brings.
        Compiler::BuildStd(nightly) => drop(cargo.env("RUSTUP_TOOLCHAIN", nightly)),
    }
    say(&format!("building bpf-linker {LINKER_VERSION}, which links the BPF programs: about a minute"));
    // cargo warns when what it installs is not in PATH, where it need not be.
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([checkout.tools().join("bin")]);
    cargo.env("PATH", env::join_paths(directories).context("a directory in PATH has a colon in its name")?);
    command::run_build(&mut cargo).context("cannot install bpf-linker")?;
    // What is left over by then is large and of no more use.
    std::fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

/// The major version of LLVM in what `rustc -vV` prints.
fn llvm_version(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    line.trim().split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_rustc_is_found() {
        assert_eq!(llvm_version("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_version("rustc 1.96.0\n"), None);
    }

    #[test]
    fn toolchains_have_names_and_directories() {
        let list =
            "stable-x86_64 (active, default) /root/.rustup/toolchains/stable\nnightly-x86_64 /n\nno toolchains\n";
        let found: Vec<_> = toolchains(list).collect();
        assert_eq!(found[0], ("stable-x86_64".into(), "/root/.rustup/toolchains/stable".into()));
        assert_eq!(found[1], ("nightly-x86_64".into(), "/n".into()));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_nightly_without_source_is_of_no_use() {
        let sysroot = tempfile::tempdir().unwrap();
        assert!(!has_source(sysroot.path()));
        std::fs::create_dir_all(sysroot.path().join("lib/rustlib/src/rust/library/core")).unwrap();
        assert!(has_source(sysroot.path()));
    }
}
