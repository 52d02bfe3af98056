//! Kernels for the test VM: Debian's own packages, downloaded and unpacked, nothing installed.
//!
//! A kernel is named by its version line (`6.1`) or by a path: an image, a directory with an unpacked package, or a
//! package file. Its modules lie in `lib/modules` beside it; without them it has to have built in what the VM needs.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Need, apt, say};
use crate::checkout::Checkout;
use crate::command;

/// A kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What the user calls it.
    pub(crate) label: String,
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// The directory with `modules.dep`; none for a kernel without modules.
    pub(crate) modules: Option<PathBuf>,
    /// What `uname -r` says in it.
    pub(crate) release: String,
}

/// Finds the kernel, downloading and unpacking one of the known lines where that has not been done.
///
/// # Errors
/// It is not there and cannot be had; the message says how to point at one.
pub(crate) fn ensure(checkout: &Checkout, name: &str) -> Result<Kernel> {
    if !super::KERNELS.contains(&name) {
        return at(checkout, name, Path::new(name)).with_context(|| {
            format!("--kernel {name} is neither {} nor a kernel's path", super::KERNELS.join(" nor "))
        });
    }
    let variable = variable(name);
    if let Some(path) = env::var_os(&variable) {
        return at(checkout, name, Path::new(&path)).with_context(|| format!("{variable} is of no use"));
    }
    let directory = checkout.kernels().join(name);
    if let Ok(kernel) = unpacked(name, &directory) {
        return Ok(kernel);
    }
    super::ensure(checkout, &[Need::Vm])?;
    let _lock = super::lock(checkout)?;
    if let Ok(kernel) = unpacked(name, &directory) {
        return Ok(kernel);
    }
    let package = download(checkout, name).with_context(|| {
        format!("no kernel {name} for the test VM; point {variable} at an image, an unpacked kernel package or a .deb")
    })?;
    unpack(&package, &directory)?;
    unpacked(name, &directory)
}

/// `6.12` is found in `GATEKEEPER_KERNEL_6_12`.
fn variable(name: &str) -> String {
    format!("GATEKEEPER_KERNEL_{}", name.replace('.', "_"))
}

/// The kernel at a path that the user gave.
fn at(checkout: &Checkout, label: &str, path: &Path) -> Result<Kernel> {
    let path = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    if path.is_dir() {
        return unpacked(label, &path);
    }
    if path.extension() == Some(OsStr::new("deb")) {
        super::ensure(checkout, &[Need::Vm])?;
        let directory = checkout.kernels().join(path.file_stem().unwrap_or_default());
        let _lock = super::lock(checkout)?;
        if unpacked(label, &directory).is_err() {
            unpack(&path, &directory)?;
        }
        return unpacked(label, &directory);
    }
    let release = release_of(&path)?;
    // An installed kernel lies in /boot with its modules in /lib; an unpacked one likewise, one level down.
    let roots = path.parent().into_iter().flat_map(|directory| [directory, directory.parent().unwrap_or(directory)]);
    let modules = roots.map(|root| modules_below(root, &release)).find(|modules| modules.join("modules.dep").is_file());
    Ok(Kernel { label: label.into(), image: path, modules, release })
}

/// The kernel in a directory that holds an unpacked package.
fn unpacked(label: &str, directory: &Path) -> Result<Kernel> {
    let boot = directory.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let images = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut images =
        images.filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz")));
    let image = images.next().ok_or_else(|| anyhow!("there is no boot/vmlinuz-* in {}", directory.display()))?;
    let release = release_of(&image)?;
    let modules = modules_below(directory, &release);
    if !modules.join("modules.dep").is_file() {
        bail!("there is no {} (`depmod --basedir` writes it)", modules.join("modules.dep").display());
    }
    Ok(Kernel { label: label.into(), image, modules: Some(modules), release })
}

fn modules_below(root: &Path, release: &str) -> PathBuf {
    root.join("lib/modules").join(release)
}

/// Reads the release out of an x86 kernel image, where the boot protocol puts it.
fn release_of(image: &Path) -> Result<String> {
    const MAGIC_AT: u64 = 0x202;
    const POINTER_AT: u64 = 0x20e;
    const POINTER_BASE: u64 = 0x200;

    let read = |at: u64, length: usize| -> std::io::Result<Vec<u8>> {
        let mut file = File::open(image)?;
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let problem = || format!("{} is not a kernel image for x86 (bzImage)", image.display());
    if read(MAGIC_AT, 4).with_context(|| format!("cannot read {}", image.display()))? != *b"HdrS" {
        bail!(problem());
    }
    let pointer = read(POINTER_AT, 2).with_context(problem)?;
    let pointer = <[u8; 2]>::try_from(pointer).map_err(|_| anyhow!(problem()))?;
    let text = read(POINTER_BASE + u64::from(u16::from_le_bytes(pointer)), 128).with_context(problem)?;
    let text = String::from_utf8_lossy(&text);
    // The release is followed by who built it and when.
    text.split([' ', '\0']).next().filter(|release| !release.is_empty()).map(str::to_owned).with_context(problem)
}

/// The package file of the kernel line, downloaded unless it lies there already.
fn download(checkout: &Checkout, version: &str) -> Result<PathBuf> {
    let directory = checkout.kernels();
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    if let Some(package) = downloaded(&directory, version)? {
        return Ok(package);
    }
    if !apt::is_here() {
        bail!("this machine has no apt-get to download Debian's kernel with");
    }
    let name = match package_name(version) {
        Some(name) => name,
        None => {
            apt::update()?;
            package_name(version).with_context(|| format!("no package source has a kernel {version}"))?
        }
    };
    say(&format!("downloading {name}, a kernel for the test VM: 70 to 110 MB"));
    let fetch = || {
        // Downloading needs no root. When it is root that does it, apt would rather be another user, who cannot write here.
        let user = if rustix::process::geteuid().is_root() { "root" } else { "" };
        let mut apt = Command::new("apt-get");
        apt.args(["-o", &format!("APT::Sandbox::User={user}"), "download", "-q", &name])
            .current_dir(&directory)
            .stdout(std::io::stderr());
        command::run(&mut apt)
    };
    fetch().or_else(|_| apt::update().and_then(|()| fetch()))?;
    downloaded(&directory, version)?.with_context(|| format!("apt-get download left no {name}_*.deb behind"))
}

fn downloaded(directory: &Path, version: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let files = entries.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.ends_with(".deb") && is_of_line(name.split('_').next().unwrap_or_default(), version)
    });
    // The newest, should there be several.
    Ok(files.max_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok()).map(|entry| entry.path()))
}

