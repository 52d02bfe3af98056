//! What can be done by local commands, and what rules want with a decision: reasons, and signatures by the reviewer's own
//! key, with the real `ssh-keygen` on both sides.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use gatekeeper_tests::{
    Daemon,
    fake_http::{Call, send},
    ssh_key::{SshKey, accepts},
    wait_until,
    webhook_fake::WebhookFake,
};
use serde_json::{Value, json};

use crate::{
    slack::Fake,
    stage::{self, BASE, Tool, id, records},
};

/// A daemon with these reviewers and these keys in its one rule.
fn daemon(reviewers: &str, rule: &str) -> Daemon {
    stage::set();
    Daemon::start(&format!("[[agent]]\nname = \"worker\"\n{reviewers}\n{}", stage::rule(rule)))
}

/// Somebody with a key and no account on this host.
fn signer(name: &str, key: &SshKey) -> String {
    format!("[[reviewer]]\nname = \"{name}\"\ngroups = [\"ops\"]\nkey = \"{}\"\n", key.fingerprint())
}

/// Who types all commands here. They start the agents, too.
const OPERATOR: &str = "[[reviewer]]\nname = \"operator\"\ngroups = [\"ops\"]\nuser = 0\n";

/// Runs a command: its exit status, and all that it said.
fn run(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = daemon.command(arguments).output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

fn approve_with(daemon: &Daemon, request: &Value, key: &Path) -> (Option<i32>, String) {
    run(daemon, &["approve", id(request), "--key", key.to_str().unwrap(), "--reason", "looked at it"])
}

/// A tool that waits, with all that is known of it: what surrounds it is part of the card that is signed.
fn waiting(daemon: &mut Daemon) -> (Tool, Value) {
    let tool = Tool::start(daemon);
    let request = daemon.request_of(tool.pid());
    let request = wait_until("what surrounds it is known", || {
        Some(daemon.show(id(&request))).filter(|request| !request["context"]["cwd"].is_null())
    });
    (tool, request)
}

#[track_caller]
fn still_waits(daemon: &mut Daemon, tool: &mut Tool, request: &Value) {
    assert_eq!(daemon.show(id(request))["state"], "pending");
    assert_eq!(daemon.open_holds(), 1);
    assert!(tool.0.try_wait().unwrap().is_none(), "the tool goes on");
}

#[test]
fn a_command_stops_the_whole_run() {
    let mut daemon = daemon("", "");
    let mut command = daemon.command(&["run", "--agent", "worker", "--", "sh", "-c"]);
    command.arg(format!("{BASE}/tools/true; sleep 1000"));
    let mut agent = Tool(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let request = wait_until("the tool waits", || daemon.pending().pop());
    let (code, said) = run(&daemon, &["stop", id(&request)]);
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("a denial needs a reason; `gatekeeper stop"), "{said}");
    let (code, said) = run(&daemon, &["stop", id(&request), "--reason", "gone wild", "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let ended: Value = serde_json::from_str(said.trim()).unwrap();
    assert_eq!((&ended["state"], &ended["decision"]["reason"]), (&json!("denied"), &json!("gone wild")));
    assert_eq!(agent.code(), None, "killed by a signal");
    assert_eq!(records(&daemon, "agent_stopped").len(), 1);
    // What does not count is on record, from here as from anywhere.
    let refused = records(&daemon, "act_refused").pop().unwrap();
    assert_eq!((&refused["channel"], &refused["verb"]), (&json!("cli"), &json!("stop")));
    let (code, said) = run(&daemon, &["stop", id(&request), "--reason", "again"]);
    assert_eq!(code, Some(8), "{said}");
    daemon.detach();
}

#[test]
fn commands_escalate_and_extend_as_chat_does() {
    let people = format!("{OPERATOR}[[reviewer]]\nname = \"lead\"\ngroups = [\"ops\", \"leads\"]\nuser = 7\n");
    let more = "[[reviewer]]\nname = \"other\"\ngroups = [\"leads\"]\nuser = 8\n";
    let rule = "reviewers = \"ops\"\nescalate = [\"leads\"]\ndanger_self_review = true";
    let mut daemon = daemon(&format!("{people}{more}"), rule);
    let (mut tool, request) = waiting(&mut daemon);
    let before = request["deadline_ms"].as_u64().unwrap();
    for times in 1..=3 {
        let (code, said) = run(&daemon, &["extend", id(&request)]);
        assert_eq!(code, Some(0), "{said}");
        let now = daemon.show(id(&request));
        let added = times * request["ask"]["deadline"].as_u64().unwrap();
        assert_eq!((now["deadline_ms"].as_u64(), &now["extended"]), (Some(before + added), &json!(times)));
    }
    let (code, said) = run(&daemon, &["extend", id(&request)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was moved as often as it may be"), "{said}");
    let (code, said) = run(&daemon, &["escalate", id(&request)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("now ops or leads can approve"), "{said}");
    let (code, said) = run(&daemon, &["escalate", id(&request)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nobody else to ask"), "{said}");
    assert_eq!((records(&daemon, "extended").len(), records(&daemon, "escalated").len()), (3, 1));
    still_waits(&mut daemon, &mut tool, &request);
    let (code, said) = run(&daemon, &["approve", id(&request)]);
    assert_eq!((code, tool.code()), (Some(0), Some(0)), "{said}");
    for verb in ["extend", "escalate"] {
        let (code, said) = run(&daemon, &[verb, id(&request)]);
        assert_eq!(code, Some(8), "{said}");
    }
    daemon.detach();
}

#[test]
fn whoever_may_not_decide_may_not_stop_extend_or_escalate() {
    let key = SshKey::generate("ed25519");
    let mut daemon = daemon(&format!("{OPERATOR}{}", signer("first", &key)), "");
    let (mut tool, request) = waiting(&mut daemon);
    // The operator started this agent.
    for arguments in
        [&["stop", id(&request), "--reason", "no"][..], &["extend", id(&request)], &["escalate", id(&request)]]
    {
        let (code, said) = run(&daemon, arguments);
        assert_eq!(code, Some(6), "{said}");
        assert!(said.contains("started this agent"), "{said}");
    }
    still_waits(&mut daemon, &mut tool, &request);
    assert_eq!(records(&daemon, "act_refused").len(), 3);
    tool.0.kill().unwrap();
    daemon.wait_for_state(&request, "withdrawn");
    daemon.detach();
}

#[test]
fn a_signed_approval_lets_go_and_the_log_proves_it() {
    let (key, stranger) = (SshKey::generate("ed25519"), SshKey::generate("ed25519"));
    let rule = "second_factor = true\ndanger_self_review = true";
    let mut daemon = daemon(&format!("{OPERATOR}{}", signer("first", &key)), rule);
    let (mut tool, request) = waiting(&mut daemon);
    // Nobody approves without a signature.
    let (code, said) = run(&daemon, &["approve", id(&request), "--reason", "looked at it"]);
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("wants approvals signed") && said.contains("--key FILE"), "{said}");
    still_waits(&mut daemon, &mut tool, &request);
    // Nor with a key that is nobody's, or of a kind that is not taken.
    let (code, said) = approve_with(&daemon, &request, &stranger.file());
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("belongs to no reviewer"), "{said}");
    let (code, said) = approve_with(&daemon, &request, &SshKey::generate("ecdsa").file());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("not by an ed25519 key"), "{said}");
    let (code, said) = approve_with(&daemon, &request, Path::new("/no/such/key"));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ssh-keygen did not sign with /no/such/key"), "{said}");
    still_waits(&mut daemon, &mut tool, &request);

    let (code, said) = approve_with(&daemon, &request, &key.file());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((daemon.show(id(&request))["state"].clone(), tool.code()), (json!("released"), Some(0)));
    assert!(
        said.contains("gatekeeper decision v1\n") && said.contains(&format!("request: {}\n", id(&request))),
        "{said}"
    );

    // It is the word of the key's owner, and anybody with the public key can verify it from the log alone.
    let decision = records(&daemon, "decision").pop().unwrap()["decision"].take();
    let by = &decision["by"];
    assert_eq!((&by["name"], &by["account"], &decision["effect"]), (&json!("first"), &json!("0"), &json!("allow")));
    let signed = &by["evidence"]["signed"];
    let (statement, signature) = (signed["statement"].as_str().unwrap(), signed["signature"].as_str().unwrap());
    assert!(accepts(&key.public(), statement, signature));
    assert!(!accepts(&key.public(), &statement.replace("approve", "deny"), signature));
    assert!(!accepts(&stranger.public(), statement, signature));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for line in [
        format!("request: {}", id(&request)),
        format!("host: {}", host.trim()),
        format!("boot: {}", boot.trim()),
        format!("card: {}", by["evidence"]["card"].as_str().unwrap()),
        "verb: approve".to_owned(),
        "reason: looked at it".to_owned(),
    ] {
        assert!(statement.lines().any(|other| other == line), "{line}: {statement}");
    }

    // What was signed for one request is good for no other.
    let (mut other, next) = waiting(&mut daemon);
    let call = json!({ "act": { "id": next["id"], "verb": "approve", "reason": "looked at it", "signed": signed } });
    let error = daemon.client().try_call(call).unwrap().unwrap_err();
    assert!(error["message"].as_str().unwrap().contains("is for another request"), "{error}");
    still_waits(&mut daemon, &mut other, &next);
    // A denial needs no signature.
    let (code, said) = run(&daemon, &["deny", id(&next), "--reason", "no"]);
    assert_eq!((code, other.code()), (Some(0), Some(126)), "{said}");
    daemon.detach();
}

#[test]
fn signed_votes_outlive_the_daemon() {
    let keys = ["first", "second", "third"].map(|name| (name, SshKey::generate("ed25519")));
    let reviewers: String = keys.iter().map(|(name, key)| signer(name, key)).collect();
    let mut daemon = daemon(&reviewers, "reviewers = \"2 of ops\"\nsecond_factor = true");
    let (mut tool, request) = waiting(&mut daemon);
    let (code, said) = approve_with(&daemon, &request, &keys[0].1.file());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("counts, and more are wanted (2 of ops)"), "{said}");
    // The very same statement says nothing more.
    let signed = records(&daemon, "vote").pop().unwrap()["vote"]["by"]["evidence"]["signed"].take();
    let call = json!({ "act": { "id": request["id"], "verb": "approve", "reason": "looked at it", "signed": signed } });
    let error = daemon.client().try_call(call).unwrap().unwrap_err();
    assert_eq!(error["message"], "the signed statement was used before: sign anew");
    daemon.restart();
    let known = || (daemon.show(id(&request))["votes"].as_array()?.len() == 1).then_some(());
    wait_until("the vote is known again", known);
    // What surrounds the request is gathered anew.
    wait_until("the request is whole", || (!daemon.show(id(&request))["context"]["cwd"].is_null()).then_some(()));
    let (code, said) = approve_with(&daemon, &request, &keys[0].1.file());
    assert_eq!(code, Some(8), "one person twice: {said}");
    still_waits(&mut daemon, &mut tool, &request);
    let (code, said) = approve_with(&daemon, &request, &keys[1].1.file());
    assert_eq!((code, tool.code()), (Some(0), Some(0)), "{said}");
    let vote = records(&daemon, "vote").pop().unwrap()["vote"]["by"]["evidence"]["signed"].take();
    let last = records(&daemon, "decision").pop().unwrap()["decision"]["by"]["evidence"]["signed"].take();
    for (signed, (_, key)) in [vote, last].iter().zip(&keys) {
        let text = |name: &str| signed[name].as_str().unwrap();
        assert!(accepts(&key.public(), text("statement"), text("signature")), "{signed}");
    }
    daemon.detach();
}

#[test]
fn no_click_stands_for_a_signature_or_a_reason() {
    let (key, mut slack) = (SshKey::generate("ed25519"), Fake::start());
    let mut daemon = slack.daemon_with(&signer("third", &key), "second_factor = true\ncomment = \"all\"");
    let (mut tool, request) = waiting(&mut daemon);
    let card = slack.card(id(&request));
    let actions = |card: &Value| card["blocks"].to_string().matches("\"action_id\":\"approve\"").count();
    assert_eq!(actions(&card), 0, "{card}");
    assert!(
        card.to_string().contains(&format!("gatekeeper approve {} --key FILE --reason WHY", id(&request))),
        "{card}"
    );
    slack.command(&json!({ "do": "type", "user": "U1", "text": format!("approve {} seen", id(&request)) }));
    slack.command(&json!({ "do": "type", "user": "U1", "text": format!("deny {}", id(&request)) }));
    wait_until("both are on record", || (records(&daemon, "act_refused").len() == 2).then_some(()));
    let mut reasons: Vec<_> =
        records(&daemon, "act_refused").iter().map(|record| record["reason"].as_str().unwrap().to_owned()).collect();
    reasons.sort();
    assert!(reasons[0].starts_with("a denial needs a reason: deny "), "{reasons:?}");
    assert!(reasons[1].contains("wants approvals signed by the reviewer's own key: on "), "{reasons:?}");
    still_waits(&mut daemon, &mut tool, &request);
    let (code, said) = run(&daemon, &["approve", id(&request), "--key", key.file().to_str().unwrap()]);
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("an approval needs a reason"), "{said}");
    let (code, said) = approve_with(&daemon, &request, &key.file());
    assert_eq!((code, tool.code()), (Some(0), Some(0)), "{said}");
    daemon.detach();
}

#[test]
fn a_click_asks_for_the_reason_that_an_approval_needs() {
    let mut slack = Fake::start();
    let mut daemon = slack.daemon_with("", "comment = \"approve\"");
    let (mut tool, request) = waiting(&mut daemon);
    let card = slack.card(id(&request));
    slack.command(&json!({ "do": "click", "user": "U1", "action": "approve", "ts": card["ts"] }));
    wait_until("the window opens", || {
        slack.try_command(&json!({ "do": "submit", "user": "U1", "reason": "the release is due" })).ok()
    });
    let ended = daemon.wait_for_state(&request, "released");
    assert_eq!((&ended["decision"]["reason"], tool.code()), (&json!("the release is due"), Some(0)));
    daemon.detach();
}

/// The time as statements have it.
fn date(form: &str) -> String {
    let output = Command::new("date").args(["-u", form]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_signed_decision_by_webhook_is_proved_by_the_log_too() {
    let key = SshKey::generate("ed25519");
    stage::set();
    let receiver = WebhookFake::start(date("+%s").parse().unwrap());
    let [url, signing] = ["url", "signing"].map(|name| format!("{BASE}/webhook-{name}"));
    stage::secret(&url, &receiver.url());
    // The key that signs events: any 32 bytes.
    stage::secret(&signing, "whsk_AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=");
    let listen = SocketAddr::from(([127, 0, 0, 1], 8474));
    let channel = format!(
        "[[channel]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"{url}\"\nsigning_key = \"{signing}\"\nlisten = \"{listen}\"\n"
    );
    let rule = stage::rule("second_factor = true");
    let mut daemon = Daemon::start(&format!("[[agent]]\nname = \"worker\"\n{}{channel}{rule}", signer("first", &key)));
    let (code, public) = run(&daemon, &["channels", "key", "hook", "--config", daemon.config_file().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{public}");
    receiver.trust(public.trim());
    let (mut tool, request) = waiting(&mut daemon);
    let event = wait_until("the webhook hears of the request", || {
        receiver
            .events()
            .pop()
            .map(|event| event.payload["data"].clone())
            .filter(|data| data["request"] == request["id"])
    });
    let text = |name: &str| event[name].as_str().unwrap();
    let statement = format!(
        "gatekeeper decision v1\nrequest: {}\nhost: {}\nboot: {}\ncard: {}\nverb: approve\nreason: \nat: {}\n\
         nonce: 00112233445566778899aabbccddeeff\n",
        id(&request),
        text("host"),
        text("boot"),
        text("digest"),
        date("+%Y-%m-%dT%H:%M:%SZ"),
    );
    let decide = |statement: &str| {
        let body = json!({ "statement": statement, "signature": key.sign(statement, "gatekeeper") }).to_string();
        let call = Call { method: "POST".to_owned(), path: "/v1/decisions".to_owned(), body, ..Call::default() };
        send(listen, &call)
    };
    // One for another host approves nothing here.
    let elsewhere = decide(&statement.replace("host: ", "host: x").replace("nonce: 00", "nonce: 11"));
    assert_eq!(elsewhere.status, 409, "{elsewhere:?}");
    assert!(elsewhere.body.contains("is for another host"), "{elsewhere:?}");
    still_waits(&mut daemon, &mut tool, &request);
    let counted = decide(&statement);
    assert_eq!((counted.status, tool.code()), (200, Some(0)), "{counted:?}");
    daemon.wait_for_state(&request, "released");
    let by = records(&daemon, "decision").pop().unwrap()["decision"]["by"].take();
    assert_eq!((&by["name"], &by["channel"]), (&json!("first"), &json!("hook")), "{by}");
    let signed = &by["evidence"]["signed"];
    assert_eq!(signed["statement"], statement.as_str());
    assert!(accepts(&key.public(), &statement, signed["signature"].as_str().unwrap()));
    daemon.detach();
}
