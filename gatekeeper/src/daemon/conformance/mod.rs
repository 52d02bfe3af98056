//! What every channel promises, tried in the same way on each: one set of cases, and a stage for each channel.
//!
//! The whole daemon runs in this process, its kernel side alone is a stand-in: whether a system call really waits and goes
//! on is for the scenarios. A case that a channel is not tried with is named with the reason, which the reviewers' guide
//! has, too. What only one channel knows (its limits, its errors, its tokens) is tested beside it.

mod cases;
#[path = "../../../../tests/src/client.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
mod client;
mod matrix;
pub(in crate::daemon) mod place;
mod slack;
#[path = "../../../../tests/src/synapse.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
mod synapse;
mod teams;
mod terminal;
#[path = "../../../../tests/src/wait.rs"]
#[allow(dead_code, unreachable_pub, reason = "public for the scenario tests, private here, and used there and here")]
mod wait;
mod webhook;
mod wire;

use std::path::Path;

use self::place::{Place, Waiting};

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Person {
    /// A reviewer.
    First,
    /// Another one.
    Second,
    /// A reviewer whose agent it is.
    Owner,
    /// Nobody has declared them.
    Stranger,
    /// Declared, and a program.
    Bot,
    /// Declared, and a guest, or whatever else does not belong there.
    Guest,
}

impl Person {
    /// Who has an entry in the configuration, with the name.
    const DECLARED: [(Self, &'static str); 5] = [
        (Self::First, "first"),
        (Self::Second, "second"),
        (Self::Owner, "owner"),
        (Self::Bot, "bot"),
        (Self::Guest, "guest"),
    ];
}

/// A card as people see it now.
#[derive(Clone, Debug, Default)]
struct Shown {
    /// Its message, as the record names it, where a channel has messages.
    message: Option<String>,
    /// The card's digest, where it is shown.
    digest: Option<String>,
    /// All its text.
    text: String,
    /// What can be done with one tap.
    verbs: Vec<String>,
}

/// A fault that does nothing would be a case that cannot fail.
const LEFT_OUT: &str = "a channel whose plan tries a fault says how it comes about";

/// A channel, its server, and the people there.
trait Stage: Sized {
    /// The name of the channel in the record.
    const NAME: &'static str = "chat";
    /// What a card says when the first person's approval was applied, and when the process ended first.
    const APPROVED: &'static str = "approved by first through chat after";
    const WITHDRAWN: &'static str = "withdrawn: the process ended first";
    /// Whether what can be tapped stays with a card that has ended, where it is no part of the message.
    const BUTTONS_STAY: bool = false;
    /// How many requests of one run have cards of their own at once; the others stand in a digest.
    const CARDS_AT_ONCE: usize = 5;
    /// Whether a post whose answer is lost is found again, rather than made again.
    const FINDS_POSTS: bool = true;

    /// A server with all its people.
    fn set() -> Self;

    /// The channel's table in the configuration. Secrets go into the directory.
    fn channel(&self, directory: &Path) -> String;

    /// The line that declares somebody's account, if they can have one.
    fn account(&self, person: Person) -> Option<String>;

    /// All cards.
    fn shown(&self, place: &Place) -> Vec<Shown>;

    /// Somebody approves with one tap, or what comes nearest to it.
    fn approve(&self, place: &Place, person: Person, card: &Shown);

    /// The same, and it arrives twice.
    fn approve_twice(&self, place: &Place, person: Person, card: &Shown);

    /// The same, while the connection breaks.
    fn approve_unheard(&self, place: &Place, person: Person, card: &Shown);

    /// What somebody was told in answer to what they did.
    fn told(&self, place: &Place, person: Person) -> String;

    /// What somebody is told who may not decide; none if they are not answered.
    fn refusal(&self, person: Person) -> Option<&'static str> {
        match person {
            Person::First | Person::Second => None,
            Person::Owner => Some("started this agent or owns it"),
            Person::Stranger => Some("belongs to no reviewer"),
            Person::Bot => Some("programs do not decide"),
            Person::Guest => Some("guests do not decide"),
        }
    }

