//! Every act that is gated, against every promise of [`crate::cases`].

use std::{fs, net::TcpStream, os::unix::fs::MetadataExt as _, path::Path};

use gatekeeper_tests::Agent;

use crate::{
    cases::{self, Act, runs},
    place::{Family, Kind, Place},
};

/// Words for the probe.
macro_rules! words {
    ($($word:expr),+ $(,)?) => { vec![$($word.to_string()),+] };
}

/// A test for each promise, in a module with the act's name.
macro_rules! acts {
    ($($name:ident: $act:expr;)+) => {
        $(mod $name {
            use super::*;

            const ACT: Act = $act;

            #[test]
            fn allow_rule() { cases::allow_rule(&ACT); }
            #[test]
            fn deny_rule() { cases::deny_rule(&ACT); }
            #[test]
            fn approved() { cases::approved(&ACT); }
            #[test]
            fn denied() { cases::denied(&ACT); }
            #[test]
            fn expired() { cases::expired(&ACT); }
            #[test]
            fn withdrawn() { cases::withdrawn(&ACT); }
            #[test]
            fn outside() { cases::outside(&ACT); }
            #[test]
            fn unmatched() { cases::unmatched(&ACT); }
        })+
    };
}

const PLAIN: Act =
    Act { kind: "", prepare: |_, _| {}, words: |_| Vec::new(), happened: None, told_by_kernel: true, crosses: false };
/// Where the file system is mounted only user space finds out, and for Unix sockets the kernel knows no names.
const TOLD_BY_DAEMON: Act = Act { told_by_kernel: false, ..PLAIN };
const CROSSES: Act = Act { crosses: true, ..PLAIN };

