//! A program that receives signed events, and a reviewer who signs decisions.

use std::net::{SocketAddr, TcpListener, TcpStream};

use gatekeeper_tests::{
    Daemon,
    fake_http::{Call, Reply, send},
    ssh_key::SshKey,
    wait_until,
    webhook_fake::WebhookFake,
};
use serde_json::{Value, json};

use crate::stage::{self, Tool, id, now_seconds, records};

fn daemon(fake: &WebhookFake, reviewer: &SshKey, listen: SocketAddr) -> Daemon {
    stage::set();
    let [url, key] = ["url", "key"].map(|name| format!("{}/webhook-{name}", stage::BASE));
    stage::secret(&url, &fake.url());
    // 32 bytes of zeros.
    stage::secret(&key, &format!("whsk_{}=", "A".repeat(43)));
    let daemon = Daemon::start(&format!(
        r#"
[[agent]]
name = "worker"

[[reviewer]]
name = "first"
key = "{fingerprint}"

[[channel]]
name = "hook"
type = "webhook"
url = "{url}"
signing_key = "{key}"
listen = "{listen}"

{rule}
"#,
        fingerprint = reviewer.fingerprint(),
        rule = stage::rule(""),
    ));
    let mut command = daemon.command(&["channels", "key", "hook", "--config"]);
    let output = command.arg(daemon.config_file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fake.trust(String::from_utf8_lossy(&output.stdout).trim());
    daemon
}

/// An approval as it is sent. `told` is what the event said about the request.
fn approval(key: &SshKey, told: &Value, card: &str, nonce: &str) -> Call {
    let [request, host, boot] = ["request", "host", "boot"].map(|name| told[name].as_str().unwrap());
    let at = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    let at = String::from_utf8(at.stdout).unwrap();
    let statement = format!(
        "gatekeeper decision v1\nrequest: {request}\nhost: {host}\nboot: {boot}\ncard: {card}\nverb: approve\nreason: \
         looked at it\nat: {}\nnonce: {nonce}\n",
        at.trim()
    );
    let body = json!({ "signature": key.sign(&statement, "gatekeeper"), "statement": statement }).to_string();
    Call { method: "POST".to_owned(), path: "/v1/decisions".to_owned(), body, ..Call::default() }
}

#[test]
fn a_signed_decision_lets_the_same_process_go_on() {
    let fake = WebhookFake::start(now_seconds());
    let [reviewer, stranger] = [SshKey::generate("ed25519"), SshKey::generate("ed25519")];
    let listen = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let mut daemon = daemon(&fake, &reviewer, listen);
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    let event = |kind: &str| -> Value {
        wait_until(&format!("the program has {kind}"), || {
            let of_request = |event: &Value| event["type"] == kind && event["data"]["request"] == id(&request);
            fake.events().into_iter().map(|event| event.payload).find(of_request)
        })
    };
    let told = event("request.waiting")["data"].clone();
    let digest = told["digest"].as_str().unwrap().to_owned();
    wait_until("the daemon listens", || TcpStream::connect(listen).ok());
    let decide =
        |key: &SshKey, digest: &str, nonce: &str| -> Reply { send(listen, &approval(key, &told, digest, nonce)) };
    // A key that is nobody's, and a card that was not the one.
    assert_eq!(decide(&stranger, &digest, "0123456789abcdef").status, 403);
    assert_eq!(decide(&reviewer, &"0".repeat(64), "0123456789abcdef").status, 409);
    assert_eq!(daemon.show(id(&request))["state"], "pending");
    let reply = decide(&reviewer, &digest, "1123456789abcdef");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let ended = daemon.wait_for_state(&request, "released");
    assert_eq!((ended["task"]["pid"].as_u64(), tool.code()), (Some(u64::from(tool.pid())), Some(0)));
    let record = records(&daemon, "decision").pop().unwrap();
    let by = &record["decision"]["by"];
    let fingerprint = reviewer.fingerprint();
    assert_eq!((&by["name"], &by["account"]), (&"first".into(), &fingerprint.as_str().into()), "{record}");
    // What was signed, and for which card.
    assert_eq!(by["evidence"]["event"], format!("{fingerprint} 1123456789abcdef"), "{record}");
    assert_eq!(by["evidence"]["card"], digest.as_str(), "{record}");
    assert!(event("request.ended")["data"]["status"].to_string().contains("approved by first through hook"));
    assert!(fake.faults().is_empty(), "{:?}", fake.faults());
    daemon.detach();
}
