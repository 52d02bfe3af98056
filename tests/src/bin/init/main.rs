//! PID 1 of the test VM that `cargo xtask vm` boots.
//!
//! It loads the few modules that the root file system needs, lays a writable layer over the host's read-only root,
//! makes the usual mounts, and runs one command with its terminal or pipes carried over a virtio serial port. Whatever
//! goes wrong is told to the host in a frame and on the kernel console; a guest without BPF LSM is refused here.
//! It leaves every judgement about the outcome to the host.

mod channel;
mod root;
mod session;

use std::ffi::CStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::RebootCommand;

use crate::channel::{Frame, MODULES_DIRECTORY, Start};
use crate::session::Port;

fn main() {
    if std::process::id() != 1 {
        complain("this program is PID 1 of the test VM; run `cargo xtask vm` instead");
        std::process::exit(2);
    }
    if let Err(error) = run() {
        complain(&format!("{error:#}"));
    }
    // The kernel console shows why, should even this fail; the host then waits for its deadline.
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        complain(&format!("cannot power off: {error}"));
    }
}

/// Writes to the kernel console, which the host keeps and shows after a failure.
fn complain(message: &str) {
    // There is nobody left to tell when this fails.
    let _ = fs::write("/dev/console", format!("init: {message}\n"));
}

fn run() -> Result<()> {
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::empty(), None)?;
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None)?;
    load_modules()?;
    let mut port = Port::open()?;
    let start = port.receive_start()?;
    let result = prepare(&start).and_then(|()| session::run(&mut port, &start));
    let last = match &result {
        Ok(status) => Frame::Exit(*status),
        Err(error) => Frame::Failure(format!("{error:#}")),
    };
    port.send(&last)?;
    result.map(drop)
}

fn prepare(start: &Start) -> Result<()> {
    root::enter(start)?;
    root::bring_network_up()?;
    // What a service manager gives its services; the kernel's own limit is too low for a thousand held processes.
    let limit = Rlimit { current: Some(1024), maximum: Some(524_288) };
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
    let list = fs::read_to_string("/sys/kernel/security/lsm").context("cannot read /sys/kernel/security/lsm")?;
    if !list.trim().split(',').any(|name| name == "bpf") {
        bail!(
            "the guest's LSM list is \"{}\", without bpf: boot with lsm=…,bpf on the kernel command line",
            list.trim()
        );
    }
    Ok(())
}

/// Loads what the initramfs brought along; modules that this kernel has built in are not there.
fn load_modules() -> Result<()> {
    let Ok(entries) = fs::read_dir(MODULES_DIRECTORY) else { return Ok(()) };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    for path in paths {
        let image = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match rustix::system::init_module(&image, c"") {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot load the module {}", path.display())),
        }
    }
    Ok(())
}

/// Mounts, making the mount point when it is missing.
fn mount(source: &str, target: impl AsRef<Path>, kind: &str, flags: MountFlags, options: Option<&CStr>) -> Result<()> {
    let target = target.as_ref();
    fs::create_dir_all(target).with_context(|| format!("cannot make the mount point {}", target.display()))?;
    rustix::mount::mount(source, target, kind, flags, options)
        .with_context(|| format!("cannot mount {kind} at {}", target.display()))
}
