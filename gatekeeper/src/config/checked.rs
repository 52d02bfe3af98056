//! What the rest of the program sees of the configuration: checked, with every default filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Range, RangeInclusive},
    path::PathBuf,
    time::Duration,
};

use gatekeeper_common as abi;
use toml::Spanned;

use super::{
    cgroup::CgroupPattern,
    channels::ChannelConfig,
    duration,
    file::{self, Item, Items, MainFile, Table},
    problem::{Problem, Source},
};
use crate::{
    policy::{DenyErrno, Fault, Policy, suggest},
    reviewer::Directory,
};

/// The checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether anything waits.
    pub mode: Mode,
    /// Where things are.
    pub paths: Paths,
    /// Sizes of the kernel side's maps, and the like.
    pub limits: Limits,
    /// Who may use the control socket.
    pub control: Control,
    /// The agents, in the order of the file.
    pub agents: Vec<AgentConfig>,
    /// Who may decide.
    pub reviewers: Directory,
    /// Ways to reach them, in the order of the file.
    pub channels: Vec<ChannelConfig>,
    /// The rules.
    pub policy: Policy,
}

/// Whether anything waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Actions wait.
    #[default]
    Enforce,
    /// Actions are only reported.
    Observe,
}

impl Mode {
    /// The kernel side's number for it.
    pub fn number(self) -> abi::Mode {
        match self {
            Self::Enforce => abi::Mode::ENFORCE,
            Self::Observe => abi::Mode::OBSERVE,
        }
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Where things are. All absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// What must survive a boot: the provenance log.
    pub state: PathBuf,
    /// What need not: the control socket.
    pub runtime: PathBuf,
    /// Directory of pinned programs and maps, on a BPF file system.
    pub bpf: PathBuf,
    /// Where cgroup v2 is mounted; none: to be found.
    pub cgroup: Option<PathBuf>,
}

/// Sizes of the kernel side's maps, and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most actions held at one time.
    pub holds: u32,
    /// Bytes of the ring buffer; a power of two.
    pub ring_bytes: u32,
    /// Most path prefixes.
    pub prefixes: u32,
    /// Most ports.
    pub ports: u32,
    /// Most control groups of agents at one time.
    pub agents: u32,
    /// How often a second a hold may be run again without a verdict before the action is denied.
    pub reruns_per_second: u32,
}

/// Who may use the control socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The group whose members may decide besides root; its existence is for the daemon to check.
    pub group: Option<String>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Unique.
    pub name: String,
    /// Its control groups, besides those that `gatekeeper run` makes for it.
    pub cgroups: Vec<CgroupPattern>,
    /// Shown to reviewers with each of its requests.
    pub labels: BTreeMap<String, String>,
    /// What it is for, shown to reviewers with each of its requests.
    pub intent: Option<String>,
    /// Name of the reviewer who answers for it, and therefore does not decide about it.
    pub owner: Option<String>,
}

/// What rules take from the main file when they do not say it themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) deadline: Duration,
    pub(super) errno: DenyErrno,
}

/// Everything of the main file but its rules.
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) defaults: Defaults,
    /// Names of agents as rules may use them, those of faulty entries included so that one mistake is told once.
    pub(super) agent_names: BTreeSet<String>,
}

