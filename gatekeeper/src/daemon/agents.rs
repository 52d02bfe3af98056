//! Where agents are: cgroups that the configuration names, and those that `gatekeeper run` made.
//!
//! A configured pattern without wildcards, and the directory below which all runs of an agent live, are enrolled
//! themselves, so whatever starts in them later is an agent's from its first instruction. Cgroups that a wildcard will
//! match are enrolled when they appear, which a watch on the directories above them tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use gatekeeper_common::{AgentEntry, KindSet, MAX_CGROUP_LEVEL};
use rustix::fs::{XattrFlags, getxattr, inotify, setxattr};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    config::Config,
    context::Hints,
    kernel::{AgentRoot, trial},
    policy::tables::Tables,
    reviewer::Origin,
};

/// The cgroup below which `gatekeeper run` makes one for each run, and the daemon one for its trial.
const RUNS: &str = "gatekeeper";
/// Keeps a run's labels with its cgroup, for as long as that lives; processes without privilege cannot change it.
const RUN_ATTRIBUTE: &str = "trusted.gatekeeper.run";
/// Directories that are watched for new cgroups, at the most.
const MAX_WATCHES: usize = 8192;

/// Why a cgroup cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} the cgroup {}", path.display())]
pub struct CgroupError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError { operation, path: path.to_owned(), source }
}

/// One run of an agent, as its cgroup remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) agent: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) intent: Option<String>,
    /// User id of who started it.
    #[serde(default)]
    pub(super) uid: Option<u32>,
    /// Name of the file in which it reads how its actions ended.
    #[serde(default)]
    pub(super) reasons: Option<String>,
}

/// All agents.
pub(super) struct Agents {
    cgroup_root: PathBuf,
    names: BTreeMap<u32, String>,
    watch: OwnedFd,
    /// Watched directories by descriptor.
    watched: BTreeMap<i32, PathBuf>,
    /// Name of each run's cgroup directory, below [`RUNS`]: agent and run.
    runs: BTreeMap<(String, String), Run>,
    next_run: u64,
}