    /// How a text that an agent chose is shown, once it is escaped as everywhere.
    fn as_shown(&self, text: String) -> String {
        text
    }

    /// Somebody approves by a local command, for which nothing is too long.
    fn approve_here(&self, place: &Place, waiting: &Waiting, card: &Shown) {
        let _ = card;
        place.approve_here(waiting);
    }

    /// Puts things right again after somebody was refused.
    fn recover(&self, place: &Place) {
        let _ = place;
    }

    /// The server takes the next post, and its answer is lost.
    fn lose_answer(&self) {
        unreachable!("{LEFT_OUT}");
    }

    /// Connections that are open do nothing any more.
    fn half_open(&self, place: &Place);

    /// The other side's clock is wrong, as far as it may be.
    fn skew(&self) {
        unreachable!("{LEFT_OUT}");
    }

    /// The server takes no more posts for a moment.
    fn limit(&self) {
        unreachable!("{LEFT_OUT}");
    }

    /// The server is away.
    fn away(&self) {
        unreachable!("{LEFT_OUT}");
    }

    /// It is there again.
    fn back(&self) {
        unreachable!("{LEFT_OUT}");
    }

    /// Whether everything came about that was to go wrong, and nothing else was wrong.
    fn check(&self) {}
}

/// All cases, by their names: a channel's plan has a field for each, so one that is left out does not compile.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        /// Of each case why a channel is not tried with it; none if it is.
        struct Plan { $($case: Option<&'static str>),* }

        impl Plan {
            /// What is not tried, and why.
            fn untried(&self) -> Vec<(&'static str, &'static str)> {
                let all = [$((stringify!($case), self.$case)),*];
                all.into_iter().filter_map(|(case, reason)| Some((case, reason?))).collect()
            }
        }
    };
}

cases! {
    idempotent_post, edit_to_final, click_to_verdict, duplicate_click, stale_click, unknown_user, self_approval, bot, guest,
    reconnect_during_a_click, restart_while_pending, a_hundred_at_once, shortened_card, hostile_text, half_open_connection,
    clock_skew, rate_limit, outage,
}

/// The cases of one channel: `tried`, or the reason why not.
macro_rules! channel {
    ($stage:ty { $($case:ident: $plan:tt),* $(,)? }) => {
        $(crate::daemon::conformance::case!($stage, $case, $plan);)*

        pub(super) const PLAN: super::Plan =
            super::Plan { $($case: crate::daemon::conformance::reason!($plan)),* };
    };
}

macro_rules! case {
    ($stage:ty, $case:ident, tried) => {
        #[test]
        fn $case() {
            super::cases::$case::<$stage>();
        }
    };
    ($stage:ty, $case:ident, $reason:literal) => {};
}

macro_rules! reason {
    (tried) => {
        None
    };
    ($reason:literal) => {
        Some($reason)
    };
}

use {case, channel, reason};

#[test]
fn the_guide_says_what_is_not_tried() {
    let plans = [
        ("terminal", terminal::PLAN),
        ("slack", slack::PLAN),
        ("teams", teams::PLAN),
        ("matrix", matrix::PLAN),
        ("webhook", webhook::PLAN),
    ];
    let untried = plans.iter().flat_map(|(channel, plan)| {
        plan.untried()
            .into_iter()
            .map(move |(case, reason)| format!("| {channel} | {} | {reason} |", case.replace('_', " ")))
    });
    let guide = include_str!("../../../../docs/REVIEWERS.md");
    let told = guide.lines().skip_while(|line| *line != "| channel | case | why not |").skip(2);
    let told: Vec<_> = told.take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
    assert_eq!(told, untried.collect::<Vec<_>>(), "docs/REVIEWERS.md has another table");
}