/// Checks values and collects what is wrong with them.
pub(super) struct Checker<'a> {
    pub(super) source: &'a Source,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, problems: Vec::new() }
    }

    /// What was found, in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
        self.problems
    }

    pub(super) fn fail(&mut self, span: Range<usize>, reason: impl Into<String>, way_out: impl Into<String>) {
        self.problems.push(self.source.problem(span, Fault::new(reason, way_out)));
    }

    /// The value, or nothing with the fault noted at `span`.
    pub(super) fn take<T>(&mut self, span: Range<usize>, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.problems.push(self.source.problem(span, fault))).ok()
    }

    /// The checked form of a value that may be absent; nothing also when it is faulty.
    pub(super) fn check<T>(
        &mut self,
        value: Option<&Spanned<String>>,
        check: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        let value = value?;
        self.take(value.span(), check(value.as_ref()))
    }

    /// The values of a list that must not be empty, each with its place.
    pub(super) fn items(&mut self, items: &Spanned<Items>, way_out: &str) -> Vec<(Range<usize>, Item)> {
        match items.as_ref() {
            Items::One(item) => vec![(items.span(), item.clone())],
            Items::Many(list) if list.is_empty() => {
                self.fail(items.span(), "the list is empty", way_out);
                Vec::new()
            }
            Items::Many(list) => list.iter().map(|item| (item.span(), item.as_ref().clone())).collect(),
        }
    }

    /// Reads each text of a list that must not be empty. Nothing if one is faulty.
    pub(super) fn each<T>(
        &mut self,
        items: &Spanned<Items>,
        empty: &str,
        mut read: impl FnMut(&str) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let read: Vec<Option<T>> = self
            .items(items, empty)
            .into_iter()
            .map(|(span, item)| {
                let result = match &item {
                    Item::Text(text) => read(text),
                    Item::Number(number) => Err(Fault::new(
                        format!("the number {number} stands where text belongs"),
                        "write text in quotes",
                    )),
                };
                self.take(span, result)
            })
            .collect();
        read.into_iter().collect::<Option<Vec<T>>>().filter(|values| !values.is_empty())
    }

    fn number(&mut self, value: Option<&Spanned<i64>>, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(value) = value else { return default };
        let number = u32::try_from(*value.as_ref()).ok().filter(|number| range.contains(number));
        number.unwrap_or_else(|| {
            let (least, most) = (range.start(), range.end());
            self.fail(
                value.span(),
                format!("{} is out of range", value.as_ref()),
                format!("write a number from {least} to {most}, or leave the key out for {default}"),
            );
            default
        })
    }

    fn path(&mut self, value: Option<&Spanned<String>>, default: &str) -> PathBuf {
        self.check(value, absolute_path).unwrap_or_else(|| PathBuf::from(default))
    }

    /// Checks the main file, but for its rules.
    pub(super) fn settings(&mut self, file: &MainFile, users: &dyn Fn(&str) -> Option<u32>) -> Settings {
        let MainFile { mode, rules: _, paths, limits, control, defaults, agent, reviewer, channel, rule: _ } = file;
        let mode = self.check(mode.as_ref(), |text| match text {
            "enforce" => Ok(Mode::Enforce),
            "observe" => Ok(Mode::Observe),
            _ => Err(Fault::new(format!("{text:?} is no mode"), suggest(text, ["enforce", "observe"]))),
        });
        let file::Paths { state, runtime, bpf, cgroup } = &paths.0;
        let paths = Paths {
            state: self.path(state.as_ref(), "/var/lib/gatekeeper"),
            runtime: self.path(runtime.as_ref(), "/run/gatekeeper"),
            bpf: self.path(bpf.as_ref(), "/sys/fs/bpf/gatekeeper"),
            cgroup: self.check(cgroup.as_ref(), absolute_path),
        };
        let limits = self.limits(limits);
        let file::Control { group } = &control.0;
        let control = Control { group: self.check(group.as_ref(), |text| plain(text, "a group name", 32)) };
        let file::Defaults { deadline, errno } = &defaults.0;
        let defaults = Defaults {
            deadline: self.check(deadline.as_ref(), duration::parse).unwrap_or(Duration::from_secs(300)),
            errno: self.check(errno.as_ref(), DenyErrno::new).unwrap_or(DenyErrno::EPERM),
        };
        let reviewers = self.reviewers(reviewer, users);
        let agent_names =
            agent.iter().filter_map(|agent| agent.as_ref().0.name.as_ref()).map(|name| name.as_ref().clone());
        Settings {
            agent_names: agent_names.collect(),
            config: Config {
                mode: mode.unwrap_or_default(),
                paths,
                limits,
                control,
                channels: self.channels(channel, &reviewers),
                agents: self.agents(agent, &reviewers),
                reviewers,
                policy: Policy::default(),
            },
            defaults,
        }
    }

    fn limits(&mut self, limits: &Table<file::Limits>) -> Limits {
        let file::Limits { holds, ring_bytes, prefixes, ports, agents, reruns_per_second } = &limits.0;
        // The longest event has 137 KiB, so a smaller ring could not take one; above 1 GiB lies only a mistake.
        let bytes = self.number(ring_bytes.as_ref(), 8 << 20, 256 << 10..=1 << 30);
        if let Some(ring_bytes) = ring_bytes
            && !bytes.is_power_of_two()
        {
            self.fail(
                ring_bytes.span(),
                format!("{bytes} is no power of two, which the kernel demands of a ring buffer"),
                format!("write {} or {}", bytes.next_power_of_two() / 2, bytes.next_power_of_two()),
            );
        }
        Limits {
            holds: self.number(holds.as_ref(), 16_384, 16..=1_000_000),
            ring_bytes: bytes,
            prefixes: self.number(prefixes.as_ref(), 65_536, 16..=1_000_000),
            ports: self.number(ports.as_ref(), 65_536, 16..=1_000_000),
            agents: self.number(agents.as_ref(), 1024, 1..=65_536),
            reruns_per_second: self.number(reruns_per_second.as_ref(), 2000, 1..=1_000_000),
        }
    }

    fn agents(&mut self, agents: &[Spanned<Table<file::Agent>>], reviewers: &Directory) -> Vec<AgentConfig> {
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut claimed: BTreeMap<String, String> = BTreeMap::new();
        let mut checked = Vec::new();
        for agent in agents {
            let file::Agent { name, cgroups, labels, intent, owner } = &agent.as_ref().0;
            let Some(name) = name else {
                self.fail(agent.span(), "the agent has no name", "add `name = \"…\"`");
                continue;
            };
            let place = name.span();
            let Some(name) = self.check(Some(name), |text| identifier(text, "an agent")) else { continue };
            let line = self.source.problem(place.clone(), Fault::new("", "")).place.map_or(0, |place| place.line);
            if let Some(first) = names.insert(name.clone(), line) {
                self.fail(
                    place,
                    format!("there is already an agent named {name:?}, on line {first}"),
                    "give each agent a name of its own; one agent can have several `cgroups`",
                );
            }
            let mut patterns = Vec::new();
            if let Some(cgroups) = cgroups {
                let empty = "name a cgroup, or leave `cgroups` out for an agent that only `gatekeeper run` starts";
                patterns = self.each(cgroups, empty, CgroupPattern::new).unwrap_or_default();
                for pattern in &patterns {
                    if let Some(other) = claimed.insert(pattern.source().to_owned(), name.clone()) {
                        self.fail(
                            cgroups.span(),
                            format!("the cgroup {:?} already belongs to the agent {other:?}", pattern.source()),
                            "give each cgroup to one agent",
                        );
                    }
                }
            }
            let labels = labels.iter().filter_map(|(key, value)| {
                let key = self.check(Some(key), label_key)?;
                let value = self.check(Some(value), |text| plain(text, "a label's value", 256))?;
                Some((key, value))
            });
            let labels = labels.collect();
            let intent = self.check(intent.as_ref(), |text| plain(text, "an intent", 1000));
            let owner = self.check(owner.as_ref(), |text| {
                let known = reviewers.reviewers().iter().map(|reviewer| reviewer.name.as_str());
                if known.clone().any(|name| name == text) {
                    return Ok(text.to_owned());
                }
                let way_out = if reviewers.is_empty() {
                    "declare who answers for the agent with `[[reviewer]]`".to_owned()
                } else {
                    suggest(text, known)
                };
                Err(Fault::new(format!("there is no reviewer {text:?}"), way_out))
            });
            checked.push(AgentConfig { name, cgroups: patterns, labels, intent, owner });
        }
        checked
    }
}

pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Fault> {
    plain(text, "a path", 1024)?;
    let Some(rest) = text.strip_prefix('/') else {
        return Err(Fault::new(format!("{text:?} is no absolute path"), "begin with `/`"));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.split('/').any(|component| matches!(component, "" | "." | "..")) {
        return Err(Fault::new(
            format!("{text:?} is no plain path below `/`"),
            "write it without `.`, `..` and doubled slashes",
        ));
    }
    Ok(PathBuf::from(format!("/{rest}")))
}

/// Reads the name of a rule or an agent: what can be typed, logged and put into a file name without quoting.
pub(super) fn identifier(text: &str, what: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(good) || text.starts_with(['.', '-']) {
        return Err(Fault::new(
            format!("{text:?} cannot be the name of {what}"),
            "use 1 to 64 of the characters a-z 0-9 - _ . and begin with a letter, a digit or `_`",
        ));
    }
    Ok(text.to_owned())
}

fn label_key(text: &str) -> Result<String, Fault> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if text.is_empty() || text.len() > 64 || !text.chars().all(good) {
        return Err(Fault::new(
            format!("{text:?} cannot be a label"),
            "use 1 to 64 of the characters A-Z a-z 0-9 - _ . /",
        ));
    }
    Ok(text.to_owned())
}

/// Reads text of one line for people.
pub(super) fn plain(text: &str, what: &str, most: usize) -> Result<String, Fault> {
    if text.trim().is_empty() {
        return Err(Fault::new(format!("{what} must not be empty"), "write one, or leave the key out"));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new(
            format!("{what} must not hold control characters"),
            "write it on one line, without tabs",
        ));
    }
    if text.chars().count() > most {
        return Err(Fault::new(format!("{what} has more than {most} characters"), "shorten it"));
    }
    Ok(text.to_owned())
}
