//! Calls through the control socket.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use gatekeeper_common::{self as abi, names::PROGRAMS};

use super::{acts::DENIED, agents::Run, core::Daemon, judge};
use crate::{
    channel::Verb,
    config::Config,
    control::{
        protocol::{
            AgentStatus, Call, CallError, ErrorCode, LogStatus, Mode, PolicyStatus, ProgramStatus, Reply, RingStatus,
            StatusReport,
        },
        server::{Answer, Incoming, Refused},
    },
    provenance::Record,
    request::{Decider, Decision, Effect, RequestId, State},
    text::Text,
};

/// Longest reason, label value and intent that are taken, in bytes.
pub(super) const REASON_BYTES: usize = 4096;
const TEXT_BYTES: usize = 1024;
const LABELS: usize = 64;
/// How long `detach` waits for what it denies, and between two looks.
const DENY_TIME: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);
/// How often a straggler is resumed: a task takes its stop within microseconds of leaving the kernel.
const STRAGGLER_SIGNALS: u32 = 50;

pub(super) fn no_such_request(id: RequestId) -> CallError {
    CallError::new(ErrorCode::NoSuchRequest, format!("there is no request {id}, or it ended long ago"))
        .with_hint("`gatekeeper pending` lists what waits, `gatekeeper log` what ended")
}

pub(super) fn state_text(state: &State) -> &'static str {
    match state {
        State::Pending => "it is pending",
        State::Decided => "it is decided",
        State::Released => "it was allowed and went on",
        State::Denied => "it was denied",
        State::TimedOut => "its deadline passed",
        State::Withdrawn => "the task ended first",
        State::Superseded => "the task went on to another action",
    }
}

pub(super) fn decision_text(decision: &Decision) -> String {
    let verb = match decision.effect {
        Effect::Allow => "allowed",
        Effect::Deny { .. } => "denied",
    };
    match &decision.by {
        Decider::Reviewer { name, channel, .. } => format!("{verb} by {name} through {channel}"),
        Decider::Rule { name } => format!("{verb} by the rule {name}"),
        Decider::Grant { id, by } => format!("{verb} by grant {id} of {}", by.join(" and ")),
        Decider::NoRule => format!("{verb}, as no rule matched"),
        Decider::Deadline => format!("{verb}, as its deadline passed"),
        Decider::Daemon => format!("{verb} by the daemon"),
    }
}

impl Daemon {
    pub(super) fn call(&mut self, incoming: Incoming) {
        let Incoming { call, peer, inside, reply } = incoming;
        let result = match call {
            Call::Why { id } => self.why(inside.as_deref(), id).map(|notices| Answer::One(Reply::Why(notices))),
            // The server lets nothing else through.
            _ if inside.is_some() => Err(CallError::new(ErrorCode::InsideAgent, "agents may only ask why")),
            Call::Status => self.status().map(|report| Answer::One(Reply::Status(Box::new(report)))),
            Call::Pending => Ok(Answer::Pending(self.broker.open_requests().cloned().collect())),
            Call::Show { id } => self.broker.request(id).cloned().map(Answer::Request).ok_or(no_such_request(id)),
            Call::Watch => Ok(Answer::Watch {
                pending: self.broker.open_requests().cloned().collect(),
                changes: self.changes.subscribe(),
            }),
            Call::Grants => Ok(Answer::One(Reply::Grants(self.grant_reports()))),
            Call::Revoke { id, reason } if reason.is_empty() || reason.len() > REASON_BYTES => Err(invalid(
                format!("a revocation needs a reason of at most {REASON_BYTES} bytes"),
                &format!("say why grant {id} is taken back"),
            )),
            Call::Revoke { id, reason } => self.revoke_grant(id, reason, &peer).map(Answer::One),
            Call::Decide { effect: Effect::Deny { errno }, .. } if !(1..=4095).contains(&errno) => {
                Err(invalid("an errno lies between 1 and 4095", "leave it to gatekeeper"))
            }
            Call::Decide { id, effect, reason } => {
                let verb = if effect == Effect::Allow { Verb::Approve } else { Verb::Deny };
                return self.call_act(&peer, (id, verb, effect), reason, None, reply);
            }
            Call::Act { id, verb, reason, signed } => {
                return self.call_act(&peer, (id, verb, DENIED), reason, signed, reply);
            }
            Call::Enrol { agent, labels, intent, command } => {
                let uid = Some(peer.uid);
                self.enrol(Run { agent, labels, intent, uid, reasons: None }, command, &peer).map(Answer::One)
            }
            Call::Reload => self.reload().map(Answer::One),
            Call::Detach { force_deny } => self.detach(force_deny).map(Answer::One),
        };
        // The caller may be gone.
        let _ = reply.send(result);
    }

