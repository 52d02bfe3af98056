//! Starting, running and stopping the daemon.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, RwLock},
    time::Instant,
};

use rustc_hash::FxHashMap;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::{
    DaemonError, Event, Kernel, KernelEvents, Options, agents,
    agents::Agents,
    channels::Channels,
    core::{Daemon, chain},
    grants::GrantDesk,
    judge,
    notices::Notices,
    parents::Parents,
    resume::Resumes,
    sources::{self, Alarm, Sources},
};
use crate::{
    broker::{Broker, Grant, Input, Restored},
    clock::{Clock, SystemClock},
    config::Config,
    context::Gatherer,
    control::{
        AgentScope, Group,
        accounts::Accounts,
        server::{self, Outlets, Server},
    },
    kernel::{self, Start, trial},
    provenance::{Log, Opened, Record},
};

/// Changes that a watcher may fall behind.
const CHANGES: usize = 4096;
/// Calls that may wait for the loop.
const CALLS: usize = 256;

/// Runs the daemon until it is told to stop.
pub fn run(options: Options) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| DaemonError::System("start the runtime", err))?;
    let result = check_pid_namespace().and_then(|()| runtime.block_on(serve(options)));
    // A thread may be stuck in a file that an agent controls.
    runtime.shutdown_background();
    result
}

pub(super) fn boot_id() -> Result<String, DaemonError> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .map_err(|err| DaemonError::System("read the boot id", err))
}

/// The kernel side's process ids are those of the initial namespace, whose inode number is fixed
/// (`PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`).
fn check_pid_namespace() -> Result<(), DaemonError> {
    let namespace = std::fs::read_link("/proc/self/ns/pid").map_err(|err| DaemonError::System("read /proc", err))?;
    if namespace.as_os_str() == "pid:[4026531836]" { Ok(()) } else { Err(DaemonError::PidNamespace) }
}

/// A daemon that has taken over nothing yet, with what the loop needs.
pub(super) struct Prepared {
    pub(super) daemon: Daemon,
    pub(super) ring: KernelEvents,
    pub(super) incoming: mpsc::UnboundedReceiver<Event>,
    server: Server,
    kernel_log: Option<kernel::KernelLog>,
    start: Start,
    undo: Undo,
    /// What the log has of earlier daemons.
    open: Vec<Restored>,
    grants: Vec<Grant>,
}

