//! The file systems of the guest: the host's root read-only below, memory above, and fresh kernel mounts.
//!
//! The checkout stays visible at its own path even where that lies below a directory that gets a fresh mount, such as
//! `/tmp`: it is set aside before and moved back after.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, SocketType};

use crate::channel::{ROOT_TAG, Start};
use crate::mount;

const NEW_ROOT: &str = "/newroot";
const HOST_NAME: &str = "gatekeeper-vm";
/// The address that the emulator's own network has for its guest.
const ADDRESS: [u8; 4] = [10, 0, 2, 15];

/// What is mounted in the new root, in this order: source, target, type, options.
const MOUNTS: [(&str, &str, &str, Option<&CStr>); 13] = [
    ("proc", "/proc", "proc", None),
    ("sysfs", "/sys", "sysfs", None),
    ("devtmpfs", "/dev", "devtmpfs", None),
    ("devpts", "/dev/pts", "devpts", Some(c"mode=620,gid=5,ptmxmode=666")),
    ("tmpfs", "/dev/shm", "tmpfs", Some(c"mode=1777")),
    ("tmpfs", "/tmp", "tmpfs", Some(c"mode=1777")),
    ("tmpfs", "/run", "tmpfs", Some(c"mode=755")),
    ("securityfs", "/sys/kernel/security", "securityfs", None),
    ("debugfs", "/sys/kernel/debug", "debugfs", None),
    ("tracefs", "/sys/kernel/tracing", "tracefs", None),
    ("bpf", "/sys/fs/bpf", "bpf", Some(c"mode=700")),
    // nsdelegate as systemd mounts it, so that tests meet what deployments have.
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", Some(c"nsdelegate,memory_recursiveprot")),
    ("mqueue", "/dev/mqueue", "mqueue", None),
];

/// Builds the root file system of the guest and makes it the root of this process.
///
/// # Errors
/// A mount failed: the kernel lacks a file system or a module.
pub(crate) fn enter(start: &Start) -> Result<()> {
    mount_root()?;
    let set_aside = set_kept_aside(start)?;
    for (source, target, kind, options) in MOUNTS {
        mount(source, below_new_root(Path::new(target)), kind, MountFlags::empty(), options)?;
    }
    for (from, to) in set_aside {
        fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
        rustix::mount::mount_move(&from, &to).with_context(|| format!("cannot move a mount to {}", to.display()))?;
    }
    bind_modules(start)?;
    std::env::set_current_dir(NEW_ROOT).context("cannot enter the new root")?;
    rustix::mount::mount_move(".", "/").context("cannot move the new root")?;
    rustix::process::chroot(".").context("cannot change the root")?;
    std::env::set_current_dir("/").context("cannot enter the root")?;
    finish()
}

/// Brings up the interfaces, which are down at boot: loopback, and the network where the host gave this guest one.
///
/// # Errors
/// The kernel refused.
pub(crate) fn bring_network_up() -> Result<()> {
    const NETWORK: &str = "eth0";
    const SET_ADDRESS: rustix::ioctl::Opcode = 0x8916;
    const SET_FLAGS: rustix::ioctl::Opcode = 0x8914;
    const UP_AND_RUNNING: [u8; 2] = (0x1_u16 | 0x40).to_ne_bytes();

    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).context("cannot open a socket")?;
    if Path::new("/sys/class/net").join(NETWORK).exists() {
        // A `struct sockaddr_in`: family, port, address. The mask is the one of the address's class, which will do.
        let mut address = [0; 8];
        address[..2].copy_from_slice(&AddressFamily::INET.as_raw().to_ne_bytes());
        address[4..].copy_from_slice(&ADDRESS);
        set_interface::<SET_ADDRESS>(&socket, NETWORK, &address)?;
        set_interface::<SET_FLAGS>(&socket, NETWORK, &UP_AND_RUNNING)?;
    }
    set_interface::<SET_FLAGS>(&socket, "lo", &UP_AND_RUNNING)
}

