//! What a rule wants with a decision, and what a signed statement has to say.

use super::*;
use crate::{
    request::{Comment, samples},
    reviewer::{signature::NAMESPACE, ssh_key::SshKey, statement::Statement},
};

const NOW_MS: u64 = 1_700_000_000_000;

fn ask(comment: Comment, second_factor: bool) -> Ask {
    Ask { comment, second_factor, ..samples::request(1).ask }
}

fn id() -> RequestId {
    samples::request(1).id
}

#[test]
fn a_reason_is_wanted_where_the_rule_says_so() {
    let check = |comment, verb, reason, typed| has_what_is_wanted(&ask(comment, false), verb, reason, typed, false);
    for (comment, verb, typed) in [
        (Comment::TypedDeny, Verb::Deny, true),
        (Comment::TypedDeny, Verb::DenyAndStop, true),
        (Comment::Deny, Verb::Deny, false),
        (Comment::Deny, Verb::DenyAndStop, false),
        (Comment::Approve, Verb::Approve, false),
        (Comment::Approve, Verb::Approve, true),
        (Comment::All, Verb::Approve, false),
        (Comment::All, Verb::Deny, false),
    ] {
        for nothing in [None, Some(""), Some(" \t")] {
            assert_eq!(check(comment, verb, nothing, typed), Err(Uncounted::Reason(verb)), "{comment:?} {verb:?}");
        }
        assert_eq!(check(comment, verb, Some("because"), typed), Ok(()), "{comment:?} {verb:?}");
    }
    for (comment, verb, typed) in [
        (Comment::None, Verb::Deny, true),
        (Comment::TypedDeny, Verb::Deny, false),
        (Comment::TypedDeny, Verb::Approve, true),
        (Comment::Deny, Verb::Approve, true),
        (Comment::Approve, Verb::Deny, true),
        (Comment::All, Verb::Escalate, true),
        (Comment::All, Verb::Extend, false),
    ] {
        assert_eq!(check(comment, verb, None, typed), Ok(()), "{comment:?} {verb:?}");
    }
}

#[test]
fn only_approvals_have_to_be_signed() {
    for typed in [false, true] {
        let check = |verb, signed| has_what_is_wanted(&ask(Comment::None, true), verb, None, typed, signed);
        assert!(matches!(check(Verb::Approve, false), Err(Uncounted::Signature { .. })));
        assert_eq!(check(Verb::Approve, true), Ok(()));
        for verb in [Verb::Deny, Verb::DenyAndStop, Verb::Escalate, Verb::Extend] {
            assert_eq!(check(verb, false), Ok(()), "{verb:?}");
        }
    }
}

#[test]
fn whoever_lacks_something_is_told_how_to_do_it() {
    let reason = Uncounted::Reason(Verb::DenyAndStop);
    assert_eq!(reason.for_channel(id(), "web-1"), format!("a denial needs a reason: stop {} WHY", id()));
    let signature = Uncounted::Signature { rule: "tools".to_owned() };
    let expected = format!(
        "rule \"tools\" wants approvals signed by the reviewer's own key: on web-1, `gatekeeper approve {} --key FILE`",
        id()
    );
    assert_eq!(signature.for_channel(id(), "web-1"), expected);
    let error = reason.for_call(id(), "web-1");
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::Incomplete, "a denial needs a reason"));
    assert_eq!(error.hint, Some(format!("`gatekeeper stop {} --reason WHY`", id())));
    assert_eq!(signature.for_call(id(), "web-1").code, ErrorCode::Incomplete);
    let approval = Uncounted::Reason(Verb::Approve);
    assert_eq!(approval.for_channel(id(), "web-1"), format!("an approval needs a reason: approve {} WHY", id()));
}

fn place() -> Place {
    Place::new("web-1", "00112233-4455-6677-8899-aabbccddeeff")
}

fn statement() -> Statement {
    Statement {
        request: id(),
        place: place(),
        card: "ab".repeat(32),
        verb: "approve".to_owned(),
        reason: "looked at it".to_owned(),
        at_ms: NOW_MS,
        nonce: "0123456789abcdef".to_owned(),
    }
}

fn wish() -> Wish {
    Wish {
        request: id(),
        verb: Verb::Approve,
        denial: DENIED,
        reason: Some("looked at it".to_owned()),
        typed: true,
        channel: CLI.to_owned(),
        kind: CLI,
        account: "0".to_owned(),
        evidence: None,
    }
}

#[test]
fn a_signed_statement_has_to_say_what_is_wanted_here_and_now() {
    let key = SshKey::generate("ed25519");
    let judge = |statement: &Statement, wish: &Wish, now_ms| {
        let text = statement.text();
        let signed = SignedStatement { signature: key.sign(&text, NAMESPACE), statement: text };
        signer(&signed, wish, &place(), &"ab".repeat(32), now_ms)
    };
    let good = judge(&statement(), &wish(), NOW_MS + 60_000).unwrap();
    assert_eq!((good.fingerprint, good.statement), (key.fingerprint(), statement()));

    let elsewhere = |what| Err(Uncounted::Elsewhere(what));
    let other_boot = Place { boot: "ffff".to_owned(), ..place() };
    for (other, expected) in [
        (Statement { request: samples::request(2).id, ..statement() }, elsewhere("request")),
        (Statement { place: Place::new("web-2", &place().boot), ..statement() }, elsewhere("host")),
        (Statement { place: other_boot, ..statement() }, elsewhere("boot of this host")),
        (Statement { verb: "deny".to_owned(), ..statement() }, elsewhere("act")),
        (Statement { reason: "looked away".to_owned(), ..statement() }, elsewhere("reason")),
        (Statement { reason: String::new(), ..statement() }, elsewhere("reason")),
        (Statement { card: "cd".repeat(32), ..statement() }, Err(Uncounted::Changed(id()))),
    ] {
        assert_eq!(judge(&other, &wish(), NOW_MS), expected);
    }
    // What is signed as a denial approves nothing, whatever the call says.
    let denial = Wish { verb: Verb::DenyAndStop, ..wish() };
    assert_eq!(judge(&statement(), &denial, NOW_MS), elsewhere("act"));
    let late = judge(&statement(), &wish(), NOW_MS + 301_000);
    assert!(matches!(late, Err(Uncounted::BadSignature(BadSignature::Statement(BadStatement::Time { .. })))));
    let forged = SignedStatement {
        signature: key.sign(&statement().text(), NAMESPACE),
        statement: Statement { reason: "forged".to_owned(), ..statement() }.text(),
    };
    let judged = signer(&forged, &wish(), &place(), &"ab".repeat(32), NOW_MS);
    assert_eq!(judged, Err(Uncounted::BadSignature(BadSignature::Wrong)));
}
