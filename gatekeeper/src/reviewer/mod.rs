//! Who may decide: people, their accounts on each channel, their groups, and how many of whom a rule wants.
//!
//! Pure: what the configuration says goes in, yes or a reason comes out. A platform's name for somebody never counts, only
//! its immutable account id; and one person counts once, through however many accounts. `statement` and `signature` are how
//! somebody decides with a key of their own.

pub mod signature;
pub mod statement;

#[cfg(test)]
#[path = "../../../tests/src/ssh_key.rs"]
#[allow(unreachable_pub, reason = "public for the scenario tests, private here")]
pub(crate) mod ssh_key;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    broker::Grant,
    quorum::Quorum,
    request::{Ask, Request},
};

/// Name of the channel of local commands; accounts on it are user ids.
pub const CLI: &str = "cli";

/// A person who may decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reviewer {
    /// Unique.
    pub name: String,
    /// Groups that rules name.
    pub groups: BTreeSet<String>,
    /// Account ids, by kind of channel (`cli`, `matrix`, `slack`, …).
    pub accounts: BTreeMap<String, String>,
}

/// All reviewers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    reviewers: Vec<Reviewer>,
}

/// Where an agent comes from: these people do not decide about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// User id of who started it with `gatekeeper run`.
    pub started_by: Option<u32>,
    /// Name of the reviewer who answers for it.
    pub owner: Option<String>,
}

/// Why somebody may not decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No reviewer has this account.
    #[error("the account {account} belongs to no reviewer; an operator can add it to a [[reviewer]]")]
    Unknown {
        /// The account.
        account: String,
    },
    /// The rule asks others.
    #[error("rule {rule:?} asks {wants}, and {reviewer} is not among them")]
    NotAsked {
        /// The rule.
        rule: String,
        /// Whom it asks.
        wants: String,
        /// Who tried.
        reviewer: String,
    },
    /// They started the agent or answer for it.
    #[error("{reviewer} started this agent or owns it, so somebody else has to decide")]
    OwnAgent {
        /// Who tried.
        reviewer: String,
    },
}

impl Directory {
    /// These reviewers. The configuration has made sure that names and accounts are unique.
    pub fn new(reviewers: Vec<Reviewer>) -> Self {
        Self { reviewers }
    }

    /// All of them, in the order of the configuration.
    pub fn reviewers(&self) -> &[Reviewer] {
        &self.reviewers
    }

    /// Whether nobody is declared: then people cannot be told apart, and only local commands decide.
    pub fn is_empty(&self) -> bool {
        self.reviewers.is_empty()
    }

    /// Who has an account on a kind of channel.
    pub fn find(&self, channel: &str, account: &str) -> Option<&Reviewer> {
        self.reviewers.iter().find(|reviewer| reviewer.accounts.get(channel).is_some_and(|own| own == account))
    }

    /// Whether somebody may decide a request at all: approve it (or be one of those who do), deny it, have it wait longer.
    ///
    /// # Errors
    /// Why not.
    pub fn may_decide(
        &self,
        channel: &str,
        account: &str,
        request: &Request,
        origin: &Origin,
    ) -> Result<&Reviewer, Refusal> {
        let Ask { rule, danger_self_review, .. } = &request.ask;
        let (quorum, login_uid) = (request.quorum(), request.task.login_uid);
        self.may(channel, account, rule, quorum.as_ref(), *danger_self_review, login_uid, origin)
    }

    /// Whether somebody may take a grant back: who could decide about its request.
    ///
    /// # Errors
    /// Why not.
    pub fn may_revoke(
        &self,
        channel: &str,
        account: &str,
        grant: &Grant,
        origin: &Origin,
    ) -> Result<&Reviewer, Refusal> {
        let Grant { key, quorum, danger_self_review, login_uid, .. } = grant;
        self.may(channel, account, &key.rule, quorum.as_ref(), *danger_self_review, *login_uid, origin)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what a request and a grant have in common; a struct would exist for this call only"
    )]
    fn may(
        &self,
        channel: &str,
        account: &str,
        rule: &str,
        quorum: Option<&Quorum>,
        danger_self_review: bool,
        login_uid: Option<u32>,
        origin: &Origin,
    ) -> Result<&Reviewer, Refusal> {
        let reviewer = self.find(channel, account).ok_or_else(|| Refusal::Unknown { account: account.to_owned() })?;
        if let Some(quorum) = quorum
            && !quorum.asks(&reviewer.groups)
        {
            let (rule, wants, reviewer) = (rule.to_owned(), quorum.to_string(), reviewer.name.clone());
            return Err(Refusal::NotAsked { rule, wants, reviewer });
        }
        if !danger_self_review && is_own(reviewer, login_uid, origin) {
            return Err(Refusal::OwnAgent { reviewer: reviewer.name.clone() });
        }
        Ok(reviewer)
    }

    /// Whether everybody together is enough for a quorum, and still without any one of them, whose agent may be the one that
    /// asks.
    ///
    /// # Errors
    /// For whose agents nobody could approve anything; the name is empty when it is so for all.
    pub fn can_reach(&self, quorum: &Quorum) -> Result<(), String> {
        let without = |name: &str| {
            let others = self.reviewers.iter().filter(|reviewer| reviewer.name != name);
            quorum.is_met(others.map(|reviewer| &reviewer.groups))
        };
        if !without("") {
            return Err(String::new());
        }
        let alone = self.reviewers.iter().find(|reviewer| !without(&reviewer.name));
        alone.map_or(Ok(()), |reviewer| Err(reviewer.name.clone()))
    }
}

