//! Proof that the kernel side enforces: a process of our own, in a cgroup of its own, tries to make a directory, has to
//! wait, and gets the errno that we chose.
//!
//! Nothing less will do: attaching succeeds on a kernel that never calls BPF LSM programs, and a list of active modules
//! says nothing about a host that refuses to load them.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use gatekeeper_common::{AgentEntry, Control, Effect, Hold, KindSet, TaskKey, Verdict, VerdictKey, names};

use super::{AgentRoot, Kernel, KernelError, Limits, load, prefix_key};

/// Number of the trial's agent; no other has it.
pub const AGENT: u32 = u32::MAX;
/// The trial's cgroup, below the cgroup root. At the level of the cgroups of runs, so that tasks outside all agents pay for
/// no level more; no agent can have such a name.
pub const CGROUP: &str = "gatekeeper/~trial";
/// How far below the cgroup root that is.
const LEVEL: u32 = 2;
/// What the trial's process must get: an errno that mkdir itself gives in no such case.
const ERRNO: i32 = 18;
/// 0 here has the kernel call no attached LSM program, without a word.
pub(super) const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";
/// A trial takes milliseconds; a busy host gets more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the kernel side does not enforce.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TrialError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("cannot {0} for the trial")]
    Setup(&'static str, #[source] io::Error),
    #[error("the programs are attached, but the kernel does not call them: {0}")]
    NotEnforced(String),
    #[error("the trial's action was neither held nor let go within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the trial's process got {0} where it should have got errno {ERRNO}")]
    WrongResult(String),
}

/// What a trial needs of the kernel side's maps.
pub(crate) trait Maps {
    fn held(&mut self, pid: u32) -> Result<Option<(TaskKey, Hold)>, KernelError>;
    fn deny(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError>;
    fn nonce(&self) -> u64;
}

impl Maps for Kernel {
    fn held(&mut self, pid: u32) -> Result<Option<(TaskKey, Hold)>, KernelError> {
        Ok(self.holds()?.into_iter().find(|(_, hold)| hold.tgid == pid))
    }

    fn deny(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError> {
        self.store_verdict(key, verdict)
    }

    fn nonce(&self) -> u64 {
        self.nonce
    }
}

/// Makes the trial's cgroup. It must exist before the trial is enrolled.
pub fn make_cgroup(cgroup_root: &Path) -> Result<(), TrialError> {
    fs::create_dir_all(cgroup_root.join(CGROUP)).map_err(|err| TrialError::Setup("make a cgroup", err))
}

/// Tries whether the running kernel side enforces. The trial's cgroup is enrolled already.
pub(crate) fn run(kernel: &mut impl Maps, cgroup_root: &Path, directory: &Path) -> Result<(), TrialError> {
    run_with(kernel, cgroup_root, directory)
}

/// Loads a kernel side for this trial alone, tries it, and takes it away again.
pub fn run_alone(limits: &Limits, cgroup_root: &Path, directory: &Path) -> Result<(), TrialError> {
    make_cgroup(cgroup_root)?;
    let result = alone(limits, cgroup_root, directory);
    remove_cgroup(cgroup_root);
    result
}

/// Removes the trial's cgroup, unless another gatekeeper's trial uses it at this moment.
pub fn remove_cgroup(cgroup_root: &Path) {
    let cgroup = cgroup_root.join(CGROUP);
    let _ = fs::remove_dir(&cgroup);
    // The one above too, unless agents have theirs there.
    let _ = cgroup.parent().map(fs::remove_dir);
}

fn alone(limits: &Limits, cgroup_root: &Path, directory: &Path) -> Result<(), TrialError> {
    use std::os::unix::fs::MetadataExt as _;

    let (mut ebpf, _links) = load::transient(limits)?;
    let metadata = fs::metadata(cgroup_root.join(CGROUP)).map_err(|err| TrialError::Setup("find the cgroup", err))?;
    let entry = AgentEntry {
        agent: AGENT,
        kinds: gatekeeper_common::ActionKind::MKDIR.bit(),
        any_port: KindSet::NONE,
        other_families: KindSet::NONE,
    };
    let root = AgentRoot { path: format!("/{CGROUP}"), cgroup: metadata.ino(), entry };
    let mut maps = Transient::open(&mut ebpf)?;
    maps.enrol(&root)?;
    run_with(&mut maps, cgroup_root, directory)
}

struct Transient {
    controls: aya::maps::Array<aya::maps::MapData, Control>,
    agents: aya::maps::HashMap<aya::maps::MapData, u64, AgentEntry>,
    prefixes: aya::maps::LpmTrie<aya::maps::MapData, gatekeeper_common::PathPrefix, u32>,
    holds: aya::maps::HashMap<aya::maps::MapData, TaskKey, Hold>,
    verdicts: aya::maps::HashMap<aya::maps::MapData, VerdictKey, Verdict>,
    nonce: u64,
}

impl Transient {
    fn open(ebpf: &mut aya::Ebpf) -> Result<Self, KernelError> {
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(KernelError::NoMap(name));
        let controls = aya::maps::Array::try_from(take(names::CONTROLS)?).map_err(KernelError::Map)?;
        let control: Control = controls.get(&0, 0).map_err(KernelError::Map)?;
        Ok(Self {
            nonce: control.nonce,
            controls,
            agents: take(names::AGENTS)?.try_into().map_err(KernelError::Map)?,
            prefixes: take(names::PREFIXES)?.try_into().map_err(KernelError::Map)?,
            holds: take(names::HOLDS)?.try_into().map_err(KernelError::Map)?,
            verdicts: take(names::VERDICTS)?.try_into().map_err(KernelError::Map)?,
        })
    }

