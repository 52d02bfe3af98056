//! What a rule wants with a decision, in the words that a card has for it.

use crate::{
    channel::Verb,
    request::{Ask, Comment, Effect, RequestId},
};

/// What decisions about a request need besides a person who may make them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Which of them need a reason.
    pub comment: Comment,
    /// Whether approvals need a signature by the reviewer's own key: then no chat can approve.
    pub signature: bool,
}

impl Needs {
    /// What the rule of a request wants.
    pub fn of(ask: &Ask) -> Self {
        Self { comment: ask.comment, signature: ask.second_factor }
    }

    /// Whether a verb needs a reason even where it is a tap.
    pub fn reason(self, verb: Verb) -> bool {
        effect(verb).is_some_and(|effect| self.comment.is_wanted(effect, false))
    }

    /// Whether a verb needs a reason where it is typed.
    pub fn typed_reason(self, verb: Verb) -> bool {
        effect(verb).is_some_and(|effect| self.comment.is_wanted(effect, true))
    }

    /// Whether a tap alone is enough for a verb.
    pub fn only_a_tap(self, verb: Verb) -> bool {
        !(self.reason(verb) || (self.signature && verb.is_approval()))
    }

    /// What is typed for a verb.
    pub fn word(self, verb: Verb, id: RequestId) -> String {
        let why = if self.typed_reason(verb) { " WHY" } else { "" };
        let length = if let Verb::ApproveFor(length) = verb { format!(" for {length}") } else { String::new() };
        format!("{} {id}{length}{why}", verb.word())
    }

    /// What is typed to decide in a chat.
    pub fn words(self, id: RequestId) -> String {
        let deny = self.word(Verb::Deny, id);
        if self.signature { deny } else { format!("{}, {deny}", self.word(Verb::Approve, id)) }
    }

    /// What is typed on the host to approve, and to deny.
    pub fn commands(self, id: RequestId) -> String {
        let why = |verb| if self.typed_reason(verb) { " --reason WHY" } else { "" };
        let key = if self.signature { " --key FILE" } else { "" };
        let (approve, deny) = (why(Verb::Approve), why(Verb::Deny));
        format!("gatekeeper approve {id}{key}{approve}, or gatekeeper deny {id}{deny}")
    }

    /// What has to be known before one approves, if anything.
    pub(super) fn to_approve(self, id: RequestId) -> Option<String> {
        let reason = self.reason(Verb::Approve);
        match (self.signature, reason) {
            (true, reason) => {
                let reason = if reason { " --reason WHY" } else { "" };
                Some(format!("sign with your own key on the host: gatekeeper approve {id} --key FILE{reason}"))
            }
            (false, true) => Some("give a reason".to_owned()),
            (false, false) => None,
        }
    }

    /// What has to be known before one denies, if anything out of the usual.
    pub(super) fn to_deny(self) -> Option<String> {
        self.reason(Verb::Deny).then(|| "give a reason".to_owned())
    }
}

fn effect(verb: Verb) -> Option<Effect> {
    verb.effect(Effect::Deny { errno: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(comment: Comment, signature: bool) -> (Needs, RequestId) {
        (Needs { comment, signature }, RequestId::new(7, 42))
    }

    #[test]
    fn what_is_typed_names_what_is_needed() {
        for (comment, signature, words, commands) in [
            (Comment::None, false, "approve ID, deny ID", "gatekeeper approve ID, or gatekeeper deny ID"),
            (
                Comment::TypedDeny,
                false,
                "approve ID, deny ID WHY",
                "gatekeeper approve ID, or gatekeeper deny ID --reason WHY",
            ),
            (
                Comment::Approve,
                false,
                "approve ID WHY, deny ID",
                "gatekeeper approve ID --reason WHY, or gatekeeper deny ID",
            ),
            (
                Comment::All,
                true,
                "deny ID WHY",
                "gatekeeper approve ID --key FILE --reason WHY, or gatekeeper deny ID --reason WHY",
            ),
        ] {
            let (needs, id) = needs(comment, signature);
            let shown = |text: String| text.replace(&id.to_string(), "ID");
            assert_eq!((shown(needs.words(id)), shown(needs.commands(id))), (words.to_owned(), commands.to_owned()));
        }
    }

    #[test]
    fn a_tap_is_enough_only_for_what_needs_nothing_more() {
        let taps = |comment, signature| {
            let (needs, _) = needs(comment, signature);
            Verb::ALL.map(|verb| needs.only_a_tap(verb))
        };
        assert_eq!(taps(Comment::TypedDeny, false), [true; 5]);
        assert_eq!(taps(Comment::TypedDeny, true), [false, true, true, true, true]);
        assert_eq!(taps(Comment::Approve, false), [false, true, true, true, true]);
        assert_eq!(taps(Comment::Deny, false), [true, false, false, true, true]);
        assert_eq!(taps(Comment::All, false), [false, false, false, true, true]);
    }
}