/// Whether a reviewer has started the agent of a request, is logged in as the user behind it, or is its declared owner.
fn is_own(reviewer: &Reviewer, login_uid: Option<u32>, origin: &Origin) -> bool {
    let uid = reviewer.accounts.get(CLI).and_then(|account| account.parse::<u32>().ok());
    let started = uid.is_some() && (uid == login_uid || uid == origin.started_by);
    started || origin.owner.as_ref() == Some(&reviewer.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::samples;

    fn directory() -> Directory {
        let reviewer = |name: &str, groups: &[&str], uid: &str| Reviewer {
            name: name.to_owned(),
            groups: groups.iter().map(ToString::to_string).collect(),
            accounts: [(CLI, uid.to_owned()), ("matrix", format!("@{name}:localhost"))]
                .map(|(channel, account)| (channel.to_owned(), account))
                .into(),
        };
        Directory::new(vec![
            reviewer("one", &["ops"], "1000"),
            reviewer("two", &["ops"], "1002"),
            reviewer("three", &[], "3"),
        ])
    }

    fn request(quorum: &str) -> Request {
        let mut request = samples::request(1);
        request.ask.quorum = Some(quorum.parse().unwrap());
        request
    }

    #[test]
    fn an_account_counts_and_no_name_does() {
        let directory = directory();
        let mut request = request("anyone");
        request.task.login_uid = None;
        assert_eq!(directory.may_decide("matrix", "@two:localhost", &request, &Origin::default()).unwrap().name, "two");
        for (channel, account) in
            [("matrix", "two"), ("matrix", "@TWO:localhost"), ("slack", "@two:localhost"), (CLI, "7")]
        {
            let refused = directory.may_decide(channel, account, &request, &Origin::default());
            assert!(matches!(refused, Err(Refusal::Unknown { .. })), "{channel} {account}");
        }
    }

    #[test]
    fn only_who_is_asked_may_decide() {
        let request = request("ops");
        let refused = directory().may_decide("matrix", "@three:localhost", &request, &Origin::default()).unwrap_err();
        assert_eq!(refused.to_string(), "rule \"git-push\" asks ops, and three is not among them");
    }

    #[test]
    fn nobody_decides_about_an_agent_of_their_own() {
        let directory = directory();
        // The sample's user logged in as uid 1000.
        let mut request = request("ops");
        let nobody = Origin::default();
        let is_refused = |request: &Request, who: &str, origin: &Origin| {
            let decided = directory.may_decide("matrix", who, request, origin);
            assert!(matches!(decided, Ok(_) | Err(Refusal::OwnAgent { .. })));
            decided.is_err()
        };
        assert!(is_refused(&request, "@one:localhost", &nobody));
        assert!(!is_refused(&request, "@two:localhost", &nobody));
        let started = Origin { started_by: Some(1002), owner: None };
        let owned = Origin { started_by: None, owner: Some("two".to_owned()) };
        assert!(is_refused(&request, "@two:localhost", &started));
        assert!(is_refused(&request, "@two:localhost", &owned));
        request.ask.danger_self_review = true;
        assert!(!is_refused(&request, "@two:localhost", &owned));
    }

    #[test]
    fn reachable_means_for_everybodys_agents() {
        let reviewer = |name: &str, groups: &[&str]| Reviewer {
            name: name.to_owned(),
            groups: groups.iter().map(ToString::to_string).collect(),
            accounts: Default::default(),
        };
        let directory =
            Directory::new(vec![reviewer("a", &["ops"]), reviewer("b", &["ops"]), reviewer("c", &["leads"])]);
        let reach = |quorum: &str| directory.can_reach(&quorum.parse().unwrap());
        assert_eq!(reach("ops"), Ok(()));
        assert_eq!(reach("2 of ops"), Err("a".to_owned()));
        assert_eq!(reach("2 of ops or leads"), Ok(()));
        assert_eq!(reach("3 of ops"), Err(String::new()));
        assert_eq!(reach("nobody"), Err(String::new()));
    }
}
