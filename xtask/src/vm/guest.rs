//! One run of the VM: the emulator as a child, the channel to its PID 1, this program's terminal, and the verdict.
//!
//! A single loop polls everything. However it ends, the emulator is gone and the terminal is as it was.

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::channel::{Decoder, Frame, PORT_NAME, Start};
use super::kernel_log::KernelLog;
use super::window;
use crate::command;

/// How long the emulator may take to end once the guest said it is done, or once the kernel said it is broken and
/// prints its trace.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Booting takes seconds, even on a busy host; without a word from PID 1 by then, none will come.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
/// Input read ahead of what the guest takes.
const INPUT_LIMIT: usize = 64 << 10;
/// Ctrl-], as other programs for consoles of VMs have it.
const ESCAPE: u8 = 0x1d;

/// Which of the command's outputs some bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// What the command wrote to its terminal, whichever of its streams that was.
    Terminal,
    Output,
    ErrorOutput,
}

/// Everything one run needs.
pub(crate) struct Plan {
    pub(crate) emulator: Command,
    pub(crate) start: Start,
    pub(crate) timeout: Duration,
    pub(crate) kernel_log: PathBuf,
    pub(crate) keep_kernel_log: bool,
    pub(crate) interactive: bool,
}

/// The VM did not bring the command to its end.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: String,
    tail: String,
    log: PathBuf,
}

impl Failure {
    /// The exit status that says so.
    pub(crate) const STATUS: u8 = 125;

    /// What went wrong, in one line.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "cargo xtask vm: {}", self.reason)?;
        if self.tail.is_empty() {
            return writeln!(f, "the guest's kernel said nothing (it is asked to speak on ttyS0)");
        }
        writeln!(f, "the end of what the guest's kernel said (all of it: {}):", self.log.display())?;
        f.write_str(&self.tail)
    }
}

/// Writes to this program's own standard output and error, at once.
///
/// # Errors
/// Nobody reads them any more.
pub(crate) fn write_through(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Output => {
            let mut output = io::stdout().lock();
            output.write_all(bytes)?;
            output.flush()
        }
        Stream::ErrorOutput => io::stderr().lock().write_all(bytes),
        Stream::Terminal if io::stdout().is_terminal() => write_through(Stream::Output, bytes),
        Stream::Terminal if io::stderr().is_terminal() => write_through(Stream::ErrorOutput, bytes),
        Stream::Terminal => fs::File::options().append(true).open("/dev/tty")?.write_all(bytes),
    }
}

/// Runs the plan to its end; the inner result is the command's exit status or what failed.
///
/// # Errors
/// The host could not start the emulator, or `sink` failed.
pub(crate) fn run(plan: Plan, sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>) -> Result<Result<u8, Failure>> {
    let log = KernelLog::create(&plan.kernel_log)?;
    let signals = Signals::register()?;
    let mut run = Run::start(&plan, log)?;
    let ending = run.carry(&signals, sink);
    run.terminal = None;
    run.emulator.end();
    let ending = ending?;
    let warnings = run.log.warnings();
    let outcome = match (ending, run.log.fatal()) {
        (Ending::Signal(signal), _) => Ok(128_u8.saturating_add(u8::try_from(signal).unwrap_or_default())),
        (_, Some(fatal)) => Err(format!("the guest's kernel broke: {fatal}")),
        (Ending::Failed(reason), None) => Err(reason),
        (Ending::Exit(status), None) => Ok(u8::try_from(status).unwrap_or(u8::MAX)),
    };
    if warnings > 0 {
        eprintln!("cargo xtask vm: the guest's kernel warned {warnings} times; see {}", plan.kernel_log.display());
    } else if outcome.is_ok() && !plan.keep_kernel_log {
        // A file left over below target/ harms nobody.
        let _ = fs::remove_file(&plan.kernel_log);
    }
    Ok(outcome.map_err(|reason| Failure { reason, tail: run.log.tail(), log: plan.kernel_log.clone() }))
}

/// How the loop ended, before the kernel's own words are weighed.
enum Ending {
    Exit(i32),
    Failed(String),
    Signal(i32),
}

/// The signals this program acts on, as descriptors.
struct Signals {
    resize: UnixStream,
    end: Vec<(i32, UnixStream)>,
}

impl Signals {
    fn register() -> Result<Self> {
        let register = |signal| -> Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
            ours.set_nonblocking(true).context("cannot set up a socket")?;
            signal_hook::low_level::pipe::register(signal, theirs).context("cannot catch signals")?;
            Ok(ours)
        };
        let end = [SIGINT, SIGTERM, SIGHUP].into_iter().map(|signal| Ok((signal, register(signal)?)));
        Ok(Self { resize: register(SIGWINCH)?, end: end.collect::<Result<_>>()? })
    }
}

/// The emulator's process; it ends with this value.
struct Emulator {
    child: Child,
    status: Option<ExitStatus>,
}

