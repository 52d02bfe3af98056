//! Tells the kernel side where agents are and what rules may match, and follows cgroups as they come and go.

use gatekeeper_common as abi;

use super::{DaemonError, agents, core::Daemon};
use crate::{
    kernel::{self, Matchers},
    policy::tables,
    provenance::Record,
};

impl Daemon {
    /// Tells the kernel side about agents and rules.
    pub(super) fn apply_policy(&mut self) -> Result<(), DaemonError> {
        let tables = tables::compile(&self.config.policy, &self.agents.numbers());
        let mut roots = self.agents.roots(&self.config, &tables);
        roots.extend(agents::trial_root(self.agents.cgroup_root()));
        let mut prefixes = tables.prefixes;
        prefixes.insert((kernel::trial::AGENT, Vec::new()), abi::ActionKind::MKDIR.bit());
        self.kernel.set_policy(&roots, &Matchers { prefixes, ports: tables.ports })?;
        self.kernel.set_mode(self.config.mode.number(), self.config.limits.reruns_per_second)?;
        self.remember_roots(roots);
        Ok(())
    }

    fn remember_roots(&mut self, roots: Vec<kernel::AgentRoot>) {
        // A poisoned lock still guards a set.
        *self.scope.write().unwrap_or_else(std::sync::PoisonError::into_inner) =
            roots.iter().map(|root| root.cgroup).collect();
        self.roots = roots;
    }

    /// Cgroups came or went.
    pub(super) fn cgroups_changed(&mut self) {
        self.agents.drain_watch();
        let tables = tables::compile(&self.config.policy, &self.agents.numbers());
        let mut roots = self.agents.roots(&self.config, &tables);
        roots.extend(agents::trial_root(self.agents.cgroup_root()));
        if roots != self.roots {
            match self.kernel.set_agents(&roots) {
                Ok(()) => self.remember_roots(roots),
                Err(err) => self.error(format!("a new cgroup of an agent cannot be enrolled: {err}")),
            }
        }
        for (name, run) in self.agents.end_empty_runs() {
            self.record(&Record::RunEnd { run: name, agent: run.agent, status: None, signal: None });
            if let Some(file) = run.reasons {
                self.remove_notice_file(&file);
            }
        }
        self.forget_gone_runs();
        self.end_grants();
    }

    /// Whether a cgroup's path lies in an agent's cgroup.
    pub(super) fn is_agents(&self, cgroup: &str) -> bool {
        is_below(&self.roots, cgroup)
    }
}

pub(super) fn is_below(roots: &[kernel::AgentRoot], cgroup: &str) -> bool {
    roots.iter().any(|root| {
        cgroup.strip_prefix(root.path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
