//! What a task is about to do, in the daemon's words: checked, owned, ready for rules, people and the log.
//!
//! `kernel::events` makes these from the raw records; nothing else does, apart from tests.

use std::{fmt, net::IpAddr};

use gatekeeper_common as abi;
use serde::{Deserialize, Serialize};

use crate::text::Text;

/// What kind of thing a task is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "`gatekeeper_common::ActionKind` says what each one means")]
pub enum ActionKind {
    Exec,
    Open,
    Create,
    Mknod,
    Mkdir,
    Symlink,
    Link,
    Unlink,
    Rmdir,
    Rename,
    Truncate,
    Chmod,
    Chown,
    Xattr,
    Bind,
    Listen,
    Connect,
}

impl ActionKind {
    /// All of them, in the order of their numbers, with the name each has in rules, logs and on cards.
    pub const ALL: [(Self, &str); abi::ActionKind::COUNT as usize] = [
        (Self::Exec, "exec"),
        (Self::Open, "open"),
        (Self::Create, "create"),
        (Self::Mknod, "mknod"),
        (Self::Mkdir, "mkdir"),
        (Self::Symlink, "symlink"),
        (Self::Link, "link"),
        (Self::Unlink, "unlink"),
        (Self::Rmdir, "rmdir"),
        (Self::Rename, "rename"),
        (Self::Truncate, "truncate"),
        (Self::Chmod, "chmod"),
        (Self::Chown, "chown"),
        (Self::Xattr, "xattr"),
        (Self::Bind, "bind"),
        (Self::Listen, "listen"),
        (Self::Connect, "connect"),
    ];

    /// The kernel side's number for it.
    pub fn number(self) -> abi::ActionKind {
        abi::ActionKind(self as u16)
    }

    /// The kind with that number, if there is one.
    pub fn from_number(number: abi::ActionKind) -> Option<Self> {
        Self::ALL.get(usize::from(number.0)).map(|(kind, _)| *kind)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A file system object, whatever its names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Device: `major << 20 | minor`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Inode generation, which tells a number's later owner from its earlier one.
    pub generation: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Number of names; 0 for an object that has none.
    pub nlink: u32,
    /// Bytes, where the action is bound to the content, else 0.
    pub size: u64,
    /// Time of the last change, nanoseconds since the epoch, where the action is bound to the content, else 0.
    pub ctime_ns: u64,
}

impl Object {
    /// From the kernel side's form, in which all zero means none.
    pub fn from_raw(raw: abi::Object) -> Option<Self> {
        let abi::Object { dev, ino, size, ctime_ns, generation, mode, uid, nlink } = raw;
        (raw != abi::Object::default()).then_some(Self { dev, ino, generation, mode, uid, nlink, size, ctime_ns })
    }
}

/// What is acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Exec.
    Program {
        /// Resolved absolute path of the file that runs.
        path: Text,
        /// The program as the caller named it.
        called: Text,
        /// The whole argument vector.
        args: Vec<Text>,
        /// The whole environment it would start with, `NAME=value` each.
        env: Vec<Text>,
        /// It runs as the interpreter of the script that `called` names.
        interpreter: bool,
        /// Working directory.
        cwd: Option<Object>,
    },
    /// Every kind of write.
    File {
        /// Resolved absolute path; the old one for link and rename, the new name itself for creations.
        path: Text,
        /// Link and rename: the new absolute path.
        new_path: Option<Text>,
        /// Symlink: where it points. Xattr: which attribute.
        argument: Option<Text>,
        /// Open: flags. Creations and chmod: mode. Chown: uid << 32 | gid. Rename: flags. Else 0.
        detail: u64,
        /// Link and rename: what the new name means now. Creations: the parent directory.
        other: Option<Object>,
    },
    /// Bind, listen, connect.
    Socket {
        /// The address.
        address: Address,
    },
}

/// A socket address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// IPv4 or IPv6. An IPv4 address inside IPv6 is given as IPv4.
    Ip {
        /// The address.
        ip: IpAddr,
        /// The port; 0 lets the kernel choose.
        port: u16,
    },
    /// A Unix socket: a path, or an abstract name that starts with `@`, or empty when unnamed.
    Unix(Text),
    /// Any other family.
    Other {
        /// `AF_*`.
        family: u16,
        /// The raw bytes behind the family.
        data: Text,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { ip: IpAddr::V4(ip), port } => write!(f, "{ip}:{port}"),
            Self::Ip { ip: IpAddr::V6(ip), port } => write!(f, "[{ip}]:{port}"),
            Self::Unix(name) => write!(f, "unix:{name}"),
            Self::Other { family, data } => write!(f, "family {family}: {data}"),
        }
    }
}

/// Who acts, by the kernel's own facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Process id, in the initial namespace.
    pub pid: u32,
    /// Thread id, in the initial namespace.
    pub tid: u32,
    /// Parent's process id, in the initial namespace.
    pub parent: u32,
    /// When the task started, nanoseconds of `CLOCK_BOOTTIME`. With `tid`, unique within a boot.
    pub start_ns: u64,
    /// Id of the cgroup it is in.
    pub cgroup: u64,
    /// Short name. The task can change it.
    pub comm: Text,
    /// Real user id.
    pub real_uid: u32,
    /// User who logged in, if any.
    pub login_uid: Option<u32>,
    /// Audit session, if any.
    pub session: Option<u32>,
}

/// What a task is about to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What kind of thing.
    pub kind: ActionKind,
    /// Name of the agent.
    pub agent: String,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// What is acted on.
    pub target: Target,
    /// The object itself, where there is one already.
    pub object: Option<Object>,
    /// The path leads over a mount that is not part of the task's mount namespace, so it may not be the file's name
    /// elsewhere.
    pub foreign_mount: bool,
    /// The kernel side's digest of all of it, 32 hexadecimal digits.
    pub digest: String,
}
