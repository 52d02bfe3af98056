//! What people want done about a request, from chat and from the command line: one judgement of it, and one way to the
//! broker.
//!
//! Whether an account's word comes from where it should (the card's own message, a member in good standing) is for
//! `channels`, who may call at all for the control socket. Here is whether the person may decide, and whether the rule is
//! content with how they do it.

use std::sync::Arc;

use super::{
    core::{Daemon, DecideReply, Waiter},
    judge,
};
use crate::{
    broker::Input,
    channel::{Evidence, Verb, card},
    control::{
        Peer,
        protocol::{CallError, ErrorCode},
    },
    provenance::Record,
    request::{Ask, Decider, Decision, Effect, Request, RequestId, SignedStatement, State},
    reviewer::{
        CLI, KEY, Refusal, Reviewer,
        signature::{BadSignature, Signed, verify},
        statement::{BadStatement, Place},
    },
};

/// What a denied action fails with.
pub(super) const DENIED: Effect = Effect::Deny { errno: 1 };
/// Stands for the number of a channel where the nonces of statements are remembered: one that was used on any way in is
/// used.
const STATEMENTS: usize = usize::MAX;

/// Somebody wants something done about a request.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) request: RequestId,
    pub(super) verb: Verb,
    /// What a denial fails with.
    pub(super) denial: Effect,
    /// Why, in their words.
    pub(super) reason: Option<String>,
    /// Whether it was done by words, and not by a tap.
    pub(super) typed: bool,
    /// Name of the channel.
    pub(super) channel: String,
    /// By which of their accounts reviewers are known there.
    pub(super) kind: &'static str,
    /// Whose account it is; for local commands the user id.
    pub(super) account: String,
    /// What proves it.
    pub(super) evidence: Option<Evidence>,
}

/// Why an act does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Uncounted {
    /// There is no such request.
    #[error("there is no request {0}, or it ended long ago")]
    NoSuchRequest(RequestId),
    /// The person may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The rule wants a reason.
    #[error("{} needs a reason", decision_name(*.0))]
    Reason(Verb),
    /// The rule wants a signature.
    #[error("rule {rule:?} wants approvals signed by the reviewer's own key")]
    Signature {
        /// The rule.
        rule: String,
    },
    /// The request does not look any more as it did.
    #[error("the card of {0} has changed since; look at it again")]
    Changed(RequestId),
    /// The signed statement is none, or says something else.
    #[error(transparent)]
    BadSignature(#[from] BadSignature),
    /// A signed statement is about something else.
    #[error("the signed statement is for another {0}")]
    Elsewhere(&'static str),
    /// It was used before.
    #[error("the signed statement was used before: sign anew")]
    Used,
    /// Too long.
    #[error("a reason has at most {} bytes", super::calls::REASON_BYTES)]
    TooLong,
}

/// How a decision is called.
fn decision_name(verb: Verb) -> &'static str {
    if verb.is_approval() { "an approval" } else { "a denial" }
}

/// Whether a decision comes with what its rule wants: the one place that says so.
fn has_what_is_wanted(ask: &Ask, verb: Verb, reason: Option<&str>, typed: bool, signed: bool) -> Result<(), Uncounted> {
    let Some(effect) = verb.effect(DENIED) else { return Ok(()) };
    if ask.second_factor && effect == Effect::Allow && !signed {
        return Err(Uncounted::Signature { rule: ask.rule.clone() });
    }
    let has_reason = reason.is_some_and(|reason| !reason.trim().is_empty());
    if ask.comment.is_wanted(effect, typed) && !has_reason {
        return Err(Uncounted::Reason(verb));
    }
    Ok(())
}