fn exists(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

fn size(path: &str) -> u64 {
    fs::metadata(path).map_or(u64::MAX, |metadata| metadata.len())
}

fn mode(path: &str) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn attribute(path: &str, name: &str) -> bool {
    rustix::fs::getxattr(path, name, &mut [0; 64]).is_ok()
}

/// The agent opens a file where it may, which then comes into the zone as `kept`.
fn keep(place: &Place, agent: &mut Agent) {
    assert_eq!(agent.act(&["keep", &place.beside("file")]), "ok");
    fs::rename(place.beside("file"), place.path("kept")).unwrap();
}

acts! {
    exec: Act {
        kind: "exec",
        words: |place| words!["exec", place.path("program"), "serve"],
        happened: Some(|place, agent| runs(agent, &place.path("program"))),
        ..PLAIN
    };
    open: Act {
        kind: "open",
        words: |place| words!["open", place.path("file"), "wronly,append"],
        ..PLAIN
    };
    open_truncating: Act {
        kind: "open",
        words: |place| words!["open", place.path("file"), "rdwr,trunc"],
        happened: Some(|place, _| size(&place.path("file")) == 0),
        ..PLAIN
    };
    open_existing_with_creat: Act {
        kind: "open",
        words: |place| words!["open", place.path("file"), "wronly,creat,trunc"],
        happened: Some(|place, _| size(&place.path("file")) == 0),
        ..PLAIN
    };
    create: Act {
        kind: "create",
        words: |place| words!["open", place.path("new"), "wronly,creat"],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    create_exclusive: Act {
        kind: "create",
        words: |place| words!["open", place.path("new"), "rdwr,creat,excl"],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    truncate: Act {
        kind: "truncate",
        words: |place| words!["truncate", place.path("file"), "1"],
        happened: Some(|place, _| size(&place.path("file")) == 1),
        ..PLAIN
    };
    rename: Act {
        kind: "rename",
        words: |place| words!["rename", place.path("file"), place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    rename_replacing: Act {
        kind: "rename",
        words: |place| words!["rename", place.path("file"), place.path("other")],
        happened: Some(|place, _| !exists(&place.path("file"))),
        ..PLAIN
    };
    rename_in: Act {
        kind: "rename",
        words: |place| words!["rename", place.beside("file"), place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..CROSSES
    };
    rename_out: Act {
        kind: "rename",
        words: |place| words!["rename", place.path("file"), place.beside("new")],
        happened: Some(|place, _| !exists(&place.path("file"))),
        ..CROSSES
    };
    exchange: Act {
        kind: "rename",
        words: |place| words!["exchange", place.path("file"), place.path("other")],
        happened: Some(|place, _| size(&place.path("other")) == 3),
        ..PLAIN
    };
    link: Act {
        kind: "link",
        words: |place| words!["link", place.path("file"), place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    link_in: Act {
        kind: "link",
        words: |place| words!["link", place.beside("file"), place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..CROSSES
    };
    link_out: Act {
        kind: "link",
        words: |place| words!["link", place.path("file"), place.beside("new")],
        happened: Some(|place, _| exists(&place.beside("new"))),
        ..CROSSES
    };
    symlink: Act {
        kind: "symlink",
        words: |place| words!["symlink", "/etc/passwd", place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    unlink: Act {
        kind: "unlink",
        words: |place| words!["unlink", place.path("file")],
        happened: Some(|place, _| !exists(&place.path("file"))),
        ..PLAIN
    };
    rmdir: Act {
        kind: "rmdir",
        words: |place| words!["rmdir", place.path("empty")],
        happened: Some(|place, _| !exists(&place.path("empty"))),
        ..PLAIN
    };
    mkdir: Act {
        kind: "mkdir",
        words: |place| words!["mkdir", place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    mkfifo: Act {
        kind: "mknod",
        words: |place| words!["mkfifo", place.path("new")],
        happened: Some(|place, _| exists(&place.path("new"))),
        ..PLAIN
    };
    chmod: Act {
        kind: "chmod",
        words: |place| words!["chmod", place.path("file"), "4700"],
        happened: Some(|place, _| mode(&place.path("file")) == 0o4700),
        ..PLAIN
    };
    fchmod: Act {
        kind: "chmod",
        words: |_| words!["fchmod", "4700"],
        prepare: keep,
        happened: Some(|place, _| mode(&place.path("kept")) == 0o4700),
        ..PLAIN
    };
    chown: Act {
        kind: "chown",
        words: |place| words!["chown", place.path("file"), "7"],
        happened: Some(|place, _| fs::metadata(place.path("file")).unwrap().uid() == 7),
        ..PLAIN
    };
    fchown: Act {
        kind: "chown",
        words: |_| words!["fchown", "7"],
        prepare: keep,
        happened: Some(|place, _| fs::metadata(place.path("kept")).unwrap().uid() == 7),
        ..PLAIN
    };
    setxattr: Act {
        kind: "xattr",
        words: |place| words!["setxattr", place.path("file")],
        happened: Some(|place, _| attribute(&place.path("file"), "trusted.probe")),
        ..TOLD_BY_DAEMON
    };
    removexattr: Act {
        kind: "xattr",
        words: |place| words!["removexattr", place.path("file")],
        prepare: |place, _| rustix::fs::setxattr(place.path("file"), "trusted.probe", b"x", rustix::fs::XattrFlags::empty()).unwrap(),
        happened: Some(|place, _| !attribute(&place.path("file"), "trusted.probe")),
        ..TOLD_BY_DAEMON
    };
    setacl: Act {
        kind: "xattr",
        words: |place| words!["setacl", place.path("file")],
        happened: Some(|place, _| attribute(&place.path("file"), "system.posix_acl_access")),
        ..TOLD_BY_DAEMON
    };
    bind_unix_path: Act {
        kind: "mknod",
        words: |place| words!["bind", format!("unix:{}", place.path("socket"))],
        happened: Some(|place, _| exists(&place.path("socket"))),
        ..TOLD_BY_DAEMON
    };
    bind_ipv4: Act {
        kind: "bind",
        words: |place| words!["bind", place.address(Kind::Bind, Family::V4)],
        ..PLAIN
    };
    bind_ipv6: Act {
        kind: "bind",
        words: |place| words!["bind", place.address(Kind::Bind, Family::V6)],
        ..PLAIN
    };
    bind_abstract: Act {
        kind: "bind",
        words: |place| words!["bind", place.address(Kind::Bind, Family::Unix)],
        ..TOLD_BY_DAEMON
    };
    listen_ipv4: Act {
        kind: "listen",
        words: |place| words!["listen", place.address(Kind::Listen, Family::V4)],
        happened: Some(|place, _| TcpStream::connect(place.address(Kind::Listen, Family::V4)).is_ok()),
        ..PLAIN
    };
    listen_ipv6: Act {
        kind: "listen",
        words: |place| words!["listen", place.address(Kind::Listen, Family::V6)],
        happened: Some(|place, _| TcpStream::connect(place.address(Kind::Listen, Family::V6)).is_ok()),
        ..PLAIN
    };
    listen_abstract: Act {
        kind: "listen",
        words: |place| words!["listen", place.address(Kind::Listen, Family::Unix)],
        ..TOLD_BY_DAEMON
    };
    connect_ipv4: Act {
        kind: "connect",
        words: |place| words!["connect", place.address(Kind::Connect, Family::V4)],
        prepare: |place, _| place.listen(Family::V4),
        happened: Some(|place, _| place.has_caller()),
        ..PLAIN
    };
    connect_ipv6: Act {
        kind: "connect",
        words: |place| words!["connect", place.address(Kind::Connect, Family::V6)],
        prepare: |place, _| place.listen(Family::V6),
        happened: Some(|place, _| place.has_caller()),
        ..PLAIN
    };
    connect_abstract: Act {
        kind: "connect",
        words: |place| words!["connect", place.address(Kind::Connect, Family::Unix)],
        prepare: |place, _| place.listen(Family::Unix),
        happened: Some(|place, _| place.has_caller()),
        ..TOLD_BY_DAEMON
    };
}
