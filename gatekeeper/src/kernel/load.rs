//! Loading, attaching and pinning the kernel side, and taking over one that is there already.
//!
//! Programs, links and maps are pinned below one directory of the BPF file system, so that enforcement and holds
//! outlive the daemon. A new daemon of the same build adopts them as they are; one of another build with the same ABI
//! attaches its own programs to the same maps before it lets the old ones go; there is no moment without a program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, MapData, MapError},
    programs::{
        ProgramError,
        links::{FdLink, PinnedLink},
    },
};
use gatekeeper_common::{
    ABI_VERSION, Control, KernelLayout, Mode, limits,
    names::{self, PROGRAMS, Program, Target},
    sip::Key,
};
use sha2::{Digest as _, Sha256};

use super::{KernelError, Limits, btf};

/// The kernel side, as `build.rs` found it; empty in a build without one.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kernel-side"));

/// How the kernel side came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Loaded into a kernel that had none.
    Fresh,
    /// It ran already and is this very build.
    Adopted,
    /// It ran already; its programs were replaced, its maps kept.
    Replaced,
}

/// The directory with the pins.
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join("maps").join(name)
    }

    fn link(&self, name: &str) -> PathBuf {
        self.root.join("links").join(name)
    }

    pub(super) fn exist(&self) -> bool {
        self.map(names::CONTROLS).exists()
    }

    fn create(&self) -> Result<(), KernelError> {
        for directory in [&self.root, &self.root.join("maps"), &self.root.join("links")] {
            match fs::create_dir(directory) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                Err(err) => return Err(KernelError::PinDirectory(directory.clone(), err)),
            }
        }
        Ok(())
    }

    /// Keeps other daemons away from these pins until the result is dropped: two would take each other's events.
    pub(super) fn lock(&self) -> Result<fs::File, KernelError> {
        let unusable = |err| KernelError::PinDirectory(self.root.clone(), err);
        match fs::create_dir(&self.root) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(err)),
            _ => {}
        }
        let directory = fs::File::open(&self.root).map_err(unusable)?;
        match rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(KernelError::InUse(self.root.clone())),
            Err(err) => Err(unusable(err.into())),
        }
    }

    /// Names of the programs whose links are pinned.
    pub(super) fn attached(&self) -> Vec<&'static str> {
        PROGRAMS.iter().map(|program| program.name).filter(|name| self.link(name).exists()).collect()
    }

    /// Takes everything away: links first, so that nothing is held by programs whose maps are gone.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        for directory in ["links", "maps"] {
            let directory = self.root.join(directory);
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) => return Err(KernelError::PinDirectory(directory, err)),
            };
            for entry in entries.flatten() {
                fs::remove_file(entry.path()).map_err(|err| KernelError::PinDirectory(entry.path(), err))?;
            }
            fs::remove_dir(&directory).map_err(|err| KernelError::PinDirectory(directory, err))?;
        }
        match fs::remove_dir(&self.root) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(KernelError::PinDirectory(self.root.clone(), err)),
            _ => Ok(()),
        }
    }
}

/// A kernel side that runs.
pub(super) struct Loaded {
    pub(super) start: Start,
    pub(super) controls: Array<MapData, Control>,
    /// Keeps unpinned programs attached, and gives their maps out; `None` once everything is pinned.
    pub(super) ebpf: Option<Ebpf>,
}

/// Makes sure that the kernel side runs and is pinned below `pins`.
pub(super) fn pinned(pins: &Pins, limits: &Limits) -> Result<Loaded, KernelError> {
    let layout = btf::kernel_layout()?;
    let build = build_of(&layout, limits)?;
    let there = pins.exist();
    pins.create()?;
    if there {
        let controls = open_controls(pins)?;
        let control = controls.get(&0, 0).map_err(KernelError::Map)?;
        if control.abi != ABI_VERSION && control.abi != 0 {
            return Err(KernelError::OtherAbi { found: control.abi, own: ABI_VERSION });
        }
        if control.abi != 0 && control.build == build && attached_all(pins) {
            return Ok(Loaded { start: Start::Adopted, controls, ebpf: None });
        }
    }
    let mut ebpf = load(&layout, limits, Some(pins))?;
    let mut controls = open_controls(pins)?;
    let mut control = controls.get(&0, 0).map_err(KernelError::Map)?;
    let start = if control.abi == 0 { Start::Fresh } else { Start::Replaced };
    if start == Start::Fresh {
        control = fresh_control(limits)?;
    }
    control.build = build;
    controls.set(0, control, 0).map_err(KernelError::Map)?;
    for (program, link) in attach(&mut ebpf)? {
        // (The BPF file system wants no dots in names.) A rename replaces the old pin, and with it the old link, only when the new program is in place.
        let (path, new) = (pins.link(program), pins.link(&format!("new_{program}")));
        let _ = fs::remove_file(&new);
        link.pin(&new).map_err(|err| KernelError::Pin(new.clone(), Box::new(err)))?;
        fs::rename(&new, &path).map_err(|err| KernelError::PinDirectory(path, err))?;
    }
    Ok(Loaded { start, controls, ebpf: Some(ebpf) })
}

/// Loads and attaches a kernel side that ends with the returned value, for a trial.
pub(super) fn transient(limits: &Limits) -> Result<(Ebpf, Vec<FdLink>), KernelError> {
    let layout = btf::kernel_layout()?;
    let build = build_of(&layout, limits)?;
    let mut ebpf = load(&layout, limits, None)?;
    let mut control = fresh_control(limits)?;
    control.build = build;
    let map = ebpf.map_mut(names::CONTROLS).ok_or(KernelError::NoMap(names::CONTROLS))?;
    let mut controls = Array::<_, Control>::try_from(map).map_err(KernelError::Map)?;
    controls.set(0, control, 0).map_err(KernelError::Map)?;
    let links = attach(&mut ebpf)?.into_iter().map(|(_, link)| link).collect();
    Ok((ebpf, links))
}

