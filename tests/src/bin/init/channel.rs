//! The wire between `cargo xtask vm` and PID 1 of the guest.
//!
//! Both ends compile this very file, so that they cannot drift apart; it therefore uses nothing but `std`. A frame is a
//! kind (one byte), a length (32 bits, little endian) and a payload. Terminal bytes are carried in frames, so that the
//! end of input, window sizes and exit statuses travel apart from what COMMAND writes, byte for byte.

use std::fmt;

/// The name of the virtio serial port that carries the frames.
pub(crate) const PORT_NAME: &str = "gatekeeper";
/// The 9p tag under which the guest finds the root file system of the host.
pub(crate) const ROOT_TAG: &str = "root";
/// Where the initramfs keeps kernel modules, named so that their sorted order is the order to load them in.
pub(crate) const MODULES_DIRECTORY: &str = "/modules";
/// More than any sender puts into one frame: a longer one means that the stream is corrupt.
const LONGEST_PAYLOAD: usize = 16 << 20;
const HEADER_LENGTH: usize = 5;

/// What to run, and how: the first frame that goes to the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Start {
    /// COMMAND and its arguments; at least one.
    pub(crate) arguments: Vec<Vec<u8>>,
    /// The whole environment of COMMAND, as `NAME=value`.
    pub(crate) environment: Vec<Vec<u8>>,
    /// The working directory of COMMAND.
    pub(crate) directory: Vec<u8>,
    /// Directories that stay visible even where they lie below a fresh mount of the guest, such as `/tmp`.
    pub(crate) kept: Vec<Vec<u8>>,
    /// The host's directory with the modules of this kernel; empty when there is none.
    pub(crate) modules: Vec<u8>,
    /// Which of standard input, output and error are terminals on the host, and so become one in the guest.
    pub(crate) terminal: [bool; 3],
    /// The size of that terminal.
    pub(crate) window: Window,
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Height.
    pub(crate) rows: u16,
    /// Width.
    pub(crate) columns: u16,
}

/// One message on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// To the guest: run this. Sent once, first.
    Start(Start),
    /// To the guest: bytes for COMMAND's standard input or terminal.
    Input(Vec<u8>),
    /// To the guest: standard input has ended.
    InputEnd,
    /// To the guest: the host's terminal has a new size.
    Resize(Window),
    /// To the host: bytes from COMMAND's terminal.
    TerminalOutput(Vec<u8>),
    /// To the host: bytes from COMMAND's standard output, where that is no terminal.
    Output(Vec<u8>),
    /// To the host: bytes from COMMAND's standard error, where that is no terminal.
    ErrorOutput(Vec<u8>),
    /// To the host: COMMAND is about to run.
    Running,
    /// To the host: COMMAND ended with this status (128 + signal when a signal ended it). Sent once, last.
    Exit(i32),
    /// To the host: the guest cannot run COMMAND, and why. Sent once, last.
    Failure(String),
}

/// The byte stream makes no sense: the two ends do not speak the same protocol, or bytes were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Corrupt(&'static str);

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt stream between host and guest: {}", self.0)
    }
}

impl std::error::Error for Corrupt {}

impl Frame {
    /// The bytes of this frame on the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Self::Start(start) => {
                start.encode(&mut payload);
                1
            }
            Self::Input(bytes) => {
                payload.extend_from_slice(bytes);
                2
            }
            Self::InputEnd => 3,
            Self::Resize(window) => {
                window.encode(&mut payload);
                4
            }
            Self::Output(bytes) => {
                payload.extend_from_slice(bytes);
                5
            }
            Self::ErrorOutput(bytes) => {
                payload.extend_from_slice(bytes);
                6
            }
            Self::TerminalOutput(bytes) => {
                payload.extend_from_slice(bytes);
                7
            }
            Self::Running => 8,
            Self::Exit(status) => {
                payload.extend_from_slice(&status.to_le_bytes());
                9
            }
            Self::Failure(reason) => {
                payload.extend_from_slice(reason.as_bytes());
                10
            }
        };
        let mut bytes = Vec::with_capacity(HEADER_LENGTH + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&length(payload.len()));
        bytes.append(&mut payload);
        bytes
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, Corrupt> {
        Ok(match kind {
            1 => Self::Start(Start::decode(payload)?),
            2 => Self::Input(payload.to_vec()),
            3 => Self::InputEnd,
            4 => Self::Resize(Window::decode(&mut Reader(payload))?),
            5 => Self::Output(payload.to_vec()),
            6 => Self::ErrorOutput(payload.to_vec()),
            7 => Self::TerminalOutput(payload.to_vec()),
            8 => Self::Running,
            9 => Self::Exit(i32::from_le_bytes(Reader(payload).array()?)),
            10 => Self::Failure(String::from_utf8_lossy(payload).into_owned()),
            _ => return Err(Corrupt("a frame of an unknown kind")),
        })
    }
}

impl Start {
    fn encode(&self, bytes: &mut Vec<u8>) {
        for list in [&self.arguments, &self.environment, &self.kept] {
            bytes.extend_from_slice(&length(list.len()));
            for item in list {
                encode_string(item, bytes);
            }
        }
        encode_string(&self.directory, bytes);
        encode_string(&self.modules, bytes);
        bytes.extend(self.terminal.map(u8::from));
        self.window.encode(bytes);
    }

    fn decode(payload: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader(payload);
        Ok(Self {
            arguments: reader.strings()?,
            environment: reader.strings()?,
            kept: reader.strings()?,
            directory: reader.string()?,
            modules: reader.string()?,
            terminal: reader.array::<3>()?.map(|byte| byte != 0),
            window: Window::decode(&mut reader)?,
        })
    }
}

impl Window {
    fn encode(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.rows.to_le_bytes());
        bytes.extend_from_slice(&self.columns.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self { rows: u16::from_le_bytes(reader.array()?), columns: u16::from_le_bytes(reader.array()?) })
    }
}

fn encode_string(string: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&length(string.len()));
    bytes.extend_from_slice(string);
}

/// Lengths beyond the longest payload are refused by the reader, so saturating loses nothing.
fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// Takes fields off the front of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Corrupt("a payload ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        self.take(N)?.try_into().map_err(|_| Corrupt("a payload ends early"))
    }

    fn length(&mut self) -> Result<usize, Corrupt> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|_| Corrupt("a length is out of range"))
    }

    fn string(&mut self) -> Result<Vec<u8>, Corrupt> {
        let length = self.length()?;
        Ok(self.take(length)?.to_vec())
    }

    fn strings(&mut self) -> Result<Vec<Vec<u8>>, Corrupt> {
        let count = self.length()?;
        (0..count).map(|_| self.string()).collect()
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Adds bytes as they arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next complete frame, if all of it has arrived.
    ///
    /// # Errors
    /// The stream is corrupt; nothing after that can be trusted.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, Corrupt> {
        let mut reader = Reader(&self.pending);
        let (Ok([kind]), Ok(length)) = (reader.array::<1>(), reader.length()) else { return Ok(None) };
        if length > LONGEST_PAYLOAD {
            return Err(Corrupt("a frame is impossibly long"));
        }
        let Ok(payload) = reader.take(length) else { return Ok(None) };
        let frame = Frame::decode(kind, payload)?;
        self.pending.drain(..HEADER_LENGTH + length);
        Ok(Some(frame))
    }
}
