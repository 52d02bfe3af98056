//! Who calls, and whether they may.
//!
//! The facts come from the kernel: credentials of the connection and of each message, `/proc/PID/status` and
//! `/proc/PID/cgroup`, read while a pidfd says that the process is still the one that connected. [`judge`] turns them
//! into a yes or a reason, and does nothing else. What cannot be found out is a no.

use std::{
    collections::BTreeSet,
    fmt, fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    accounts::Accounts,
    protocol::{CallError, ErrorCode},
    socket::{self, Credentials},
};
use crate::text::Text;

/// Says whether a cgroup belongs to an agent: its path below the cgroup mount with a leading slash, and the ids of the
/// cgroup and of all cgroups above it, nearest first. Called for each call, so it must be quick and must not wait.
pub type AgentScope = dyn Fn(&str, &[u64]) -> bool + Send + Sync;

/// A group of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// A process that called and may.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Process id.
    pub pid: u32,
    /// Effective user id when it connected.
    pub uid: u32,
    /// Effective group id when it connected.
    pub gid: u32,
    /// Login name of that user, or `uid N` if the host's files have none.
    pub user: String,
    /// Refers to the very process, whatever happens to its pid.
    pub pidfd: Arc<OwnedFd>,
}

/// Who connected.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Somebody who may call.
    Permitted(Peer),
    /// A process of an agent.
    Agent(Peer),
}

/// Why a caller was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Neither root nor in the group.
    NotPermitted {
        /// The group that would do; none if only root may call.
        group: Option<String>,
    },
    /// A process of an agent.
    InsideAgent {
        /// Its cgroup.
        cgroup: Text,
    },
    /// The bytes came from another process than the one that connected.
    ForeignSender {
        /// Who sent them; 0 if unknown.
        pid: u32,
    },
    /// The process ended, so nothing that `/proc` says can be trusted.
    Gone,
    /// Something that must be known could not be found out.
    Unknown {
        /// What, and why.
        problem: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { group: Some(group) } => write!(f, "neither root nor in the group {group}"),
            Self::NotPermitted { group: None } => f.write_str("not root"),
            Self::InsideAgent { cgroup } => write!(f, "inside the agent cgroup {cgroup}"),
            Self::ForeignSender { pid } => write!(f, "sent by process {pid}, which did not connect"),
            Self::Gone => f.write_str("ended before it could be checked"),
            Self::Unknown { problem } => write!(f, "cannot be checked: {problem}"),
        }
    }
}

impl Reason {
    /// What the caller is told.
    pub(super) fn error(&self) -> CallError {
        match self {
            Self::NotPermitted { group: Some(group) } => {
                CallError::new(ErrorCode::NotPermitted, "not permitted to use the control socket")
                    .with_hint(format!("become root, or join the group {group} and log in again"))
            }
            Self::NotPermitted { group: None } => {
                CallError::new(ErrorCode::NotPermitted, "not permitted to use the control socket")
                    .with_hint("become root, or set a group for reviewers in the configuration")
            }
            Self::InsideAgent { cgroup } => CallError::new(
                ErrorCode::InsideAgent,
                format!("this process belongs to an agent (cgroup {cgroup}), and agents cannot use the control socket"),
            )
            .with_hint("use a terminal that the agent did not start"),
            Self::ForeignSender { .. } => {
                CallError::new(ErrorCode::NotPermitted, "another process sent this than the one that connected")
                    .with_hint("let each process connect by itself")
            }
            Self::Gone => CallError::new(ErrorCode::NotPermitted, "the calling process ended before it was checked"),
            Self::Unknown { problem } => {
                CallError::new(ErrorCode::NotPermitted, format!("the calling process cannot be checked: {problem}"))
            }
        }
    }
}

/// All that [`judge`] looks at.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) uid: u32,
    /// Main and supplementary groups of the process.
    pub(super) groups: BTreeSet<u32>,
    /// The host's files say that the user is in the group.
    pub(super) listed: bool,
    pub(super) cgroup: String,
    /// Of the cgroup and all above it.
    pub(super) cgroup_ids: Vec<u64>,
}

/// Whether a process may call.
pub(super) fn judge(facts: &Facts, group: Option<&Group>, scope: &AgentScope) -> Result<(), Reason> {
    // Being inside an agent comes first: an agent that runs as root stays an agent.
    if facts.cgroup_ids.is_empty() || !is_plain_path(&facts.cgroup) {
        return Err(Reason::Unknown { problem: format!("its cgroup {} is not visible", Text::from(&*facts.cgroup)) });
    }
    if scope(&facts.cgroup, &facts.cgroup_ids) {
        return Err(Reason::InsideAgent { cgroup: Text::from(&*facts.cgroup) });
    }
    let in_group = group.is_some_and(|group| facts.groups.contains(&group.gid) || facts.listed);
    if facts.uid == 0 || in_group {
        Ok(())
    } else {
        Err(Reason::NotPermitted { group: group.map(|group| group.name.clone()) })
    }
}

