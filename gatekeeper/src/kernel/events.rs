//! The kernel side's records, decoded into the daemon's words.
//!
//! The bytes come from our own programs, but most of what they carry was chosen by an agent, and the programs may be
//! of another build: nothing is taken on trust, and a record that does not add up is an error that says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gatekeeper_common as abi;
use gatekeeper_common::{ABI_VERSION, EventHeader, EventKind, Refusal, TaskKey, sip::Digest};

use crate::{
    action::{Action, ActionKind, Address, Object, Target, Task},
    text::Text,
};

/// A record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task waits.
    Held(Box<Held>),
    /// A verdict was applied; 0 or the errno.
    Released {
        /// Which hold.
        hold: u64,
        /// 0: allowed.
        errno: u16,
    },
    /// The kernel side denied by itself.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The hold that ended so, or 0.
        hold: u64,
        /// Who acted.
        task: Task,
        /// What, as far as it could be read; the agent's name is missing.
        action: Option<Box<Action>>,
        /// Number of the agent, if the action could be read.
        agent: Option<u32>,
    },
    /// The task ended, or went on to another action.
    Withdrawn {
        /// Which hold.
        hold: u64,
    },
    /// In observe mode: this would have been held.
    Observed(Box<Held>),
}

/// A task that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Number of the hold.
    pub hold: u64,
    /// The hold that this one takes the place of.
    pub supersedes: Option<u64>,
    /// The task, as the kernel side's maps name it.
    pub key: TaskKey,
    /// Position in an exec's chain of interpreters.
    pub stage: u16,
    /// What exactly waits.
    pub digest: Digest,
    /// When the record was written, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Who acts.
    pub task: Task,
    /// What waits. The agent's name is missing: only its number is known here.
    pub action: Action,
    /// Number of the agent.
    pub agent: u32,
    /// The path starts at the root of its file system, not of the mount tree.
    pub path_in_filesystem: bool,
}

/// A record that does not add up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    /// Too short for what it says.
    #[error("a record from the kernel is cut: {0} bytes")]
    Cut(usize),
    /// From another version of the programs.
    #[error("a record from the kernel has ABI {0}, expected {ABI_VERSION}")]
    Abi(u32),
    /// An unknown kind.
    #[error("a record from the kernel has the unknown {what} {number}")]
    Unknown {
        /// Of what.
        what: &'static str,
        /// Its number.
        number: u16,
    },
}

