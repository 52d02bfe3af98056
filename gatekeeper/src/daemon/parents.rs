//! Waking programs that stopped together with a held child.
//!
//! sudo stops itself when its command stops, and with a pty of its own its whole process group: a shell's job control
//! would resume it. Nobody does when the command goes on by itself, so the daemon does: before the command goes on, since
//! such a program continues its command itself and reports a failure if that has ended meanwhile, and again once the hold
//! has ended, several times, since it may notice the stop late. SIGCONT goes to nobody but stopped processes of an agent
//! that belong to the ancestors' process groups and do not wait themselves.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use rustc_hash::FxHashSet;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::judge;

/// How long after the end of a hold its ancestors are looked at, nanoseconds. The first serves programs that notice at
/// once, the others those that are slow, on a busy host.
const LOOKS_NS: [u64; 3] = [20_000_000, 200_000_000, 2_000_000_000];

/// Ancestors that are followed; real process trees are not that deep.
const DEPTH: usize = 64;

/// Where the ancestors of a task that was held are to be found.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// The process that was held.
    pub(super) tgid: u32,
    /// Its parent; 0: unknown.
    pub(super) parent: u32,
    /// Those above that were known while it was held: some may outlive those between them and the process.
    pub(super) ancestors: Vec<u32>,
    /// Whether the hold was long enough to be noticed.
    pub(super) noticed: bool,
}

/// All looks that are due at some time.
#[derive(Debug, Default)]
pub(super) struct Parents {
    due: BTreeMap<u64, Vec<(Family, usize)>>,
    /// Processes for which a look after short holds is due already: one is enough for all of them.
    short: FxHashSet<u32>,
}

impl Parents {
    /// A hold has ended now.
    pub(super) fn start(&mut self, family: Family, now_ns: u64) {
        if !family.noticed && !self.short.insert(family.tgid) {
            return;
        }
        self.due.entry(now_ns + LOOKS_NS[0]).or_default().push((family, 0));
    }

    /// When to call [`Self::look`] next.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.due.first_key_value().map(|(at, _)| *at)
    }

    /// Wakes whom it finds. `is_agents` says whether a cgroup is an agent's, `holding` which processes wait.
    pub(super) fn look(
        &mut self,
        now_ns: u64,
        cgroup_root: &Path,
        is_agents: impl Fn(&str) -> bool,
        holding: impl Fn() -> HashSet<u32>,
    ) {
        while let Some(entry) = self.due.first_entry()
            && *entry.key() <= now_ns
        {
            for (family, looks) in entry.remove() {
                if !family.noticed {
                    self.short.remove(&family.tgid);
                }
                let woken = wake(&family, cgroup_root, &is_agents, &holding);
                if (!woken.is_empty() || family.noticed)
                    && let Some(pause) = LOOKS_NS.get(looks + 1)
                {
                    let family = Family { noticed: true, ..family };
                    self.due.entry(now_ns + pause).or_default().push((family, looks + 1));
                }
            }
        }
    }
}

/// Wakes the stopped ancestors and those that stopped with them. Returns these ancestors.
pub(super) fn wake(
    family: &Family,
    cgroup_root: &Path,
    is_agents: &impl Fn(&str) -> bool,
    holding: &impl Fn() -> HashSet<u32>,
) -> Vec<u32> {
    let mut seen = HashSet::new();
    let mut groups = HashSet::new();
    let mut ancestors = Vec::new();
    let mut stopped = HashSet::new();
    for start in [family.tgid, family.parent].into_iter().chain(family.ancestors.iter().copied()) {
        let mut pid = start;
        while pid > 1 && seen.len() < DEPTH && seen.insert(pid) {
            let Some(stat) = Stat::of(pid) else { break };
            if pid != family.tgid
                && stat.state == b'T'
                && let Some(cgroup) = judge::cgroup_of(pid)
                && is_agents(&cgroup)
            {
                groups.insert(stat.group);
                ancestors.push(pid);
                stopped.insert(pid);
                stopped.extend(members(cgroup_root, &cgroup));
            }
            pid = stat.parent;
        }
    }
    if stopped.is_empty() {
        return ancestors;
    }
    let holding = holding();
    ancestors.retain(|pid| !holding.contains(pid));
    for pid in stopped.into_iter().filter(|pid| !holding.contains(pid)) {
        let Some(number) = Pid::from_raw(pid.cast_signed()) else { continue };
        // The descriptor first, the check behind it: what it names cannot be another process's from then on.
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        let is_meant = Stat::of(pid).is_some_and(|stat| stat.state == b'T' && groups.contains(&stat.group))
            && judge::cgroup_of(pid).is_some_and(|cgroup| is_agents(&cgroup));
        if is_meant {
            // It may have ended.
            let _ = pidfd_send_signal(&process, Signal::CONT);
        }
    }
    ancestors
}

/// Whether a process that was woken has done what it does then, and waits for something again or has ended.
pub(super) fn is_settled(pid: u32) -> bool {
    Stat::of(pid).is_none_or(|stat| !matches!(stat.state, b'R' | b'T'))
}

/// The processes of a cgroup.
fn members(cgroup_root: &Path, cgroup: &str) -> Vec<u32> {
    let path = cgroup_root.join(cgroup.trim_start_matches('/')).join("cgroup.procs");
    // The cgroup may be gone.
    let processes = std::fs::read_to_string(path).unwrap_or_default();
    processes.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    parent: u32,
    group: u32,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The name in parentheses can hold anything.
        let rest = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
        let mut fields = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
        let state = fields.next()?.as_bytes().first().copied()?;
        Some(Self { state, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = b"12 (a) T 1 9 (x) S 7 8 8 0 -1";
        assert_eq!(Stat::parse(stat), Some(Stat { state: b'S', parent: 7, group: 8 }));
        assert_eq!(Stat::parse(b"12 (a"), None);
    }

    #[test]
    fn a_hold_that_nobody_can_have_noticed_is_looked_after_once() {
        let family = |noticed| Family { tgid: u32::MAX, parent: 0, ancestors: Vec::new(), noticed };
        let mut parents = Parents::default();
        parents.start(family(false), 0);
        parents.look(LOOKS_NS[0], Path::new("/"), |_| false, HashSet::new);
        assert_eq!(parents.next_ns(), None);
        parents.start(family(true), 0);
        parents.look(LOOKS_NS[0], Path::new("/"), |_| false, HashSet::new);
        assert_eq!(parents.next_ns(), Some(LOOKS_NS[0] + LOOKS_NS[1]));
    }
}