/// Absolute, and inside what this process can see: a cgroup outside the reader's namespace shows as `/../…`.
fn is_plain_path(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

/// The way to the facts.
#[derive(Clone)]
pub(super) struct Inspector {
    pub(super) cgroup_root: PathBuf,
    pub(super) accounts: Accounts,
    pub(super) group: Option<Group>,
    pub(super) scope: Arc<AgentScope>,
}

impl Inspector {
    /// Identifies who connected: a caller who may call, or a process of an agent, which may only ask about itself. On
    /// failure says as much as is known.
    pub(super) fn identify(&self, connection: BorrowedFd<'_>) -> Result<Caller, (Credentials, Reason)> {
        let unknown = |problem: String| Reason::Unknown { problem };
        let credentials = socket::peer_credentials(connection).map_err(|error| {
            (Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX }, unknown(format!("SO_PEERCRED: {error}")))
        })?;
        let Credentials { pid, uid, gid } = credentials;
        let failed = |reason| (credentials, reason);
        let pidfd = match socket::peer_pidfd(connection) {
            Ok(Some(pidfd)) => pidfd,
            Ok(None) => open_pidfd(pid).map_err(failed)?,
            // The kernel refuses a pidfd of a process that has been reaped.
            Err(_) => return Err(failed(Reason::Gone)),
        };
        let user = match self.accounts.user_name(uid) {
            Ok(Some(name)) => name,
            // The name is for people; the number decides.
            Ok(None) | Err(_) => format!("uid {uid}"),
        };
        let peer = Peer { pid, uid, gid, user, pidfd: Arc::new(pidfd) };
        match self.check(&peer) {
            Ok(()) => Ok(Caller::Permitted(peer)),
            Err(Reason::InsideAgent { .. }) => Ok(Caller::Agent(peer)),
            Err(reason) => Err(failed(reason)),
        }
    }

    /// Whether the process may call now. It may have entered an agent since the call before.
    pub(super) fn check(&self, peer: &Peer) -> Result<(), Reason> {
        let facts = self.facts(peer);
        // Only now: what was read belongs to this process if it is still there after the reading.
        if !is_alive(peer.pidfd.as_fd()) {
            return Err(Reason::Gone);
        }
        judge(&facts.map_err(|problem| Reason::Unknown { problem })?, self.group.as_ref(), &*self.scope)
    }

    fn facts(&self, peer: &Peer) -> Result<Facts, String> {
        let read = |name: &str| {
            let path = format!("/proc/{}/{name}", peer.pid);
            fs::read(&path).map_err(|error| format!("{path}: {error}"))
        };
        let status = Status::parse(&String::from_utf8_lossy(&read("status")?))
            .ok_or_else(|| format!("/proc/{}/status is not as expected", peer.pid))?;
        let cgroup = unified_cgroup(&read("cgroup")?)
            .ok_or_else(|| format!("/proc/{}/cgroup names no cgroup of version 2", peer.pid))?;
        let cgroup_ids = cgroup_ids(&self.cgroup_root, &cgroup).map_err(|error| format!("cgroup {cgroup}: {error}"))?;
        let mut groups = status.groups;
        groups.insert(peer.gid);
        // The files are read only where they could make a difference. An unreadable file lists nobody.
        let listed = self.group.as_ref().is_some_and(|group| {
            peer.uid != 0
                && !groups.contains(&group.gid)
                && self.accounts.is_member(&peer.user, group.gid).unwrap_or(false)
        });
        Ok(Facts { uid: peer.uid, groups, listed, cgroup, cgroup_ids })
    }
}

/// For kernels before 6.5. Between connect and here the pid could have passed on to another process, which then would
/// be judged in its place; but that process cannot have connected, so messages from anyone but it are refused.
fn open_pidfd(pid: u32) -> Result<OwnedFd, Reason> {
    let unknown = |error: &dyn fmt::Display| Reason::Unknown { problem: format!("pidfd_open: {error}") };
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or(Reason::Gone)?;
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        Err(rustix::io::Errno::SRCH) => Err(Reason::Gone),
        Err(error) => Err(unknown(&error)),
    }
}

/// A pidfd becomes readable when its process ends.
fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// What `/proc/PID/status` says about groups.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    groups: BTreeSet<u32>,
}

impl Status {
    fn parse(status: &str) -> Option<Self> {
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
        let supplementary = line("Groups:")?.split_whitespace().map(str::parse);
        // Real, effective, saved, file system: only the effective one counts.
        let effective = line("Gid:")?.split_whitespace().nth(1)?.parse();
        let groups = supplementary.chain([effective]).collect::<Result<_, _>>().ok()?;
        Some(Self { groups })
    }
}

/// The cgroup of version 2 in `/proc/PID/cgroup`.
fn unified_cgroup(file: &[u8]) -> Option<String> {
    let line = file.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    String::from_utf8(line.to_vec()).ok()
}