impl Emulator {
    /// Kills and reaps, unless it has ended by itself.
    fn end(&mut self) {
        if self.status.is_none() {
            // Only a process that has just ended cannot be killed, which is as good.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end();
    }
}

/// The terminal in raw mode; as it was before once this value goes.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let before = rustix::termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // There is no better terminal to complain to.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

struct Run {
    emulator: Emulator,
    console: Option<ChildStdout>,
    complaints: Option<ChildStderr>,
    channel: Option<UnixStream>,
    decoder: Decoder,
    /// Bytes for the guest that did not fit into the channel yet.
    unsent: Vec<u8>,
    log: KernelLog,
    terminal: Option<RawTerminal>,
    interactive: bool,
    /// Whether there is more to read from standard input; only once the command runs.
    input_open: bool,
    deadline: Instant,
    /// What it means when the deadline passes.
    overdue: String,
    last_words: bool,
    timeout: Duration,
    ending: Option<Ending>,
}

impl Run {
    fn start(plan: &Plan, log: KernelLog) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
        ours.set_nonblocking(true).context("cannot set up a socket")?;
        let channel = format!("socket,id=channel,fd={}", theirs.as_raw_fd());
        let port = format!("virtserialport,chardev=channel,name={PORT_NAME}");
        let mut emulator = Command::new(plan.emulator.get_program());
        emulator.args(plan.emulator.get_args());
        emulator.args(["-chardev", &channel, "-device", "virtio-serial-pci", "-device", &port]);
        emulator.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: keys that signal this program are not for the emulator.
        emulator.process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec the closure makes system calls only; `theirs` is open for as long as it lives.
        unsafe {
            emulator.pre_exec(move || {
                // No orphan, however this program ends. Should it be gone already, the signal will never come.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
                Ok(())
            });
        }
        let line = command::display(&emulator);
        let mut child = emulator.spawn().with_context(|| format!("cannot run `{line}`"))?;
        let (console, complaints) = (child.stdout.take(), child.stderr.take());
        for output in [console.as_ref().map(|output| output.as_fd()), complaints.as_ref().map(|output| output.as_fd())]
        {
            output.map(set_nonblocking).transpose()?;
        }
        let timeout = plan.timeout;
        Ok(Self {
            emulator: Emulator { child, status: None },
            console,
            complaints,
            channel: Some(ours),
            decoder: Decoder::default(),
            unsent: Frame::Start(plan.start.clone()).encode(),
            log,
            terminal: None,
            interactive: plan.interactive,
            input_open: false,
            deadline: Instant::now() + BOOT_PATIENCE.min(timeout),
            overdue: "the guest did not boot in time".into(),
            last_words: false,
            timeout,
            ending: None,
        })
    }

    /// Carries bytes until the emulator has ended, a signal came, or time is up.
    fn carry(&mut self, signals: &Signals, sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>) -> Result<Ending> {
        loop {
            let Some(remaining) = self.deadline.checked_duration_since(Instant::now()) else {
                return Ok(self.ending.take().unwrap_or_else(|| Ending::Failed(self.overdue.clone())));
            };
            let input_ready = self.wait(signals, remaining)?;
            for (signal, stream) in &signals.end {
                if drain(stream) {
                    return Ok(Ending::Signal(*signal));
                }
            }
            if drain(&signals.resize)
                && let Some(window) = window()
                && self.terminal.is_some()
            {
                self.unsent.extend(Frame::Resize(window).encode());
            }
            if input_ready && self.read_input()? {
                return Ok(Ending::Signal(SIGINT));
            }
            self.read_console()?;
            self.read_complaints();
            self.read_channel(sink)?;
            self.write_channel();
            if self.log.fatal().is_some() {
                self.allow_last_words();
            }
            if self.console.is_none() && self.channel.is_none() {
                return self.ended();
            }
        }
    }

    /// Waits for the next event; tells whether standard input is ready.
    fn wait(&self, signals: &Signals, remaining: Duration) -> Result<bool> {
        let mut waits = vec![PollFd::new(&signals.resize, PollFlags::IN)];
        waits.extend(signals.end.iter().map(|(_, stream)| PollFd::new(stream, PollFlags::IN)));
        waits.extend(self.console.iter().map(|console| PollFd::new(console, PollFlags::IN)));
        waits.extend(self.complaints.iter().map(|complaints| PollFd::new(complaints, PollFlags::IN)));
        if let Some(channel) = &self.channel {
            let out = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            waits.push(PollFd::new(channel, PollFlags::IN | out));
        }
        let stdin = io::stdin();
        let accepting = self.input_open && self.unsent.len() < INPUT_LIMIT;
        if accepting {
            waits.push(PollFd::new(&stdin, PollFlags::IN));
        }
        let seconds = i64::try_from(remaining.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec: seconds, tv_nsec: remaining.subsec_nanos().into() };
        match poll(&mut waits, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for the VM"),
        }
        Ok(accepting && waits.last().is_some_and(|stdin| !stdin.revents().is_empty()))
    }

