//! The kernel side, seen from the daemon: the only user of aya.
//!
//! [`Kernel`] loads or adopts it, tells it about agents, rules and verdicts, and hands its records on as
//! [`events::Event`]s. It decides nothing.

pub mod btf;
pub mod events;
mod load;
pub mod probe;
#[cfg(test)]
pub(crate) mod stand_in;
pub mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, RingBuf, lpm_trie},
    programs::ProgramError,
};
use gatekeeper_common::{
    AgentEntry, Control, Counter, Hold, KindSet, MAX_CGROUP_LEVEL, Mode, PREFIX_BYTES, PathPrefix, PortKey, Refusal,
    TaskKey, Verdict, VerdictKey, names,
};

pub use self::load::Start;
use self::load::{Loaded, Pins};

/// What goes wrong between the daemon and the kernel. None of these lets an action pass.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum KernelError {
    #[error("this build has no kernel side; build it with `cargo xtask build`")]
    NoObject,
    #[error(transparent)]
    Layout(#[from] btf::BtfError),
    #[error("cannot read the kernel's type information")]
    KernelBtf(#[source] aya::BtfError),
    #[error("cannot load the kernel side; run `gatekeeper check` to see what this kernel lacks")]
    Load(#[source] Box<EbpfError>),
    #[error("this kernel has no hook `{0}`; gatekeeper needs Linux 6.1 or newer")]
    NoHook(&'static str),
    #[error("the kernel side has no program `{0}`; this build is broken")]
    NoProgram(&'static str),
    #[error("the kernel side has no map `{0}`; this build is broken")]
    NoMap(&'static str),
    #[error("cannot attach `{0}`; run `gatekeeper check` to see what this kernel lacks")]
    Program(&'static str, #[source] Box<ProgramError>),
    #[error("cannot pin {0}; is a BPF file system mounted there?")]
    Pin(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot use {0}; is a BPF file system mounted there (mount -t bpf bpf /sys/fs/bpf)?")]
    PinDirectory(PathBuf, #[source] io::Error),
    #[error("another gatekeeper daemon uses the programs and maps in {0}; stop it first")]
    InUse(PathBuf),
    #[error(
        "the kernel runs another version of gatekeeper's programs (ABI {found}, this is {own}); remove them with that \
         version's `gatekeeper detach`"
    )]
    OtherAbi { found: u32, own: u32 },
    #[error("cannot use a map of the kernel side")]
    Map(#[source] MapError),
    #[error("the kernel gives no random numbers")]
    Random(#[source] io::Error),
    #[error("{path}: {levels} levels below the cgroup root; at most {MAX_CGROUP_LEVEL} are possible")]
    TooDeep { path: String, levels: usize },
    #[error("the kernel's table of {table} is full; raise limits.{table} and start again after `gatekeeper detach`")]
    TableFull { table: &'static str, source: MapError },
}

/// Sizes of the kernel side's maps, from the configuration.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names of the maps and of the configuration")]
pub struct Limits {
    pub holds: u32,
    pub ring_bytes: u32,
    pub prefixes: u32,
    pub ports: u32,
    pub agents: u32,
    pub reruns_per_second: u32,
    /// aya-log's level for debugging the kernel side: 0 is off, 5 traces.
    pub kernel_log_level: u8,
}

/// One agent's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRoot {
    /// Its path below the cgroup root, `/` first.
    pub path: String,
    /// Its id: the inode number of its directory.
    pub cgroup: u64,
    /// The agent's number and what rules name for it.
    pub entry: AgentEntry,
}

/// The path prefixes and ports that rules can match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matchers {
    /// By agent number and leading bytes of the path.
    pub prefixes: BTreeMap<(u32, Vec<u8>), KindSet>,
    /// Agent number, kind, port.
    pub ports: BTreeSet<(u32, u16, u16)>,
}

/// The kernel side's debugging log; its lines go to the `log` crate.
pub type KernelLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// A kernel side that runs.
pub struct Kernel {
    /// How it came to run.
    pub start: Start,
    /// Number that verdicts of this boot name.
    pub nonce: u64,
    pins: Pins,
    controls: Array<MapData, Control>,
    agents: HashMap<MapData, u64, AgentEntry>,
    prefixes: LpmTrie<MapData, PathPrefix, u32>,
    ports: HashMap<MapData, PortKey, u8>,
    holds: HashMap<MapData, TaskKey, Hold>,
    verdicts: HashMap<MapData, VerdictKey, Verdict>,
    counters: PerCpuArray<MapData, u64>,
    /// Its programs are attached by pinned links; kept for the log ring of `--kernel-log`.
    ebpf: Option<Ebpf>,
    /// No other daemon uses the same pins.
    _lock: std::fs::File,
}

impl Kernel {
    /// Loads the kernel side, or takes over what an earlier daemon left.
    pub fn start(pin_directory: &Path, limits: &Limits) -> Result<Self, KernelError> {
        let pins = Pins::new(pin_directory);
        let lock = pins.lock()?;
        let Loaded { start, controls, ebpf } = load::pinned(&pins, limits)?;
        let nonce = controls.get(&0, 0).map_err(KernelError::Map)?.nonce;
        Ok(Self {
            start,
            nonce,
            controls,
            agents: load::open_map(&pins, names::AGENTS, HashMap::try_from)?,
            prefixes: load::open_map(&pins, names::PREFIXES, LpmTrie::try_from)?,
            ports: load::open_map(&pins, names::PORTS, HashMap::try_from)?,
            holds: load::open_map(&pins, names::HOLDS, HashMap::try_from)?,
            verdicts: load::open_map(&pins, names::VERDICTS, HashMap::try_from)?,
            counters: load::open_map(&pins, names::COUNTERS, PerCpuArray::try_from)?,
            pins,
            ebpf,
            _lock: lock,
        })
    }

    /// The ring buffer with the kernel side's records.
    pub fn events(&self) -> Result<Events, KernelError> {
        load::open_map(&self.pins, names::EVENTS, RingBuf::try_from).map(|ring| Events { ring })
    }

    /// The kernel side's debugging log: a stream that is to be flushed when it is readable. `None` where no level is set,
    /// or the programs are another daemon's.
    pub fn kernel_log(&mut self) -> Option<KernelLog> {
        let log = aya_log::EbpfLogger::init(self.ebpf.as_mut()?);
        log.inspect_err(|error| tracing::warn!(%error, "the kernel side's debugging log cannot be read")).ok()
    }

    /// Names of the attached programs.
    pub fn attached(&self) -> Vec<&'static str> {
        self.pins.attached()
    }

    /// Whether actions wait or are only reported.
    pub fn set_mode(&mut self, mode: Mode, reruns_per_second: u32) -> Result<(), KernelError> {
        self.change_control(|control| {
            control.mode = mode;
            control.reruns_per_second = reruns_per_second;
        })
    }

    /// Replaces what is known of agents and rules. What is new comes first and what is obsolete goes last, so that
    /// nothing that is enrolled before and after is outside in between.
    pub fn set_policy(&mut self, roots: &[AgentRoot], matchers: &Matchers) -> Result<(), KernelError> {
        for ((agent, prefix), kinds) in &matchers.prefixes {
            self.prefixes
                .insert(&prefix_key(*agent, prefix), kinds.0, 0)
                .map_err(|source| KernelError::TableFull { table: "prefixes", source })?;
        }
        for (agent, kind, port) in &matchers.ports {
            let key = PortKey { agent: *agent, kind: gatekeeper_common::ActionKind(*kind), port: *port };
            self.ports.insert(key, 1, 0).map_err(|source| KernelError::TableFull { table: "ports", source })?;
        }
        self.set_agents(roots)?;
        let keys: Vec<_> = self.prefixes.keys().collect::<Result<_, _>>().map_err(KernelError::Map)?;
        let wanted: BTreeSet<_> =
            matchers.prefixes.keys().map(|(agent, prefix)| prefix_bytes(&prefix_key(*agent, prefix))).collect();
        for key in keys {
            if !wanted.contains(&prefix_bytes(&key)) {
                self.prefixes.remove(&key).map_err(KernelError::Map)?;
            }
        }
        let keys: Vec<_> = self.ports.keys().collect::<Result<_, _>>().map_err(KernelError::Map)?;
        for key in keys {
            if !matchers.ports.contains(&(key.agent, key.kind.0, key.port)) {
                self.ports.remove(&key).map_err(KernelError::Map)?;
            }
        }
        Ok(())
    }

    /// Replaces the enrolled cgroups.
    pub fn set_agents(&mut self, roots: &[AgentRoot]) -> Result<(), KernelError> {
        let mut levels = 0;
        let mut filter = [0; gatekeeper_common::ROOT_FILTER_WORDS];
        for root in roots {
            let level = root.path.split('/').filter(|part| !part.is_empty()).count();
            if level > MAX_CGROUP_LEVEL as usize {
                return Err(KernelError::TooDeep { path: root.path.clone(), levels: level });
            }
            levels |= 1 << level;
            let (word, bit) = Control::root_bit(root.cgroup);
            filter[word] |= bit;
            self.agents
                .insert(root.cgroup, root.entry, 0)
                .map_err(|source| KernelError::TableFull { table: "agents", source })?;
        }
        // The union first: an agent that leaves is inside until its entry goes.
        self.change_control(|control| {
            control.levels |= levels;
            control.roots.iter_mut().zip(filter).for_each(|(word, bits)| *word |= bits);
        })?;
        let known: Vec<u64> = self.agents.keys().collect::<Result<_, _>>().map_err(KernelError::Map)?;
        for cgroup in known {
            if !roots.iter().any(|root| root.cgroup == cgroup) {
                self.agents.remove(&cgroup).map_err(KernelError::Map)?;
            }
        }
        self.change_control(|control| {
            control.levels = levels;
            control.roots = filter;
        })
    }

    /// The enrolled cgroups, by id.
    pub fn agents(&self) -> Result<Vec<(u64, AgentEntry)>, KernelError> {
        self.agents.iter().collect::<Result<_, _>>().map_err(KernelError::Map)
    }

    /// Everything that waits.
    pub fn holds(&self) -> Result<Vec<(TaskKey, Hold)>, KernelError> {
        self.holds.iter().collect::<Result<_, _>>().map_err(KernelError::Map)
    }

    /// What one task waits for.
    pub fn hold(&self, task: &TaskKey) -> Result<Option<Hold>, KernelError> {
        match self.holds.get(task, 0) {
            Ok(hold) => Ok(Some(hold)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(err) => Err(KernelError::Map(err)),
        }
    }

    /// Forgets the hold of a task that is gone.
    pub fn forget_hold(&mut self, task: &TaskKey) -> Result<(), KernelError> {
        gone(self.holds.remove(task))
    }

    /// Lets the verdicts on the earlier stages of an exec live as long as the one on its interpreter: the exec runs again
    /// from its start.
    pub fn prolong_verdicts(&mut self, key: VerdictKey, expires_ns: u64) -> Result<(), KernelError> {
        for stage in 0..key.stage {
            let earlier = VerdictKey { task: key.task, stage };
            match self.verdicts.get(&earlier, 0) {
                Ok(verdict) => self.store_verdict(earlier, Verdict { expires_ns, ..verdict })?,
                Err(MapError::KeyNotFound) => {}
                Err(err) => return Err(KernelError::Map(err)),
            }
        }
        Ok(())
    }

    /// Stores a verdict. It works when the task runs again.
    pub fn store_verdict(&mut self, key: VerdictKey, verdict: Verdict) -> Result<(), KernelError> {
        self.verdicts.insert(key, verdict, 0).map_err(|source| KernelError::TableFull { table: "holds", source })
    }

    /// Verdicts that nobody consumed, with when they expire (nanoseconds of `CLOCK_BOOTTIME`).
    pub fn verdicts(&self) -> Result<Vec<(VerdictKey, u64)>, KernelError> {
        self.verdicts
            .iter()
            .map(|entry| entry.map(|(key, verdict)| (key, verdict.expires_ns)))
            .collect::<Result<_, _>>()
            .map_err(KernelError::Map)
    }

    /// Takes a verdict back.
    pub fn remove_verdict(&mut self, key: &VerdictKey) -> Result<(), KernelError> {
        gone(self.verdicts.remove(key))
    }

    /// All counters by name, summed over the CPUs.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, KernelError> {
        let named = Counter::ALL.iter().filter(|(counter, _)| *counter != Counter::REFUSALS).copied();
        let refused =
            Refusal::ALL.iter().map(|(refusal, name, _)| (Counter(Counter::REFUSALS.0 + u32::from(refusal.0)), *name));
        named
            .chain(refused)
            .map(|(counter, name)| {
                let values = self.counters.get(&counter.0, 0).map_err(KernelError::Map)?;
                Ok((name, values.iter().sum()))
            })
            .collect()
    }

    /// Takes the kernel side away: nothing is enforced from then on.
    pub fn detach(self) -> Result<(), KernelError> {
        self.pins.remove()
    }

    fn change_control(&mut self, change: impl FnOnce(&mut Control)) -> Result<(), KernelError> {
        let mut control = self.controls.get(&0, 0).map_err(KernelError::Map)?;
        change(&mut control);
        self.controls.set(0, control, 0).map_err(KernelError::Map)
    }
}

/// Takes away whatever is pinned below a directory, without a daemon.
pub fn remove_pins(pin_directory: &Path) -> Result<(), KernelError> {
    Pins::new(pin_directory).remove()
}

/// The kernel side removes entries, too: one that is gone already is as good.
fn gone(removed: Result<(), MapError>) -> Result<(), KernelError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(err)) if err.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(KernelError::Map(err)),
    }
}

fn prefix_key(agent: u32, prefix: &[u8]) -> lpm_trie::Key<PathPrefix> {
    let length = prefix.len().min(PREFIX_BYTES);
    let mut path = [0; PREFIX_BYTES];
    path[..length].copy_from_slice(&prefix[..length]);
    lpm_trie::Key::new((4 + length as u32) * 8, PathPrefix { agent: agent.to_be_bytes(), path })
}

fn prefix_bytes(key: &lpm_trie::Key<PathPrefix>) -> (u32, [u8; 4], [u8; PREFIX_BYTES]) {
    (key.prefix_len(), key.data().agent, key.data().path)
}

/// The stream of records.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl std::os::fd::AsRawFd for Events {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.ring.as_fd().as_raw_fd()
    }
}

impl Events {
    /// The next record, if one is there. A record that cannot be understood is an error about that record alone.
    pub fn take(&mut self) -> Option<Result<events::Event, events::BadEvent>> {
        self.ring.next().map(|record| events::decode(&record))
    }
}