/// Whether a signed statement says what is to be done, here and about what is shown. Who signed it is what comes back.
fn signer(signed: &SignedStatement, wish: &Wish, place: &Place, card: &str, now_ms: u64) -> Result<Signed, Uncounted> {
    let SignedStatement { statement, signature } = signed;
    let verified = verify(statement.as_bytes(), signature)?;
    let said = &verified.statement;
    said.check_time(now_ms).map_err(|bad: BadStatement| BadSignature::from(bad))?;
    let others = [
        (said.request == wish.request, "request"),
        (said.place.host == place.host, "host"),
        (said.place.boot == place.boot, "boot of this host"),
        (said.verb == wish.verb.word(), "act"),
        (said.reason == wish.reason.as_deref().unwrap_or_default(), "reason"),
    ];
    if let Some((_, what)) = others.into_iter().find(|(same, _)| !same) {
        return Err(Uncounted::Elsewhere(what));
    }
    if said.card != card {
        return Err(Uncounted::Changed(wish.request));
    }
    Ok(verified)
}

impl Uncounted {
    /// For somebody on a channel, in one line with the way out.
    pub(super) fn for_channel(&self, id: RequestId, host: &str) -> String {
        match self {
            Self::Reason(verb) => format!("{self}: {} {id} WHY", verb.word()),
            Self::Signature { .. } => {
                format!("{self}: on {}, `gatekeeper approve {id} --key FILE`", card::safe(host))
            }
            Self::NoSuchRequest(id) => super::calls::no_such_request(*id).message,
            other => other.to_string(),
        }
    }

    /// For who called through the control socket.
    fn for_call(self, id: RequestId, user: &str) -> CallError {
        let text = self.to_string();
        match self {
            Self::NoSuchRequest(id) => super::calls::no_such_request(id),
            Self::Refused(_) => CallError::new(ErrorCode::NotPermitted, format!("{user} may not decide {id}: {text}")),
            Self::Reason(verb) => CallError::new(ErrorCode::Incomplete, text)
                .with_hint(format!("`gatekeeper {} {id} --reason WHY`", verb.word())),
            Self::Signature { .. } => CallError::new(ErrorCode::Incomplete, text)
                .with_hint(format!("`gatekeeper approve {id} --key FILE`, with the private key's file")),
            Self::Changed(_) | Self::BadSignature(_) | Self::Elsewhere(_) | Self::Used | Self::TooLong => {
                CallError::new(ErrorCode::Invalid, text)
            }
        }
    }
}

impl Daemon {
    /// A call wants something done about a request.
    pub(super) fn call_act(
        &mut self,
        peer: &Peer,
        (request, verb, denial): (RequestId, Verb, Effect),
        reason: Option<String>,
        signed: Option<SignedStatement>,
        reply: DecideReply,
    ) {
        let event = format!("process {}", peer.pid);
        let evidence =
            signed.map(|signed| Evidence { event: event.clone(), signed: Some(signed), ..Evidence::default() });
        let (channel, account) = (CLI.to_owned(), peer.uid.to_string());
        let wish = Wish { request, verb, denial, reason, typed: true, channel, kind: CLI, account, evidence };
        match self.judge(wish, Some(peer)) {
            Ok(judged) => self.carry_out(judged, Waiter::Call { id: request, verb, reply }),
            Err(uncounted) => {
                let (wish, uncounted) = *uncounted;
                self.record_uncounted(&wish, event, &uncounted.to_string());
                // The caller may be gone.
                let _ = reply.send(Err(uncounted.for_call(request, &peer.user)));
            }
        }
    }

    /// Whether an act counts: whose it is, about which request, and with all that the rule wants.
    pub(super) fn judge(&mut self, mut wish: Wish, peer: Option<&Peer>) -> Result<Judged, Box<(Wish, Uncounted)>> {
        match self.reviewer_of(&mut wish, peer) {
            Ok((reviewer, request)) => Ok(Judged { wish, reviewer, request }),
            Err(uncounted) => Err(Box::new((wish, uncounted))),
        }
    }

