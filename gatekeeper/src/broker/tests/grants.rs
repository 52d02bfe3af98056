//! What becomes of approvals for longer than once.

use super::*;
use crate::request::GrantLength;

fn length(text: &str) -> GrantLength {
    text.parse().unwrap()
}

/// A rule that offers `10m`, `1h` and `run`.
fn offering(quorum: &str) -> Outcome {
    let Outcome::Ask(ask) = ask_people(60, quorum, &[]) else { unreachable!("it asks") };
    Outcome::Ask(Ask { grants: ["10m", "1h", "run"].map(length).to_vec(), ..ask })
}

fn approves(name: &str, grant: Option<&str>) -> Input {
    let Input::Decide { reply_to, id, decision, groups } = says(1, name, &["ops"], Act::Allow) else {
        unreachable!("it is a decision")
    };
    let decision = Decision { grant: grant.map(length), ..decision };
    Input::Decide { reply_to, id, decision, groups }
}

/// What comes of these approvals, one after another.
fn granted(quorum: &str, approvals: &[(&str, Option<&str>)]) -> Option<GrantLength> {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, offering(quorum)));
    for (name, grant) in approvals {
        trial.step(approves(name, *grant));
    }
    trial.broker.request(id(1)).unwrap().decision.as_ref().expect("it is decided").grant
}

#[test]
fn a_quorum_gives_the_shortest_that_all_gave_and_once_is_shorter_than_any() {
    assert_eq!(granted("ops", &[("first", Some("1h"))]), Some(length("1h")));
    assert_eq!(granted("ops", &[("first", None)]), None);
    for (first, second, both) in [
        (Some("1h"), Some("10m"), Some("10m")),
        (Some("10m"), Some("1h"), Some("10m")),
        (Some("run"), Some("1h"), Some("1h")),
        (Some("run"), Some("run"), Some("run")),
        (None, Some("run"), None),
        (Some("run"), None, None),
    ] {
        assert_eq!(
            granted("2 of ops", &[("first", first), ("second", second)]),
            both.map(length),
            "{first:?} {second:?}"
        );
    }
}

#[test]
fn what_the_rule_does_not_offer_is_refused_with_what_it_offers() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, offering("ops")));
    assert_eq!(trial.step(approves("first", Some("2h"))), ["reply 9 NotOffered([For(600s), For(3600s), Run])"]);
    assert_eq!(trial.broker.request(id(1)).unwrap().state, State::Pending);
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, ask_people(60, "2 of ops", &[])));
    assert_eq!(trial.step(approves("first", Some("10m"))), ["reply 9 NotOffered([])"]);
    assert!(trial.broker.request(id(1)).unwrap().votes.is_empty());
}

#[test]
fn a_denial_grants_nothing() {
    let mut trial = Trial::new();
    trial.held(held(1, 1, 1, offering("ops")));
    let Input::Decide { reply_to, id: of, decision, groups } = approves("first", Some("1h")) else {
        unreachable!("it is a decision")
    };
    let decision = Decision { effect: Act::Deny { errno: 1 }, ..decision };
    trial.step(Input::Decide { reply_to, id: of, decision, groups });
    assert_eq!(trial.broker.request(id(1)).unwrap().decision.as_ref().unwrap().grant, None);
}

#[test]
fn a_grant_allows_in_the_order_of_any_decision() {
    let mut trial = Trial::new();
    let by = Decider::Grant { id: id(7), by: vec!["first".to_owned()] };
    assert_eq!(trial.held(held(1, 1, 1, Outcome::Allow { by })), ["log #1 settled 1 allow"]);
    assert_eq!(trial.logged(1), ["store 1 allow"]);
}

#[test]
fn only_holds_that_nobody_was_asked_about_are_new() {
    let mut trial = Trial::new();
    assert!(trial.broker.is_new(1));
    trial.step(Input::Adopt(vec![restored(1, None)]));
    assert!(!trial.broker.is_new(1), "an earlier daemon asked");
    trial.held(held(2, 2, 2, offering("ops")));
    assert!(!trial.broker.is_new(2));
    trial.step(Input::Gone { hold: 2, why: Gone::TaskEnded });
    assert!(!trial.broker.is_new(2));
}
