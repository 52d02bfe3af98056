//! Where the acts happen: one directory and four ports for each verdict, and the rules about them.

use std::{
    cell::RefCell,
    fs,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
};

use gatekeeper_tests::program;

/// Everything below is made anew for each test.
pub(crate) const BASE: &str = "/srv/gatekeeper-test";

/// The rules: what happens in `BASE/NAME`, and at the ports and names of [`Zone`], is what the zone's name says.
///
/// Exceptions lie inside what they are exceptions from, so that the kernel side cannot tell them by their beginning.
pub(crate) fn config() -> String {
    let mut config = "[[agent]]\nname = \"tester\"\n".to_owned();
    let mut rule = |name: String, kinds: &str, condition: String, verdict: &str| {
        config.push_str(&format!("[[rule]]\nname = \"{name}\"\naction = {kinds}\n{condition}\n{verdict}\n"));
    };
    for zone in [Zone::Allow, Zone::Deny, Zone::Expire, Zone::Ask] {
        let verdict = match zone {
            Zone::Deny => "verdict = \"deny\"\nerrno = \"EROFS\"",
            Zone::Expire => "verdict = \"ask\"\ndeadline = \"1s\"",
            Zone::Ask => "verdict = \"ask\"\ndeadline = \"1h\"",
            Zone::Allow | Zone::Free => "verdict = \"allow\"",
        };
        let directory = if zone == Zone::Ask { Path::new(BASE).join("ask") } else { zone.directory() };
        rule(
            format!("{}-files", zone.name()),
            "[\"exec\", \"write\"]",
            format!("path = \"{}/**\"", directory.display()),
            verdict,
        );
        for (number, kind) in (0..).zip(["bind", "listen", "connect"]) {
            let kinds = format!("\"{kind}\"");
            let (port, allowed) = (zone.port(10 * number), Zone::Allow.port(10 * number));
            let mut ports = format!("port = [\"{port}-{}\"", port + 9);
            if zone == Zone::Ask {
                ports.push_str(&format!(", \"{allowed}-{}\"", allowed + 9));
            }
            rule(format!("{}-{kind}", zone.name()), &kinds, ports + "]", verdict);
            let names = if zone == Zone::Ask { "*" } else { zone.name() };
            rule(
                format!("{}-{kind}-unix", zone.name()),
                &kinds,
                format!("address = \"unix:@test-{kind}-{names}\""),
                verdict,
            );
        }
    }
    config
}

/// A verdict, by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Allow,
    Deny,
    Ask,
    Expire,
    /// No rule is about it.
    Free,
}

impl Zone {
    fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
            Self::Expire => "expire",
            Self::Free => "free",
        }
    }

    pub(crate) fn directory(self) -> PathBuf {
        let above = if self == Self::Free { BASE.to_owned() } else { format!("{BASE}/ask") };
        Path::new(&above).join(self.name())
    }

    /// Abstract name of a Unix socket, for acts of this kind.
    fn socket_name(self, kind: &str) -> String {
        // The rule that asks is about every name with the same beginning.
        if self == Self::Free { format!("@else-{kind}") } else { format!("@test-{kind}-{}", self.name()) }
    }

    fn port(self, number: u16) -> u16 {
        number
            + match self {
                Self::Allow => 4100,
                Self::Deny => 4200,
                Self::Ask => 4000,
                Self::Expire => 4300,
                Self::Free => 4500,
            }
    }
}

/// A fresh place for one act.
pub(crate) struct Place {
    pub(crate) zone: Zone,
    pub(crate) directory: PathBuf,
    /// Where no rule reaches, on the same file system.
    pub(crate) free: PathBuf,
    /// What an act may connect to.
    listener: RefCell<Option<OwnedFd>>,
}

impl Place {
    /// Makes `file` (three bytes), `other`, `empty` (a directory) and `program` in the zone, `file` and `other` in the
    /// free directory beside.
    pub(crate) fn new(zone: Zone) -> Self {
        let free = Path::new(BASE).join("beside");
        let place = Self { zone, directory: zone.directory(), free, listener: RefCell::new(None) };
        // Absent for the first test.
        let _ = fs::remove_dir_all(BASE);
        for directory in [&place.directory, &place.free] {
            fs::create_dir_all(directory).unwrap();
            fs::write(directory.join("file"), "old").unwrap();
            fs::write(directory.join("other"), "another").unwrap();
        }
        fs::create_dir(place.directory.join("empty")).unwrap();
        fs::copy(program("probe"), place.directory.join("program")).unwrap();
        place
    }

    /// A path in the zone, as a word.
    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    /// A path in the free directory, as a word.
    pub(crate) fn beside(&self, name: &str) -> String {
        self.free.join(name).to_str().unwrap().to_owned()
    }

    /// The address for acts of this kind in this family, as a word.
    pub(crate) fn address(&self, kind: Kind, family: Family) -> String {
        let port = |number: u16| self.zone.port(10 * kind as u16 + number);
        match family {
            Family::V4 => format!("127.0.0.1:{}", port(0)),
            Family::V6 => format!("[::1]:{}", port(1)),
            Family::Unix => self.zone.socket_name(["bind", "listen", "connect"][kind as usize]),
        }
    }

    /// Listens where an act is to connect.
    pub(crate) fn listen(&self, family: Family) {
        let address = self.address(Kind::Connect, family);
        let listener: OwnedFd = match address.strip_prefix('@') {
            Some(name) => UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap().into(),
            None => TcpListener::bind(&address).unwrap().into(),
        };
        rustix::io::ioctl_fionbio(&listener, true).unwrap();
        self.listener.replace(Some(listener));
    }

    /// Whether somebody has connected.
    pub(crate) fn has_caller(&self) -> bool {
        rustix::net::accept(self.listener.borrow().as_ref().unwrap()).is_ok()
    }
}

/// What an act does to a socket.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Bind,
    Listen,
    Connect,
}

/// What an address is.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
    Unix,
}
