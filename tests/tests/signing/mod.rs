//! `gatekeeper approve --key`: what is shown and signed by the real `ssh-keygen`, against a socket that plays the daemon.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use gatekeeper_tests::{
    ssh_key::{SshKey, accepts},
    wait_until,
};
use serde_json::{Value, json};

use super::{Server, frame, report, request, request_reply};

/// Answers one line after another with these replies, over however many connections, and tells the calls.
fn telling(replies: Vec<Value>) -> (Server, mpsc::Receiver<Value>) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let (sender, calls) = mpsc::channel();
    thread::spawn(move || {
        let mut replies = replies.into_iter();
        for stream in listener.incoming().map_while(Result::ok) {
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                let Some(reply) = replies.next() else { return };
                let _ = sender.send(serde_json::from_str::<Value>(&line).unwrap()["call"].take());
                let _ = (&stream).write_all(&frame(&json!({ "version": 1, "reply": reply })));
            }
        }
    });
    (Server { directory }, calls)
}

fn status() -> Value {
    json!({ "status": {
        "version": "0.1.0", "kernel": "6.12.0", "host": "web-1", "boot_id": "00112233-4455-6677-8899-aabbccddeeff",
        "mode": "enforce", "uptime_ms": 1, "policy": { "digest": "ab", "rules": 1 }, "agents": [], "programs": [],
        "open_holds": 1, "pending": 1, "counters": {}, "ring": { "size_bytes": 1, "lost": 0 },
        "log": { "path": "/log", "healthy": true, "records": 1, "problem": null }, "channels": [], "errors": []
    } })
}

#[test]
fn an_approval_with_a_key_is_shown_signed_and_sent() {
    let key = SshKey::generate("ed25519");
    let replies = vec![status(), request_reply("pending"), request_reply("released")];
    let (server, calls) = telling(replies);
    let mut command = server.run(&["approve", "AB12-CD34", "--reason", "looked at it", "--json", "--key"]);
    let output = command.arg(key.file()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", report(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), request("released"));
    assert_eq!(
        [calls.recv().unwrap(), calls.recv().unwrap()],
        [json!("status"), json!({ "show": { "id": "AB12-CD34" } })]
    );
    let act = calls.recv().unwrap()["act"].take();
    assert_eq!(
        (&act["id"], &act["verb"], &act["reason"]),
        (&json!("AB12-CD34"), &json!("approve"), &json!("looked at it"))
    );
    let text = |name: &str| act["signed"][name].as_str().unwrap().to_owned();
    let (statement, signature) = (text("statement"), text("signature"));
    assert!(accepts(&key.public(), &statement, &signature), "{statement}");
    let lines: Vec<&str> = statement.lines().collect();
    assert_eq!(
        lines[..4],
        ["gatekeeper decision v1", "request: AB12-CD34", "host: web-1", "boot: 00112233-4455-6677-8899-aabbccddeeff",]
    );
    assert_eq!(lines[5..7], ["verb: approve", "reason: looked at it"]);
    // Whoever signs sees what, and what about.
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    for line in
        lines.iter().chain(&["builder on web-1 wants to unlink \"/etc/\\x1bkeys\"", "rule         keys, risk high"])
    {
        assert!(shown.contains(line), "{line}: {}", report(&output));
    }
}

#[test]
fn what_cannot_be_signed_is_told_and_decides_nothing() {
    let key = SshKey::generate("ed25519");
    let signing = |replies: Vec<Value>, reason: &str, file: &Path, code, message: &str| {
        let count = replies.len();
        let (server, calls) = telling(replies);
        let mut command = server.run(&["approve", "AB12-CD34", "--reason", reason, "--key"]);
        let output = command.arg(file).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", report(&output));
        let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        assert_eq!(last, format!("gatekeeper: {message}"), "{}", report(&output));
        assert_eq!(calls.try_iter().count(), count, "nothing more is asked of the daemon");
    };
    let pending = || vec![status(), request_reply("pending")];
    let missing = Path::new("/no/such/key");
    let message = "ssh-keygen did not sign with /no/such/key: it ended with exit status: 255";
    signing(pending(), "fine", missing, 1, message);
    let message = "a reason that is signed is one line of at most 1000 bytes; shorten it";
    signing(pending(), "two\nlines", &key.file(), 2, message);
    let message = "request AB12-CD34 does not wait any more: it is denied";
    signing(vec![status(), request_reply("denied")], "fine", &key.file(), 8, message);
}

/// An SSH agent that ends when this is dropped.
struct Agent(std::process::Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It has ended already, if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_that_only_the_agent_has_signs_by_its_public_half() {
    let key = SshKey::generate("ed25519");
    let directory = tempfile::tempdir().unwrap();
    let (socket, public) = (directory.path().join("agent"), directory.path().join("key.pub"));
    let mut agent = Command::new("ssh-agent");
    let agent = agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
    let _agent = Agent(agent.expect("ssh-agent has to be installed (openssh-client)"));
    wait_until("the agent listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let added = Command::new("ssh-add").arg("-q").arg(key.file()).env("SSH_AUTH_SOCK", &socket).status().unwrap();
    assert!(added.success());
    // Beside it lies no private key.
    fs::write(&public, key.public()).unwrap();
    let (server, calls) = telling(vec![status(), request_reply("pending"), request_reply("released")]);
    let mut command = server.run(&["approve", "AB12-CD34", "--key"]);
    let output = command.arg(&public).env("SSH_AUTH_SOCK", &socket).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", report(&output));
    let act = calls.iter().nth(2).unwrap()["act"].take();
    let text = |name: &str| act["signed"][name].as_str().unwrap();
    assert!(accepts(&key.public(), text("statement"), text("signature")), "{act}");
}
