//! What a task is about to do, as the kernel saw it.

/// What kind of thing a task is about to do. The numbers are bit positions in [`KindSet`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionKind(pub u16);

impl ActionKind {
    /// Run a program, or (with [`ACTION_INTERPRETER`]) have a script run by this interpreter.
    pub const EXEC: Self = Self(0);
    /// Open an existing file for writing, or with `O_TRUNC`.
    pub const OPEN: Self = Self(1);
    /// Create a regular file.
    pub const CREATE: Self = Self(2);
    /// Create a device node, a FIFO or a socket's name.
    pub const MKNOD: Self = Self(3);
    /// Create a directory.
    pub const MKDIR: Self = Self(4);
    /// Create a symbolic link.
    pub const SYMLINK: Self = Self(5);
    /// Give an existing file another name.
    pub const LINK: Self = Self(6);
    /// Remove a file's name.
    pub const UNLINK: Self = Self(7);
    /// Remove a directory.
    pub const RMDIR: Self = Self(8);
    /// Rename, replace or exchange.
    pub const RENAME: Self = Self(9);
    /// Change a file's size by path.
    pub const TRUNCATE: Self = Self(10);
    /// Change permission bits.
    pub const CHMOD: Self = Self(11);
    /// Change owner or group.
    pub const CHOWN: Self = Self(12);
    /// Set or remove an extended attribute or an access control list.
    pub const XATTR: Self = Self(13);
    /// Bind a socket to a local address.
    pub const BIND: Self = Self(14);
    /// Accept connections on a socket.
    pub const LISTEN: Self = Self(15);
    /// Connect a socket to a remote address.
    pub const CONNECT: Self = Self(16);

    /// How many kinds there are; the valid numbers are below it.
    pub const COUNT: u16 = 17;

    /// The set that holds only this kind.
    pub const fn bit(self) -> KindSet {
        KindSet(1 << self.0)
    }
}

/// A set of [`ActionKind`]s, one bit each.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct KindSet(pub u32);

impl KindSet {
    /// No kind at all.
    pub const NONE: Self = Self(0);
    /// Every kind whose target is a file system object.
    pub const WRITE: Self = Self(
        ActionKind::OPEN.bit().0
            | ActionKind::CREATE.bit().0
            | ActionKind::MKNOD.bit().0
            | ActionKind::MKDIR.bit().0
            | ActionKind::SYMLINK.bit().0
            | ActionKind::LINK.bit().0
            | ActionKind::UNLINK.bit().0
            | ActionKind::RMDIR.bit().0
            | ActionKind::RENAME.bit().0
            | ActionKind::TRUNCATE.bit().0
            | ActionKind::CHMOD.bit().0
            | ActionKind::CHOWN.bit().0
            | ActionKind::XATTR.bit().0,
    );
    /// Every kind whose target is a socket address.
    pub const NET: Self = Self(ActionKind::BIND.bit().0 | ActionKind::LISTEN.bit().0 | ActionKind::CONNECT.bit().0);

    /// Whether `kind` is in the set. A number that is no kind is in no set.
    pub const fn contains(self, kind: ActionKind) -> bool {
        kind.0 < ActionKind::COUNT && self.0 & (1 << kind.0) != 0
    }

    /// Both sets together.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A file system object, whatever its names are. All zero: there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Object {
    /// `super_block.s_dev`: the kernel's internal `major << 20 | minor`.
    pub dev: u64,
    /// `inode.i_ino`.
    pub ino: u64,
    /// `inode.i_size` in bytes. Zero for objects whose size is not part of the action (all but EXEC).
    pub size: u64,
    /// `inode.i_ctime` in nanoseconds since the epoch. Zero as for `size`.
    pub ctime_ns: u64,
    /// `inode.i_generation`.
    pub generation: u32,
    /// `inode.i_mode`: type and permission bits.
    pub mode: u32,
    /// `inode.i_uid`, in the initial user namespace.
    pub uid: u32,
    /// `inode.i_nlink`; 0 says that the object has no name any more.
    pub nlink: u32,
}

/// [`Action::flags`]: the program is the interpreter of the script that `name` says.
pub const ACTION_INTERPRETER: u16 = 1 << 0;
/// [`Action::flags`]: `path` starts at the root of the file system, not of the mount tree, because the hook knows no
/// mount. User space puts the mount point in front.
pub const ACTION_PATH_IN_FILESYSTEM: u16 = 1 << 1;
/// [`Action::flags`]: the path ended in a mount that is not part of the task's mount namespace.
pub const ACTION_FOREIGN_MOUNT: u16 = 1 << 2;

/// The facts of one action. The digest covers these bytes and the text behind them, so that what was approved is what
/// runs; nothing in here may change between the two runs of a hook for the same act.
///
/// The text follows in this order, each part without a terminator unless said: `path`, `name`, `args` (each argument
/// ends in NUL), `env` (each entry ends in NUL).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    /// What is about to happen.
    pub kind: ActionKind,
    /// `ACTION_*`.
    pub flags: u16,
    /// The number of the agent, as the daemon gave it.
    pub agent: u32,
    /// Effective user id, in the initial user namespace.
    pub uid: u32,
    /// Effective group id, in the initial user namespace.
    pub gid: u32,
    /// What is acted on: the program, the file, the directory removed, the source of a link or rename.
    pub object: Object,
    /// EXEC: working directory. LINK, RENAME: what the new name names now, if anything. Creation: the parent directory.
    pub other: Object,
    /// OPEN: `f_flags`. CREATE, MKNOD, MKDIR, CHMOD: mode. CHOWN: uid << 32 | gid. TRUNCATE: unused. RENAME: flags.
    /// EXEC: inode number of the mount namespace. LISTEN: backlog. BIND, CONNECT: inode number of the socket.
    pub detail: u64,
    /// Bytes of `path`: absolute, resolved, from the root of the mount tree.
    pub path_len: u32,
    /// Bytes of `name`. EXEC: the program as the caller named it. LINK, RENAME: the new absolute path. SYMLINK: the
    /// target. XATTR: the attribute. BIND, LISTEN, CONNECT: the socket address, a `struct sockaddr` as the kernel has it.
    pub name_len: u32,
    /// Bytes of `args`. EXEC only.
    pub args_len: u32,
    /// Bytes of `env`. EXEC only.
    pub env_len: u32,
    /// Number of arguments. EXEC only.
    pub argc: u32,
    /// Number of environment entries. EXEC only.
    pub envc: u32,
}

impl Action {
    /// Bytes of text behind the struct.
    pub const fn text_len(&self) -> u64 {
        self.path_len as u64 + self.name_len as u64 + self.args_len as u64 + self.env_len as u64
    }
}
