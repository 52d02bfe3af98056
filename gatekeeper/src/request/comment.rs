//! Which decisions need a reason, as a rule says.

use serde::{Deserialize, Serialize};

use super::Effect;

/// Which decisions count only with a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comment {
    /// None.
    None,
    /// Denials that are typed: who has a keyboard at hand can say why. For rules that say nothing about it.
    #[default]
    TypedDeny,
    /// Denials, however they are made.
    Deny,
    /// Approvals, however they are made.
    Approve,
    /// All.
    All,
}

impl Comment {
    /// Whether a decision needs a reason. `typed`: it was made by words, and not by a tap.
    pub fn is_wanted(self, effect: Effect, typed: bool) -> bool {
        match (self, effect) {
            (Self::All, _) | (Self::Approve, Effect::Allow) | (Self::Deny, Effect::Deny { .. }) => true,
            (Self::TypedDeny, Effect::Deny { .. }) => typed,
            (Self::None | Self::TypedDeny | Self::Deny, Effect::Allow)
            | (Self::None | Self::Approve, Effect::Deny { .. }) => false,
        }
    }

    /// What needs a reason by either of two rules.
    pub fn union(self, other: Self) -> Self {
        let approvals = [self, other].iter().any(|comment| comment.is_wanted(Effect::Allow, false));
        let denials = [self, other].iter().any(|comment| comment.is_wanted(Effect::Deny { errno: 1 }, false));
        let typed = [self, other].iter().any(|comment| comment.is_wanted(Effect::Deny { errno: 1 }, true));
        match (approvals, denials, typed) {
            (true, true, _) => Self::All,
            // There is no word for approvals and typed denials: one reason more is no harm.
            (true, false, true) => Self::All,
            (true, false, false) => Self::Approve,
            (false, true, _) => Self::Deny,
            (false, false, true) => Self::TypedDeny,
            (false, false, false) => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Comment; 5] = [Comment::None, Comment::TypedDeny, Comment::Deny, Comment::Approve, Comment::All];
    const DENY: Effect = Effect::Deny { errno: 1 };

    #[test]
    fn each_word_names_the_decisions_that_need_a_reason() {
        // Approvals by a tap and typed, denials by a tap and typed.
        for (comment, expected) in [
            (Comment::None, [false, false, false, false]),
            (Comment::TypedDeny, [false, false, false, true]),
            (Comment::Deny, [false, false, true, true]),
            (Comment::Approve, [true, true, false, false]),
            (Comment::All, [true, true, true, true]),
        ] {
            let wanted = [(Effect::Allow, false), (Effect::Allow, true), (DENY, false), (DENY, true)]
                .map(|(effect, typed)| comment.is_wanted(effect, typed));
            assert_eq!(wanted, expected, "{comment:?}");
        }
    }

    #[test]
    fn a_union_wants_whatever_one_of_both_wants() {
        for (one, other) in ALL.into_iter().flat_map(|one| ALL.map(|other| (one, other))) {
            for (effect, typed) in [(Effect::Allow, false), (Effect::Allow, true), (DENY, false), (DENY, true)] {
                let either = one.is_wanted(effect, typed) || other.is_wanted(effect, typed);
                assert!(!either || one.union(other).is_wanted(effect, typed), "{one:?} {other:?} {effect:?} {typed}");
            }
            assert_eq!(one.union(other), other.union(one));
            assert_eq!(one.union(one), one);
        }
    }
}