/// One of the old calls that change an interface.
fn set_interface<const CALL: rustix::ioctl::Opcode>(socket: impl AsFd, name: &str, value: &[u8]) -> Result<()> {
    /// `struct ifreq`: the name, and what is to be set.
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        value: [u8; 24],
    }
    let mut request = InterfaceRequest { name: [0; 16], value: [0; 24] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    request.value[..value.len()].copy_from_slice(value);
    // SAFETY: SIOCSIFFLAGS and SIOCSIFADDR, the only calls made here, read one `struct ifreq` (40 bytes) and write nothing.
    let operation = unsafe { rustix::ioctl::Setter::<CALL, InterfaceRequest>::new(request) };
    // SAFETY: the operation is right for any socket; the argument outlives the call.
    unsafe { rustix::ioctl::ioctl(&socket, operation) }.with_context(|| format!("cannot set up the interface {name}"))
}

fn mount_root() -> Result<()> {
    // cache=loose: nothing on the host changes these files while the guest runs, and it is several times faster.
    let options = c"trans=virtio,version=9p2000.L,cache=loose,msize=512000,access=client";
    mount(ROOT_TAG, "/lower", "9p", MountFlags::RDONLY, Some(options))?;
    mount("tmpfs", "/upper", "tmpfs", MountFlags::empty(), Some(c"mode=755,size=75%"))?;
    for directory in ["/upper/files", "/upper/work"] {
        fs::create_dir(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    mount(
        "overlay",
        NEW_ROOT,
        "overlay",
        MountFlags::empty(),
        Some(c"lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work"),
    )
}

/// Bind-mounts, outside the new root, the directories that a fresh mount would hide; returns pairs of now and later.
fn set_kept_aside(start: &Start) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut set_aside = Vec::new();
    for (index, kept) in start.kept.iter().map(|path| Path::new(OsStr::from_bytes(path))).enumerate() {
        if !MOUNTS.iter().any(|(_, target, _, _)| kept.starts_with(target)) {
            continue;
        }
        let (from, aside) = (below_new_root(kept), PathBuf::from(format!("/kept/{index}")));
        fs::create_dir_all(&aside).with_context(|| format!("cannot make {}", aside.display()))?;
        rustix::mount::mount_bind(&from, &aside)
            .with_context(|| format!("cannot set {} aside (does it exist on the host?)", kept.display()))?;
        set_aside.push((aside, from));
    }
    Ok(set_aside)
}

/// Makes `modprobe` find the modules of the running kernel rather than those of the host's.
fn bind_modules(start: &Start) -> Result<()> {
    if start.modules.is_empty() {
        return Ok(());
    }
    let from = below_new_root(Path::new(OsStr::from_bytes(&start.modules)));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let to = Path::new(NEW_ROOT).join("lib/modules").join(release);
    // /lib may be a relative link to usr/lib; it resolves inside the new root because it is relative.
    fs::create_dir_all(&to).with_context(|| format!("cannot make {}", to.display()))?;
    rustix::mount::mount_bind(&from, &to).with_context(|| format!("cannot bind the modules at {}", to.display()))
}

/// What a distribution's early boot does besides mounting.
fn finish() -> Result<()> {
    for (target, link) in
        [("/proc/self/fd", "/dev/fd"), ("fd/0", "/dev/stdin"), ("fd/1", "/dev/stdout"), ("fd/2", "/dev/stderr")]
    {
        symlink(target, link).with_context(|| format!("cannot make {link}"))?;
    }
    for directory in ["/run/lock", "/run/user"] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {directory}"))?;
    }
    rustix::system::sethostname(HOST_NAME.as_bytes()).context("cannot set the host name")?;
    // sudo looks the host name up and complains when it finds nothing.
    let mut hosts =
        fs::OpenOptions::new().append(true).create(true).open("/etc/hosts").context("cannot open /etc/hosts")?;
    writeln!(hosts, "\n127.0.1.1 {HOST_NAME}").context("cannot write /etc/hosts")
}

fn below_new_root(path: &Path) -> PathBuf {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Path::new(NEW_ROOT).join(relative)
}