    fn reviewer_of(&mut self, wish: &mut Wish, peer: Option<&Peer>) -> Result<(Reviewer, Arc<Request>), Uncounted> {
        let request = self.broker.request(wish.request).cloned().ok_or(Uncounted::NoSuchRequest(wish.request))?;
        if wish.reason.as_ref().is_some_and(|reason| reason.len() > super::calls::REASON_BYTES) {
            return Err(Uncounted::TooLong);
        }
        let signed = match wish.evidence.as_ref().and_then(|evidence| evidence.signed.as_ref()) {
            Some(signed) => {
                let card = self.channels.card_digest(&request);
                Some(signer(signed, wish, &self.place(), &card, self.now().wall_ms)?)
            }
            None => None,
        };
        let reviewer = match (&signed, peer) {
            // Whoever carries it here: it is the word of who signed it.
            (Some(signed), _) => self.may_decide(KEY, &signed.fingerprint, &request)?,
            // Where no reviewers are declared, whoever may use the socket does.
            (None, Some(peer)) if self.config.reviewers.is_empty() => {
                Reviewer { name: peer.user.clone(), ..Reviewer::default() }
            }
            (None, _) => self.may_decide(wish.kind, &wish.account, &request)?,
        };
        // What is over is told to be over, whatever is missing.
        if request.state == State::Pending {
            has_what_is_wanted(&request.ask, wish.verb, wish.reason.as_deref(), wish.typed, signed.is_some())?;
        }
        if let Some(Signed { statement, fingerprint }) = signed {
            let event = format!("{fingerprint} {}", statement.nonce);
            if !self.channels.is_new(STATEMENTS, &event) {
                return Err(Uncounted::Used);
            }
            if let Some(evidence) = &mut wish.evidence {
                evidence.event = event;
                evidence.card = Some(statement.card);
            }
        }
        Ok((reviewer, request))
    }

    /// Hands an act that counts to the broker. Its answer goes to `waiter`.
    pub(super) fn carry_out(&mut self, judged: Judged, waiter: Waiter) {
        let Judged { wish, reviewer, request } = judged;
        let Wish { request: id, verb, denial, reason, channel, account, evidence, .. } = wish;
        let Reviewer { name, groups, .. } = reviewer;
        let by = Decider::Reviewer { name, channel, account, evidence: evidence.map(Box::new) };
        let reply_to = self.wait_for_reply(waiter);
        let Some(effect) = verb.effect(denial) else {
            return match verb {
                Verb::Extend => self.step(Input::Extend { reply_to, id, by }),
                _ => self.step(Input::Escalate { reply_to, id, by }),
            };
        };
        if verb == Verb::DenyAndStop
            && request.state == State::Pending
            && let Some(cgroup) = judge::cgroup_of(request.task.pid)
        {
            self.channels.stops.insert(id, cgroup);
        }
        let grant = if let Verb::ApproveFor(length) = verb { Some(length) } else { None };
        let decision = Decision { effect, by, reason, grant, at_ms: self.now().wall_ms };
        self.step(Input::Decide { reply_to, id, decision, groups });
    }

    /// Has the log remember an act that does not count.
    pub(super) fn record_uncounted(&mut self, wish: &Wish, event: String, reason: &str) {
        let Wish { request, verb, channel, account, .. } = wish;
        tracing::warn!(channel, account, %request, "an act does not count: {reason}");
        self.record(&Record::ActRefused {
            request: *request,
            channel: channel.clone(),
            account: account.clone(),
            verb: verb.word().to_owned(),
            event,
            reason: reason.to_owned(),
        });
    }

    /// Where this daemon decides, as signed statements have to name it.
    pub(super) fn place(&self) -> Place {
        Place::new(&self.channels.host, self.log.boot_id())
    }

    /// Who decides with an account, if they may.
    fn may_decide(&self, kind: &str, account: &str, request: &Request) -> Result<Reviewer, Refusal> {
        let cgroup = judge::cgroup_of(request.task.pid).unwrap_or_default();
        let origin = self.agents.origin(&request.action.agent, &cgroup, &self.config);
        self.config.reviewers.may_decide(kind, account, request, &origin).cloned()
    }
}

/// An act that counts.
pub(super) struct Judged {
    wish: Wish,
    reviewer: Reviewer,
    request: Arc<Request>,
}

impl Judged {
    /// What it is about.
    pub(super) fn request(&self) -> &Request {
        &self.request
    }
}

#[cfg(test)]
mod tests;
