//! Grants as the loop has them: what each held action would need of a grant, which one allows it, and when one ends.
//!
//! The rules are in `broker::Grants` and `broker::fingerprint`; here the facts are gathered and the records are written. A
//! use is a decision like any other: its record is on disk before the verdict. So is a revocation before its answer.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Event, SCRIPT_SECONDS,
    agents::Agents,
    core::{Daemon, chain},
    judge,
};
use crate::{
    action::Task,
    broker::{self, Grant, GrantEnd, GrantKey, Grants, RunScope, ScriptFact},
    channel::card,
    control::{
        Peer,
        protocol::{CallError, ErrorCode, GrantReport, Reply},
    },
    kernel::events::Held,
    provenance::Record,
    request::{Decider, Effect, GrantLength, Request, RequestId},
    reviewer::CLI,
};

/// Characters of the action that a grant keeps for people.
const ACTION_CHARACTERS: usize = 300;

/// Grants, and what those that may come would be for.
#[derive(Default)]
pub(super) struct GrantDesk {
    grants: Grants,
    /// What a grant for each open hold would be for; none where something is not known. Holds of rules that offer no grants
    /// are not here.
    keys: HashMap<u64, Option<GrantKey>>,
}

impl GrantDesk {
    /// When the next grant ends by its time, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.grants.next_ns()
    }

    /// A hold has ended.
    pub(super) fn forget(&mut self, hold: u64) {
        self.keys.remove(&hold);
    }
}

impl Daemon {
    /// Whether more must be known of a hold before reviewers are asked, since its rule offers grants.
    pub(super) fn needs_facts(&self, hold: u64, outcome: &broker::Outcome) -> bool {
        matches!(outcome, broker::Outcome::Ask(ask) if !ask.grants.is_empty()) && !self.grants.keys.contains_key(&hold)
    }