/// The cgroup of this process, as a path below the cgroup mount with a leading slash.
pub fn own_cgroup() -> io::Result<String> {
    let missing = || io::Error::new(io::ErrorKind::Unsupported, "/proc/self/cgroup names no cgroup of version 2");
    unified_cgroup(&fs::read("/proc/self/cgroup")?).ok_or_else(missing)
}

/// Ids of a cgroup and of all above it, nearest first: the inode numbers of their directories.
fn cgroup_ids(root: &Path, cgroup: &str) -> io::Result<Vec<u64>> {
    let relative = Path::new(cgroup.trim_start_matches('/'));
    relative.ancestors().map(|part| fs::metadata(root.join(part)).map(|directory| directory.ino())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uid: u32, groups: &[u32], listed: bool, cgroup: &str, cgroup_ids: &[u64]) -> Facts {
        let groups = groups.iter().copied().collect();
        Facts { uid, groups, listed, cgroup: cgroup.to_owned(), cgroup_ids: cgroup_ids.to_vec() }
    }

    #[test]
    fn only_root_and_the_group_outside_agents_may_call() {
        let group = Group { name: "review".to_owned(), gid: 50 };
        let scope: &AgentScope =
            &|path, ids| path == "/agents/a" || path.starts_with("/agents/a/") || ids.contains(&77);
        let refused = "neither root nor in the group review";
        let hidden = "cannot be checked: its cgroup /../other is not visible";
        let cases: &[(&str, Facts, Option<&Group>, &str)] = &[
            ("root", facts(0, &[0], false, "/", &[1]), Some(&group), ""),
            ("root without a group", facts(0, &[0], false, "/", &[1]), None, ""),
            ("stranger", facts(1000, &[1000], false, "/user", &[2, 1]), Some(&group), refused),
            ("stranger without a group", facts(1000, &[1000], false, "/user", &[2, 1]), None, "not root"),
            ("supplementary", facts(1000, &[1000, 50], false, "/user", &[2, 1]), Some(&group), ""),
            ("listed", facts(1000, &[1000], true, "/user", &[2, 1]), Some(&group), ""),
            ("listed, but no group is set", facts(1000, &[1000], true, "/user", &[2, 1]), None, "not root"),
            (
                "root in an agent",
                facts(0, &[0], false, "/agents/a", &[9, 1]),
                None,
                "inside the agent cgroup /agents/a",
            ),
            ("below one", facts(0, &[50], true, "/agents/a/b", &[7, 1]), None, "inside the agent cgroup /agents/a/b"),
            ("by id", facts(0, &[0], false, "/renamed", &[77, 1]), None, "inside the agent cgroup /renamed"),
            ("a neighbour's name", facts(0, &[0], false, "/agents/ab", &[11, 8, 1]), Some(&group), ""),
            ("outside the namespace", facts(0, &[0], false, "/../other", &[11]), Some(&group), hidden),
            ("no ids", facts(0, &[0], false, "/x", &[]), None, "cannot be checked: its cgroup /x is not visible"),
        ];
        for (name, facts, group, expected) in cases {
            let reason = judge(facts, *group, scope).err().map(|reason| reason.to_string()).unwrap_or_default();
            assert_eq!(reason, *expected, "{name}");
        }
    }

    #[test]
    fn groups_are_read_from_the_status_file() {
        let parse = |text| Status::parse(text).map(|status| status.groups.into_iter().collect::<Vec<_>>());
        assert_eq!(parse("Name:\tx\nGid:\t1\t2\t3\t4\nGroups:\t50 60 \n"), Some(vec![2, 50, 60]));
        assert_eq!(parse("Gid:\t1\t2\t3\t4\nGroups:\t\n"), Some(vec![2]));
        assert_eq!(parse("Gid:\t1\t2\t3\t4\n"), None);
        assert_eq!(parse("Gid:\t1\nGroups:\t5\n"), None);
        assert_eq!(parse("Gid:\t1\t2\nGroups:\tx\n"), None);
    }

    #[test]
    fn the_cgroup_of_version_2_is_found_among_the_others() {
        assert_eq!(unified_cgroup(b"4:memory:/x\n0::/a/b\n").as_deref(), Some("/a/b"));
        assert_eq!(unified_cgroup(b"4:memory:/0::/x\n"), None);
        assert_eq!(unified_cgroup(b"0::/\xff\n"), None);
    }

    #[test]
    fn ids_are_those_of_the_directory_and_all_above_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let id = |part: &str| fs::metadata(root.path().join(part)).unwrap().ino();
        assert_eq!(cgroup_ids(root.path(), "/a/b").unwrap(), [id("a/b"), id("a"), id("")]);
        assert_eq!(cgroup_ids(root.path(), "/").unwrap(), [id("")]);
        assert!(cgroup_ids(root.path(), "/gone (deleted)").is_err());
    }

    #[test]
    fn a_process_that_ended_is_not_alive() {
        let mut child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        assert!(is_alive(pidfd.as_fd()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_alive(pidfd.as_fd()));
        assert!(matches!(open_pidfd(0), Err(Reason::Gone)));
    }
}