    /// Passes input on; tells whether the user wants out.
    fn read_input(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(0) => {
                self.input_open = false;
                self.unsent.extend(Frame::InputEnd.encode());
            }
            Ok(count) => {
                let bytes = &buffer[..count];
                if self.terminal.is_some() && bytes.contains(&ESCAPE) {
                    return Ok(true);
                }
                self.unsent.extend(Frame::Input(bytes.to_vec()).encode());
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that went away, or a background job that may not read: as good as the end.
            Err(_) => {
                self.input_open = false;
                self.unsent.extend(Frame::InputEnd.encode());
            }
        }
        Ok(false)
    }

    fn read_console(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        while let Some(console) = &mut self.console {
            match console.read(&mut buffer) {
                Ok(0) => self.console = None,
                Ok(count) => self.log.push(&buffer[..count])?,
                Err(error) if is_temporary(&error) => return Ok(()),
                Err(error) => return Err(error).context("cannot read the guest's console"),
            }
        }
        Ok(())
    }

    fn read_complaints(&mut self) {
        let mut buffer = [0; 4 << 10];
        while let Some(complaints) = &mut self.complaints {
            match complaints.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    for line in String::from_utf8_lossy(&buffer[..count]).lines() {
                        self.log.note(&format!("emulator: {line}"));
                    }
                }
                Err(error) if is_temporary(&error) => return,
                Ok(_) | Err(_) => self.complaints = None,
            }
        }
    }

    fn read_channel(&mut self, sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>) -> Result<()> {
        let mut buffer = [0; 64 << 10];
        loop {
            loop {
                match self.decoder.next_frame() {
                    Ok(Some(frame)) => self.take_frame(frame, sink)?,
                    Ok(None) => break,
                    Err(corrupt) => return self.fail(corrupt.to_string()),
                }
            }
            let Some(channel) = &mut self.channel else { return Ok(()) };
            match channel.read(&mut buffer) {
                Ok(count) if count > 0 => self.decoder.push(&buffer[..count]),
                Err(error) if is_temporary(&error) => return Ok(()),
                Ok(_) | Err(_) => self.channel = None,
            }
        }
    }

    fn take_frame(&mut self, frame: Frame, sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>) -> Result<()> {
        let written = match frame {
            Frame::TerminalOutput(bytes) => sink(Stream::Terminal, &bytes),
            Frame::Output(bytes) => sink(Stream::Output, &bytes),
            Frame::ErrorOutput(bytes) => sink(Stream::ErrorOutput, &bytes),
            Frame::Running => {
                self.deadline = Instant::now() + self.timeout;
                self.overdue = format!("the command did not end within {} s (see --timeout)", self.timeout.as_secs());
                self.open_input();
                Ok(())
            }
            Frame::Exit(status) => {
                self.ending = Some(Ending::Exit(status));
                self.allow_last_words();
                Ok(())
            }
            Frame::Failure(reason) => return self.fail(reason),
            Frame::Start(_) | Frame::Input(_) | Frame::InputEnd | Frame::Resize(_) => {
                return self.fail("the guest sent what only the host sends".into());
            }
        };
        written.context("cannot write what the guest's command wrote")
    }

    /// Nothing the guest says after this counts.
    fn fail(&mut self, reason: String) -> Result<()> {
        self.ending = Some(Ending::Failed(reason));
        self.channel = None;
        self.allow_last_words();
        Ok(())
    }

    fn open_input(&mut self) {
        if !self.interactive {
            self.unsent.extend(Frame::InputEnd.encode());
            return;
        }
        self.input_open = true;
        if io::stdin().is_terminal() {
            self.terminal = RawTerminal::enter();
        }
    }

    fn allow_last_words(&mut self) {
        if !self.last_words {
            self.last_words = true;
            self.deadline = Instant::now() + LAST_WORDS;
            self.overdue = "the guest stopped answering".into();
        }
    }

    fn write_channel(&mut self) {
        while let Some(channel) = &mut self.channel
            && !self.unsent.is_empty()
        {
            match channel.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if is_temporary(&error) => return,
                // The reading side notices, and says what that means.
                Err(_) => self.unsent.clear(),
            }
        }
    }

    /// The emulator closed everything: it has ended, or is about to.
    fn ended(&mut self) -> Result<Ending> {
        let status = self.emulator.child.wait().context("cannot wait for the emulator")?;
        self.emulator.status = Some(status);
        Ok(self.ending.take().unwrap_or_else(|| {
            let how = match status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => format!("ended ({status})"),
            };
            Ending::Failed(format!("the emulator {how} before the command had ended"))
        }))
    }
}

/// Empties the descriptor of a signal; tells whether the signal came.
fn drain(stream: &UnixStream) -> bool {
    let mut stream = stream;
    let mut buffer = [0; 64];
    let mut came = false;
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {
        came = true;
    }
    came
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).context("cannot read descriptor flags")?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).context("cannot set descriptor flags")
}
