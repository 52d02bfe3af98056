//! Makes the policy's rules from the rules of the files, and says where one makes no sense.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use gatekeeper_common::KindSet;
use toml::Spanned;

use super::{
    checked::{Checker, Defaults, identifier, plain},
    duration,
    file::{self, Item, Items, Table},
};
use crate::{
    action::ActionKind,
    policy::{AddressPattern, DenyErrno, Fault, Pattern, PatternOf, PortSet, Rule, RuleVerdict, suggest},
    request::{GrantLength, Risk},
    reviewer::Directory,
};

/// What the rules of all files share.
pub(super) struct RuleContext<'a> {
    pub(super) defaults: Defaults,
    pub(super) agent_names: &'a BTreeSet<String>,
    pub(super) reviewers: &'a Directory,
    /// User id of a login name.
    pub(super) users: &'a dyn Fn(&str) -> Option<u32>,
    /// Names that rules already have, with the place.
    pub(super) names: BTreeMap<String, String>,
}

/// Lengths of grants that a rule may offer: each is a button on every card, and too many hide the others.
const MOST_GRANTS: usize = 3;

const FAMILIES: [(&str, KindSet); 2] = [("write", KindSet::WRITE), ("net", KindSet::NET)];
const RISKS: [(&str, Risk); 4] =
    [("low", Risk::Low), ("medium", Risk::Medium), ("high", Risk::High), ("critical", Risk::Critical)];