/// Reads the bytes of a record from the front.
struct Fields<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadEvent> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(BadEvent::Cut(self.whole))?;
        self.rest = rest;
        Ok(taken)
    }

    fn pod<T: aya::Pod>(&mut self) -> Result<T, BadEvent> {
        let bytes = self.take(size_of::<T>())?;
        // SAFETY: as many bytes as T has, and a Pod type takes any.
        Ok(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// Decodes one record.
pub fn decode(record: &[u8]) -> Result<Event, BadEvent> {
    let mut fields = Fields { rest: record, whole: record.len() };
    let header: EventHeader = fields.pod()?;
    if header.abi != ABI_VERSION {
        return Err(BadEvent::Abi(header.abi));
    }
    match header.kind {
        EventKind::RELEASED => Ok(Event::Released { hold: header.hold, errno: header.reason }),
        EventKind::WITHDRAWN => Ok(Event::Withdrawn { hold: header.hold }),
        EventKind::REFUSED => {
            // It may have been refused for what could not be read.
            let held = held(&header, &mut fields).ok();
            Ok(Event::Refused {
                refusal: Refusal(header.reason),
                hold: header.hold,
                task: task(&header),
                agent: held.as_ref().map(|held| held.agent),
                action: held.map(|held| Box::new(held.action)),
            })
        }
        EventKind::HELD => held(&header, &mut fields).map(|held| Event::Held(Box::new(held))),
        EventKind::OBSERVED => held(&header, &mut fields).map(|held| Event::Observed(Box::new(held))),
        EventKind(number) => Err(BadEvent::Unknown { what: "kind", number }),
    }
}

fn task(header: &EventHeader) -> Task {
    let known = |id: u32| (id != u32::MAX).then_some(id);
    let comm = header.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    Task {
        pid: header.tgid,
        tid: header.tid,
        parent: header.parent_tgid,
        start_ns: header.task.start_ns,
        cgroup: header.cgroup,
        comm: comm.into(),
        real_uid: header.real_uid,
        login_uid: known(header.login_uid),
        session: known(header.session),
    }
}

/// 32 digits. Not by the standard library's formatting, which takes ten times as long, for each action that waits.
fn hexadecimal(digest: Digest) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bytes = (u128::from(digest.low) << 64 | u128::from(digest.high)).to_be_bytes();
    let mut digits = Vec::with_capacity(2 * bytes.len());
    for byte in bytes {
        digits.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }
    String::from_utf8(digits).unwrap_or_default()
}

/// Strings that each end in NUL.
fn strings(bytes: &[u8]) -> Vec<Text> {
    let mut parts: Vec<_> = bytes.split(|byte| *byte == 0).map(Text::from).collect();
    // What follows the last NUL is nothing.
    parts.pop();
    parts
}

fn held(header: &EventHeader, fields: &mut Fields<'_>) -> Result<Held, BadEvent> {
    let raw: abi::Action = fields.pod()?;
    let kind = ActionKind::from_number(raw.kind).ok_or(BadEvent::Unknown { what: "action", number: raw.kind.0 })?;
    let path = fields.take(raw.path_len as usize)?;
    let name = fields.take(raw.name_len as usize)?;
    let args = fields.take(raw.args_len as usize)?;
    let env = fields.take(raw.env_len as usize)?;
    let target = match kind {
        ActionKind::Exec => Target::Program {
            path: path.into(),
            called: name.into(),
            args: strings(args),
            env: strings(env),
            interpreter: raw.flags & abi::ACTION_INTERPRETER != 0,
            cwd: Object::from_raw(raw.other),
        },
        ActionKind::Bind | ActionKind::Listen | ActionKind::Connect => {
            Target::Socket { address: address(name).ok_or(BadEvent::Cut(fields.whole))? }
        }
        ActionKind::Link | ActionKind::Rename => Target::File {
            path: path.into(),
            new_path: Some(name.into()),
            argument: None,
            detail: raw.detail,
            other: Object::from_raw(raw.other),
        },
        _ => Target::File {
            path: path.into(),
            new_path: None,
            argument: (!name.is_empty()).then(|| name.into()),
            detail: raw.detail,
            other: Object::from_raw(raw.other),
        },
    };
    Ok(Held {
        hold: header.hold,
        supersedes: (header.supersedes != 0).then_some(header.supersedes),
        key: header.task,
        stage: u16::try_from(header.stage).unwrap_or(u16::MAX),
        digest: header.digest,
        time_ns: header.time_ns,
        task: task(header),
        action: Action {
            kind,
            agent: String::new(),
            uid: raw.uid,
            gid: raw.gid,
            target,
            object: Object::from_raw(raw.object),
            foreign_mount: raw.flags & abi::ACTION_FOREIGN_MOUNT != 0,
            digest: hexadecimal(header.digest),
        },
        agent: raw.agent,
        path_in_filesystem: raw.flags & abi::ACTION_PATH_IN_FILESYSTEM != 0,
    })
}

/// Reads a `struct sockaddr`.
fn address(bytes: &[u8]) -> Option<Address> {
    let (family, data) = bytes.split_at_checked(2)?;
    let family = u16::from_ne_bytes([family[0], family[1]]);
    let port = || Some(u16::from_be_bytes([*data.first()?, *data.get(1)?]));
    Some(match family {
        2 => {
            let ip: [u8; 4] = data.get(2..6)?.try_into().ok()?;
            Address::Ip { ip: IpAddr::V4(Ipv4Addr::from(ip)), port: port()? }
        }
        10 => {
            let ip: [u8; 16] = data.get(6..22)?.try_into().ok()?;
            Address::Ip { ip: Ipv6Addr::from(ip).to_canonical(), port: port()? }
        }
        1 => match data.split_first() {
            // Abstract: NUL, then a name of any bytes.
            Some((0, name)) if !name.is_empty() => Address::Unix(Text([b"@", name].concat())),
            _ => Address::Unix(data.split(|byte| *byte == 0).next().unwrap_or_default().into()),
        },
        family => Address::Other { family, data: data.into() },
    })
}

#[cfg(test)]
mod tests {
    use abi::{KindSet, limits};

    use super::*;

    fn bytes_of<T: aya::Pod>(value: &T) -> &[u8] {
        // SAFETY: any Pod is its bytes.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    fn record(kind: abi::ActionKind, path: &[u8], name: &[u8], args: &[u8]) -> Vec<u8> {
        let object = abi::Object { ino: 7, ..Default::default() };
        let header = EventHeader {
            abi: ABI_VERSION,
            kind: EventKind::HELD,
            reason: 0,
            hold: 3,
            supersedes: 0,
            task: TaskKey { task: 1, start_ns: 2 },
            digest: Digest { low: 1, high: 2 },
            time_ns: 5,
            cgroup: 9,
            tgid: 10,
            tid: 11,
            parent_tgid: 1,
            real_uid: 0,
            login_uid: u32::MAX,
            session: 4,
            stage: 0,
            reserved: 0,
            comm: *b"bash\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let action = abi::Action {
            kind,
            flags: 0,
            agent: 1,
            uid: 5,
            gid: 6,
            object,
            other: abi::Object::default(),
            detail: 0,
            path_len: path.len() as u32,
            name_len: name.len() as u32,
            args_len: args.len() as u32,
            env_len: 0,
            argc: 0,
            envc: 0,
        };
        [bytes_of(&header), bytes_of(&action), path, name, args].concat()
    }

    #[test]
    fn an_exec_is_decoded_whole() {
        let Ok(Event::Held(held)) = decode(&record(abi::ActionKind::EXEC, b"/bin/ls", b"ls", b"ls\0-l\0\0")) else {
            panic!("not held");
        };
        let Target::Program { path, called, args, .. } = &held.action.target else { panic!("no program") };
        assert_eq!((path, called), (&"/bin/ls".into(), &"ls".into()));
        assert_eq!(args, &["ls".into(), "-l".into(), "".into()]);
        assert_eq!((held.task.comm.clone(), held.task.login_uid, held.task.session), ("bash".into(), None, Some(4)));
        assert_eq!(held.action.object.map(|object| object.ino), Some(7));
    }

    #[test]
    fn a_digest_is_written_in_hexadecimal() {
        let digest = Digest { low: 0x0123_4567_89ab_cdef, high: 0xf };
        assert_eq!(hexadecimal(digest), format!("{:016x}{:016x}", digest.low, digest.high));
    }

    #[test]
    fn addresses_of_all_families() {
        let shown = |bytes: &[u8]| address(bytes).map(|address| address.to_string());
        assert_eq!(shown(&[2, 0, 31, 144, 127, 0, 0, 1]), Some("127.0.0.1:8080".into()));
        let mut six = vec![10, 0, 0, 80, 0, 0, 0, 0];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(shown(&six), Some("[::1]:80".into()));
        six[8..].copy_from_slice(&"::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(shown(&six), Some("10.0.0.1:80".into()));
        assert_eq!(shown(b"\x01\0/run/x.sock\0junk"), Some("unix:/run/x.sock".into()));
        assert_eq!(shown(b"\x01\0\0a\nb"), Some("unix:@a\\nb".into()));
        assert_eq!(shown(b"\x01\0"), Some("unix:".into()));
        assert_eq!(shown(b"\x10\0\x05"), Some("family 16: \\x05".into()));
        assert_eq!(shown(&[2, 0, 31]), None);
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error() {
        let whole = record(abi::ActionKind::RENAME, b"/a", b"/b", b"");
        assert!(decode(&whole).is_ok());
        for length in 0..whole.len() {
            assert_eq!(decode(&whole[..length]), Err(BadEvent::Cut(length)), "{length}");
        }
        let mut other = whole.clone();
        other[0] = 99;
        assert_eq!(decode(&other), Err(BadEvent::Abi(99)));
        let unknown = record(abi::ActionKind(77), b"", b"", b"");
        assert_eq!(decode(&unknown), Err(BadEvent::Unknown { what: "action", number: 77 }));
    }

    #[test]
    fn the_longest_record_fits_the_smallest_ring() {
        assert!(size_of::<abi::Event>() + limits::TEXT_BYTES < 256 * 1024);
        assert!(KindSet::WRITE.contains(abi::ActionKind::OPEN));
    }
}