    /// Finds out more about a hold on a thread that may block, for as long as an agent's file system likes.
    pub(super) fn find_facts(&self, held: Box<Held>, interpreter: Option<judge::ScriptInterpreter>) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let (task, action) = (held.task.clone(), held.action.clone());
            let patience = Duration::from_secs(SCRIPT_SECONDS);
            let until = Instant::now() + patience;
            let look = tokio::task::spawn_blocking(move || judge::script_fact(&task, &action, until));
            // Too slow, or it failed: no grant can be given, and none holds.
            let fact = match tokio::time::timeout(patience, look).await {
                Ok(Ok(fact)) => fact,
                _ => ScriptFact::Unknown,
            };
            // The daemon that would receive it has stopped otherwise.
            let _ = events.send(Event::Facts { held, interpreter, fact });
        });
    }

    /// All is known of a hold whose rule offers grants: one allows it, or reviewers are asked.
    pub(super) fn facts(&mut self, held: Box<Held>, interpreter: Option<judge::ScriptInterpreter>, fact: &ScriptFact) {
        // It may have ended meanwhile. Then the next scan finds that, and forgets what is kept of it here.
        self.remember(&held);
        let now = self.now();
        let mut outcome = judge::outcome(judge::evaluate(&self.config.policy, &held.action, interpreter.as_ref()));
        if let broker::Outcome::Ask(ask) = &mut outcome {
            let key = self.grant_key(&held, fact, &ask.rule);
            let now_ns = now.boot_ns;
            // What an earlier daemon asked about is for people to decide.
            let is_new = self.broker.is_new(held.hold);
            let live =
                key.as_ref().filter(|_| is_new).and_then(|key| self.grants.grants.find(key, &ask.grants, now_ns));
            if let Some(Grant { id, by, .. }) = live {
                let by = Decider::Grant { id: *id, by: by.clone() };
                let id = *id;
                outcome = broker::Outcome::Allow { by };
                self.grants.grants.count_use(id);
            } else {
                if key.is_none() {
                    ask.grants.clear();
                }
                self.grants.keys.insert(held.hold, key);
            }
        }
        self.hand_over(held, interpreter, outcome, now);
    }

    fn grant_key(&self, held: &Held, fact: &ScriptFact, rule: &str) -> Option<GrantKey> {
        Some(GrantKey {
            rule: rule.to_owned(),
            rule_digest: self.config.policy.rule_digest(rule)?,
            run: self.run_scope(&held.task)?,
            fingerprint: broker::fingerprint(&held.task, &held.action, held.stage, fact, &judge::view(&held.task)?)?,
        })
    }

    /// The agent run that a task belongs to; none if that cannot be told for certain.
    pub(super) fn run_scope(&self, task: &Task) -> Option<RunScope> {
        let cgroup = judge::cgroup_of(task.pid)?;
        // The name is of now, the id of when the action was held: only if they agree it is that cgroup's name.
        (cgroup_id(self.agents.cgroup_root(), &cgroup)? == task.cgroup).then_some(())?;
        self.scope_of(&cgroup)
    }

    /// The agent run that a cgroup belongs to: the cgroup of the run, or the agent's own where there is none.
    pub(super) fn scope_of(&self, cgroup: &str) -> Option<RunScope> {
        let run = Agents::run_of(cgroup);
        let run = if run != cgroup || self.agents.is_run(cgroup) {
            run
        } else {
            let is_above =
                |root: &str| cgroup.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let above = self.roots.iter().map(|root| root.path.as_str()).filter(|root| is_above(root));
            above.max_by_key(|root| root.len())?.to_owned()
        };
        let cgroup_id = cgroup_id(self.agents.cgroup_root(), &run)?;
        Some(RunScope { cgroup: run.as_str().into(), cgroup_id })
    }

    /// A request was decided: if it was approved for longer than once, that holds from now on.
    pub(super) fn give_grant(&mut self, request: &Request) {
        let Some(decision) = &request.decision else { return };
        let (Effect::Allow, Some(length)) = (decision.effect, decision.grant) else { return };
        let Some(Some(key)) = self.grants.keys.get(&request.hold).cloned() else {
            self.error(format!(
                "{} was approved for longer than once, but is not fully known: it counts once",
                request.id
            ));
            return;
        };
        let now = self.now();
        let expires_ns = match length {
            GrantLength::For(time) => {
                Some(now.boot_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
            }
            GrantLength::Run => None,
        };
        let voters = request.votes.iter().map(|vote| &vote.by).chain([&decision.by]);
        let names = voters.filter_map(|by| match by {
            Decider::Reviewer { name, .. } => Some(name.clone()),
            _ => None,
        });
        let grant = Grant {
            id: request.id,
            key,
            agent: request.action.agent.clone(),
            action: card::action_line(&request.action).chars().take(ACTION_CHARACTERS).collect(),
            length,
            given_at_ms: decision.at_ms,
            expires_ns,
            by: names.collect(),
            quorum: request.quorum(),
            danger_self_review: request.ask.danger_self_review,
            login_uid: request.task.login_uid,
        };
        match self.grants.grants.give(grant.clone()) {
            // In the log behind the decision, and like that before anything that it will allow.
            Ok(()) => self.record(&Record::Grant(Box::new(grant))),
            Err(err) => self.error(format!("{} counts once: {err}", request.id)),
        }
    }

    /// Takes over the grants that the log has, as far as they still hold.
    pub(super) fn adopt_grants(&mut self, grants: Vec<Grant>) {
        for grant in grants {
            // There were not more when they were given.
            let _ = self.grants.grants.give(grant);
        }
        self.end_grants();
    }

    /// Ends grants whose time, run or rule is over.
    pub(super) fn end_grants(&mut self) {
        if self.grants.grants.is_empty() {
            return;
        }
        let now_ns = self.now().boot_ns;
        let (root, policy) = (self.agents.cgroup_root(), &self.config.policy);
        let ended = self.grants.grants.end(now_ns, |Grant { key, .. }| {
            if cgroup_id(root, &String::from_utf8_lossy(key.run.cgroup.bytes())) != Some(key.run.cgroup_id) {
                Some(GrantEnd::RunEnded)
            } else if policy.rule_digest(&key.rule).as_ref() != Some(&key.rule_digest) {
                Some(GrantEnd::RuleChanged)
            } else {
                None
            }
        });
        for (grant, end) in ended {
            self.record(&Record::GrantEnd { id: grant.id, end });
        }
    }

    /// The grants in force.
    pub(super) fn grant_reports(&self) -> Vec<GrantReport> {
        let now_ns = self.now().boot_ns;
        self.grants.grants.in_force(now_ns).map(|(grant, used)| report(grant, used, now_ns)).collect()
    }

    /// Somebody takes a grant back: who could decide about it may.
    pub(super) fn revoke_grant(&mut self, id: RequestId, reason: String, peer: &Peer) -> Result<Reply, CallError> {
        let now_ns = self.now().boot_ns;
        let found = self.grants.grants.in_force(now_ns).find(|(grant, _)| grant.id == id);
        let Some((grant, used)) = found.map(|(grant, used)| (grant.clone(), used)) else {
            let error = CallError::new(ErrorCode::NoSuchRequest, format!("there is no grant {id} in force"));
            return Err(error.with_hint("`gatekeeper grants` lists them"));
        };
        let name = if self.config.reviewers.is_empty() {
            peer.user.clone()
        } else {
            let cgroup = String::from_utf8_lossy(grant.key.run.cgroup.bytes());
            let origin = self.agents.origin(&grant.agent, &cgroup, &self.config);
            let reviewer = self.config.reviewers.may_revoke(CLI, &peer.uid.to_string(), &grant, &origin);
            let reviewer = reviewer.map_err(|refusal| {
                CallError::new(ErrorCode::NotPermitted, format!("{} may not revoke {id}: {refusal}", peer.user))
            })?;
            reviewer.name.clone()
        };
        let by = Decider::Reviewer { name, channel: CLI.to_owned(), account: peer.uid.to_string(), evidence: None };
        let end = GrantEnd::Revoked { by, reason };
        self.grants.grants.end(now_ns, |grant| (grant.id == id).then(|| end.clone()));
        self.record(&Record::GrantEnd { id, end });
        // A daemon that starts again would have it in force otherwise.
        self.commit_now("the grant is revoked, but that cannot be written to the provenance log")?;
        Ok(Reply::Revoked(Box::new(report(&grant, used, now_ns))))
    }

    /// Makes all records durable before something is answered.
    fn commit_now(&mut self, otherwise: &str) -> Result<(), CallError> {
        self.log.commit().map_err(|err| {
            CallError::new(ErrorCode::Log, format!("{otherwise}: {}", chain(&err)))
                .with_hint("it is written when the log can be written again; see `gatekeeper status`")
        })
    }
}

