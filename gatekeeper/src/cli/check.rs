//! `gatekeeper check`: can this host enforce, and if not, why not? And `--config`: is the configuration right?

use std::path::PathBuf;

use serde_json::json;

use super::Terminal;
use crate::{
    config::{Config, DEFAULT_PATH},
    daemon,
    exit::{Exit, Failure},
    kernel::{
        Limits,
        probe::{self, Finding},
    },
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Check this configuration and its rules too
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = DEFAULT_PATH)]
    config: Option<PathBuf>,
}

/// Sizes for the trial: the smallest that the configuration allows.
const LIMITS: Limits = Limits {
    holds: 16,
    ring_bytes: 256 * 1024,
    prefixes: 16,
    ports: 16,
    agents: 16,
    reruns_per_second: 2000,
    kernel_log_level: 0,
};

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let (mut cgroup, mut bpf) = (None, PathBuf::from("/sys/fs/bpf/gatekeeper"));
    if let Some(path) = &arguments.config {
        let (config, warnings) =
            Config::load(path, &daemon::user_id).map_err(|errors| Failure::message(Exit::Configuration, errors))?;
        for warning in warnings {
            if terminal.output.is_json() {
                terminal.output.object(&json!({ "warning": warning.to_string() }))?;
            } else {
                terminal.output.line(&warning)?;
            }
        }
        let found = format!("{} agents, {} rules", config.agents.len(), config.policy.rules().len());
        if terminal.output.is_json() {
            terminal.output.object(&Finding { name: "configuration", ok: true, found, advice: None })?;
        } else {
            terminal.output.line(format_args!("ok    configuration: {found}"))?;
        }
        (cgroup, bpf) = (config.paths.cgroup, config.paths.bpf);
    }
    let root = daemon::find_cgroup_root(cgroup.as_deref());
    let root = root.as_deref().map_err(|err| err.to_string());
    let findings = probe::probe(&LIMITS, root, &bpf);
    for finding in &findings {
        if terminal.output.is_json() {
            terminal.output.object(finding)?;
            continue;
        }
        let mark = if finding.ok { "ok   " } else { "NO   " };
        terminal.output.line(format_args!("{mark} {}: {}", finding.name, finding.found))?;
        if let Some(advice) = &finding.advice {
            terminal.output.line(format_args!("      → {advice}"))?;
        }
    }
    // The trial decides: lists and versions are only there to explain it.
    let can = findings.last().is_some_and(|finding| finding.ok);
    if !terminal.output.is_json() {
        let line = if can { "This host can enforce." } else { "This host cannot enforce." };
        terminal.output.line(line)?;
    }
    Ok(if can { Exit::Success } else { Exit::CannotEnforce })
}
