//! The kernel side's first stage, compiled from the rules: what can match no restricting rule never leaves the kernel.
//!
//! The tables may say "maybe" too often, never "no" wrongly. [`Tables::may_match`] is the kernel's lookup written out
//! in Rust; a property test holds [`Policy::evaluate`] against it.

use std::collections::{BTreeMap, BTreeSet};

use gatekeeper_common::{self as abi, KindSet, PREFIX_BYTES};

use super::{Policy, Rule, address::ip_without_family};
use crate::action::{Action, ActionKind, Address, Target};

/// More ports than this in one rule make every port of its kinds a "maybe": the map would hold little but that rule.
pub const PORTS_PER_RULE: usize = 1024;

/// What becomes the value of the map `agents`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentTable {
    /// Number of the agent.
    pub number: u32,
    /// Kinds that some restricting rule for this agent names.
    pub kinds: KindSet,
    /// Network kinds that may match at every port.
    pub any_port: KindSet,
    /// Network kinds that may match for families other than IPv4 and IPv6.
    pub other_families: KindSet,
}

/// Contents of the maps `agents`, `prefixes` and `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By the agent's name.
    pub agents: BTreeMap<String, AgentTable>,
    /// By the agent's number and the first bytes of a path, at most [`PREFIX_BYTES`]: kinds that may match at paths that
    /// start so, including what shorter prefixes say, because the kernel finds only the longest one.
    pub prefixes: BTreeMap<(u32, Vec<u8>), KindSet>,
    /// Agent's number, kind's number, port: may match.
    pub ports: BTreeSet<(u32, u16, u16)>,
}

/// Compiles the tables for agents with their numbers, which must be distinct.
pub fn compile(policy: &Policy, agents: &[(String, u32)]) -> Tables {
    let mut tables = Tables::default();
    for (name, number) in agents {
        let mut table = AgentTable {
            number: *number,
            kinds: KindSet::NONE,
            any_port: KindSet::NONE,
            other_families: KindSet::NONE,
        };
        let mut prefixes: BTreeMap<&[u8], KindSet> = BTreeMap::new();
        for rule in policy.rules().iter().filter(|rule| rule.restricts() && rule.is_about(name)) {
            table.kinds = table.kinds.union(rule.kinds);
            add_prefixes(rule, &mut prefixes);
            add_ports(rule, &mut table, &mut tables.ports);
        }
        tables.prefixes.extend(closed(prefixes).into_iter().map(|(prefix, kinds)| ((*number, prefix), kinds)));
        tables.agents.insert(name.clone(), table);
    }
    tables
}

fn common(a: KindSet, b: KindSet) -> KindSet {
    KindSet(a.0 & b.0)
}

fn add_prefixes<'a>(rule: &'a Rule, prefixes: &mut BTreeMap<&'a [u8], KindSet>) {
    let mut add = |prefix: &'a [u8], kinds: KindSet| {
        if kinds != KindSet::NONE {
            let entry = prefixes.entry(&prefix[..prefix.len().min(PREFIX_BYTES)]).or_default();
            *entry = entry.union(kinds);
        }
    };
    let with_path = common(rule.kinds, KindSet::WRITE.union(abi::ActionKind::EXEC.bit()));
    match &rule.paths {
        None => add(b"", with_path),
        Some(patterns) => {
            patterns.iter().flat_map(|pattern| pattern.prefixes()).for_each(|prefix| add(prefix, with_path));
            // The kernel side knows no mount at the hooks of this kind, so it compares a path within the file system.
            add(b"", common(rule.kinds, abi::ActionKind::XATTR.bit()));
        }
    }
}

/// Adds to each prefix what its own prefixes say, and drops those that then say nothing new.
fn closed(prefixes: BTreeMap<&[u8], KindSet>) -> Vec<(Vec<u8>, KindSet)> {
    let mut kept: Vec<(Vec<u8>, KindSet)> = Vec::new();
    // In byte order a prefix stands before all that it is a prefix of, and they follow it without a gap.
    let mut open: Vec<(&[u8], KindSet)> = Vec::new();
    for (prefix, kinds) in prefixes {
        while open.last().is_some_and(|(shorter, _)| !prefix.starts_with(shorter)) {
            open.pop();
        }
        let inherited = open.last().map_or(KindSet::NONE, |(_, kinds)| *kinds);
        let all = inherited.union(kinds);
        if all != inherited {
            open.push((prefix, all));
            kept.push((prefix.to_vec(), all));
        }
    }
    kept
}

fn add_ports(rule: &Rule, table: &mut AgentTable, entries: &mut BTreeSet<(u32, u16, u16)>) {
    let net = common(rule.kinds, KindSet::NET);
    if net == KindSet::NONE {
        return;
    }
    if rule.reaches_beyond_ip() {
        table.other_families = table.other_families.union(net);
    }
    if rule.reaches_ip() {
        match &rule.ports {
            Some(ports) if ports.count() <= PORTS_PER_RULE => {
                let kinds = ActionKind::ALL.iter().map(|(kind, _)| kind.number()).filter(|kind| net.contains(*kind));
                for kind in kinds {
                    entries.extend(ports.iter().map(|port| (table.number, kind.0, port)));
                }
            }
            _ => table.any_port = table.any_port.union(net),
        }
    }
}

impl Tables {
    /// What the kernel side answers for an action: false lets it go on without asking the daemon.
    pub fn may_match(&self, action: &Action) -> bool {
        let Some(table) = self.agents.get(&action.agent) else { return false };
        let kind = action.kind.number();
        if !table.kinds.contains(kind) {
            return false;
        }
        let path_may = |path: &[u8]| self.longest_prefix(table.number, path).contains(kind);
        match &action.target {
            _ if action.foreign_mount => true,
            Target::Program { path, .. } => path_may(path.bytes()),
            Target::File { path, new_path, .. } => {
                path_may(path.bytes()) || new_path.as_ref().is_some_and(|path| path_may(path.bytes()))
            }
            Target::Socket { address } => {
                let port_may =
                    |port| table.any_port.contains(kind) || self.ports.contains(&(table.number, kind.0, port));
                match address {
                    Address::Ip { port, .. } => port_may(*port),
                    Address::Other { family: 0, data } if action.kind == ActionKind::Bind => {
                        ip_without_family(data.bytes()).is_none_or(|(_, port)| port_may(port))
                    }
                    Address::Unix(_) | Address::Other { .. } => table.other_families.contains(kind),
                }
            }
        }
    }

    fn longest_prefix(&self, agent: u32, path: &[u8]) -> KindSet {
        let path = &path[..path.len().min(PREFIX_BYTES)];
        (0..=path.len())
            .rev()
            .find_map(|length| self.prefixes.get(&(agent, path[..length].to_vec())))
            .copied()
            .unwrap_or(KindSet::NONE)
    }
}
