//! What people and time do to a request that is pending: decisions, votes, escalation, extension, reminders.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{Change, Effect, Now, Record, Reply},
    Broker, EXTENSIONS, REMINDERS, failing,
};
use crate::request::{self, Ask, Decider, Decision, GrantLength, Request, RequestId, State, Vote};

impl Broker {
    /// Sets the next reminder of a pending hold: the first that lies ahead, counted from `start_ns` to the deadline.
    pub(super) fn remind(&mut self, hold: u64, start_ns: u64, now: Now) {
        self.forget_reminder(hold);
        let Some(open) = self.open.get_mut(&hold) else { return };
        let percent = open.deadline_ns.saturating_sub(start_ns) / 100;
        let times = REMINDERS.iter().map(|part| start_ns.saturating_add(percent.saturating_mul(u64::from(*part))));
        open.reminder = times.zip(0..).find(|(at_ns, _)| *at_ns > now.boot_ns);
        self.reminders.extend(open.reminder.map(|(at_ns, _)| (at_ns, hold)));
    }

    pub(super) fn forget_reminder(&mut self, hold: u64) {
        if let Some((at_ns, _)) = self.open.get_mut(&hold).and_then(|open| open.reminder.take()) {
            self.reminders.remove(&(at_ns, hold));
        }
    }

    /// The request, if it can still be decided.
    fn pending(&self, id: RequestId) -> Result<&Arc<Request>, Box<Reply>> {
        let request = self.request(id).ok_or(Reply::Unknown)?;
        if let Some(decision) = &request.decision {
            return Err(Box::new(Reply::AlreadyDecided(Box::new(decision.clone()))));
        }
        if request.state == State::Pending {
            Ok(request)
        } else {
            Err(Box::new(Reply::NotPending(request.state.clone())))
        }
    }

    pub(super) fn decide(
        &mut self,
        id: RequestId,
        mut decision: Decision,
        groups: BTreeSet<String>,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let request = match self.pending(id) {
            Ok(request) => request,
            Err(reply) => return *reply,
        };
        let hold = request.hold;
        if let (request::Effect::Allow, Some(length)) = (decision.effect, decision.grant)
            && !request.ask.grants.contains(&length)
        {
            return Reply::NotOffered(request.ask.grants.clone());
        }
        if decision.effect == request::Effect::Allow
            && request.votes.iter().any(|vote| is_same_person(&vote.by, &decision.by))
        {
            return Reply::VotedBefore;
        }
        if decision.effect == request::Effect::Allow
            && let Some(quorum) = request.quorum()
            && !quorum.is_met(request.votes.iter().map(|vote| &vote.groups).chain([&groups]))
        {
            // A denial needs nobody else.
            let Decision { effect: _, by, reason, grant, at_ms } = decision;
            return self.vote(hold, Vote { by, groups, reason, grant, at_ms }, effects);
        }
        decision.grant = match decision.effect {
            request::Effect::Allow => shortest(&request.votes, decision.grant),
            request::Effect::Deny { .. } => None,
        };
        decision.effect = failing(decision.effect);
        let record = Record::Decision { hold, id, decision: decision.clone() };
        self.accept(hold, decision, record, effects);
        Reply::Decided
    }

    fn vote(&mut self, hold: u64, vote: Vote, effects: &mut Vec<Effect>) -> Reply {
        let Some(request) = self.open.get_mut(&hold).and_then(|open| open.request.as_mut()) else {
            return Reply::Unknown;
        };
        let record = Record::Vote { hold, id: request.id, vote: vote.clone() };
        Arc::make_mut(request).votes.push(vote);
        effects.push(Effect::Append { ticket: None, record });
        effects.push(Effect::Notify { request: request.clone(), change: Change::Voted });
        Reply::Voted
    }

    pub(super) fn escalate(&mut self, id: RequestId, by: Decider, effects: &mut Vec<Effect>) -> Reply {
        let hold = match self.pending(id) {
            Ok(request) => request.hold,
            Err(reply) => return *reply,
        };
        self.ask_next(hold, by, effects)
    }

    /// Has the next reviewers asked, if the rule names any.
    fn ask_next(&mut self, hold: u64, by: Decider, effects: &mut Vec<Effect>) -> Reply {
        let Some(request) = self.open.get_mut(&hold).and_then(|open| open.request.as_mut()) else {
            return Reply::Unknown;
        };
        if usize::try_from(request.escalated).is_ok_and(|done| done >= request.ask.escalation.len()) {
            return Reply::NoMore;
        }
        Arc::make_mut(request).escalated += 1;
        effects.push(Effect::Append { ticket: None, record: Record::Escalated { hold, id: request.id, by } });
        effects.push(Effect::Notify { request: request.clone(), change: Change::Escalated });
        Reply::Done
    }

