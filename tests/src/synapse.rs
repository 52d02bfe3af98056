//! A real Matrix server (Synapse) on the loopback interface, and people who use it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::wait::wait_within;

/// The Python in whose environment Synapse is installed; `cargo xtask` sets it.
const PYTHON: &str = "GATEKEEPER_SYNAPSE_PYTHON";
/// Where `cargo xtask` puts it, below the workspace.
const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/xtask");
/// The port of the one server of this process.
static PORT: OnceLock<u16> = OnceLock::new();
/// Under emulation its thousands of modules take a while.
const START: Duration = Duration::from_secs(240);
/// Longest wait for something that takes several answers.
const CHAT: Duration = Duration::from_secs(120);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(60);
/// Keeps connections, as clients do.
static AGENT: LazyLock<ureq::Agent> =
    LazyLock::new(|| ureq::Agent::config_builder().timeout_global(Some(ANSWER)).build().into());

/// The server. It ends when it is dropped.
#[derive(Debug)]
pub struct Synapse {
    directory: TempDir,
    child: Option<Child>,
}

impl Synapse {
    /// Makes a server with an empty database and starts it.
    ///
    /// # Panics
    /// If it does not start, with what it wrote.
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("gatekeeper-synapse-").tempdir_in("/run");
        let directory = directory.or_else(|_| tempfile::tempdir()).expect("a directory can be made");
        let path = directory.path().display();
        let port = Self::address().port();
        // (A signing key, which only other servers would ask for.)
        let key = format!("ed25519 a_test {}\n", "A".repeat(43));
        fs::write(directory.path().join("signing.key"), key).expect("a file can be written");
        let config = format!(
            r#"
server_name: "localhost"
report_stats: false
signing_key_path: "{path}/signing.key"
media_store_path: "{path}/media"
pid_file: "{path}/pid"
macaroon_secret_key: "test"
form_secret: "test"
enable_registration: true
enable_registration_without_verification: true
suppress_key_server_warning: true
trusted_key_servers: []
presence: {{ enabled: false }}
bcrypt_rounds: 4
database: {{ name: sqlite3, args: {{ database: "{path}/homeserver.db" }} }}
listeners:
  - {{ port: {port}, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{{ names: [client], compress: false }}] }}
rc_message: {{ per_second: 1000, burst_count: 1000 }}
rc_registration: {{ per_second: 1000, burst_count: 1000 }}
rc_login: {{ address: {{ per_second: 1000, burst_count: 1000 }}, account: {{ per_second: 1000, burst_count: 1000 }} }}
"#
        );
        fs::write(directory.path().join("homeserver.yaml"), config).expect("a file can be written");
        let mut synapse = Self { directory, child: None };
        synapse.resume();
        synapse
    }

    /// A server that somebody else has started, with this port on loopback.
    ///
    /// # Panics
    /// If another one was used before.
    pub fn at(port: u16) -> Self {
        assert_eq!(*PORT.get_or_init(|| port), port, "a process uses one server");
        Self { directory: tempfile::tempdir().expect("a directory can be made"), child: None }
    }

    /// Where it is: a port that was free when it was first asked for.
    ///
    /// # Panics
    /// If loopback cannot be used.
    pub fn address() -> SocketAddr {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = PORT.get_or_init(|| free().expect("a free port on loopback").port());
        SocketAddr::from((Ipv4Addr::LOCALHOST, *port))
    }

    /// The same as a URL.
    pub fn url() -> String {
        format!("http://{}", Self::address())
    }

    /// What it wrote.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.directory.path().join("messages")).unwrap_or_default()
    }

    /// Starts it again, with what it had.
    ///
    /// # Panics
    /// If it does not start.
    pub fn resume(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let python = std::env::var_os(PYTHON).map(PathBuf::from).or_else(installed);
        let python = python.unwrap_or_else(|| panic!("there is no Synapse; `cargo xtask test` installs it"));
        let messages = File::create(self.directory.path().join("messages")).expect("a file can be made");
        let errors = messages.try_clone().expect("a descriptor can be duplicated");
        let config = self.directory.path().join("homeserver.yaml");
        let child = Command::new(python)
            .args(["-m", "synapse.app.homeserver", "--config-path"])
            .arg(&config)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(messages)
            .stderr(errors)
            .spawn();
        let mut child = child.expect("the Python of Synapse can be run");
        let answers = wait_within(START, || {
            if child.try_wait().expect("it is a child of ours").is_some() {
                return Some(false);
            }
            ureq::get(format!("{}/_matrix/client/versions", Self::url())).call().is_ok().then_some(true)
        });
        self.child = Some(child);
        assert_eq!(answers, Some(true), "Synapse does not start\n{}", self.messages());
    }

    /// Ends it; what it has stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is a child of ours");
            child.wait().expect("it is a child of ours");
        }
    }

    /// Makes an account.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn user(&self, name: &str) -> User {
        let content = json!({ "username": name, "password": "test", "auth": { "type": "m.login.dummy" } });
        let answer = call("POST", "register", None, Some(&content)).unwrap_or_else(|err| panic!("no account: {err}"));
        let text = |field: &str| answer[field].as_str().expect("the server gives it").to_owned();
        User { id: text("user_id"), token: text("access_token") }
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Somebody with an account.
#[derive(Clone, Debug)]
pub struct User {
    /// `@name:localhost`.
    pub id: String,
    /// What they log in with.
    pub token: String,
}

