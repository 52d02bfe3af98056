//! The policy: which actions go on, which fail, which wait for a reviewer.
//!
//! Data in, data out: no files, clock or kernel. [`Policy::evaluate`] decides one action by the first rule that matches;
//! [`tables::compile`] makes the kernel side's first stage, which must say "maybe" for everything that a restricting
//! rule can match. `config` reads the rules and says where in a file a [`Fault`] stands.

mod address;
mod errno;
mod fault;
mod pattern;
mod rule;
pub mod tables;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use address::{AddressPattern, PortSet};
pub use errno::DenyErrno;
pub use fault::{Fault, suggest};
pub use pattern::{Pattern, PatternOf};
pub use rule::{Rule, RuleVerdict};

use crate::{action::Action, request::Ask};

/// All rules, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Policy {
    rules: Vec<Rule>,
}

/// What the policy says of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Name of the rule that matched; none means that none did, and the action goes on.
    pub rule: Option<String>,
    /// The rule's reason.
    pub reason: Option<String>,
    /// What becomes of the action.
    pub outcome: Outcome,
}

/// What becomes of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on.
    Allow,
    /// It fails.
    Deny {
        /// With this error, 1 to 4095.
        errno: u16,
    },
    /// It waits for a reviewer.
    Ask(Ask),
}

impl Policy {
    /// A policy of these rules, tried in this order.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// Its rules, in the order in which they are tried.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What the first matching rule says; without one, the action goes on.
    pub fn evaluate(&self, action: &Action) -> Evaluation {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(action)) else {
            return Evaluation { rule: None, reason: None, outcome: Outcome::Allow };
        };
        let outcome = match &rule.verdict {
            RuleVerdict::Allow => Outcome::Allow,
            RuleVerdict::Deny { errno } => Outcome::Deny { errno: errno.number() },
            RuleVerdict::Ask {
                deadline,
                danger_allow_on_timeout,
                risk,
                quorum,
                escalation,
                danger_self_review,
                comment,
                second_factor,
                grants,
            } => Outcome::Ask(Ask {
                rule: rule.name.clone(),
                deadline: *deadline,
                danger_allow_on_timeout: *danger_allow_on_timeout,
                risk: *risk,
                reason: rule.reason.clone(),
                quorum: quorum.clone(),
                escalation: escalation.clone(),
                danger_self_review: *danger_self_review,
                comment: *comment,
                second_factor: *second_factor,
                grants: grants.clone(),
            }),
        };
        Evaluation { rule: Some(rule.name.clone()), reason: rule.reason.clone(), outcome }
    }

    /// SHA-256 of all rules in their order, 64 hexadecimal digits: says in the log which policy was in force.
    pub fn digest(&self) -> String {
        // Field order and set order are fixed, and patterns serialize as they were written, so equal policies have
        // equal JSON.
        #[expect(clippy::expect_used, reason = "rules hold only strings, numbers and sequences of them")]
        let canonical = serde_json::to_vec(&self.rules).expect("rules serialize");
        hexadecimal(&canonical)
    }

    /// The same of one rule alone; none if there is no rule of this name.
    pub fn rule_digest(&self, name: &str) -> Option<String> {
        let rule = self.rules.iter().find(|rule| rule.name == name)?;
        serde_json::to_vec(rule).ok().map(|canonical| hexadecimal(&canonical))
    }
}

fn hexadecimal(canonical: &[u8]) -> String {
    Sha256::digest(canonical).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Evaluation {
    /// The stricter of two evaluations that concern one act, such as a script and its interpreter: deny before ask
    /// before allow. Of two asks the one with the higher risk is shown, with the shorter deadline of both; it allows on
    /// time-out only if both do, wants reasons and signatures if either does, and offers the grants that both offer.
    pub fn stricter(self, other: Self) -> Self {
        let rank = |evaluation: &Self| match &evaluation.outcome {
            Outcome::Allow => (0, None),
            Outcome::Ask(ask) => (1, Some(ask.risk)),
            Outcome::Deny { .. } => (2, None),
        };
        let (mut stricter, milder) = if rank(&other) > rank(&self) { (other, self) } else { (self, other) };
        if let (Outcome::Ask(ask), Outcome::Ask(milder)) = (&mut stricter.outcome, &milder.outcome) {
            ask.deadline = ask.deadline.min(milder.deadline);
            ask.danger_allow_on_timeout &= milder.danger_allow_on_timeout;
            ask.comment = ask.comment.union(milder.comment);
            ask.second_factor |= milder.second_factor;
            ask.grants.retain(|length| milder.grants.contains(length));
        }
        if stricter.outcome == Outcome::Allow && stricter.rule.is_none() {
            return milder;
        }
        stricter
    }
}

#[cfg(test)]
mod tests;
