//! Runs COMMAND and carries its input and output over the virtio serial port.
//!
//! Where the host's standard streams are a terminal, COMMAND gets one (a pty of the guest, its controlling terminal);
//! where they are not, it gets pipes: so output is the same, byte for byte, as it would be on the host. One thread
//! polls all descriptors; a second one only reaps, as PID 1 must.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::channel::{Decoder, Frame, PORT_NAME, Start, Window};

/// How long the port may take to appear: it is announced by a kernel worker shortly after the driver is there.
const PORT_PATIENCE: Duration = Duration::from_secs(30);
/// Input that COMMAND has not read yet is held back at the host beyond this many bytes.
const INPUT_LIMIT: usize = 256 << 10;
/// What a shell says for a command that does not exist, and for one that cannot be run.
const STATUS_NOT_FOUND: i32 = 127;
const STATUS_CANNOT_RUN: i32 = 126;

/// The guest's end of the channel.
pub(crate) struct Port {
    file: File,
    decoder: Decoder,
}

impl Port {
    /// Waits for the port to appear and opens it.
    ///
    /// # Errors
    /// It did not appear: the guest has no virtio console driver.
    pub(crate) fn open() -> Result<Self> {
        let deadline = Instant::now() + PORT_PATIENCE;
        let path = loop {
            if let Some(path) = find_port()? {
                break path;
            }
            if Instant::now() > deadline {
                bail!(
                    "the virtio serial port {PORT_NAME} did not appear: the kernel needs virtio_pci and virtio_console"
                );
            }
            poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).context("cannot wait for the port")?;
        };
        let file = File::options().read(true).write(true).open(&path);
        Ok(Self { file: file.with_context(|| format!("cannot open {}", path.display()))?, decoder: Decoder::default() })
    }

    /// Waits for the order to start.
    ///
    /// # Errors
    /// The host hung up or sent something else.
    pub(crate) fn receive_start(&mut self) -> Result<Start> {
        loop {
            match self.decoder.next_frame()? {
                Some(Frame::Start(start)) => return Ok(start),
                Some(other) => bail!("the host sent {other:?} before it said what to run"),
                None => self.fill()?,
            }
        }
    }

    /// Sends one frame; blocks while the host does not read.
    ///
    /// # Errors
    /// The host is gone.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<()> {
        self.file.write_all(&frame.encode()).context("cannot write to the host")
    }

    fn fill(&mut self) -> Result<()> {
        let mut buffer = [0; 32 << 10];
        let count = self.file.read(&mut buffer).context("cannot read from the host")?;
        if count == 0 {
            bail!("the host hung up");
        }
        self.decoder.push(&buffer[..count]);
        Ok(())
    }
}

fn find_port() -> Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for entry in entries {
        let entry = entry.context("cannot list the virtio ports")?;
        // The name comes in a message of its own, so a port may be listed before it has one.
        let named = fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME);
        let device = PathBuf::from("/dev").join(entry.file_name());
        if named && device.exists() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// Runs COMMAND to its end and returns its exit status.
///
/// # Errors
/// The guest could not make a terminal or lost the channel; a COMMAND that cannot be run is a status, as in a shell.
pub(crate) fn run(port: &mut Port, start: &Start) -> Result<i32> {
    let (mut command, mut streams) = arrange(start)?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let name = String::from_utf8_lossy(start.arguments.first().map_or(&[][..], Vec::as_slice)).into_owned();
            port.send(&Frame::ErrorOutput(
                format!("cargo xtask vm: cannot run {name} in the guest: {error}\n").into(),
            ))?;
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(if missing { STATUS_NOT_FOUND } else { STATUS_CANNOT_RUN });
        }
    };
    // The command holds the guest's ends of the pipes: without them here, the end of output is seen.
    drop(command);
    let ended = reap(child.id())?;
    port.send(&Frame::Running)?;
    streams.carry(port, &ended)
}

/// The host's side of everything COMMAND reads and writes.
#[derive(Default)]
struct Streams {
    terminal: Option<OwnedFd>,
    /// The terminal's other end, so that it never counts as hung up while COMMAND runs.
    terminal_peer: Option<OwnedFd>,
    input: Option<OwnedFd>,
    input_pending: Vec<u8>,
    input_ended: bool,
    output: Option<OwnedFd>,
    error_output: Option<OwnedFd>,
}

fn arrange(start: &Start) -> Result<(Command, Streams)> {
    let (program, arguments) = start.arguments.split_first().ok_or_else(|| anyhow!("no command was given"))?;
    let mut command = Command::new(OsStr::from_bytes(program));
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    command.env_clear().envs(start.environment.iter().filter_map(|variable| {
        let at = variable.iter().position(|byte| *byte == b'=')?;
        Some((OsStr::from_bytes(&variable[..at]), OsStr::from_bytes(&variable[at + 1..])))
    }));
    command.current_dir(OsStr::from_bytes(&start.directory));

    let mut streams = Streams::default();
    let mut peer = None;
    if start.terminal.contains(&true) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let terminal = rustix::pty::openpt(flags | OpenptFlags::CLOEXEC).context("cannot open a terminal")?;
        rustix::pty::unlockpt(&terminal).context("cannot unlock the terminal")?;
        let opened = rustix::pty::ioctl_tiocgptpeer(&terminal, flags | OpenptFlags::CLOEXEC);
        let opened = opened.context("cannot open the other end of the terminal")?;
        streams.terminal_peer = Some(opened.try_clone().context("cannot duplicate the terminal")?);
        peer = Some(opened);
        set_window(&terminal, start.window)?;
        set_nonblocking(terminal.as_fd())?;
        streams.terminal = Some(terminal);
    }
    for (index, is_terminal) in start.terminal.into_iter().enumerate() {
        let end: OwnedFd = match &peer {
            Some(peer) if is_terminal => peer.try_clone().context("cannot duplicate the terminal")?,
            _ => {
                let (reader, writer) = io::pipe().context("cannot make a pipe")?;
                let (ours, theirs): (OwnedFd, OwnedFd) =
                    if index == 0 { (writer.into(), reader.into()) } else { (reader.into(), writer.into()) };
                set_nonblocking(ours.as_fd())?;
                *[&mut streams.input, &mut streams.output, &mut streams.error_output][index] = Some(ours);
                theirs
            }
        };
        match index {
            0 => command.stdin(Stdio::from(end)),
            1 => command.stdout(Stdio::from(end)),
            _ => command.stderr(Stdio::from(end)),
        };
    }
    // SAFETY: between fork and exec the closure makes two system calls and touches no memory of other threads.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            if let Some(peer) = &peer {
                rustix::process::ioctl_tiocsctty(peer)?;
            }
            Ok(())
        });
    }
    Ok((command, streams))
}

