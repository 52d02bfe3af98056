//! The configuration: `gatekeeper.toml` and the rule files it names.
//!
//! `file` is what the files say, `checked` what the rest of the program sees. A load either gives a whole [`Config`] or
//! everything that is wrong, each with file, line, column and way out; nothing of a faulty configuration is used.

mod cgroup;
mod channels;
mod checked;
mod duration;
mod file;
mod problem;
mod reviewers;
mod rules;
mod shape;
mod sources;

use std::{collections::BTreeMap, ops::Range, path::Path};

use gatekeeper_common::KindSet;
use toml::Spanned;

pub use cgroup::CgroupPattern;
pub use channels::{ChannelConfig, ChannelKind, SecretSource};
pub use checked::{AgentConfig, Config, Control, Limits, Mode, Paths};
pub use problem::{Errors, Place, Problem, Warning};

use crate::policy::{AddressPattern, Fault, Policy, Rule, tables};
use checked::Checker;
use file::{Items, MainFile, RuleFile};
use problem::Source;
use rules::RuleContext;

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/gatekeeper/gatekeeper.toml";

/// Rule files unless the main file names others.
const DEFAULT_RULES: &str = "rules.d/*.toml";

/// A rule with its place.
struct PlacedRule {
    rule: Rule,
    source: usize,
    span: Range<usize>,
}

impl Config {
    /// Loads the main file at `path` and the rule files that it names. `users` gives the user id of a login name.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn load(path: &Path, users: &dyn Fn(&str) -> Option<u32>) -> Result<(Self, Vec<Warning>), Errors> {
        let mut warnings = Vec::new();
        let main = sources::read(path, &mut warnings).map_err(|problem| Errors(vec![problem]))?;
        load(main, users, warnings, sources::rule_files)
    }

    /// Checks the text of a main file as if it stood at `path`, without the rule files that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_text(
        path: &Path,
        text: &str,
        users: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<(Self, Vec<Warning>), Errors> {
        let main = Source { path: path.to_owned(), text: text.to_owned() };
        load(main, users, Vec::new(), |_, _, _| Ok(Vec::new()))
    }
}

fn load(
    main: Source,
    users: &dyn Fn(&str) -> Option<u32>,
    mut warnings: Vec<Warning>,
    read_rule_files: impl FnOnce(&Source, Option<&Spanned<Items>>, &mut Vec<Warning>) -> Result<Vec<Source>, Vec<Problem>>,
) -> Result<(Config, Vec<Warning>), Errors> {
    let main_file: MainFile = shape::parse(&main).map_err(|problem| Errors(vec![problem]))?;
    let mut checker = Checker::new(&main);
    let settings = checker.settings(&main_file, users);
    let mut context = RuleContext {
        defaults: settings.defaults,
        agent_names: &settings.agent_names,
        reviewers: &settings.config.reviewers,
        users,
        names: BTreeMap::new(),
    };
    let mut placed = Vec::new();
    for raw in &main_file.rule {
        let rule = checker.rule(raw, &mut context);
        placed.extend(rule.map(|rule| PlacedRule { rule, source: 0, span: raw.span() }));
    }
    let mut problems = checker.into_problems();
    let rule_sources = read_rule_files(&main, main_file.rules.as_ref(), &mut warnings).unwrap_or_else(|faults| {
        problems.extend(faults);
        Vec::new()
    });
    let sources: Vec<Source> = std::iter::once(main).chain(rule_sources).collect();
    for (number, source) in sources.iter().enumerate().skip(1) {
        let file: RuleFile = match shape::parse(source) {
            Ok(file) => file,
            Err(problem) => {
                problems.push(problem);
                continue;
            }
        };
        let mut checker = Checker::new(source);
        for raw in &file.rule {
            let rule = checker.rule(raw, &mut context);
            placed.extend(rule.map(|rule| PlacedRule { rule, source: number, span: raw.span() }));
        }
        problems.extend(checker.into_problems());
    }

    let mut config = settings.config;
    warn(&config, &placed, &sources, &mut warnings);
    config.policy = Policy::new(placed.into_iter().map(|placed| placed.rule).collect());
    if problems.is_empty() {
        problems.extend(too_large(&config, &main_file, &sources[0]));
    }
    if problems.is_empty() { Ok((config, warnings)) } else { Err(Errors(problems)) }
}

/// What the kernel side's maps could not hold.
fn too_large(config: &Config, file: &MainFile, main: &Source) -> Vec<Problem> {
    let numbers = (0..).zip(&config.agents).map(|(number, agent)| (agent.name.clone(), number));
    let tables = tables::compile(&config.policy, &numbers.collect::<Vec<_>>());
    let limits = [
        ("path prefixes", "prefixes", tables.prefixes.len(), config.limits.prefixes, &file.limits.0.prefixes),
        ("ports", "ports", tables.ports.len(), config.limits.ports, &file.limits.0.ports),
        ("agents", "agents", config.agents.len(), config.limits.agents, &file.limits.0.agents),
    ];
    let over = limits.into_iter().filter(|(_, _, needed, limit, _)| *needed > *limit as usize);
    over.map(|(what, key, needed, limit, written)| {
        let fault = Fault::new(
            format!("the configuration takes {needed} {what}, more than the limit of {limit}"),
            format!("set `{key}` in `[limits]` to at least {needed}"),
        );
        match written {
            Some(written) => main.problem(written.span(), fault),
            None => Problem::of_file(&main.path, fault),
        }
    })
    .collect()
}

/// What works, but hardly as meant.
fn warn(config: &Config, placed: &[PlacedRule], sources: &[Source], warnings: &mut Vec<Warning>) {
    let main = &sources[0].path;
    if config.agents.is_empty() {
        let fault = Fault::new("no agent is configured, so nothing will be held", "declare one with `[[agent]]`");
        warnings.push(Warning(Problem::of_file(main, fault)));
    }
    if placed.is_empty() {
        let fault = Fault::new(
            "there is no rule, so every action goes on",
            "write rules into the directory rules.d beside this file",
        );
        warnings.push(Warning(Problem::of_file(main, fault)));
    }
    for (number, later) in placed.iter().enumerate() {
        if let Some(earlier) = placed[..number].iter().find(|earlier| takes_all_of(&earlier.rule, &later.rule)) {
            let fault = Fault::new(
                format!("this rule never matches: {:?} before it takes every action of its kinds", earlier.rule.name),
                "move it up, or remove it: the first rule that matches wins",
            );
            warnings.push(Warning(sources[later.source].problem(later.span.clone(), fault)));
        }
    }
}

/// Whether every action that `later` could match is taken by `earlier`. Sees only the plain case, in which `earlier` has
/// no condition but kinds and agents.
fn takes_all_of(earlier: &Rule, later: &Rule) -> bool {
    let Rule { name: _, kinds, agents, users, paths, args, ports, addresses, verdict: _, reason: _ } = earlier;
    let every_address = match addresses {
        Some(patterns) => patterns.contains(&AddressPattern::Any),
        None => !later.addresses.iter().flatten().any(AddressPattern::is_beyond_ip),
    };
    let every_agent = match (agents, &later.agents) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => later.is_subset(earlier),
    };
    let every_kind = KindSet(later.kinds.0 & !kinds.0) == KindSet::NONE;
    users.is_none()
        && paths.is_none()
        && args.is_empty()
        && ports.is_none()
        && every_address
        && every_agent
        && every_kind
}

#[cfg(test)]
mod tests;