/// Whether `linux-image-6.1.0-56-amd64` is a stock kernel of the line `6.1`.
fn is_of_line(package: &str, version: &str) -> bool {
    let Some(rest) = package.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(version)) else {
        return false;
    };
    let variant = ["cloud", "rt", "dbg", "unsigned"].iter().any(|variant| rest.contains(variant));
    // After 6.1 comes .0 or -4, not 2.
    rest.starts_with(['.', '-', '+']) && rest.ends_with("-amd64") && rest != "-amd64" && !variant
}

/// The package that holds the kernel: what the line's meta package asks for, or the newest of that name.
fn package_name(version: &str) -> Option<String> {
    for meta in [format!("linux-image-{version}-amd64"), "linux-image-amd64".into()] {
        let depends = command::capture(Command::new("apt-cache").args(["depends", &meta]).env("LC_ALL", "C"));
        if let Some(name) = depends.ok().as_deref().and_then(|depends| dependency_of_line(depends, version)) {
            return Some(name.to_owned());
        }
    }
    let prefix = format!("linux-image-{version}");
    let names = command::capture(Command::new("apt-cache").args(["pkgnames", &prefix])).ok()?;
    let mut names: Vec<&str> = names.lines().filter(|name| is_of_line(name, version)).collect();
    names.sort_by_key(|name| numbers(name));
    names.last().map(|name| (*name).to_owned())
}

fn dependency_of_line<'a>(depends: &'a str, version: &str) -> Option<&'a str> {
    let dependencies = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends:"));
    dependencies.map(str::trim).find(|name| is_of_line(name, version))
}

/// The numbers in a name, for comparing versions.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn unpack(package: &Path, directory: &Path) -> Result<()> {
    say(&format!("unpacking {}", package.file_name().unwrap_or_default().to_string_lossy()));
    // Made under another name: an interrupted setup leaves nothing that looks finished.
    let partial = directory.with_extension("partial");
    for left_over in [&partial, directory] {
        if left_over.exists() {
            fs::remove_dir_all(left_over).with_context(|| format!("cannot remove {}", left_over.display()))?;
        }
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    command::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&partial))?;
    let modules = partial.join("lib/modules");
    // Newer packages put modules where merged systems have them.
    let modules = if modules.is_dir() { modules } else { partial.join("usr/lib/modules") };
    if !partial.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", partial.join("lib")).context("cannot link lib to usr/lib")?;
    }
    let entries = fs::read_dir(&modules).with_context(|| format!("cannot read {}", modules.display()))?;
    for release in entries.filter_map(Result::ok) {
        let depmod = command::find_program("depmod").context("depmod is not in PATH (package kmod)")?;
        command::run(Command::new(depmod).arg("--basedir").arg(&partial).arg(release.file_name()))?;
    }
    fs::rename(&partial, directory).with_context(|| format!("cannot make {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_kernels_of_a_line_are_told_from_others() {
        assert!(is_of_line("linux-image-6.1.0-56-amd64", "6.1"));
        assert!(is_of_line("linux-image-6.12.117+deb12-amd64", "6.12"));
        for other in [
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-rt-amd64",
            "linux-image-6.1.0-56-amd64-dbg",
            "linux-image-6.1-amd64",
            "linux-headers-6.1.0-56-amd64",
        ] {
            assert!(!is_of_line(other, "6.1"), "{other}");
        }
    }

    #[test]
    fn the_real_package_is_read_from_the_meta_package() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(dependency_of_line(depends, "6.1"), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(dependency_of_line(depends, "6.12"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("linux-image-6.1.0-9-amd64") < numbers("linux-image-6.1.0-56-amd64"));
    }

    #[test]
    fn a_release_is_read_from_an_image() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 0x400];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        bytes[0x300..0x314].copy_from_slice(b"6.12.1-amd64 (me@h) ");
        fs::write(file.path(), &bytes).unwrap();
        assert_eq!(release_of(file.path()).unwrap(), "6.12.1-amd64");
        fs::write(file.path(), b"not a kernel").unwrap();
        assert!(release_of(file.path()).unwrap_err().to_string().contains("not a kernel image"));
    }

    #[test]
    fn a_path_that_is_no_kernel_is_refused_with_the_way_out() {
        let checkout = Checkout::at(Path::new("/nowhere"));
        let error = format!("{:#}", ensure(&checkout, "6.7").unwrap_err());
        assert!(error.contains("neither 6.1 nor 6.12") && error.contains("6.7"), "{error}");
    }
}