impl User {
    fn call(&self, method: &str, path: &str, content: Option<&Value>) -> Value {
        call(method, path, Some(&self.token), content).unwrap_or_else(|err| panic!("{method} {path}: {err}"))
    }

    /// Makes a room that only these people can come into, and has them come.
    ///
    /// # Panics
    /// If the server refuses, as with everything here.
    pub fn room(&self, others: &[&User]) -> String {
        let invite: Vec<_> = others.iter().map(|user| user.id.as_str()).collect();
        let levels = json!({ "events_default": 0, "events": { "m.reaction": 0 } });
        let content = json!({ "preset": "private_chat", "invite": invite, "power_level_content_override": levels });
        let room =
            self.call("POST", "createRoom", Some(&content))["room_id"].as_str().expect("it has an id").to_owned();
        for user in others {
            user.call("POST", &format!("join/{room}"), Some(&json!({})));
        }
        room
    }

    fn send(&self, room: &str, kind: &str, content: &Value) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = format!("rooms/{room}/send/{kind}/test{}-{number}", std::process::id());
        self.call("PUT", &path, Some(content))["event_id"].as_str().expect("it has an id").to_owned()
    }

    /// Reacts to a message.
    pub fn react(&self, room: &str, message: &str, key: &str) -> String {
        let relation = json!({ "rel_type": "m.annotation", "event_id": message, "key": key });
        self.send(room, "m.reaction", &json!({ "m.relates_to": relation }))
    }

    /// Takes a reaction or a message back.
    pub fn redact(&self, room: &str, event: &str) {
        self.call(
            "PUT",
            &format!("rooms/{room}/redact/{event}/redact-{}", event.trim_start_matches('$')),
            Some(&json!({})),
        );
    }

    /// Says something.
    pub fn say(&self, room: &str, text: &str) -> String {
        self.send(room, "m.room.message", &json!({ "msgtype": "m.text", "body": text }))
    }

    /// Leaves a room.
    pub fn leave(&self, room: &str) {
        self.call("POST", &format!("rooms/{room}/leave"), Some(&json!({})));
    }

    /// Makes the access token worthless.
    pub fn log_out(&self) {
        self.call("POST", "logout", Some(&json!({})));
    }

    /// The latest events of a room, oldest first.
    pub fn events(&self, room: &str) -> Vec<Value> {
        let mut answer = self.call("GET", &format!("rooms/{room}/messages?dir=b&limit=500"), None);
        let mut events = answer["chunk"].as_array_mut().map(std::mem::take).unwrap_or_default();
        events.reverse();
        events
    }

    /// All events of a room, oldest first.
    pub fn all_events(&self, room: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = String::new();
        loop {
            let mut answer = self.call("GET", &format!("rooms/{room}/messages?dir=f&limit=1000{from}"), None);
            events.extend(answer["chunk"].as_array_mut().map(std::mem::take).unwrap_or_default());
            match answer["end"].as_str() {
                Some(end) => from = format!("&from={end}"),
                None => return events,
            }
        }
    }

    /// The cards of a request: messages of the bot's that are no edit and no note.
    pub fn cards(&self, room: &str, request: &str) -> Vec<Value> {
        let is_card = |event: &Value| {
            event["content"]["org.gatekeeper.request"] == request
                && event["content"]["m.relates_to"]["rel_type"] != "m.replace"
        };
        self.events(room).into_iter().filter(is_card).collect()
    }

    /// Waits for the card of a request and gives its event id.
    pub fn wait_for_card(&self, room: &str, request: &str) -> String {
        let card = patiently(&format!("there is a card for {request}"), || self.cards(room, request).pop());
        card["event_id"].as_str().expect("an event has an id").to_owned()
    }

    /// Waits until the card of a request shows a text, edits counted in.
    pub fn wait_for_text(&self, room: &str, request: &str, text: &str) {
        patiently(&format!("the card of {request} shows {text:?}"), || {
            let shown = |event: &Value| {
                let content = &event["content"];
                let content = if content["m.new_content"].is_object() { &content["m.new_content"] } else { content };
                content["org.gatekeeper.request"] == request
                    && content["body"].as_str().is_some_and(|body| body.contains(text))
            };
            self.events(room).iter().any(shown).then_some(())
        });
    }

    /// Waits until the bot has said a text in a thread. The message that this is the thread of.
    pub fn wait_for_note(&self, room: &str, text: &str) -> String {
        patiently(&format!("there is a note {text:?}"), || {
            let said = |event: &Value| {
                let relation = &event["content"]["m.relates_to"];
                let is_said = event["content"]["body"].as_str().is_some_and(|body| body.contains(text));
                let thread = relation["event_id"].as_str().filter(|_| relation["rel_type"] == "m.thread" && is_said);
                thread.map(str::to_owned)
            };
            self.events(room).iter().find_map(said)
        })
    }

    /// Waits until a message, which is no edit itself, shows a text, edits counted in. Its event id, and the text.
    pub fn wait_for_message(&self, room: &str, text: &str) -> (String, String) {
        patiently(&format!("a message shows {text:?}"), || {
            let mut shown: Vec<(String, String)> = Vec::new();
            for event in self.events(room) {
                let (content, relation) = (&event["content"], &event["content"]["m.relates_to"]);
                let said = |content: &Value| content["body"].as_str().unwrap_or_default().to_owned();
                if relation["rel_type"] == "m.replace" {
                    let original = shown.iter_mut().find(|(id, _)| relation["event_id"] == id.as_str());
                    original.into_iter().for_each(|(_, body)| *body = said(&content["m.new_content"]));
                } else if let Some(id) = event["event_id"].as_str() {
                    shown.push((id.to_owned(), said(content)));
                }
            }
            shown.into_iter().find(|(_, body)| body.contains(text))
        })
    }

    /// Puts the token into a file that only its owner can read.
    pub fn token_file(&self, directory: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = directory.join(format!("token-{}", self.id.trim_start_matches('@').replace(':', "-")));
        fs::write(&path, format!("{}\n", self.token)).expect("a file can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
        path
    }
}

/// The Python of what `cargo xtask test` has installed.
fn installed() -> Option<PathBuf> {
    let places = fs::read_dir(PLACE).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<_> = places.filter(|path| path.join("complete").is_file()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("synapse-")));
    found.pop().map(|path| path.join("bin/python3"))
}

/// Waits for something that takes several answers of the server.
fn patiently<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(CHAT, condition).unwrap_or_else(|| panic!("waited {} s in vain until {what}", CHAT.as_secs()))
}

fn call(method: &str, path: &str, token: Option<&str>, content: Option<&Value>) -> Result<Value, ureq::Error> {
    let url = format!("{}/_matrix/client/v3/{path}", Synapse::url());
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = content.map(Value::to_string);
    let mut answer = match body {
        Some(body) => AGENT.run(request.header("content-type", "application/json").body(body)?)?,
        None => AGENT.run(request.body(())?)?,
    };
    answer.body_mut().read_json()
}