    /// Somebody was turned away; it may have been an agent that tried to decide its own request.
    pub(super) fn refused_caller(&mut self, refused: &Refused) {
        let Refused { uid, pid, reason, unreported } = refused;
        let record =
            Record::CallerRefused { pid: *pid, uid: *uid, reason: reason.to_string(), unreported: *unreported };
        self.record(&record);
        self.error(format!("a caller of the control socket was turned away: process {pid} of user {uid}: {reason}"));
    }

    fn status(&self) -> Result<StatusReport, CallError> {
        let counters: BTreeMap<String, u64> =
            self.kernel.counters()?.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let attached = self.kernel.attached();
        let optional_missing = |name: &str| PROGRAMS.iter().any(|program| program.name == name && !program.required);
        let mut agents: BTreeMap<&str, Vec<Text>> =
            self.config.agents.iter().map(|agent| (agent.name.as_str(), Vec::new())).collect();
        for root in &self.roots {
            if let Some(cgroups) = self.agents.name(root.entry.agent).and_then(|name| agents.get_mut(name)) {
                cgroups.push(root.path.as_str().into());
            }
        }
        let health = self.broker.health();
        let lost = |name: &str| counters.get(name).copied().unwrap_or(0);
        Ok(StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            host: self.channels.host.clone(),
            boot_id: self.log.boot_id().to_owned(),
            mode: if self.enforces() { Mode::Enforce } else { Mode::Observe },
            uptime: self.started.elapsed(),
            policy: policy_status(&self.config),
            agents: agents.into_iter().map(|(name, cgroups)| AgentStatus { name: name.to_owned(), cgroups }).collect(),
            programs: PROGRAMS
                .iter()
                .map(|program| ProgramStatus {
                    name: program.name.to_owned(),
                    attached: attached.contains(&program.name),
                })
                .filter(|program| program.attached || !optional_missing(&program.name))
                .collect(),
            open_holds: self.kernel.holds()?.len() as u64,
            pending: self.broker.open_requests().filter(|request| request.state == State::Pending).count() as u64,
            ring: RingStatus {
                size_bytes: u64::from(self.config.limits.ring_bytes),
                lost: lost("unpublished_holds") + lost("unpublished_others"),
            },
            counters,
            log: LogStatus {
                path: self.config.paths.state.join("log").display().to_string(),
                healthy: health.log_error.is_none(),
                records: self.log.records(),
                problem: health.log_error,
            },
            channels: self.channels.status(),
            errors: self.errors.iter().cloned().collect(),
        })
    }

    fn enrol(&mut self, mut run: Run, command: Vec<Text>, peer: &crate::control::Peer) -> Result<Reply, CallError> {
        if !self.config.agents.iter().any(|agent| agent.name == run.agent) {
            let known: Vec<_> = self.config.agents.iter().map(|agent| agent.name.as_str()).collect();
            let hint = match known.as_slice() {
                [] => "declare it as an [[agent]] in the configuration, then `gatekeeper reload`".to_owned(),
                known => {
                    format!("known agents: {}; or declare it as an [[agent]] in the configuration", known.join(", "))
                }
            };
            let name = Text::from(run.agent.as_str());
            return Err(CallError::new(ErrorCode::NoSuchAgent, format!("there is no agent {name}")).with_hint(hint));
        }
        if run.labels.len() > LABELS
            || run.labels.iter().any(|(name, value)| name.len() > TEXT_BYTES || value.len() > TEXT_BYTES)
            || run.intent.as_ref().is_some_and(|intent| intent.len() > TEXT_BYTES)
        {
            let message =
                format!("labels and intent have at most {TEXT_BYTES} bytes each, and there are at most {LABELS}");
            return Err(invalid(message, "shorten them"));
        }
        let agent = run.agent.clone();
        run.reasons = self.make_notice_file();
        let record = |name: String, cgroup: &str| Record::RunStart {
            run: name,
            agent: run.agent.clone(),
            cgroup: cgroup.into(),
            pid: peer.pid,
            uid: peer.uid,
            command: command.clone(),
            labels: run.labels.clone(),
            intent: run.intent.clone(),
        };
        let (name, cgroup) = self
            .agents
            .start_run(run.clone(), peer.pid)
            .map_err(|err| CallError::new(ErrorCode::Internal, super::core::chain(&err)))?;
        // The pid was the caller's all the time if the caller is still there.
        if judge::cgroup_of(peer.pid).as_deref() != Some(cgroup.as_str()) {
            return Err(CallError::new(ErrorCode::Internal, "the calling process ended before it was enrolled"));
        }
        let record = record(name, &cgroup);
        self.record(&record);
        let files = self.notices.files.as_ref();
        let reasons = run.reasons.as_ref().zip(files).map(|(name, files)| files.path(name).display().to_string());
        Ok(Reply::Enrolled { agent, cgroup, reasons })
    }

    /// Reads configuration and rules again. The old ones stay in force if the new ones are wrong.
    pub(super) fn reload(&mut self) -> Result<Reply, CallError> {
        let result = self.try_reload();
        let error = result.as_ref().err().map(|err| err.message.clone());
        if let Some(error) = &error {
            self.error(format!("the new configuration is not taken, the old one stays: {error}"));
        }
        let record = Record::Reload { config_sha256: Some(self.config.policy.digest()), error };
        self.record(&record);
        self.end_grants();
        result
    }

    fn try_reload(&mut self) -> Result<Reply, CallError> {
        let configuration = |message: String| CallError::new(ErrorCode::Configuration, message);
        let (config, warnings) =
            Config::load(&self.options.config, &judge::user_id).map_err(|err| configuration(err.to_string()))?;
        let mut fixed = warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
        if config.paths != self.config.paths {
            fixed.push("paths change only when the daemon starts".to_owned());
        }
        if config.control != self.config.control {
            fixed.push("control.group changes only when the daemon starts".to_owned());
        }
        if config.channels != self.config.channels {
            fixed.push("channels change only when the daemon starts".to_owned());
        }
        let old = std::mem::replace(&mut self.config, config);
        let applied =
            self.agents.configure(&self.config).map_err(super::DaemonError::from).and_then(|()| self.apply_policy());
        if let Err(err) = applied {
            self.config = old;
            // What was in force fitted before.
            let restored = self.agents.configure(&self.config).map_err(super::DaemonError::from);
            if let Err(err) = restored.and_then(|()| self.apply_policy()) {
                self.error(format!("the old configuration could not be put back: {}", super::core::chain(&err)));
            }
            return Err(CallError::new(ErrorCode::CannotEnforce, super::core::chain(&err)));
        }
        Ok(Reply::Reloaded { policy: policy_status(&self.config), warnings: fixed })
    }

    fn detach(&mut self, force_deny: bool) -> Result<Reply, CallError> {
        let holds = self.kernel.holds()?;
        if !holds.is_empty() && !force_deny {
            let message = format!("{} actions wait", holds.len());
            return Err(CallError::new(ErrorCode::HoldsOpen, message)
                .with_hint("decide them first, or use --force-deny to let them fail"));
        }
        let programs = self.kernel.attached().len() as u64;
        let denied = self.deny_all()?;
        crate::kernel::remove_pins(&self.config.paths.bpf)?;
        self.resume_stragglers();
        crate::kernel::trial::remove_cgroup(self.agents.cgroup_root());
        self.agents.remove_empty();
        self.stopping = true;
        Ok(Reply::Detached { programs, maps: abi::names::MAPS.len() as u64, denied })
    }

    /// Fails everything that waits, and waits until it has failed: without programs it would go on instead. What begins to
    /// wait meanwhile fails too.
    fn deny_all(&mut self) -> Result<u64, CallError> {
        let mut denied = std::collections::BTreeSet::new();
        let patience = Instant::now() + DENY_TIME;
        loop {
            let open = self.kernel.holds()?;
            if open.is_empty() {
                return Ok(denied.len() as u64);
            }
            if Instant::now() > patience {
                let message = format!("{} actions still wait: nothing was removed", open.len());
                return Err(CallError::new(ErrorCode::HoldsOpen, message)
                    .with_hint("stop the agent, or end those processes, and try again"));
            }
            for (key, hold) in open {
                if denied.insert(hold.id) {
                    let verdict = abi::Verdict {
                        nonce: self.kernel.nonce,
                        hold: hold.id,
                        digest: hold.digest,
                        expires_ns: u64::MAX,
                        interpreter_dev: 0,
                        interpreter_ino: 0,
                        effect: abi::Effect::DENY,
                        errno: 1,
                    };
                    let stage = u64::from(hold.stage);
                    self.kernel.store_verdict(abi::VerdictKey { task: key, stage }, verdict)?;
                }
                let kernel = &self.kernel;
                super::resume::resume(key, hold.tgid, |key| kernel.hold(key).ok().flatten().is_some());
            }
            // The loop is the only one who could tell, and it is here.
            std::thread::sleep(PAUSE);
        }
    }

    /// Resumes what began to wait just before the programs were removed: it goes on, like everything from then on. The
    /// signal may come before the stop that it is to end, so it is repeated.
    fn resume_stragglers(&self) {
        let Ok(holds) = self.kernel.holds() else { return };
        if holds.is_empty() {
            return;
        }
        for _ in 0..STRAGGLER_SIGNALS {
            for (_, hold) in &holds {
                super::resume::resume_process(hold.tgid);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn invalid(message: impl Into<String>, hint: &str) -> CallError {
    CallError::new(ErrorCode::Invalid, message).with_hint(hint)
}

fn policy_status(config: &Config) -> PolicyStatus {
    PolicyStatus { digest: config.policy.digest(), rules: config.policy.rules().len() as u64 }
}
