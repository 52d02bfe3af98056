//! The grants that are in force: approvals that hold for the same action of the same agent run again.
//!
//! Pure, beside the broker: what is given, found and ended goes through here, and the daemon writes the records. A grant
//! has the name of the request with which it was given, since each request gives at most one.

use serde::{Deserialize, Serialize};

use crate::{
    request::{Decider, GrantLength, RequestId},
    text::Text,
};

/// Grants that are in force at once. Far above what people give; a bound nevertheless, because each is looked at for each
/// action of its rule.
pub const MOST_GRANTS: usize = 1_000;

/// Where a grant holds: one run of an agent, or the agent's cgroup where it was not started as a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RunScope {
    /// The run's cgroup, as a path below the cgroup mount.
    pub cgroup: Text,
    /// Its id: a later cgroup of the same name has another.
    pub cgroup_id: u64,
}

/// What has to be equal for a grant to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantKey {
    /// Name of the rule.
    pub rule: String,
    /// SHA-256 of that rule as it was checked, hexadecimal.
    pub rule_digest: String,
    /// The agent run.
    pub run: RunScope,
    /// The action, as [`super::fingerprint()`] has it.
    pub fingerprint: String,
}

/// An approval that holds for longer than once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The request with which it was given.
    pub id: RequestId,
    /// What it is for.
    pub key: GrantKey,
    /// Name of the agent.
    pub agent: String,
    /// The action in one line, for people: safe to show, and bounded.
    pub action: String,
    /// For how long.
    pub length: GrantLength,
    /// When it was given, milliseconds since the epoch.
    pub given_at_ms: u64,
    /// When it ends by itself, nanoseconds of `CLOCK_BOOTTIME`; none: with the run.
    pub expires_ns: Option<u64>,
    /// Names of who gave it.
    pub by: Vec<String>,
    /// Groups of which somebody has to be to decide about it; none: whoever may decide at all.
    pub quorum: Option<crate::quorum::Quorum>,
    /// The rule lets people decide about agents of their own.
    pub danger_self_review: bool,
    /// User who logged in, if any, when it was given: whose agent it is.
    pub login_uid: Option<u32>,
}

/// Why a grant is in force no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantEnd {
    /// Its time is over.
    Expired,
    /// The agent's run has ended.
    RunEnded,
    /// Its rule is another now, or gone.
    RuleChanged,
    /// Somebody took it back.
    Revoked {
        /// Who.
        by: Decider,
        /// Why, in their words.
        reason: String,
    },
}

/// There are [`MOST_GRANTS`] already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_GRANTS} grants are in force, and there may be no more; revoke some (`gatekeeper grants` lists them)")]
pub struct TooManyGrants;

/// A grant in force, and how often it was used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    grant: Grant,
    used: u64,
}

/// All grants in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    live: Vec<Live>,
}

impl Grants {
    /// A grant is given, or was found in the log.
    ///
    /// # Errors
    /// There are too many; then the approval counts once.
    pub fn give(&mut self, grant: Grant) -> Result<(), TooManyGrants> {
        self.live.retain(|live| live.grant.id != grant.id);
        if self.live.len() >= MOST_GRANTS {
            return Err(TooManyGrants);
        }
        self.live.push(Live { grant, used: 0 });
        Ok(())
    }

    /// The grant that allows an action now, if its rule still offers its length.
    pub fn find(&self, key: &GrantKey, offered: &[GrantLength], now_ns: u64) -> Option<&Grant> {
        let holds = |grant: &Grant| {
            grant.key == *key
                && grant.expires_ns.is_none_or(|expires_ns| now_ns < expires_ns)
                && offered.contains(&grant.length)
        };
        self.live.iter().map(|live| &live.grant).find(|grant| holds(grant))
    }

    /// Counts one use.
    pub fn count_use(&mut self, id: RequestId) {
        if let Some(live) = self.live.iter_mut().find(|live| live.grant.id == id) {
            live.used = live.used.saturating_add(1);
        }
    }

    /// Those in force and how often each was used since the daemon started, oldest first.
    pub fn in_force(&self, now_ns: u64) -> impl Iterator<Item = (&Grant, u64)> {
        let holds = move |grant: &Grant| grant.expires_ns.is_none_or(|expires_ns| now_ns < expires_ns);
        self.live.iter().filter(move |live| holds(&live.grant)).map(|live| (&live.grant, live.used))
    }