impl Checker<'_> {
    /// Checks one rule. Nothing if it is faulty; then the faults are noted.
    pub(super) fn rule(&mut self, raw: &Spanned<Table<file::Rule>>, context: &mut RuleContext<'_>) -> Option<Rule> {
        let before = self.problems.len();
        let file::Rule {
            name,
            action,
            agent,
            user,
            path,
            args,
            port,
            address,
            verdict: _,
            errno: _,
            deadline: _,
            danger_allow_on_timeout: _,
            risk: _,
            reason,
            reviewers: _,
            escalate: _,
            danger_self_review: _,
            comment: _,
            second_factor: _,
            grants: _,
        } = &raw.as_ref().0;
        let name = self.rule_name(raw.span(), name.as_ref(), context);
        let kinds = match action {
            Some(action) => self.kinds(action),
            None => {
                self.fail(
                    raw.span(),
                    "the rule has no `action`",
                    "add `action = \"exec\"`, \"write\", \"net\" or single kinds",
                );
                None
            }
        };
        let agents = agent.as_ref().and_then(|agent| {
            self.each(agent, "name an agent, or leave `agent` out for all", |text| {
                agent_name(text, context.agent_names)
            })
        });
        let users = user.as_ref().and_then(|user| self.users(user, context.users));
        let paths = path.as_ref().and_then(|path| {
            self.each(path, "name a path, or leave `path` out for all", |text| Pattern::new(text, PatternOf::Path))
        });
        let args = args.as_ref().map(|args| {
            let empty = "name an argument, or leave `args` out";
            self.each(args, empty, |text| Pattern::new(text, PatternOf::Word)).unwrap_or_default()
        });
        let ports = port.as_ref().and_then(|port| self.ports(port));
        let addresses = address.as_ref().and_then(|address| {
            self.each(address, "name an address, or leave `address` out for all of IPv4 and IPv6", AddressPattern::new)
        });
        if let (Some(port), Some(addresses)) = (port, &addresses)
            && addresses.iter().any(AddressPattern::is_beyond_ip)
        {
            self.fail(
                port.span(),
                "only IPv4 and IPv6 addresses have a port, and `address` names others too",
                "write one rule with `port` and one with the other addresses",
            );
        }
        if let Some(kinds) = kinds {
            self.conditions_fit(kinds, &raw.as_ref().0);
        }
        let verdict = self.verdict(raw, context.defaults, context.reviewers);
        let reason = self.check(reason.as_ref(), |text| plain(text, "a reason", 1000));
        if self.problems.len() > before {
            return None;
        }
        Some(Rule {
            name: name?,
            kinds: kinds?,
            agents: agents.map(BTreeSet::from_iter),
            users,
            paths,
            args: args.unwrap_or_default(),
            ports,
            addresses,
            verdict: verdict?,
            reason,
        })
    }

    fn rule_name(
        &mut self,
        rule: Range<usize>,
        name: Option<&Spanned<String>>,
        context: &mut RuleContext<'_>,
    ) -> Option<String> {
        let Some(written) = name else {
            self.fail(rule, "the rule has no name", "add `name = \"…\"`: requests and the log say which rule it was");
            return None;
        };
        let name = self.check(name, |text| identifier(text, "a rule"))?;
        let place = self.source.problem(written.span(), Fault::new("", ""));
        let line = place.place.map_or(0, |place| place.line);
        let here = format!("{}:{line}", super::problem::shown_path(&place.file));
        if let Some(first) = context.names.get(&name) {
            self.fail(
                written.span(),
                format!("there is already a rule named {name:?}, at {first}"),
                "give each rule a name of its own",
            );
            return None;
        }
        context.names.insert(name.clone(), here);
        Some(name)
    }

    fn kinds(&mut self, action: &Spanned<Items>) -> Option<KindSet> {
        let kinds = self.each(action, "name \"exec\", \"write\", \"net\" or single kinds", |text| {
            let family = FAMILIES.iter().find(|(name, _)| *name == text).map(|(_, kinds)| *kinds);
            let single = ActionKind::ALL.iter().find(|(_, name)| *name == text).map(|(kind, _)| kind.number().bit());
            let known = FAMILIES.iter().map(|(name, _)| *name).chain(ActionKind::ALL.iter().map(|(_, name)| *name));
            family.or(single).ok_or_else(|| Fault::new(format!("{text:?} is no kind of action"), suggest(text, known)))
        })?;
        kinds.into_iter().reduce(KindSet::union)
    }

    pub(super) fn users(
        &mut self,
        user: &Spanned<Items>,
        known: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<BTreeSet<u32>> {
        let items = self.items(user, "name a user, or leave `user` out for all");
        let ids: Vec<Option<u32>> = items
            .into_iter()
            .map(|(span, item)| {
                let id = match &item {
                    // The largest number means "no user" to the kernel.
                    Item::Number(number) => u32::try_from(*number).ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
                        Fault::new(
                            format!("{number} is no user id"),
                            format!("write a number from 0 to {}", u32::MAX - 1),
                        )
                    }),
                    Item::Text(name) => known(name).ok_or_else(|| {
                        let number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
                        let way_out = if number {
                            format!("write a user id without quotes: {name}")
                        } else {
                            "create the user first, or write the user id as a number".to_owned()
                        };
                        Fault::new(format!("there is no user {name:?} on this host"), way_out)
                    }),
                };
                self.take(span, id)
            })
            .collect();
        ids.into_iter().collect::<Option<BTreeSet<u32>>>().filter(|ids| !ids.is_empty())
    }

    fn ports(&mut self, port: &Spanned<Items>) -> Option<PortSet> {
        let items = self.items(port, "name a port, or leave `port` out for all");
        let ranges: Vec<_> = items
            .into_iter()
            .map(|(span, item)| {
                let range = match &item {
                    Item::Text(text) => PortSet::range(text),
                    Item::Number(number) => PortSet::range(&number.to_string()),
                };
                self.take(span, range)
            })
            .collect();
        ranges.into_iter().collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty()).map(PortSet::new)
    }

    /// A condition that cannot hold for one of the rule's kinds would silently take that kind out of the rule.
    fn conditions_fit(&mut self, kinds: KindSet, raw: &file::Rule) {
        let exec = ActionKind::Exec.number().bit();
        let fitting = [
            (raw.path.as_ref(), "path", KindSet::WRITE.union(exec), "exec and the file kinds"),
            (raw.args.as_ref(), "args", exec, "exec"),
            (raw.port.as_ref(), "port", KindSet::NET, "bind, listen and connect"),
            (raw.address.as_ref(), "address", KindSet::NET, "bind, listen and connect"),
        ];
        for (condition, key, fit, names) in fitting {
            let misfit =
                ActionKind::ALL.iter().find(|(kind, _)| kinds.contains(kind.number()) && !fit.contains(kind.number()));
            if let (Some(condition), Some((kind, _))) = (condition, misfit) {
                self.fail(
                    condition.span(),
                    format!("`{key}` makes no sense for {kind}, which this rule's `action` includes"),
                    format!("use `{key}` only with {names}; write a rule of its own for the rest"),
                );
            }
        }
    }

    /// How long grants may be, the shortest first.
    fn grants(&mut self, grants: &Spanned<Items>) -> Option<Vec<GrantLength>> {
        let mut lengths = self.each(grants, "name a length, or leave `grants` out to offer none", |text| {
            if text == "run" { Ok(GrantLength::Run) } else { duration::parse(text).map(GrantLength::For) }
        })?;
        lengths.sort();
        if lengths.windows(2).any(|pair| pair[0] == pair[1]) {
            self.fail(grants.span(), "a length is named twice", "name each length once");
        }
        if lengths.len() > MOST_GRANTS {
            self.fail(
                grants.span(),
                format!("{} lengths are offered, and a card has buttons for {MOST_GRANTS}", lengths.len()),
                "leave out what is seldom right",
            );
        }
        Some(lengths)
    }

    fn verdict(
        &mut self,
        raw: &Spanned<Table<file::Rule>>,
        defaults: Defaults,
        directory: &Directory,
    ) -> Option<RuleVerdict> {
        let file::Rule {
            verdict,
            errno,
            deadline,
            danger_allow_on_timeout,
            risk,
            reviewers,
            escalate,
            danger_self_review,
            comment,
            second_factor,
            grants,
            ..
        } = &raw.as_ref().0;
        let Some(verdict) = verdict else {
            self.fail(raw.span(), "the rule has no `verdict`", "add `verdict = \"ask\"`, \"deny\" or \"allow\"");
            return None;
        };
        let errno_of_rule = self.check(errno.as_ref(), DenyErrno::new);
        let deadline_of_rule = self.check(deadline.as_ref(), duration::parse);
        let risk_of_rule = self.check(risk.as_ref(), |text| {
            let known = RISKS.iter().find(|(name, _)| *name == text).map(|(_, risk)| *risk);
            known.ok_or_else(|| {
                Fault::new(format!("{text:?} is no risk"), suggest(text, RISKS.iter().map(|(name, _)| *name)))
            })
        });
        let only_for_ask = [
            (deadline.as_ref().map(Spanned::span), "deadline"),
            (danger_allow_on_timeout.as_ref().map(Spanned::span), "danger_allow_on_timeout"),
            (risk.as_ref().map(Spanned::span), "risk"),
            (reviewers.as_ref().map(Spanned::span), "reviewers"),
            (escalate.as_ref().map(Spanned::span), "escalate"),
            (danger_self_review.as_ref().map(Spanned::span), "danger_self_review"),
            (comment.as_ref().map(Spanned::span), "comment"),
            (second_factor.as_ref().map(Spanned::span), "second_factor"),
            (grants.as_ref().map(Spanned::span), "grants"),
        ];
        let comment = self.comment(comment.as_ref());
        let quorum = self.quorum(reviewers.as_ref(), directory);
        let escalation = self.escalation(escalate.as_ref(), directory);
        self.signers(second_factor.as_ref(), quorum.as_ref(), &escalation, directory);
        if let (Some(escalate), None) = (escalate, reviewers) {
            self.fail(
                escalate.span(),
                "there is nobody left to escalate to: without `reviewers` the rule asks everybody",
                "add `reviewers`, or remove `escalate`",
            );
        }
        let is_set = |key: &Option<Spanned<bool>>| key.as_ref().is_some_and(|value| *value.as_ref());
        if let (Some(danger), true) =
            (danger_allow_on_timeout, is_set(danger_allow_on_timeout) && is_set(second_factor))
        {
            self.fail(
                danger.span(),
                "whoever waits long enough would need no signature: the deadline allows without one",
                "remove `danger_allow_on_timeout`, or `second_factor`",
            );
        }
        if let (Some(grants), true) = (grants, is_set(second_factor)) {
            self.fail(
                grants.span(),
                "what is signed names no length, so nobody could give a grant here",
                "remove `grants`, or `second_factor`",
            );
        }
        let grants = grants.as_ref().and_then(|grants| self.grants(grants)).unwrap_or_default();
        let only_for_deny = [(errno.as_ref().map(Spanned::span), "errno")];
        let mut refuse = |keys: &[(Option<Range<usize>>, &str)], only: &str| {
            for (span, key) in keys {
                if let Some(span) = span {
                    self.fail(
                        span.clone(),
                        format!("`{key}` has no effect with `verdict = \"{}\"`", verdict.as_ref()),
                        format!("remove it, or set `verdict = \"{only}\"`"),
                    );
                }
            }
        };
        match verdict.as_ref().as_str() {
            "allow" => {
                refuse(&only_for_ask, "ask");
                refuse(&only_for_deny, "deny");
                Some(RuleVerdict::Allow)
            }
            "deny" => {
                refuse(&only_for_ask, "ask");
                Some(RuleVerdict::Deny { errno: errno_of_rule.unwrap_or(defaults.errno) })
            }
            "ask" => {
                refuse(&only_for_deny, "deny");
                Some(RuleVerdict::Ask {
                    deadline: deadline_of_rule.unwrap_or(defaults.deadline),
                    danger_allow_on_timeout: is_set(danger_allow_on_timeout),
                    risk: risk_of_rule.unwrap_or_default(),
                    quorum,
                    escalation,
                    danger_self_review: is_set(danger_self_review),
                    comment,
                    second_factor: is_set(second_factor),
                    grants,
                })
            }
            other => {
                self.fail(verdict.span(), format!("{other:?} is no verdict"), suggest(other, ["allow", "deny", "ask"]));
                None
            }
        }
    }
}

fn agent_name(text: &str, known: &BTreeSet<String>) -> Result<String, Fault> {
    if known.contains(text) {
        return Ok(text.to_owned());
    }
    let way_out = if known.is_empty() {
        "declare it in gatekeeper.toml with `[[agent]]`".to_owned()
    } else {
        format!(
            "{} (a new agent needs an `[[agent]]` in gatekeeper.toml)",
            suggest(text, known.iter().map(String::as_str))
        )
    };
    Err(Fault::new(format!("there is no agent {text:?}"), way_out))
}