/// Takes the log, the socket and the kernel side, and makes the daemon.
///
/// # Errors
/// One of them cannot be had.
pub(super) fn prepare(options: Options) -> Result<Prepared, DaemonError> {
    let (config, warnings) = Config::load(&options.config, &judge::user_id)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let group = match &config.control.group {
        Some(name) => {
            let gid = judge::group_id(name).ok_or_else(|| DaemonError::NoGroup(name.clone()))?;
            Some(Group { name: name.clone(), gid })
        }
        None => None,
    };
    let cgroup_root = agents::find_cgroup_root(config.paths.cgroup.as_deref())?;
    judge::ensure_directory(&config.paths.state, 0o700)
        .map_err(|err| DaemonError::System("make the state directory", err))?;

    // The log's lock keeps a second daemon out before anything is changed.
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Opened { log, recovery, open, grants } = Log::open(&config.paths.state.join("log"), &boot_id()?, clock.now())?;
    if let Some(recovery) = recovery {
        tracing::warn!(
            bytes = recovery.dropped_bytes,
            "the provenance log's torn end was cut off: {}",
            recovery.reason
        );
    }
    let socket = options.socket.clone().unwrap_or_else(|| config.paths.runtime.join("control.sock"));
    let server = Server::bind(server::Options {
        path: socket,
        group,
        cgroup_root: cgroup_root.clone(),
        accounts: Accounts::default(),
    })?;

    let limits = kernel::Limits {
        holds: config.limits.holds,
        ring_bytes: config.limits.ring_bytes,
        prefixes: config.limits.prefixes,
        ports: config.limits.ports,
        agents: config.limits.agents,
        reruns_per_second: config.limits.reruns_per_second,
        kernel_log_level: options.kernel_log_level,
    };
    let mut kernel = Kernel::start(&config.paths.bpf, &limits)?;
    let start = kernel.start;
    // A kernel side that this daemon brought goes again if the daemon does not come up: without it, agents would wait for
    // nobody. One that was there stays, with what it holds.
    let undo = Undo { bpf: (start == Start::Fresh).then(|| config.paths.bpf.clone()) };
    let kernel_log = if options.kernel_log_level == 0 { None } else { kernel.kernel_log() };
    tracing::info!(programs = kernel.attached().len(), "the kernel side runs: {start:?}");
    let ring = kernel.events()?;
    trial::make_cgroup(&cgroup_root)?;
    let agents = Agents::new(cgroup_root.clone(), &config)?;

    let (events, incoming) = mpsc::unbounded_channel();
    let contexts = events.clone();
    let gatherer = Gatherer::new(move |hold, context| {
        // The daemon has stopped otherwise.
        let _ = contexts.send(Event::Context { hold, context: Box::new(context) });
    })
    .map_err(|err| DaemonError::System("start threads", err))?;
    let nonce = kernel.nonce;
    let daemon = Daemon {
        options,
        config,
        clock,
        kernel,
        agents,
        roots: Vec::new(),
        scope: Arc::new(RwLock::new(HashSet::new())),
        broker: Broker::new(nonce),
        log,
        gatherer,
        events,
        channels: Channels::default(),
        grants: GrantDesk::default(),
        notices: Notices::default(),
        changes: broadcast::channel(CHANGES).0,
        started: Instant::now(),
        errors: VecDeque::new(),
        tasks: FxHashMap::default(),
        resumes: Resumes::default(),
        parents: Parents::default(),
        deciders: HashMap::new(),
        answered: HashMap::new(),
        next_reply: 1,
        deadline_ns: None,
        scan_ns: None,
        log_retry_ns: None,
        ticket: None,
        stopping: false,
    };
    Ok(Prepared { daemon, ring, incoming, server, kernel_log, start, undo, open, grants })
}

/// Runs the daemon within a runtime. Dropping this is as if the process was killed.
pub(super) async fn serve(options: Options) -> Result<(), DaemonError> {
    let Prepared { mut undo, mut daemon, ring, incoming, server, kernel_log, start, open, grants } = prepare(options)?;
    let cgroup_root = daemon.agents.cgroup_root().to_owned();
    daemon.apply_policy()?;
    if let Some(cgroup) = judge::cgroup_of(std::process::id())
        && daemon.is_agents(&cgroup)
    {
        return Err(DaemonError::InsideAgent(cgroup));
    }
    prove(&mut daemon, &cgroup_root)?;
    daemon.record(&Record::DaemonStart {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        mode: daemon.config.mode.name().to_owned(),
        pid: std::process::id(),
        config_sha256: Some(daemon.config.policy.digest()),
    });
    if start != Start::Fresh {
        tracing::info!(holds = open.len(), "taking over from an earlier daemon");
    }
    daemon.channels = Channels::start(&daemon.config, &daemon.events)?;
    daemon.open_notice_files();
    daemon.adopt_grants(grants);
    daemon.step(Input::Adopt(open));
    daemon.scan();
    daemon.settle();

    let (stop_server, stopped) = oneshot::channel::<()>();
    let (calls, call) = mpsc::channel(CALLS);
    let (refusals, refused) = mpsc::channel(CALLS);
    let scope = daemon.scope.clone();
    let inside: Arc<AgentScope> = Arc::new(move |_, ids: &[u64]| {
        let roots = scope.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        ids.iter().any(|id| roots.contains(id))
    });
    let serving = tokio::spawn(server.serve(inside, Outlets { calls, refusals }, async {
        // A dropped sender stops it too.
        let _ = stopped.await;
    }));

    let watch = daemon.agents.watch().map_err(|err| DaemonError::System("watch cgroups", err))?;
    let mut sources = Sources::new(ring, incoming, call, refused)?;
    sources::signals(&daemon.events)?;
    sources::cgroups(watch, &daemon.events)?;
    if let Some(log) = kernel_log {
        sources::kernel_log(log)?;
    }
    let mut alarm = Alarm::new(&daemon.events)?;
    undo.bpf = None;
    tell_systemd(&daemon);

    let reason = loop {
        alarm.set(daemon.next_ns())?;
        let event = sources.next().await?;
        match event {
            Event::Kernel => daemon.drain(sources.ring()),
            Event::Call(incoming) => daemon.call(incoming),
            Event::Refused(refused) => daemon.refused_caller(&refused),
            Event::Context { hold, context } => daemon.context(hold, context),
            Event::Script { held, interpreter } => {
                let now = daemon.now();
                daemon.judged(held, interpreter, now);
            }
            Event::Facts { held, interpreter, fact } => daemon.facts(held, interpreter, &fact),
            Event::Channel { number, event } => daemon.channel(number, event),
            Event::Cgroups => daemon.cgroups_changed(),
            Event::Timer => {
                // Applied verdicts wake nobody; what they end need not be done again.
                alarm.fired();
                daemon.drain(sources.ring());
                daemon.tick();
            }
            Event::Reload => {
                // The error is logged where it arises.
                let _ = daemon.reload();
                tell_systemd(&daemon);
            }
            Event::Stop(reason) => break reason,
            Event::Broken(what, err) => return Err(DaemonError::System(what, err)),
        }
        daemon.settle();
        if daemon.stopping {
            break "detached";
        }
    };
    finish(daemon, sources.ring(), reason);
    // The server takes its last answers out, then removes its socket.
    drop(stop_server);
    let _ = serving.await;
    Ok(())
}