    pub(super) fn extend(&mut self, id: RequestId, by: Decider, now: Now, effects: &mut Vec<Effect>) -> Reply {
        let hold = match self.pending(id) {
            Ok(request) if request.extended >= EXTENSIONS => return Reply::NoMore,
            Ok(request) => request.hold,
            Err(reply) => return *reply,
        };
        let Some(open) = self.open.get_mut(&hold) else { return Reply::Unknown };
        let Some(request) = &mut open.request else { return Reply::Unknown };
        let changed = Arc::make_mut(request);
        let (earlier_ns, more) = (open.deadline_ns, changed.ask.deadline);
        open.deadline_ns = earlier_ns.saturating_add(u64::try_from(more.as_nanos()).unwrap_or(u64::MAX));
        changed.deadline_ms = changed.deadline_ms.saturating_add(u64::try_from(more.as_millis()).unwrap_or(u64::MAX));
        changed.extended += 1;
        let record = Record::Extended { hold, id, by, deadline_ms: changed.deadline_ms, deadline_ns: open.deadline_ns };
        effects.push(Effect::Append { ticket: None, record });
        effects.push(Effect::Notify { request: request.clone(), change: Change::Extended });
        self.deadlines.remove(&(earlier_ns, hold));
        self.deadlines.insert((open.deadline_ns, hold));
        self.remind(hold, now.boot_ns, now);
        Reply::Done
    }

    /// Reminders that are due.
    pub(super) fn remind_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(&(at_ns, hold)) = self.reminders.first() {
            if at_ns > now.boot_ns {
                return;
            }
            self.reminders.pop_first();
            let Some(open) = self.open.get_mut(&hold) else { continue };
            let Some((_, which)) = open.reminder.take() else { continue };
            let Some(request) = open.request.clone() else { continue };
            // The next one, at its part of the same time.
            if let Some(next) = REMINDERS.get(which + 1) {
                let left = u64::from(100 - REMINDERS[which]).max(1);
                let step = open.deadline_ns.saturating_sub(at_ns) / left * u64::from(next - REMINDERS[which]);
                open.reminder = Some((at_ns.saturating_add(step), which + 1));
                self.reminders.extend(open.reminder.map(|(at_ns, _)| (at_ns, hold)));
            } else {
                self.ask_next(hold, Decider::Deadline, effects);
            }
            let request = self.open.get(&hold).and_then(|open| open.request.clone()).unwrap_or(request);
            effects.push(Effect::Notify { request, change: Change::Reminder(REMINDERS[which]) });
        }
    }
}

/// The votes of before that count by the rule as it is now: one that wants signatures may not have wanted them then.
pub(super) fn still_counting(mut votes: Vec<Vote>, ask: &Ask) -> Vec<Vote> {
    votes.retain(|vote| !ask.second_factor || vote.by.is_signed());
    votes
}

/// The shortest grant that everybody gave. Who approved once gave none, and then there is none.
fn shortest(votes: &[Vote], last: Option<GrantLength>) -> Option<GrantLength> {
    votes.iter().map(|vote| vote.grant).fold(last, |shortest, grant| Some(shortest?.min(grant?)))
}

/// Whether two deciders are one person, by their name: a reviewer's is unique over all channels.
fn is_same_person(one: &Decider, other: &Decider) -> bool {
    matches!((one, other), (Decider::Reviewer { name, .. }, Decider::Reviewer { name: same, .. }) if name == same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Evidence, SignedStatement, samples};

    #[test]
    fn an_unsigned_vote_is_none_once_the_rule_wants_signatures() {
        let vote = |name: &str, signed: Option<SignedStatement>| Vote {
            grant: None,
            by: Decider::Reviewer {
                name: name.to_owned(),
                channel: "cli".to_owned(),
                account: "1".to_owned(),
                evidence: Some(Box::new(Evidence { signed, ..Evidence::default() })),
            },
            groups: BTreeSet::new(),
            reason: None,
            at_ms: 1,
        };
        let statement = SignedStatement { statement: "text".to_owned(), signature: "signature".to_owned() };
        let votes = vec![vote("first", None), vote("second", Some(statement.clone()))];
        let mut ask = samples::request(1).ask;
        assert_eq!(still_counting(votes.clone(), &ask), votes);
        ask.second_factor = true;
        assert_eq!(still_counting(votes, &ask), [vote("second", Some(statement))]);
    }
}
