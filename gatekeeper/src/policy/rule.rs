//! One rule: which actions it matches, and what becomes of them.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use gatekeeper_common::KindSet;
use serde::{Serialize, Serializer};

use super::{
    address::{AddressPattern, PortSet, ip_without_family},
    errno::DenyErrno,
    pattern::Pattern,
};
use crate::{
    action::{Action, ActionKind, Address, Target},
    quorum::Quorum,
    request::{Comment, GrantLength, Risk},
    text::Text,
};

/// One rule of the policy. A condition that is absent holds for every action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Unique among all rules.
    pub name: String,
    /// Kinds of action it is about.
    #[serde(serialize_with = "kind_names")]
    pub kinds: KindSet,
    /// Names of the agents it is about.
    pub agents: Option<BTreeSet<String>>,
    /// Effective user ids it is about.
    pub users: Option<BTreeSet<u32>>,
    /// Exec and file kinds: one of them matches the path.
    pub paths: Option<Vec<Pattern>>,
    /// Exec: each of them matches some argument behind the program's name.
    pub args: Vec<Pattern>,
    /// Bind, listen, connect: the port is one of them.
    pub ports: Option<PortSet>,
    /// Bind, listen, connect: one of them matches the address. Absent: every IPv4 and IPv6 address, nothing else.
    pub addresses: Option<Vec<AddressPattern>>,
    /// What becomes of the actions that it matches.
    pub verdict: RuleVerdict,
    /// Why, for reviewers and the log.
    pub reason: Option<String>,
}

/// What becomes of the actions that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleVerdict {
    /// They go on.
    Allow,
    /// They fail.
    Deny {
        /// With this error.
        errno: DenyErrno,
    },
    /// They wait for a reviewer.
    Ask {
        /// For this long at most.
        deadline: Duration,
        /// Allow, instead of deny, when nobody decided by then.
        danger_allow_on_timeout: bool,
        /// How much harm they can do.
        risk: Risk,
        /// Who must approve; none: whoever may decide at all.
        quorum: Option<Quorum>,
        /// Who may approve instead, one after another, as time goes on or somebody escalates.
        escalation: Vec<Quorum>,
        /// Let people decide about agents of their own.
        danger_self_review: bool,
        /// Which decisions need a reason.
        comment: Comment,
        /// Approvals need a signature by the reviewer's own key.
        second_factor: bool,
        /// For how long the same action may be approved, besides once. Shortest first.
        grants: Vec<GrantLength>,
    },
}

impl Rule {
    /// Whether it is about this agent.
    pub fn is_about(&self, agent: &str) -> bool {
        self.agents.as_ref().is_none_or(|agents| agents.contains(agent))
    }

    /// Whether it stops anything: rules that allow do not.
    pub fn restricts(&self) -> bool {
        self.verdict != RuleVerdict::Allow
    }

    /// Whether it can match IPv4 and IPv6 addresses.
    pub(super) fn reaches_ip(&self) -> bool {
        let is_ip = |pattern: &AddressPattern| matches!(pattern, AddressPattern::Any | AddressPattern::Network(_));
        self.addresses.as_ref().is_none_or(|patterns| patterns.iter().any(is_ip))
    }

    /// Whether it can match addresses of other families.
    pub(super) fn reaches_beyond_ip(&self) -> bool {
        self.addresses.as_ref().is_some_and(|patterns| patterns.iter().any(AddressPattern::is_beyond_ip))
    }

    /// Whether it matches. Where the facts leave a doubt, a rule that restricts matches and one that allows does not.
    pub fn matches(&self, action: &Action) -> bool {
        self.kinds.contains(action.kind.number())
            && self.is_about(&action.agent)
            && self.users.as_ref().is_none_or(|users| users.contains(&action.uid))
            && self.matches_target(action)
    }

    fn matches_target(&self, action: &Action) -> bool {
        match &action.target {
            Target::Program { path, args, .. } => {
                self.matches_paths(path, None, action.foreign_mount) && self.matches_args(args)
            }
            Target::File { path, new_path, .. } => self.matches_paths(path, new_path.as_ref(), action.foreign_mount),
            Target::Socket { address } => self.matches_address(action.kind, address),
        }
    }

    /// Link and rename have two paths: one is enough to restrict, allowing takes both.
    fn matches_paths(&self, path: &Text, new_path: Option<&Text>, foreign_mount: bool) -> bool {
        let Some(patterns) = &self.paths else { return true };
        if foreign_mount {
            return self.restricts();
        }
        let matches = |path: &Text| patterns.iter().any(|pattern| pattern.matches(path.bytes()));
        match new_path {
            None => matches(path),
            Some(new_path) if self.restricts() => matches(path) || matches(new_path),
            Some(new_path) => matches(path) && matches(new_path),
        }
    }

    fn matches_args(&self, args: &[Text]) -> bool {
        let behind_the_name = args.get(1..).unwrap_or_default();
        self.args.iter().all(|pattern| behind_the_name.iter().any(|arg| pattern.matches(arg.bytes())))
    }

    fn matches_address(&self, kind: ActionKind, address: &Address) -> bool {
        match address {
            Address::Ip { ip, port } => self.matches_ip(*ip, *port),
            Address::Other { family: 0, data } if kind == ActionKind::Bind => match ip_without_family(data.bytes()) {
                Some((ip, port)) => self.matches_ip(ip, port),
                None => self.restricts(),
            },
            Address::Unix(name) => self.addresses.as_ref().is_some_and(|patterns| {
                patterns.iter().any(|pattern| pattern.matches_unix(name.bytes(), self.restricts()))
            }),
            Address::Other { .. } => {
                self.addresses.as_ref().is_some_and(|patterns| patterns.contains(&AddressPattern::Any))
            }
        }
    }

    fn matches_ip(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        self.ports.as_ref().is_none_or(|ports| ports.contains(port))
            && self
                .addresses
                .as_ref()
                .is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches_ip(ip, self.restricts())))
    }
}

fn kind_names<S: Serializer>(kinds: &KindSet, serializer: S) -> Result<S::Ok, S::Error> {
    let contained = ActionKind::ALL.iter().filter(|(kind, _)| kinds.contains(kind.number()));
    serializer.collect_seq(contained.map(|(_, name)| name))
}
