//! Starting, running and stopping the daemon.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
};

use super::{
    DaemonError, Event, Options, agents,
    agents::Agents,
    channels::Channels,
    core::{Daemon, chain},
    grants::GrantDesk,
    judge,
    notices::Notices,
    parents::Parents,
    resume::Resumes,
};
use crate::{
    broker::{Broker, Input},
    clock::{Clock, SystemClock},
    config::Config,
    context::Gatherer,
    control::{
        AgentScope, Group,
        accounts::Accounts,
        server::{self, Outlets, Server},
    },
    kernel::{self, Kernel, Start, trial},
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
    let result = runtime.block_on(serve(options));
    // A thread may be stuck in a file that an agent controls.
    runtime.shutdown_background();
    result
}

fn boot_id() -> Result<String, DaemonError> {
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

async fn serve(options: Options) -> Result<(), DaemonError> {
    check_pid_namespace()?;
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
    let mut undo = Undo { bpf: (start == Start::Fresh).then(|| config.paths.bpf.clone()) };
    let kernel_log = if options.kernel_log_level == 0 { None } else { kernel.kernel_log() };
    tracing::info!(programs = kernel.attached().len(), "the kernel side runs: {start:?}");
    let ring = kernel.events()?;
    trial::make_cgroup(&cgroup_root)?;
    let agents = Agents::new(cgroup_root.clone(), &config)?;

    let (events, mut incoming) = mpsc::unbounded_channel();
    let contexts = events.clone();
    let gatherer = Gatherer::new(move |hold, context| {
        // The daemon has stopped otherwise.
        let _ = contexts.send(Event::Context { hold, context: Box::new(context) });
    })
    .map_err(|err| DaemonError::System("start threads", err))?;
    let scope = Arc::new(RwLock::new(HashSet::new()));
    let nonce = kernel.nonce;
    let mut daemon = Daemon {
        options,
        config,
        clock,
        kernel,
        agents,
        roots: Vec::new(),
        scope: scope.clone(),
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
        tasks: HashMap::new(),
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
    let (calls, mut call) = mpsc::channel(CALLS);
    let (refusals, mut refused) = mpsc::channel(CALLS);
    let inside: Arc<AgentScope> = Arc::new(move |_, ids: &[u64]| {
        let roots = scope.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        ids.iter().any(|id| roots.contains(id))
    });
    let serving = tokio::spawn(server.serve(inside, Outlets { calls, refusals }, async {
        // A dropped sender stops it too.
        let _ = stopped.await;
    }));

    let mut terminate = signal(SignalKind::terminate()).map_err(|err| DaemonError::System("take signals", err))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|err| DaemonError::System("take signals", err))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(|err| DaemonError::System("take signals", err))?;
    let watch = daemon.agents.watch().map_err(|err| DaemonError::System("watch cgroups", err))?;
    let watch = readable(watch).map_err(|err| DaemonError::System("watch cgroups", err))?;
    let mut ring = readable(ring).map_err(|err| DaemonError::System("watch the ring buffer", err))?;
    let mut kernel_log = match kernel_log {
        Some(log) => Some(readable(log).map_err(|err| DaemonError::System("watch the kernel side's log", err))?),
        None => None,
    };
    let mut alarm = Alarm::new().map_err(|err| DaemonError::System("make a timer", err))?;
    undo.bpf = None;
    tell_systemd(&daemon);

    let reason = loop {
        alarm.set(daemon.next_ns()).map_err(|err| DaemonError::System("set a timer", err))?;
        let event = tokio::select! {
            biased;
            _ = terminate.recv() => Event::Stop("SIGTERM"),
            _ = interrupt.recv() => Event::Stop("SIGINT"),
            guard = ring.readable_mut() => {
                match guard {
                    Ok(mut guard) => {
                        guard.clear_ready();
                        Event::Kernel
                    }
                    Err(err) => return Err(DaemonError::System("wait for the ring buffer", err)),
                }
            }
            Some(event) = incoming.recv() => event,
            Some(call) = call.recv() => Event::Call(call),
            Some(refused) = refused.recv() => Event::Refused(refused),
            _ = hang_up.recv() => Event::Reload,
            guard = watch.readable() => {
                match guard {
                    Ok(mut guard) => {
                        guard.clear_ready();
                        Event::Cgroups
                    }
                    Err(err) => return Err(DaemonError::System("wait for cgroups", err)),
                }
            }
            () = flush(kernel_log.as_mut()) => continue,
            fired = alarm.fired() => {
                fired.map_err(|err| DaemonError::System("wait for a timer", err))?;
                Event::Timer
            }
        };
        match event {
            Event::Kernel => daemon.drain(ring.get_mut()),
            Event::Call(incoming) => daemon.call(incoming),
            Event::Refused(refused) => daemon.refused_caller(&refused),
            Event::Context { hold, context } => daemon.context(hold, context),
            Event::Script { held, interpreter } => daemon.judged(*held, interpreter),
            Event::Facts { held, interpreter, fact } => daemon.facts(*held, interpreter, &fact),
            Event::Channel { number, event } => daemon.channel(number, event),
            Event::Cgroups => daemon.cgroups_changed(),
            Event::Timer => {
                // Applied verdicts wake nobody; what they end need not be done again.
                daemon.drain(ring.get_mut());
                daemon.tick();
            }
            Event::Reload => {
                // The error is logged where it arises.
                let _ = daemon.reload();
                tell_systemd(&daemon);
            }
            Event::Stop(reason) => break reason,
        }
        daemon.settle();
        if daemon.stopping {
            break "detached";
        }
    };
    drop(watch);
    finish(daemon, ring.get_mut(), reason);
    // The server takes its last answers out, then removes its socket.
    drop(stop_server);
    let _ = serving.await;
    Ok(())
}

/// Waits for a descriptor to become readable.
fn readable<T: AsRawFd>(inner: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: the descriptors given (an owned one, and that of a ring buffer's map) belong to `inner`, which neither
    // closes nor changes them while it lives, and it lives inside the result.
    unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }.map_err(Into::into)
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

/// Writes what the kernel side has logged; never ends where there is no such log.
async fn flush(log: Option<&mut AsyncFd<kernel::KernelLog>>) {
    let Some(log) = log else { return std::future::pending().await };
    if let Ok(mut guard) = log.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// The loop's only timer. It is set anew only when it has to fire sooner: most of what it is set for (tasks that are to
/// be resumed once more) is done long before, and setting a timer for each would cost more than one needless firing.
struct Alarm {
    timer: AsyncFd<OwnedFd>,
    set_ns: Option<u64>,
}

impl Alarm {
    fn new() -> std::io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: readable(timer)?, set_ns: None })
    }

    /// Fires at this time of `CLOCK_BOOTTIME` in nanoseconds, or before.
    fn set(&mut self, at_ns: Option<u64>) -> std::io::Result<()> {
        let Some(at_ns) = at_ns else { return Ok(()) };
        if self.set_ns.is_some_and(|set_ns| set_ns <= at_ns) {
            return Ok(());
        }
        let time = Duration::from_nanos(at_ns.max(1));
        let value = Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: i64::from(time.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        self.set_ns = Some(at_ns);
        Ok(())
    }

    async fn fired(&mut self) -> std::io::Result<()> {
        let mut guard = self.timer.readable().await?;
        let mut count = [0; 8];
        match rustix::io::read(guard.get_inner(), &mut count) {
            // Not yet, after all.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(err) => return Err(err.into()),
        }
        guard.clear_ready();
        self.set_ns = None;
        Ok(())
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
fn finish(mut daemon: Daemon, ring: &mut kernel::Events, reason: &str) {
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