    /// Ends those whose time is over and those for which `why` says so. Returns them with the reason.
    pub fn end(&mut self, now_ns: u64, mut why: impl FnMut(&Grant) -> Option<GrantEnd>) -> Vec<(Grant, GrantEnd)> {
        let mut ended = Vec::new();
        self.live.retain(|Live { grant, .. }| {
            let is_over = grant.expires_ns.is_some_and(|expires_ns| now_ns >= expires_ns);
            let end = if is_over { Some(GrantEnd::Expired) } else { why(grant) };
            ended.extend(end.as_ref().map(|end| (grant.clone(), end.clone())));
            end.is_none()
        });
        ended
    }

    /// When the next one ends by its time, nanoseconds of `CLOCK_BOOTTIME`.
    pub fn next_ns(&self) -> Option<u64> {
        self.live.iter().filter_map(|live| live.grant.expires_ns).min()
    }

    /// Whether none is in force.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TEN_MINUTES: GrantLength = GrantLength::For(Duration::from_secs(600));

    fn key() -> GrantKey {
        GrantKey {
            rule: "tools".to_owned(),
            rule_digest: "d".to_owned(),
            run: RunScope { cgroup: Text::from("/gatekeeper/builder/run-1"), cgroup_id: 77 },
            fingerprint: "f".to_owned(),
        }
    }

    fn grant(hold: u64, length: GrantLength, expires_ns: Option<u64>) -> Grant {
        Grant {
            id: RequestId::new(1, hold),
            key: key(),
            agent: "builder".to_owned(),
            action: "exec /bin/true".to_owned(),
            length,
            given_at_ms: 1,
            expires_ns,
            by: vec!["first".to_owned()],
            quorum: None,
            danger_self_review: false,
            login_uid: None,
        }
    }

    #[test]
    fn a_grant_holds_for_the_same_in_the_same_run_under_the_same_rule_and_nothing_else() {
        let mut grants = Grants::default();
        grants.give(grant(1, GrantLength::Run, None)).unwrap();
        let finds = |key: &GrantKey, offered: &[GrantLength]| grants.find(key, offered, 5).is_some();
        let offered = [TEN_MINUTES, GrantLength::Run];
        assert!(finds(&key(), &offered));
        let changes: [fn(&mut GrantKey); 5] = [
            |key| key.rule.push('x'),
            |key| key.rule_digest.push('x'),
            |key| key.run.cgroup_id += 1,
            |key| key.run.cgroup = Text::from("/gatekeeper/builder/run-2"),
            |key| key.fingerprint.push('x'),
        ];
        for change in changes {
            let mut other = key();
            change(&mut other);
            assert!(!finds(&other, &offered), "{other:?}");
        }
        assert!(!finds(&key(), &[TEN_MINUTES]), "the rule does not offer it any more");
    }

    #[test]
    fn a_grant_ends_by_its_time_to_the_nanosecond() {
        let mut grants = Grants::default();
        grants.give(grant(1, TEN_MINUTES, Some(600))).unwrap();
        grants.give(grant(2, GrantLength::Run, None)).unwrap();
        let first = |grants: &Grants, now_ns| grants.find(&key(), &[TEN_MINUTES], now_ns).is_some();
        assert!(first(&grants, 599));
        assert!(!first(&grants, 600));
        assert_eq!((grants.next_ns(), grants.in_force(600).count(), grants.in_force(599).count()), (Some(600), 1, 2));
        assert!(grants.end(599, |_| None).is_empty());
        let ended = grants.end(600, |_| None);
        assert_eq!(ended, [(grant(1, TEN_MINUTES, Some(600)), GrantEnd::Expired)]);
        assert_eq!(grants.next_ns(), None);
        let ended = grants.end(601, |grant| (grant.key.run.cgroup_id == 77).then_some(GrantEnd::RunEnded));
        assert_eq!(ended.len(), 1);
        assert!(grants.is_empty());
    }

    #[test]
    fn there_are_never_too_many_and_uses_are_counted() {
        let mut grants = Grants::default();
        for hold in 0..MOST_GRANTS as u64 {
            grants.give(grant(hold, GrantLength::Run, None)).unwrap();
        }
        assert_eq!(grants.give(grant(9_999, GrantLength::Run, None)), Err(TooManyGrants));
        // The same one again takes no place.
        grants.give(grant(3, GrantLength::Run, None)).unwrap();
        grants.count_use(RequestId::new(1, 4));
        assert_eq!(grants.in_force(0).map(|(_, used)| used).sum::<u64>(), 1);
    }
}