/// Takes the kernel side back out of the kernel, unless it is told not to.
struct Undo {
    bpf: Option<std::path::PathBuf>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(bpf) = &self.bpf
            && let Err(err) = kernel::remove_pins(bpf)
        {
            tracing::error!("the kernel side stays although the daemon does not start: {}", chain(&err));
        }
    }
}

/// Shows that actions really wait. In observe mode nothing does, and nothing is to be shown.
fn prove(daemon: &mut Daemon, cgroup_root: &std::path::Path) -> Result<(), DaemonError> {
    if !daemon.enforces() {
        tracing::warn!("observe mode: actions are recorded, and nothing is held");
        let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        if !modules.trim().split(',').any(|module| module == "bpf") {
            daemon.error(format!(
                "this kernel does not call BPF security modules, so nothing will be recorded either; boot with `lsm={}`",
                trial::wanted_modules()
            ));
        }
        return Ok(());
    }
    let directory = daemon.config.paths.runtime.clone();
    trial::run(&mut daemon.kernel, cgroup_root, &directory)?;
    tracing::info!("trial passed: an action was held and then denied");
    Ok(())
}

/// Says that the daemon is ready, to systemd if it started it.
fn tell_systemd(daemon: &Daemon) {
    let status = format!(
        "{} mode, {} agents, {} rules",
        daemon.config.mode.name(),
        daemon.config.agents.len(),
        daemon.config.policy.rules().len()
    );
    tracing::info!("ready: {status}");
    // Not started by systemd, or its socket is gone: nobody waits.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
}

/// Stops without letting go of anything: what waits goes on waiting, and the next daemon takes it over.
fn finish(mut daemon: Daemon, ring: &mut KernelEvents, reason: &str) {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if !daemon.stopping {
        daemon.drain(ring);
        daemon.settle();
    }
    let open_holds = daemon.broker.open_holds() as u64;
    daemon.record(&Record::DaemonStop { reason: reason.to_owned(), open_holds });
    if let Err(err) = daemon.log.commit() {
        tracing::error!("the last records cannot be written: {}", chain(&err));
    }
    tracing::info!(open_holds, "stopped: {reason}; enforcement stays");
}