fn report(grant: &Grant, used: u64, now_ns: u64) -> GrantReport {
    let Grant { id, key, agent, action, length, given_at_ms, expires_ns, by, .. } = grant;
    GrantReport {
        id: *id,
        rule: key.rule.clone(),
        agent: agent.clone(),
        run: key.run.cgroup.clone(),
        action: action.clone(),
        length: *length,
        given_at_ms: *given_at_ms,
        left_ms: expires_ns.map(|expires_ns| expires_ns.saturating_sub(now_ns) / 1_000_000),
        by: by.clone(),
        used,
    }
}

/// The id of a cgroup, by its path below the cgroup mount.
fn cgroup_id(root: &Path, cgroup: &str) -> Option<u64> {
    fs::metadata(root.join(cgroup.trim_start_matches('/'))).ok().map(|found| found.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{
        super::{
            Options,
            conformance::place::{held, make_cgroups, paths},
            start::{Prepared, prepare},
        },
        *,
    };
    use crate::kernel::stand_in;

    #[tokio::test]
    async fn nothing_is_kept_of_a_hold_that_ends_while_it_is_looked_into() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o700)).unwrap();
        make_cgroups(base);
        let config = base.join("gatekeeper.toml");
        let rule = "[[rule]]\nname = \"tools\"\naction = \"exec\"\nverdict = \"ask\"\ngrants = \"run\"\n";
        fs::write(&config, format!("{}[[agent]]\nname = \"worker\"\n{rule}", paths(base))).unwrap();
        let maps = stand_in::maps(&base.join("bpf"));
        let options = Options { config, socket: None, kernel_log_level: 0 };
        let Prepared { mut daemon, mut ring, mut incoming, .. } = prepare(options).unwrap();
        daemon.apply_policy().unwrap();
        for hold in [1, 2] {
            maps.hold(held(hold, &[]));
        }
        daemon.drain(&mut ring);
        let mut looked_into = 0;
        while looked_into < 2 {
            match incoming.recv().await.unwrap() {
                Event::Script { held, interpreter } => {
                    let (hold, now) = (held.hold, daemon.now());
                    daemon.judged(held, interpreter, now);
                    if hold == 1 {
                        maps.end(1);
                        daemon.drain(&mut ring);
                    }
                }
                Event::Facts { held, interpreter, fact } => {
                    daemon.facts(held, interpreter, &fact);
                    looked_into += 1;
                }
                _ => {}
            }
        }
        daemon.scan();
        let kept: Vec<_> = daemon.grants.keys.keys().copied().collect();
        assert_eq!((kept, daemon.broker.open_holds()), (vec![2], 1));
    }
}
