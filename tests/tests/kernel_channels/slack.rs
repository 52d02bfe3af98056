//! A conversation in Slack, which cannot be had here: a strict fake of it, in a process of its own.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

use gatekeeper_tests::{Daemon, program, wait::PATIENCE, wait_until};
use serde_json::{Value, json};

use crate::stage::{self, Tool, id, records};

/// The fake, and what it says.
pub(crate) struct Fake {
    child: Child,
    input: ChildStdin,
    lines: Receiver<Value>,
    api: String,
    tokens: [String; 2],
}

impl Fake {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(program("slack-fake"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fake is built");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut fake = Self { child, input, lines, api: String::new(), tokens: [String::new(), String::new()] };
        let start = fake.wait_for("start");
        let text = |key: &str| start[key].as_str().unwrap().to_owned();
        fake.api = text("api");
        fake.tokens = [text("app_token"), text("bot_token")];
        fake
    }

    fn wait_for(&self, what: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("the fake says no {what}"));
            if line["saw"] == what {
                return line;
            }
        }
    }

    pub(crate) fn command(&mut self, command: &Value) -> Value {
        self.try_command(command).unwrap_or_else(|answer| panic!("{command}: {answer}"))
    }

    /// The answer, or what the fake says instead.
    pub(crate) fn try_command(&mut self, command: &Value) -> Result<Value, Value> {
        writeln!(self.input, "{command}").unwrap();
        let answer = self.wait_for("command");
        if answer["error"].is_null() { Ok(answer["answer"].clone()) } else { Err(answer) }
    }

    /// The card of a request: a message of the bot's that is in no thread.
    pub(crate) fn card(&mut self, request: &str) -> Value {
        wait_until(&format!("Slack shows a card for {request}"), || {
            let messages = self.command(&json!({ "do": "messages" }))["messages"].take();
            let is_card = |message: &&Value| message.to_string().contains(request) && message["thread_ts"].is_null();
            messages.as_array().into_iter().flatten().find(is_card).cloned()
        })
    }

    fn daemon(&self) -> Daemon {
        self.daemon_with("", "")
    }

    /// A daemon with more reviewers, and with these keys in its rule.
    pub(crate) fn daemon_with(&self, reviewers: &str, rule: &str) -> Daemon {
        stage::set();
        let [app, bot] = ["app", "bot"].map(|name| format!("{}/token-{name}", stage::BASE));
        stage::secret(&app, &self.tokens[0]);
        stage::secret(&bot, &self.tokens[1]);
        Daemon::start(&format!(
            r#"
[[agent]]
name = "worker"

[[reviewer]]
name = "first"
slack = "T1/U1"
[[reviewer]]
name = "second"
slack = "T1/U2"
{reviewers}

[[channel]]
name = "chat"
type = "slack"
api = "{api}"
workspace = "T1"
conversation = "C1"
app_token = "{app}"
bot_token = "{bot}"

{rule}
"#,
            api = self.api.trim_end_matches('/'),
            rule = stage::rule(rule),
        ))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // It has ended already, if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_click_lets_the_same_process_go_on() {
    let mut slack = Fake::start();
    let mut daemon = slack.daemon();
    let mut tool = Tool::start(&daemon);
    let request = daemon.request_of(tool.pid());
    let card = slack.card(id(&request));
    // Somebody without an entry, then a guest with one.
    slack.command(&json!({ "do": "user", "id": "U9", "kind": "member" }));
    slack.command(&json!({ "do": "user", "id": "U2", "kind": "guest" }));
    for user in ["U9", "U2"] {
        slack.command(&json!({ "do": "click", "user": user, "action": "approve", "ts": card["ts"] }));
    }
    wait_until("both are on record", || (records(&daemon, "act_refused").len() == 2).then_some(()));
    assert_eq!(daemon.show(id(&request))["state"], "pending");
    slack.command(&json!({ "do": "click", "user": "U1", "action": "approve", "ts": card["ts"] }));
    let ended = daemon.wait_for_state(&request, "released");
    assert_eq!((ended["task"]["pid"].as_u64(), tool.code()), (Some(u64::from(tool.pid())), Some(0)));
    let decision = records(&daemon, "decision").pop().unwrap();
    let by = &decision["decision"]["by"];
    assert_eq!((&by["name"], &by["account"]), (&json!("first"), &json!("T1/U1")), "{decision}");
    let message = format!("C1/{}", card["ts"].as_str().unwrap());
    assert_eq!(by["evidence"]["message"], message.as_str(), "{decision}");
    wait_until("the card shows the end", || {
        slack.card(id(&request)).to_string().contains("approved by first through chat").then_some(())
    });
    daemon.detach();
}

#[test]
fn a_revoked_token_is_told() {
    let mut slack = Fake::start();
    slack.command(&json!({ "do": "revoke", "token": "bot" }));
    let mut daemon = slack.daemon();
    let problem =
        wait_until("the status tells it", || daemon.status()["channels"][0]["problem"].as_str().map(str::to_owned));
    assert!(problem.contains("token_revoked"), "{problem}");
    assert!(!daemon.messages().contains(&slack.tokens[1]), "a token is in the daemon's messages");
    daemon.detach();
}