/// Finds where cgroup version 2 is mounted.
pub fn find_cgroup_root(configured: Option<&Path>) -> Result<PathBuf, CgroupError> {
    let candidates = match configured {
        Some(path) => vec![path.to_owned()],
        None => vec![PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/fs/cgroup/unified")],
    };
    let shown = candidates[0].clone();
    candidates
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.controllers").exists())
        .ok_or_else(|| {
            failed("find (is cgroup version 2 mounted? else `mount -t cgroup2 cgroup2 /sys/fs/cgroup`)", &shown)(
                io::ErrorKind::NotFound.into(),
            )
        })
}

/// The number of an agent, in the kernel side's tables. It follows from the name, so a daemon that starts again finds
/// the tables of the one before still right.
pub(super) fn number_of(name: &str, taken: &BTreeMap<u32, String>) -> u32 {
    let hash = Sha256::digest(name);
    let mut number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    while number == trial::AGENT || taken.get(&number).is_some_and(|other| other != name) {
        number = number.wrapping_add(1);
    }
    number
}

impl Agents {
    pub(super) fn new(cgroup_root: PathBuf, config: &Config) -> Result<Self, CgroupError> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
            .map_err(|err| failed("watch", &cgroup_root)(err.into()))?;
        let mut agents = Self {
            cgroup_root,
            names: BTreeMap::new(),
            watch,
            watched: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_run: 1,
        };
        agents.configure(config)?;
        agents.find_runs();
        Ok(agents)
    }

    /// Takes over what a new configuration says.
    pub(super) fn configure(&mut self, config: &Config) -> Result<(), CgroupError> {
        let mut names: Vec<_> = config.agents.iter().map(|agent| agent.name.clone()).collect();
        names.sort();
        self.names.clear();
        for name in names {
            let number = number_of(&name, &self.names);
            self.names.insert(number, name);
        }
        for name in self.names.values() {
            let path = self.cgroup_root.join(RUNS).join(name);
            fs::create_dir_all(&path).map_err(failed("make", &path))?;
        }
        Ok(())
    }

    /// Names and numbers, for the tables.
    pub(super) fn numbers(&self) -> Vec<(String, u32)> {
        self.names.iter().map(|(number, name)| (name.clone(), *number)).collect()
    }

    pub(super) fn name(&self, number: u32) -> Option<&str> {
        self.names.get(&number).map(String::as_str)
    }

    pub(super) fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// Readable when cgroups came or went.
    pub(super) fn watch(&self) -> io::Result<OwnedFd> {
        self.watch.try_clone()
    }

    /// Takes all news from the watch. They only say that something changed: the directories say what.
    pub(super) fn drain_watch(&self) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        while reader.next().is_ok() {}
    }

    /// Every cgroup to enrol now. Watches whatever could bring more.
    pub(super) fn roots(&mut self, config: &Config, tables: &Tables) -> Vec<AgentRoot> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut watch = BTreeSet::new();
        for agent in &config.agents {
            found.insert(format!("/{RUNS}/{}", agent.name), agent.name.clone());
            for pattern in &agent.cgroups {
                let start = pattern.directory().to_owned();
                self.search(&start, pattern, &agent.name, &mut found, &mut watch);
            }
        }
        for agent in self.names.values() {
            watch.insert(self.cgroup_root.join(RUNS).join(agent));
        }
        self.watch_directories(&watch);
        let mut roots = Vec::with_capacity(found.len() + 1);
        for (path, agent) in found {
            let Some(table) = tables.agents.get(&agent) else { continue };
            if let Ok(metadata) = fs::metadata(self.below_root(&path)) {
                let entry = AgentEntry {
                    agent: table.number,
                    kinds: table.kinds,
                    any_port: table.any_port,
                    other_families: table.other_families,
                };
                roots.push(AgentRoot { path, cgroup: metadata.ino(), entry });
            }
        }
        roots
    }

    fn below_root(&self, path: &str) -> PathBuf {
        self.cgroup_root.join(path.trim_start_matches('/'))
    }

    /// Looks for cgroups that match below one directory, or for the nearest directory above that is there already.
    fn search(
        &self,
        start: &str,
        pattern: &crate::config::CgroupPattern,
        agent: &str,
        found: &mut BTreeMap<String, String>,
        watch: &mut BTreeSet<PathBuf>,
    ) {
        let mut directory = if start.is_empty() { "/".to_owned() } else { start.to_owned() };
        // The pattern itself, and what must exist before it: a missing directory is waited for in its parent.
        while !self.below_root(&directory).is_dir() {
            let parent =
                directory.trim_end_matches('/').rfind('/').map_or("/", |at| &directory[..at.max(1)]).to_owned();
            if parent == directory {
                return;
            }
            directory = parent;
        }
        watch.insert(self.below_root(&directory));
        let mut queue = vec![(directory, 0)];
        while let Some((directory, depth)) = queue.pop() {
            let path = if directory == "/" { "/".to_owned() } else { directory.trim_end_matches('/').to_owned() };
            if path != "/" && pattern.matches(&path) {
                found.insert(path, agent.to_owned());
                continue;
            }
            if depth > MAX_CGROUP_LEVEL || watch.len() > MAX_WATCHES {
                continue;
            }
            let below = self.below_root(&directory);
            let Ok(entries) = fs::read_dir(&below) else { continue };
            if !pattern.is_literal() {
                watch.insert(below);
            }
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                // A cgroup's name that is not UTF-8 cannot be in a configuration.
                if let Ok(name) = entry.file_name().into_string() {
                    let prefix = if path == "/" { "" } else { path.as_str() };
                    let child = format!("{prefix}/{name}");
                    if !pattern.is_literal() || pattern.source().starts_with(&child) {
                        queue.push((child, depth + 1));
                    }
                }
            }
        }
    }

    fn watch_directories(&mut self, wanted: &BTreeSet<PathBuf>) {
        let known: BTreeSet<_> = self.watched.values().cloned().collect();
        for path in wanted.difference(&known) {
            let flags = inotify::WatchFlags::CREATE
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::ONLYDIR;
            match inotify::add_watch(&self.watch, path, flags) {
                Ok(descriptor) => {
                    self.watched.insert(descriptor, path.clone());
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "cannot watch for new cgroups"),
            }
        }
        let obsolete: Vec<_> = self
            .watched
            .iter()
            .filter(|(_, path)| !wanted.contains(*path))
            .map(|(descriptor, _)| *descriptor)
            .collect();
        for descriptor in obsolete {
            self.watched.remove(&descriptor);
            // It is gone already when its directory is.
            let _ = inotify::remove_watch(&self.watch, descriptor);
        }
    }

    /// Makes a cgroup for a run and moves a process into it. Returns its path below the cgroup mount.
    pub(super) fn start_run(&mut self, run: Run, pid: u32) -> Result<(String, String), CgroupError> {
        let directory = self.cgroup_root.join(RUNS).join(&run.agent);
        let name = loop {
            let name = format!("run-{}", self.next_run);
            self.next_run += 1;
            let path = directory.join(&name);
            match fs::create_dir(&path) {
                Ok(()) => break name,
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(failed("make", &path)(err)),
            }
        };
        let path = directory.join(&name);
        let result = self.fill_run(&path, &run, pid);
        if result.is_err() {
            let _ = fs::remove_dir(&path);
        }
        result?;
        let shown = format!("/{RUNS}/{}/{name}", run.agent);
        self.runs.insert((run.agent.clone(), name.clone()), run);
        Ok((name, shown))
    }

    fn fill_run(&self, path: &Path, run: &Run, pid: u32) -> Result<(), CgroupError> {
        let json = serde_json::to_vec(run).map_err(|err| failed("describe", path)(err.into()))?;
        setxattr(path, RUN_ATTRIBUTE, &json, XattrFlags::empty())
            .map_err(|err| failed("describe", path)(err.into()))?;
        self.watch_emptiness(path)?;
        fs::write(path.join("cgroup.procs"), pid.to_string()).map_err(failed("move a process into", path))
    }

    /// A run's cgroup says in `cgroup.events` that nothing is left in it.
    fn watch_emptiness(&self, path: &Path) -> Result<(), CgroupError> {
        let events = path.join("cgroup.events");
        inotify::add_watch(&self.watch, &events, inotify::WatchFlags::MODIFY)
            .map(|_| ())
            .map_err(|err| failed("watch", &events)(err.into()))
    }

    /// Finds the runs that an earlier daemon left.
    fn find_runs(&mut self) {
        let names: Vec<_> = self.names.values().cloned().collect();
        for agent in names {
            let directory = self.cgroup_root.join(RUNS).join(&agent);
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let mut buffer = vec![0; 64 << 10];
                let Ok(length) = getxattr(entry.path(), RUN_ATTRIBUTE, buffer.as_mut_slice()) else { continue };
                if let Ok(run) = serde_json::from_slice(&buffer[..length]) {
                    if let Err(error) = self.watch_emptiness(&entry.path()) {
                        tracing::warn!(%error, "a run's cgroup will stay when it is empty");
                    }
                    if let Some(number) = name.strip_prefix("run-").and_then(|number| number.parse::<u64>().ok()) {
                        self.next_run = self.next_run.max(number + 1);
                    }
                    self.runs.insert((agent.clone(), name), run);
                }
            }
        }
    }

    /// Removes the cgroups of runs in which nothing runs any more, and says which.
    pub(super) fn end_empty_runs(&mut self) -> Vec<(String, Run)> {
        let mut ended = Vec::new();
        let root = self.cgroup_root.join(RUNS);
        self.runs.retain(|(agent, name), run| {
            let path = root.join(agent).join(name);
            let populated = fs::read_to_string(path.join("cgroup.events"))
                .map_or(path.exists(), |events| events.lines().any(|line| line == "populated 1"));
            if populated {
                return true;
            }
            remove_tree(&path);
            if path.exists() {
                return true;
            }
            ended.push((name.clone(), run.clone()));
            false
        });
        ended
    }

    /// What is known of the run that a process belongs to, by its cgroup's path; else what the configuration says.
    pub(super) fn hints(&self, agent: &str, cgroup: &str, config: &Config) -> Hints {
        let run = self.run(agent, cgroup);
        let configured = config.agents.iter().find(|known| known.name == agent);
        let mut hints = Hints::default();
        if let Some(configured) = configured {
            hints.labels.clone_from(&configured.labels);
            hints.intent.clone_from(&configured.intent);
        }
        if let Some(run) = run {
            hints.labels.extend(run.labels.clone());
            if run.intent.is_some() {
                hints.intent.clone_from(&run.intent);
            }
        }
        hints
    }

    fn run(&self, agent: &str, cgroup: &str) -> Option<&Run> {
        let name = cgroup.strip_prefix(&format!("/{RUNS}/{agent}/"))?.split('/').next()?;
        self.runs.get(&(agent.to_owned(), name.to_owned()))
    }

    /// Who started the agent that lives in a cgroup, and who answers for it.
    pub(super) fn origin(&self, agent: &str, cgroup: &str, config: &Config) -> Origin {
        let configured = config.agents.iter().find(|known| known.name == agent);
        Origin {
            started_by: self.run(agent, cgroup).and_then(|run| run.uid),
            owner: configured.and_then(|agent| agent.owner.clone()),
        }
    }

    /// The cgroup of the run in which a cgroup lies; the cgroup itself where there is no run.
    pub(super) fn run_of(cgroup: &str) -> String {
        let parts: Vec<_> = cgroup.split('/').take(4).collect();
        if parts.len() == 4 && parts[1] == RUNS { parts.join("/") } else { cgroup.to_owned() }
    }

    /// Name of the file of the run in a cgroup.
    pub(super) fn reasons_file(&self, agent: &str, cgroup: &str) -> Option<&str> {
        self.run(agent, cgroup)?.reasons.as_deref()
    }

    /// Names of all runs' files.
    pub(super) fn reasons_files(&self) -> BTreeSet<String> {
        self.runs.values().filter_map(|run| run.reasons.clone()).collect()
    }

    /// Whether a cgroup is that of a run.
    pub(super) fn is_run(&self, cgroup: &str) -> bool {
        let parts: Vec<_> = cgroup.split('/').collect();
        matches!(parts.as_slice(), ["", RUNS, agent, name]
            if self.runs.contains_key(&((*agent).to_owned(), (*name).to_owned())))
    }

    /// Removes the cgroups that this module made, where nothing runs in them.
    pub(super) fn remove_empty(&self) {
        remove_tree(&self.cgroup_root.join(RUNS));
    }
}

/// Removes a cgroup and all below it, as far as they are empty.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// The trial's own cgroup is an agent of its own, always enrolled.
pub(super) fn trial_root(cgroup_root: &Path) -> Option<AgentRoot> {
    let metadata = fs::metadata(cgroup_root.join(trial::CGROUP)).ok()?;
    let entry = AgentEntry {
        agent: trial::AGENT,
        kinds: gatekeeper_common::ActionKind::MKDIR.bit(),
        any_port: KindSet::NONE,
        other_families: KindSet::NONE,
    };
    Some(AgentRoot { path: format!("/{}", trial::CGROUP), cgroup: metadata.ino(), entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_names_and_never_collide() {
        let mut taken = BTreeMap::new();
        let number = number_of("coder", &taken);
        assert_eq!(number_of("coder", &taken), number);
        taken.insert(number, "another".to_owned());
        assert_eq!(number_of("coder", &taken), number.wrapping_add(1));
    }
}