    fn enrol(&mut self, root: &AgentRoot) -> Result<(), KernelError> {
        self.prefixes.insert(&prefix_key(AGENT, b""), root.entry.kinds.0, 0).map_err(KernelError::Map)?;
        self.agents.insert(root.cgroup, root.entry, 0).map_err(KernelError::Map)?;
        let mut control = self.controls.get(&0, 0).map_err(KernelError::Map)?;
        let (word, bit) = Control::root_bit(root.cgroup);
        control.roots[word] |= bit;
        control.levels |= 1 << LEVEL;
        self.controls.set(0, control, 0).map_err(KernelError::Map)
    }
}

impl Maps for Transient {
    fn held(&mut self, pid: u32) -> Result<Option<(TaskKey, Hold)>, KernelError> {
        for entry in self.holds.iter() {
            let (key, hold) = entry.map_err(KernelError::Map)?;
            if hold.tgid == pid {
                return Ok(Some((key, hold)));
            }
        }
        Ok(None)
    }

    fn deny(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError> {
        self.verdicts.insert(key, verdict, 0).map_err(KernelError::Map)
    }

    fn nonce(&self) -> u64 {
        self.nonce
    }
}

fn run_with(maps: &mut impl Maps, cgroup_root: &Path, directory: &Path) -> Result<(), TrialError> {
    let target = directory.join(format!("gatekeeper-trial-{}", std::process::id()));
    let _ = fs::remove_dir(&target);
    let mut child = spawn(cgroup_root, &target)?;
    let result = watch(maps, &mut child);
    if result.is_err() {
        let _ = child.kill();
    }
    // A killed process is reaped too.
    let _ = child.wait();
    if fs::remove_dir(&target).is_ok() && result.is_ok() {
        return Err(TrialError::NotEnforced(why_not_called()));
    }
    result
}

/// Starts this very program as the trial's process.
fn spawn(cgroup_root: &Path, target: &Path) -> Result<Child, TrialError> {
    let program = PathBuf::from("/proc/self/exe");
    Command::new(program)
        .arg0("gatekeeper")
        .arg("trial")
        .arg(cgroup_root.join(CGROUP).join("cgroup.procs"))
        .arg(target)
        .spawn()
        .map_err(|err| TrialError::Setup("start a process", err))
}

fn watch(maps: &mut impl Maps, child: &mut Child) -> Result<(), TrialError> {
    let give_up = Instant::now() + PATIENCE;
    let mut denied = false;
    loop {
        if let Some(status) = child.try_wait().map_err(|err| TrialError::Setup("wait for a process", err))? {
            return match status.code() {
                Some(ERRNO) if denied => Ok(()),
                Some(0) => Err(TrialError::NotEnforced(why_not_called())),
                _ => Err(TrialError::WrongResult(status.to_string())),
            };
        }
        if let Some((key, hold)) = maps.held(child.id())? {
            let verdict = Verdict {
                nonce: maps.nonce(),
                hold: hold.id,
                digest: hold.digest,
                expires_ns: u64::MAX,
                interpreter_dev: 0,
                interpreter_ino: 0,
                effect: Effect::DENY,
                errno: ERRNO as u32,
            };
            maps.deny(VerdictKey { task: key, stage: u64::from(hold.stage) }, verdict)?;
            denied = true;
            if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
                // The child is ours and not reaped yet, so the pid is still its own.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
            }
        }
        if Instant::now() > give_up {
            return Err(TrialError::Silent);
        }
        // There is nothing to wait on: the kernel side's records belong to the daemon's loop.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the trial's process does: enters the cgroup, makes the directory. Returns the exit status: 0 or the errno.
pub fn process(cgroup_procs: &Path, target: &Path) -> u8 {
    let errno = |err: io::Error| err.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(255);
    if let Err(err) = fs::write(cgroup_procs, "0") {
        // Not an errno that the trial waits for.
        return errno(err) | 0x80;
    }
    fs::create_dir(target).map_or_else(errno, |()| 0)
}

/// The active security modules with `bpf` at the end.
pub fn wanted_modules() -> String {
    wanted_of(&fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default())
}

fn wanted_of(active: &str) -> String {
    let active = active.trim();
    match active {
        "" => "landlock,lockdown,yama,integrity,apparmor,bpf".to_owned(),
        active if active.split(',').any(|module| module == "bpf") => active.to_owned(),
        active => format!("{active},bpf"),
    }
}

/// Why attached programs are not called, and the way out.
fn why_not_called() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    not_called(&read("/sys/kernel/security/lsm"), &read(FTRACE))
}

fn not_called(modules: &str, ftrace: &str) -> String {
    if !modules.trim().split(',').any(|module| module == "bpf") {
        format!("`bpf` must be among the active security modules; boot with `lsm={}`", wanted_of(modules))
    } else if ftrace.trim() == "0" {
        "kernel.ftrace_enabled is 0; run `sysctl kernel.ftrace_enabled=1`".to_owned()
    } else {
        "this host hinders it; see `gatekeeper check`".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_are_not_called_are_told_with_the_way_out() {
        assert!(not_called("lockdown,yama\n", "1\n").ends_with("boot with `lsm=lockdown,yama,bpf`"));
        assert!(not_called("lockdown,bpf\n", "0\n").contains("sysctl kernel.ftrace_enabled=1"));
        assert!(not_called("lockdown,bpf\n", "1\n").contains("gatekeeper check"));
    }

    #[test]
    fn the_documentation_names_the_trials_cgroup() {
        assert!(include_str!("../../../docs/operating.md").contains(&format!("`/sys/fs/cgroup/{CGROUP}`")));
    }
}
