//! `cargo xtask vm`: one command in a VM with a kernel of choice and this machine's user land.
//!
//! This module says what machine to emulate and what to run; `guest` carries input, output and the verdict.

#[path = "../../../tests/src/bin/init/channel.rs"]
mod channel;
mod guest;
mod initramfs;
mod kernel_log;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use self::channel::{ROOT_TAG, Start, Window};
pub(crate) use self::guest::{Failure, Stream, write_through};
use crate::checkout::Checkout;
use crate::flags::{MachineFlags, VmFlags};
use crate::setup::kernels::Kernel;
use crate::setup::{self, Need};
use crate::{build, command};

/// Directories that the guest searches for programs after those built here and before the rest of the host's PATH:
/// version managers put wrapper scripts first, which are slow and are not the programs a test means.
const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// More than VMs that can sensibly run at once, as each has two files.
const KEPT_FILES: usize = 40;
const TARGET_OF_INIT: &str = "init-target";
/// `setup` refuses machines that cannot run this.
const INIT_TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Where the guest finds the server that it can reach: an address of the emulator's own network.
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);

/// What to run in the guest.
pub(crate) struct Order<'a> {
    pub(crate) machine: &'a MachineFlags,
    pub(crate) arguments: Vec<OsString>,
    /// Variables on top of those that are passed through.
    pub(crate) environment: Vec<(String, OsString)>,
    /// Pass this program's standard streams through; without it, the guest has no input and no terminal.
    pub(crate) interactive: bool,
    /// The one server of this machine that the guest can reach. Without it, the guest has no network.
    pub(crate) server: Option<Server>,
}

/// A server of this machine.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Run by the emulator for each connection, with the guest's side of it as standard input and output.
    pub(crate) relay: Vec<OsString>,
}

impl Server {
    /// Where the guest reaches it.
    pub(crate) fn in_guest(&self) -> SocketAddrV4 {
        SocketAddrV4::new(SERVER_ADDRESS, self.port)
    }
}

/// `cargo xtask vm`.
///
/// # Errors
/// Setup or build failed. What goes wrong with the VM itself is an exit status.
pub(crate) fn run(checkout: &Checkout, flags: &VmFlags) -> Result<u8> {
    setup::ensure(checkout, &[Need::Vm])?;
    let kernel = setup::kernels::ensure(checkout, &flags.machine.kernel)?;
    if !flags.no_build {
        build::everything(checkout)?;
    }
    let order = Order {
        machine: &flags.machine,
        arguments: flags.command.clone(),
        environment: Vec::new(),
        interactive: true,
        server: None,
    };
    pass_through(checkout, &kernel, &order)
}

/// Boots, passing what the guest writes on to standard output and error, and returns an exit status.
///
/// # Errors
/// The host could not prepare the VM.
pub(crate) fn pass_through(checkout: &Checkout, kernel: &Kernel, order: &Order<'_>) -> Result<u8> {
    match boot(checkout, kernel, order, &mut write_through)? {
        Ok(status) => Ok(status),
        Err(failure) => {
            eprint!("{failure}");
            Ok(Failure::STATUS)
        }
    }
}

/// Boots `kernel`, runs the command, and hands what it writes to `sink`. The inner result is the command's status or
/// what went wrong with the VM.
///
/// # Errors
/// The host could not prepare the VM, or `sink` failed.
pub(crate) fn boot(
    checkout: &Checkout,
    kernel: &Kernel,
    order: &Order<'_>,
    sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
) -> Result<Result<u8, Failure>> {
    let init = build_init(checkout)?;
    let directory = checkout.vm();
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    remove_old_files(&directory)?;
    // Several VMs may run at once.
    let process = std::process::id();
    let archive = Temporary(directory.join(format!("initramfs-{process}.cpio")));
    initramfs::write(&archive.0, &init, kernel.modules.as_deref(), order.server.is_some())?;
    let log = match &order.machine.kernel_log {
        Some(path) => path.clone(),
        None => directory.join(format!("kernel-{process}.log")),
    };
    let plan = guest::Plan {
        emulator: emulator(kernel, order, &archive.0)?,
        start: start(checkout, kernel, order)?,
        timeout: Duration::from_secs(order.machine.timeout),
        kernel_log: log,
        keep_kernel_log: order.machine.kernel_log.is_some(),
        interactive: order.interactive,
    };
    guest::run(plan, sink)
}