/// Starts the thread that waits for every child, as PID 1 inherits all orphans. Its answer is COMMAND's status.
fn reap(command: u32) -> Result<UnixStream> {
    let (ours, mut theirs) = UnixStream::pair().context("cannot make a socket pair")?;
    let command = i32::try_from(command).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("an impossible pid"))?;
    let wait = move || {
        loop {
            let (pid, status) = match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some(ended)) => ended,
                Ok(None) | Err(Errno::INTR) => continue,
                Err(_) => return,
            };
            if pid == command {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                let status = status.exit_status().or(signal).unwrap_or(STATUS_CANNOT_RUN);
                // The reader waits for exactly this; when it is gone, so is the guest.
                let _ = theirs.write_all(&status.to_le_bytes());
            }
        }
    };
    std::thread::Builder::new().name("reaper".into()).spawn(wait).context("cannot start the reaper")?;
    Ok(ours)
}

impl Streams {
    /// Carries bytes both ways until COMMAND has ended and all it wrote is sent.
    fn carry(&mut self, port: &mut Port, ended: &UnixStream) -> Result<i32> {
        loop {
            self.take_frames(port)?;
            let status = self.wait(port, ended)?;
            self.forward_output(port)?;
            self.forward_input()?;
            if let Some(status) = status {
                return Ok(status);
            }
        }
    }

    /// Waits until there is something to do; returns the exit status once there is one.
    fn wait(&self, port: &mut Port, ended: &UnixStream) -> Result<Option<i32>> {
        let mut waits = vec![PollFd::new(ended, PollFlags::IN)];
        let accepting = self.input_pending.len() < INPUT_LIMIT;
        if accepting {
            waits.push(PollFd::new(&port.file, PollFlags::IN));
        }
        let readable = [&self.output, &self.error_output, &self.terminal];
        waits.extend(readable.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)));
        if let Some(input) = self.input.as_ref().or(self.terminal.as_ref())
            && !self.input_pending.is_empty()
        {
            waits.push(PollFd::new(input, PollFlags::OUT));
        }
        match poll(&mut waits, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for input and output"),
        }
        let (command_ended, host_spoke) = (!waits[0].revents().is_empty(), accepting && !waits[1].revents().is_empty());
        drop(waits);
        if command_ended {
            let mut status = [0; 4];
            let mut ended = ended;
            ended.read_exact(&mut status).context("the reaper ended before COMMAND did")?;
            return Ok(Some(i32::from_le_bytes(status)));
        }
        if host_spoke {
            port.fill()?;
        }
        Ok(None)
    }

    fn take_frames(&mut self, port: &mut Port) -> Result<()> {
        while let Some(frame) = port.decoder.next_frame()? {
            match frame {
                Frame::Input(bytes) => self.input_pending.extend(bytes),
                Frame::InputEnd => self.input_ended = true,
                Frame::Resize(window) => {
                    if let Some(terminal) = &self.terminal {
                        set_window(terminal, window)?;
                    }
                }
                other => bail!("the host sent {other:?} while a command was running"),
            }
        }
        self.forward_input()
    }

    fn forward_input(&mut self) -> Result<()> {
        if let Some(fd) = self.input.as_ref().or(self.terminal.as_ref()) {
            while !self.input_pending.is_empty() {
                match rustix::io::write(fd, &self.input_pending) {
                    Ok(count) => drop(self.input_pending.drain(..count)),
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                    // COMMAND closed its input: what is left has no reader.
                    Err(_) => {
                        self.input_pending.clear();
                        self.input_ended = true;
                    }
                }
            }
        } else {
            self.input_pending.clear();
        }
        if self.input_ended {
            self.input = None;
        }
        Ok(())
    }

    /// Sends all that can be read right now.
    fn forward_output(&mut self, port: &mut Port) -> Result<()> {
        forward(&mut self.output, port, Frame::Output)?;
        forward(&mut self.error_output, port, Frame::ErrorOutput)?;
        forward(&mut self.terminal, port, Frame::TerminalOutput)
    }
}

/// Sends what `source` has; drops it at its end.
fn forward(source: &mut Option<OwnedFd>, port: &mut Port, frame: fn(Vec<u8>) -> Frame) -> Result<()> {
    let mut buffer = [0; 32 << 10];
    while let Some(fd) = source {
        match rustix::io::read(fd, &mut buffer) {
            Ok(0) => *source = None,
            Ok(count) => port.send(&frame(buffer[..count].to_vec()))?,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot read what COMMAND writes"),
        }
    }
    Ok(())
}

fn set_window(terminal: &OwnedFd, window: Window) -> Result<()> {
    let size = Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).context("cannot set the size of the terminal")
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).context("cannot read descriptor flags")?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).context("cannot set descriptor flags")
}