fn attached_all(pins: &Pins) -> bool {
    PROGRAMS.iter().all(|program| !program.required || PinnedLink::from_pin(pins.link(program.name)).is_ok())
}

fn open_controls(pins: &Pins) -> Result<Array<MapData, Control>, KernelError> {
    open_map(pins, names::CONTROLS, Array::try_from)
}

/// Opens a pinned map.
pub(super) fn open_map<T>(
    pins: &Pins,
    name: &'static str,
    make: impl FnOnce(aya::maps::Map) -> Result<T, MapError>,
) -> Result<T, KernelError> {
    let data = MapData::from_pin(pins.map(name)).map_err(KernelError::Map)?;
    make(aya::maps::Map::from_map_data(data).map_err(KernelError::Map)?).map_err(KernelError::Map)
}

fn random() -> Result<u64, KernelError> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|err| KernelError::Random(err.into()))?;
    if got != bytes.len() {
        return Err(KernelError::Random(io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    Ok(u64::from_ne_bytes(bytes))
}

fn fresh_control(limits: &Limits) -> Result<Control, KernelError> {
    Ok(Control {
        abi: ABI_VERSION,
        mode: Mode::ENFORCE,
        nonce: random()?,
        key: Key { k0: random()?, k1: random()? },
        reruns_per_second: limits.reruns_per_second,
        reserved: 0,
        build: 0,
        levels: 0,
        roots: [0; gatekeeper_common::ROOT_FILTER_WORDS],
    })
}

/// Names this build on this kernel.
fn build_of(layout: &KernelLayout, limits: &Limits) -> Result<u64, KernelError> {
    if OBJECT.is_empty() {
        return Err(KernelError::NoObject);
    }
    let mut hash = Sha256::new();
    hash.update(OBJECT);
    hash.update(format!("{layout:?}"));
    // The level is a constant of the loaded programs.
    hash.update([limits.kernel_log_level]);
    let hash = hash.finalize();
    Ok(u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]))
}

fn load(layout: &KernelLayout, limits: &Limits, pins: Option<&Pins>) -> Result<Ebpf, KernelError> {
    // The number of slots must be that of the map, also of one that is there already.
    let scratches = match pins.map(|pins| MapData::from_pin(pins.map(names::SCRATCHES))) {
        Some(Ok(map)) => map.info().map_err(KernelError::Map)?.max_entries(),
        _ => {
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
            (cpus * limits::SCRATCHES_PER_CPU).max(limits::SCRATCHES_MIN)
        }
    };
    let btf = Btf::from_sys_fs().map_err(KernelError::KernelBtf)?;
    let level = limits.kernel_log_level;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .override_global(names::LAYOUT, layout, true)
        .override_global(names::SCRATCH_COUNT, &scratches, true)
        .override_global(aya_log::LEVEL, &level, false)
        .map_max_entries(names::HOLDS, limits.holds)
        // A script and its interpreter can have a verdict each.
        .map_max_entries(names::VERDICTS, limits.holds.saturating_mul(2))
        .map_max_entries(names::EXECS, limits.holds)
        .map_max_entries(names::AGENTS, limits.agents)
        .map_max_entries(names::PREFIXES, limits.prefixes)
        .map_max_entries(names::PORTS, limits.ports)
        .map_max_entries(names::SCRATCHES, scratches)
        .map_max_entries(names::EVENTS, limits.ring_bytes);
    if let Some(pins) = pins {
        for name in names::MAPS {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    loader.load(OBJECT).map_err(|err| KernelError::Load(Box::new(err)))
}

/// Loads and attaches every program that this kernel has a hook for.
fn attach(ebpf: &mut Ebpf) -> Result<Vec<(&'static str, FdLink)>, KernelError> {
    let btf = Btf::from_sys_fs().map_err(KernelError::KernelBtf)?;
    let mut links = Vec::with_capacity(PROGRAMS.len());
    for program in PROGRAMS {
        match attach_one(ebpf, &btf, program) {
            Ok(link) => links.push((program.name, link)),
            Err(AttachError::NoHook) if !program.required => {}
            Err(AttachError::NoHook) => return Err(KernelError::NoHook(program.name)),
            Err(AttachError::NoProgram) => return Err(KernelError::NoProgram(program.name)),
            Err(AttachError::Program(err)) => return Err(KernelError::Program(program.name, err)),
        }
    }
    Ok(links)
}

enum AttachError {
    NoHook,
    NoProgram,
    Program(Box<ProgramError>),
}

impl From<ProgramError> for AttachError {
    fn from(err: ProgramError) -> Self {
        match err {
            ProgramError::Btf(aya::BtfError::UnknownBtfTypeName { .. }) => Self::NoHook,
            err => Self::Program(Box::new(err)),
        }
    }
}

fn attach_one(ebpf: &mut Ebpf, btf: &Btf, program: &Program) -> Result<FdLink, AttachError> {
    let loaded = ebpf.program_mut(program.name).ok_or(AttachError::NoProgram)?;
    let link = match program.target {
        Target::Hook => {
            let lsm: &mut aya::programs::Lsm = loaded.try_into()?;
            lsm.load(program.name, btf)?;
            let id = lsm.attach()?;
            lsm.take_link(id)?.into()
        }
        Target::Tracepoint(tracepoint) => {
            let tracing: &mut aya::programs::BtfTracePoint = loaded.try_into()?;
            tracing.load(tracepoint, btf)?;
            let id = tracing.attach()?;
            tracing.take_link(id)?.into()
        }
    };
    Ok(link)
}