/// A file that goes with this value.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Left-over files below target/ harm nobody.
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the oldest files of earlier runs: logs of failures stay for a while, and a killed run leaves its archive.
fn remove_old_files(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    files.sort_by_key(|path| fs::metadata(path).and_then(|data| data.modified()).ok());
    for path in files.iter().rev().skip(KEPT_FILES) {
        // Another run may be doing the same.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// PID 1 of the guest is linked statically, as the initramfs has no libraries; its own target directory keeps the
/// flag for that from rebuilding everything else. Naming the target keeps the flag from macros, which run in the compiler.
fn build_init(checkout: &Checkout) -> Result<PathBuf> {
    let target = checkout.own(TARGET_OF_INIT);
    let mut cargo = command::cargo(checkout);
    cargo.args(["build", "--release", "--package", "gatekeeper-tests", "--bin", "init", "--target", INIT_TRIPLE]);
    cargo.arg("--target-dir").arg(&target);
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    command::run_build(&mut cargo).context("cannot build PID 1 of the test VM")?;
    Ok(target.join(INIT_TRIPLE).join("release/init"))
}

/// The emulator's command line, all but the channel.
fn emulator(kernel: &Kernel, order: &Order<'_>, archive: &Path) -> Result<Command> {
    let machine = order.machine;
    let program = command::find_program("qemu-system-x86_64").context("qemu-system-x86_64 is not in PATH")?;
    let mut emulator = Command::new(program);
    emulator.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    let hardware = env::var_os("GATEKEEPER_VM_ACCEL").is_some_and(|accelerator| accelerator == "kvm");
    if machine.icount {
        emulator.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max", "-smp", "1"]);
    } else {
        let accelerator =
            if hardware { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg,thread=multi", "-cpu", "max"] };
        emulator.args(accelerator).args(["-smp", &machine.smp.to_string()]);
    }
    emulator.args(["-m", &machine.memory.to_string()]);
    emulator.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(archive);
    emulator.args(["-append", &kernel_arguments(machine)]);
    let share = format!("local,path=/,mount_tag={ROOT_TAG},security_model=none,readonly=on,multidevs=remap");
    emulator.args(["-virtfs", &share]);
    emulator.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
    if let Some(server) = &order.server {
        emulator.arg("-netdev").arg(network(server)?);
        // No ROM: nothing boots from there, and distributions have it in another package.
        emulator.args(["-device", "virtio-net-pci,netdev=network,romfile="]);
    }
    Ok(emulator)
}

/// A network of the guest alone, in which nothing answers but one server.
fn network(server: &Server) -> Result<String> {
    let mut relay = String::new();
    for word in &server.relay {
        let word = word.to_str().context("a program whose path is no text cannot be the relay of a VM")?;
        // The emulator splits this as a shell would.
        relay.push_str(&format!(" '{}'", word.replace('\'', r"'\''")));
    }
    let forward = format!("tcp:{}-cmd:{}", server.in_guest(), relay.trim_start());
    // A comma would end the option, two are one of its value.
    Ok(format!("user,id=network,restrict=on,ipv6=off,guestfwd={}", forward.replace(',', ",,")))
}

fn kernel_arguments(machine: &MachineFlags) -> String {
    // Each lockup becomes a panic, each panic ends the emulator. The detectors get more patience than usual, because
    // an emulated processor can be kept waiting by a busy host. Blocked tasks must not panic: held parents of vfork
    // children sleep for as long as a reviewer thinks.
    let mut arguments = String::from(
        "console=ttyS0 loglevel=5 panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=30 nmi_watchdog=0 \
         rcupdate.rcu_cpu_stall_timeout=90 sysctl.kernel.panic_on_rcu_stall=1 random.trust_cpu=on",
    );
    for more in &machine.append {
        arguments.push(' ');
        arguments.push_str(more);
    }
    arguments
}

fn start(checkout: &Checkout, kernel: &Kernel, order: &Order<'_>) -> Result<Start> {
    let directory = env::current_dir().context("cannot tell the working directory")?;
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let modules = match &kernel.modules {
        Some(modules) => bytes(&modules.canonicalize().with_context(|| format!("cannot find {}", modules.display()))?),
        None => Vec::new(),
    };
    let mut kept = vec![bytes(checkout.root())];
    // A target directory elsewhere is needed as much as the checkout.
    if !checkout.target().starts_with(checkout.root()) {
        kept.push(bytes(checkout.target()));
    }
    if !directory.starts_with(checkout.root()) {
        kept.push(bytes(&directory));
    }
    let streams = [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    Ok(Start {
        arguments: order.arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        environment: environment(checkout, kernel, order)?,
        directory: bytes(&directory),
        kept,
        modules,
        terminal: if order.interactive { streams } else { [false; 3] },
        window: window().unwrap_or_default(),
    })
}

fn environment(checkout: &Checkout, kernel: &Kernel, order: &Order<'_>) -> Result<Vec<Vec<u8>>> {
    let host_path = env::var_os("PATH").unwrap_or_default();
    let path = guest_path(checkout.programs(), &host_path)?;
    let mut variables: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), path),
        ("HOME".into(), "/root".into()),
        ("USER".into(), "root".into()),
        ("LOGNAME".into(), "root".into()),
        ("SHELL".into(), "/bin/bash".into()),
        ("CARGO_TARGET_DIR".into(), checkout.target().into()),
        ("GATEKEEPER_VM_KERNEL".into(), (&kernel.release).into()),
    ];
    variables.extend(env::vars_os().filter(|(name, _)| is_passed(name)));
    variables.extend(order.environment.iter().map(|(name, value)| (name.into(), value.clone())));
    let joined = |(name, value): (OsString, OsString)| {
        let mut variable = name.into_vec();
        variable.push(b'=');
        variable.extend(value.into_vec());
        variable
    };
    Ok(variables.into_iter().map(joined).collect())
}

fn is_passed(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let exact = ["TERM", "COLORTERM", "NO_COLOR", "LANG", "TZ", "RUST_BACKTRACE", "RUST_LOG"];
    exact.contains(&&*name) || name.starts_with("GATEKEEPER_") || name.starts_with("LC_")
}

fn guest_path(built: PathBuf, host_path: &OsStr) -> Result<OsString> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let system = SYSTEM_PATH.map(PathBuf::from);
    for directory in std::iter::once(built).chain(system).chain(env::split_paths(host_path)) {
        if !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    env::join_paths(directories).context("a directory in PATH has a colon in its name")
}

/// The size of the terminal, if there is one.
fn window() -> Option<Window> {
    let size = rustix::termios::tcgetwinsize(io::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(io::stdin()))
        .or_else(|_| rustix::termios::tcgetwinsize(io::stderr()))
        .ok()?;
    Some(Window { rows: size.ws_row, columns: size.ws_col })
}

#[cfg(test)]
mod tests {
    use super::channel::{Decoder, Frame};
    use super::*;

    #[test]
    fn system_programs_come_before_the_users_own() {
        let path = guest_path("/built".into(), OsStr::new("/root/.pyenv/shims:/usr/bin:/opt/x")).unwrap();
        let expected = "/built:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/root/.pyenv/shims:/opt/x";
        assert_eq!(path, expected);
    }

    #[test]
    fn only_harmless_variables_are_passed() {
        assert!(["TERM", "LC_ALL", "GATEKEEPER_TRACE"].iter().all(|name| is_passed(OsStr::new(name))));
        assert!(!["PATH", "LD_PRELOAD", "CARGO_PKG_NAME", "PASSWORD"].iter().any(|name| is_passed(OsStr::new(name))));
    }

    #[test]
    fn the_relays_words_reach_it_whole() {
        let relay = ["/a b/it's", "x,y"].map(OsString::from).to_vec();
        let network = network(&Server { port: 8008, relay }).unwrap();
        let forward = r"guestfwd=tcp:10.0.2.100:8008-cmd:'/a b/it'\''s' 'x,,y'";
        assert_eq!(network, format!("user,id=network,restrict=on,ipv6=off,{forward}"));
    }

    #[test]
    fn frames_survive_the_wire_in_pieces() {
        let start = Start {
            arguments: vec![b"sh".to_vec(), vec![0xff, b'\n', 0]],
            environment: vec![b"A=b".to_vec()],
            directory: b"/".to_vec(),
            kept: vec![],
            modules: vec![],
            terminal: [true, false, true],
            window: Window { rows: 24, columns: 80 },
        };
        let frames = [
            Frame::Start(start),
            Frame::Input(vec![0, 1, 2]),
            Frame::InputEnd,
            Frame::Resize(Window { rows: 1, columns: 2 }),
            Frame::TerminalOutput(vec![b'\r', b'\n']),
            Frame::Output(Vec::new()),
            Frame::ErrorOutput(b"x".to_vec()),
            Frame::Running,
            Frame::Exit(-1),
            Frame::Failure("why".into()),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let (mut decoder, mut decoded) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(3) {
            decoder.push(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                decoded.push(frame);
            }
        }
        assert_eq!(decoded, frames);
    }

    #[test]
    fn a_corrupt_stream_is_refused() {
        for bytes in [&[99, 0, 0, 0, 0][..], &[5, 0xff, 0xff, 0xff, 0xff], &[9, 1, 0, 0, 0, 1]] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert!(decoder.next_frame().is_err(), "{bytes:?}");
        }
    }
}
