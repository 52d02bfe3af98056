//! The command line against sockets of every kind, good and bad: exit status and the one message that each gives.
//!
//! Needs no root, no daemon and no kernel support, only the built binary.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests panic: that is how they fail")]

#[path = "signing/mod.rs"]
mod signing;

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, net::UnixStream, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value, json};

/// The binary under test: `GATEKEEPER_BIN`, or the one that was built beside this test.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GATEKEEPER_BIN") {
        return path.into();
    }
    // target/PROFILE/deps/cli-HASH
    let beside = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("gatekeeper");
    assert!(beside.exists(), "{} is missing: run `cargo build -p gatekeeper`, or set GATEKEEPER_BIN", beside.display());
    beside
}

fn gatekeeper<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("GATEKEEPER_SOCKET").stdin(Stdio::null());
    command
}

/// What a run said, in full, for the messages of failed assertions.
fn report(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs, and asserts the exit status and the whole of stderr.
#[track_caller]
fn fails(command: &mut Command, code: i32, stderr: &str) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", report(&output));
    let expected = format!("gatekeeper: {stderr}\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{command:?}: {}", report(&output));
}

/// Runs a wrong command line, and asserts status 2, one message, and its first paragraph without line ends.
#[track_caller]
fn is_misused<S: AsRef<OsStr> + std::fmt::Debug>(arguments: &[S], message: &str) {
    let output = gatekeeper(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", report(&output));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let paragraph = stderr.split("\n\n").next().unwrap();
    let line = paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    assert_eq!(line.trim_end(), format!("error: {message}"), "{arguments:?}: {}", report(&output));
    assert_eq!(stderr.matches("error:").count(), 1, "{arguments:?}: {}", report(&output));
    assert!(output.stdout.is_empty(), "{arguments:?}: {}", report(&output));
}

/// Something that listens, and answers each connection's first line with the same bytes.
struct Server {
    directory: tempfile::TempDir,
}

impl Server {
    fn new(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &answer);
            }
        });
        Self { directory }
    }

    fn replying(reply: Value) -> Self {
        Self::new(frame(&json!({ "version": 1, "reply": reply })))
    }

    fn failing(code: &str, message: &str, hint: Option<&str>) -> Self {
        let error = json!({ "code": code, "message": message, "hint": hint });
        Self::new(frame(&json!({ "version": 1, "error": error })))
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = gatekeeper(arguments);
        command.env("GATEKEEPER_SOCKET", self.path());
        command
    }
}

fn serve(stream: UnixStream, answer: &[u8]) {
    let mut call = String::new();
    let mut reader = BufReader::new(&stream);
    // A caller that hangs up early has what it wanted.
    if reader.read_line(&mut call).is_ok() {
        let _ = (&stream).write_all(answer);
    }
}

fn frame(value: &Value) -> Vec<u8> {
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// A request to remove a file, in this state.
fn request(state: &str) -> Value {
    json!({
        "id": "AB12-CD34",
        "hold": 1,
        "task": {
            "pid": 10, "tid": 11, "parent": 9, "start_ns": 5, "cgroup": 7, "comm": "rm", "real_uid": 0,
            "login_uid": null, "session": null
        },
        "action": {
            "kind": "unlink", "agent": "builder", "uid": 0, "gid": 0,
            "target": {
                "file": { "path": "/etc/\\x1bkeys", "new_path": null, "argument": null, "detail": 0, "other": null }
            },
            "object": null, "foreign_mount": false, "digest": "00112233445566778899aabbccddeeff"
        },
        "context": {
            "exe": "/bin/rm", "args": ["rm", "keys"], "cwd": "/etc", "env": [], "ancestry": [], "cgroup": null,
            "unit": null, "container": null, "terminal": null, "user": "root", "login_user": null, "sha256": null,
            "interpreter": null, "script": null, "intent": null, "labels": {}, "gaps": []
        },
        "ask": {
            "rule": "keys", "deadline": 60000, "danger_allow_on_timeout": false, "risk": "high", "reason": null,
            "quorum": "2 of ops", "escalation": ["leads"], "danger_self_review": false,
            "comment": "typed_deny", "second_factor": false
        },
        "held_at_ms": 0, "deadline_ms": 60000, "state": state, "decision": null, "votes": [], "escalated": 0,
        "extended": 1
    })
}

fn request_reply(state: &str) -> Value {
    json!({ "request": request(state) })
}

// ---- wrong command lines

#[test]
fn no_command_shows_the_help_and_fails() {
    let output = gatekeeper::<&str>(&[]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", report(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: gatekeeper"), "{}", report(&output));
    let help = gatekeeper(&["--help"]).output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("\n  125  run: gatekeeper failed"), "{}", report(&help));
}

#[test]
fn unknown_words_are_named() {
    is_misused(&["levitate"], "unrecognized subcommand 'levitate'");
    is_misused(&["status", "--colour"], "unexpected argument '--colour' found");
    is_misused(&["status", "now"], "unexpected argument 'now' found");
    is_misused(&["pending", "--wat"], "unexpected argument '--wat' found");
    is_misused(&["detach", "--force"], "unexpected argument '--force' found");
    is_misused(&["status", "--socket"], "a value is required for '--socket <PATH>' but none was supplied");
}

#[test]
fn ids_that_are_none_are_named() {
    let expected = "expected 8 letters and digits such as AB12-CD34, see `gatekeeper pending`";
    for command in ["show", "approve", "escalate", "extend", "stop"] {
        is_misused(&[command], "the following required arguments were not provided: <ID>");
        for id in ["hello!", "AB12", "AB12-CD345", "AB12-CDU4", ""] {
            let message = format!("invalid value '{id}' for '<ID>': {id:?} is no request id: {expected}");
            is_misused(&[command, id], &message);
        }
    }
}

#[test]
fn a_denial_needs_a_reason_that_says_something() {
    let empty = "invalid value ' ' for '--reason <TEXT>': a reason cannot be empty";
    is_misused(&["deny", "AB12-CD34", "--reason", " "], empty);
    is_misused(&["approve", "AB12-CD34", "--reason", " "], empty);
    is_misused(&["stop", "AB12-CD34", "--reason", " "], empty);
    // Whether one has to be given is for the rule to say.
    for command in ["deny", "stop"] {
        let server =
            Server::failing("incomplete", "a denial needs a reason", Some("`gatekeeper deny ID --reason WHY`"));
        let message = "a denial needs a reason; `gatekeeper deny ID --reason WHY`";
        fails(&mut server.run(&[command, "AB12-CD34"]), 10, message);
    }
    let long = "x".repeat(4097);
    let message = format!("invalid value '{long}' for '--reason <TEXT>': a reason cannot be longer than 4096 bytes");
    is_misused(&["deny", "AB12-CD34", "--reason", &long], &message);
}

#[test]
fn run_is_told_who_and_what() {
    is_misused(&["run", "--", "true"], "the following required arguments were not provided: --agent <NAME>");
    is_misused(&["run", "--agent", "a"], "the following required arguments were not provided: <COMMAND>...");
    is_misused(&["run", "--agent", "a", "true"], "unexpected argument 'true' found");
    let name = "consists of letters, digits, '_', '-' and '.', and does not start with '.'";
    is_misused(
        &["run", "--agent", "../x", "--", "true"],
        &format!("invalid value '../x' for '--agent <NAME>': an agent's name {name}"),
    );
    let label = |label: &str, problem: &str| {
        let message = format!("invalid value '{label}' for '--label <NAME=VALUE>': {problem}");
        is_misused(&["run", "--agent", "a", "--label", label, "--", "true"], &message);
    };
    label("ticket", "expected NAME=VALUE");
    label("=x", "a label's name cannot be empty");
    label("a b=x", &format!("a label's name {name}"));
    label(&format!("a={}", "x".repeat(1025)), "a label's value cannot be longer than 1024 bytes");
    label(&format!("{}=x", "a".repeat(65)), "a label's name cannot be longer than 64 bytes");
    let intent = "x".repeat(1025);
    is_misused(
        &["run", "--agent", "a", "--intent", &intent, "--", "true"],
        &format!("invalid value '{intent}' for '--intent <TEXT>': an intent cannot be longer than 1024 bytes"),
    );
    let twice = &["run", "--agent", "a", "--label", "k=1", "--label", "k=2", "--", "true"];
    fails(&mut gatekeeper(twice), 2, "the label k is given twice; give it once");
}

#[test]
fn review_is_for_terminals() {
    let message = "review needs a terminal; use `gatekeeper pending`, `show`, `approve` and `deny` without one";
    fails(&mut gatekeeper(&["review"]), 2, message);
    let message = "review has no JSON; use `gatekeeper pending --watch --json`";
    fails(&mut gatekeeper(&["review", "--json"]), 2, message);
}

// ---- sockets that do not answer

/// Every subcommand that only needs a daemon.
const CALLS: &[&[&str]] = &[
    &["status"],
    &["pending"],
    &["pending", "--watch"],
    &["show", "AB12-CD34"],
    &["approve", "ab12cd34"],
    &["approve", "ab12cd34", "--key", "/no/such/key"],
    &["deny", "AB12-CD34", "--reason", "no"],
    &["stop", "AB12-CD34", "--reason", "no"],
    &["escalate", "AB12-CD34"],
    &["extend", "AB12-CD34"],
    &["reload"],
    &["detach"],
];

#[track_caller]
fn all_fail(socket: &Path, code: i32, stderr: &str) {
    for call in CALLS {
        fails(gatekeeper(call).arg("--socket").arg(socket), code, stderr);
    }
}

const START: &str = "start it with `gatekeeper daemon`, or name its socket with --socket";

#[test]
fn a_missing_socket_says_how_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let shown = path.display();
    all_fail(&path, 5, &format!("no daemon answers: there is no socket {shown}; {START}"));
    let inside = directory.path().join("none/socket");
    let message = format!("no daemon answers: there is no socket {}; {START}", inside.display());
    fails(gatekeeper(&["status"]).env("GATEKEEPER_SOCKET", &inside), 5, &message);
}

#[test]
fn a_file_or_a_directory_is_no_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    all_fail(&path, 5, &format!("{} is no socket; name the daemon's socket with --socket", path.display()));
    let path = directory.path();
    all_fail(path, 5, &format!("{} is no socket; name the daemon's socket with --socket", path.display()));
}

#[test]
fn a_socket_that_a_daemon_left_behind_says_how_to_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stale");
    drop(UnixListener::bind(&path).unwrap());
    all_fail(&path, 5, &format!("no daemon answers: nothing listens on {}; {START}", path.display()));
}

#[test]
fn a_path_longer_than_a_socket_name_is_refused() {
    let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
    let shown = path.display();
    let message =
        format!("the path {shown} is longer than a socket's name may be; name the daemon's socket with --socket");
    all_fail(&path, 5, &message);
}

// ---- sockets that answer wrongly

#[test]
fn garbage_is_no_daemon() {
    let problems: [(&[u8], &str); 5] = [
        (b"hello\n", "not a frame of the control protocol: expected value at line 1 column 1"),
        (b"\n", "not a frame of the control protocol: EOF while parsing a value at line 1 column 0"),
        (b"{}\n", "not a frame of the control protocol: missing field `version` at line 1 column 2"),
        (
            b"{\"version\":1,\"reply\":\"levitated\"}\n",
            "not a frame of the control protocol: unknown variant `levitated`, expected one of `status`, `request`, `why`, \
             `grants`, `revoked`, `end`, `current`, `enrolled`, `reloaded`, `detached` at line 1 column 32",
        ),
        (b"{\"version\":1}\n", "a frame of the control protocol without an answer in it"),
    ];
    for (answer, problem) in problems {
        let server = Server::new(answer);
        let shown = server.path().display().to_string();
        let message = format!(
            "what answers on {shown} is no gatekeeper daemon; name the daemon's socket with --socket: {problem}"
        );
        for call in CALLS {
            fails(&mut server.run(call), 5, &message);
        }
    }
}

#[test]
fn an_endless_answer_is_cut_off() {
    let server = Server::new(vec![b'x'; 5 << 20]);
    let shown = server.path().display().to_string();
    let message = format!(
        "what answers on {shown} is no gatekeeper daemon; name the daemon's socket with --socket: a frame of the control \
         protocol longer than 4194304 bytes"
    );
    fails(&mut server.run(&["status"]), 5, &message);
}

#[test]
fn another_version_is_told_apart_from_garbage() {
    let server = Server::new("{\"version\":7,\"all\":\"different\"}\n");
    let message = format!(
        "the daemon behind {} speaks version 7 of the control protocol, this gatekeeper version 1; restart the daemon, or \
         use the gatekeeper that it was started from",
        server.path().display()
    );
    for call in CALLS {
        fails(&mut server.run(call), 5, &message);
    }
}

#[test]
fn a_daemon_that_hangs_up_is_told() {
    for answer in ["", "{\"version\":1,"] {
        let server = Server::new(answer);
        let message = format!(
            "the daemon behind {} closed the connection before it answered; see its log, and `gatekeeper status`",
            server.path().display()
        );
        for call in CALLS {
            fails(&mut server.run(call), 5, &message);
        }
    }
}

#[test]
fn an_answer_to_another_call_is_refused() {
    let server = Server::replying(json!({ "detached": { "programs": 1, "maps": 1, "denied": 0 } }));
    let message =
        format!("the daemon behind {} answered something that was not asked; restart it", server.path().display());
    for call in CALLS.iter().filter(|call| call[0] != "detach") {
        fails(&mut server.run(call), 5, &message);
    }
}

// ---- daemons that say no

#[test]
fn each_refusal_has_its_status() {
    let codes = [
        ("version_mismatch", 5),
        ("bad_frame", 1),
        ("too_large", 1),
        ("not_permitted", 6),
        ("inside_agent", 6),
        ("busy", 5),
        ("too_slow", 5),
        ("no_such_request", 7),
        ("already_decided", 8),
        ("no_more", 1),
        ("incomplete", 10),
        ("no_such_agent", 1),
        ("invalid", 2),
        ("holds_open", 1),
        ("configuration", 4),
        ("cannot_enforce", 3),
        ("log", 9),
        ("internal", 1),
    ];
    for (code, exit) in codes {
        let server = Server::failing(code, "it cannot be", Some("do this"));
        for call in CALLS {
            fails(&mut server.run(call), exit, "it cannot be; do this");
        }
        fails(&mut server.run(&["run", "--agent", "a", "--", "true"]), 125, "it cannot be; do this");
    }
}

#[test]
fn a_message_cannot_play_with_the_terminal() {
    let server = Server::failing("internal", "a\x1b[2Jb\nc\u{202e}\\x07", None);
    fails(&mut server.run(&["status"]), 1, "a\\x1b[2Jb\\nc\\u{202e}\\x07");
}

#[test]
fn a_request_that_ended_otherwise_is_not_called_approved() {
    for (state, shown) in [("withdrawn", "withdrawn"), ("timed_out", "timed out"), ("denied", "denied")] {
        let server = Server::replying(request_reply(state));
        let message = format!("request AB12-CD34 was not approved: it is {shown}");
        fails(&mut server.run(&["approve", "AB12-CD34"]), 8, &message);
    }
    let server = Server::replying(request_reply("released"));
    let message = "request AB12-CD34 was not denied: it is released";
    fails(&mut server.run(&["deny", "AB12-CD34", "--reason", "no"]), 8, message);
    fails(&mut server.run(&["stop", "AB12-CD34", "--reason", "no"]), 8, message);
    fails(&mut server.run(&["extend", "AB12-CD34"]), 8, "request AB12-CD34 was not extended: it is released");
    fails(&mut server.run(&["escalate", "AB12-CD34"]), 8, "request AB12-CD34 was not escalated: it is released");
}

#[test]
fn an_id_that_the_daemon_does_not_mean_is_garbage() {
    let mut reply = request_reply("pending");
    reply["request"]["id"] = json!("no id");
    let server = Server::replying(reply);
    let output = server.run(&["show", "AB12-CD34"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", report(&output));
}

// ---- run

#[test]
fn run_without_a_daemon_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, witness) = (directory.path().join("none"), directory.path().join("witness"));
    let mut command = gatekeeper(&["run", "--agent", "a", "--", "touch"]);
    command.arg(&witness).env("GATEKEEPER_SOCKET", &socket);
    fails(&mut command, 125, &format!("no daemon answers: there is no socket {}; {START}", socket.display()));
    assert!(!witness.exists());
}

#[test]
fn run_does_not_believe_a_daemon_that_enrols_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let witness = directory.path().join("witness");
    let server = Server::replying(json!({ "enrolled": { "agent": "a", "cgroup": "/no/such\n" } }));
    let message = format!(
        "the daemon enrolled this process in the cgroup /no/such\\n, but it is in {}; run it where the daemon sees the \
         same cgroups",
        own_cgroup()
    );
    let mut command = server.run(&["run", "--agent", "a", "--", "touch"]);
    fails(command.arg(&witness), 125, &message);
    assert!(!witness.exists());
}

fn own_cgroup() -> String {
    let file = fs::read_to_string("/proc/self/cgroup").unwrap();
    file.lines().find_map(|line| line.strip_prefix("0::")).expect("a kernel with cgroup version 2").to_owned()
}

/// A daemon that says that the caller is an agent already.
fn enrolling() -> Server {
    Server::replying(json!({ "enrolled": { "agent": "a", "cgroup": own_cgroup() } }))
}

#[test]
fn run_becomes_the_command() {
    let server = enrolling();
    let mut command = server.run(&["run", "--agent", "a", "--label", "k=v", "--", "sh", "-c", "echo $$; exit 42"]);
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", report(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{pid}\n"));
    let output = server.run(&["run", "--agent", "a", "--", "sh", "-c", "kill -TERM $$"]).output().unwrap();
    assert_eq!(output.status.signal(), Some(15), "{}", report(&output));
}

#[test]
fn run_tells_what_cannot_be_executed() {
    let server = enrolling();
    let missing =
        "cannot find no-such-command, or the interpreter that it names: No such file or directory (os error 2)";
    let mut command = server.run(&["run", "--agent", "a", "--", "no-such-command"]);
    // A directory that this user cannot search would make it "not permitted".
    fails(command.env("PATH", "/usr/bin:/bin"), 127, missing);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.to_str().unwrap();
    let forbidden = format!(
        "cannot execute {path}: it was denied by a rule or a reviewer, or is not executable: Permission denied (os error 13)"
    );
    fails(&mut server.run(&["run", "--agent", "a", "--", path]), 126, &forbidden);
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let missing =
        format!("cannot find {path}, or the interpreter that it names: No such file or directory (os error 2)");
    fails(&mut server.run(&["run", "--agent", "a", "--", path]), 127, &missing);
}

// ---- what goes well

#[track_caller]
fn says(command: &mut Command, stdout: &str) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{command:?}: {}", report(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{command:?}: {}", report(&output));
    assert!(output.stderr.is_empty(), "{command:?}: {}", report(&output));
}

#[test]
fn decisions_are_told_with_what_they_are_about() {
    let server = Server::replying(request_reply("released"));
    says(&mut server.run(&["approve", "AB12-CD34"]), "approved AB12-CD34, it went on: unlink \"/etc/\\x1bkeys\"\n");
    let server = Server::replying(request_reply("denied"));
    let expected = "denied AB12-CD34, it failed: unlink \"/etc/\\x1bkeys\"\n";
    says(&mut server.run(&["deny", "AB12-CD34", "--reason", "no"]), expected);
    let expected = "denied AB12-CD34, it failed and its agent was stopped: unlink \"/etc/\\x1bkeys\"\n";
    says(&mut server.run(&["stop", "AB12-CD34", "--reason", "no"]), expected);
    let server = Server::replying(request_reply("pending"));
    let expected = "escalated AB12-CD34, now 2 of ops can approve: unlink \"/etc/\\x1bkeys\"\n";
    says(&mut server.run(&["escalate", "AB12-CD34"]), expected);
    let expected = "extended AB12-CD34, it waits until 1970-01-01T00:01:00Z: unlink \"/etc/\\x1bkeys\"\n";
    says(&mut server.run(&["extend", "AB12-CD34"]), expected);
    let server = Server::replying(request_reply("denied"));
    let json = format!("{}\n", request("denied"));
    let output = server.run(&["deny", "AB12-CD34", "--reason", "no", "--json"]).output().unwrap();
    let written: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(&json).unwrap());
}

#[test]
fn lists_are_one_line_each() {
    let mut answer = frame(&json!({ "version": 1, "reply": request_reply("pending") }));
    answer.extend(answer.clone());
    answer.extend(frame(&json!({ "version": 1, "reply": "end" })));
    let server = Server::new(answer);
    let output = server.run(&["pending", "--json"]).output().unwrap();
    let lines: Vec<Value> =
        output.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines, [request("pending"), request("pending")]);
    let output = server.run(&["pending"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3, "{}", report(&output));
    says(&mut Server::replying(json!("end")).run(&["pending"]), "nothing waits\n");
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let mut answer = frame(&json!({ "version": 1, "reply": request_reply("pending") }));
    answer.extend(frame(&json!({ "version": 1, "reply": "end" })));
    let server = Server::new(answer);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = server.run(&["pending"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", report(&output));
    assert!(output.stderr.is_empty(), "{}", report(&output));
}

#[test]
fn a_watch_ends_with_the_daemon() {
    let mut answer = frame(&json!({ "version": 1, "reply": request_reply("pending") }));
    answer.extend(frame(&json!({ "version": 1, "reply": "current" })));
    answer.extend(frame(&json!({ "version": 1, "reply": request_reply("withdrawn") })));
    let stopping = json!({ "code": "stopping", "message": "the daemon is stopping", "hint": null });
    answer.extend(frame(&json!({ "version": 1, "error": stopping })));
    let server = Server::new(answer);
    let output = server.run(&["pending", "--watch"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", report(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let states: Vec<_> = shown.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(states, ["pending", "withdrawn"], "{}", report(&output));
}

#[test]
fn grants_and_revocations_are_one_line_each() {
    let grant = json!({
        "id": "AB12-CD34", "rule": "tools", "agent": "builder", "run": "/gatekeeper/builder/run-1",
        "action": "exec /bin/true", "length": "10m", "given_at_ms": 1, "left_ms": 65_000, "by": ["first", "lead"], "used": 2
    });
    let listed = "AB12-CD34  10m, 1m 5s left  used 2 times  by first and lead  builder in /gatekeeper/builder/run-1  tools  \
                  exec /bin/true\n";
    says(&mut Server::replying(json!({ "grants": [grant] })).run(&["grants"]), listed);
    says(&mut Server::replying(json!({ "grants": [] })).run(&["grants"]), "no grants are in force\n");
    let output = Server::replying(json!({ "grants": [grant] })).run(&["--json", "grants"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), grant, "{}", report(&output));
    let revoke = ["revoke", "ab12cd34", "--reason", "enough"];
    says(&mut Server::replying(json!({ "revoked": grant })).run(&revoke), "revoked AB12-CD34: exec /bin/true\n");
    is_misused(&["revoke", "AB12-CD34"], "the following required arguments were not provided: --reason <TEXT>");
    let word = "invalid value 'ever' for '--for <LENGTH>': \"ever\" is no length of a grant: write a time such as 10m or 1h, \
                or run";
    is_misused(&["approve", "AB12-CD34", "--for", "ever"], word);
}

#[test]
fn an_agent_reads_its_runs_file_where_the_socket_is_closed_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let notice = json!({
        "outcome": "denied", "request": "AB12-CD34", "rule": "tools", "action": "exec /bin/true", "reason": "no\u{1b}",
        "at_ms": 0
    });
    let line = "AB12-CD34  denied: no\\x1b  1970-01-01T00:00:00Z  rule tools  exec /bin/true\n";
    says(&mut Server::replying(json!({ "why": [notice] })).run(&["why"]), line);
    let file = directory.path().join("reasons.jsonl");
    fs::write(&file, format!("{notice}\n")).unwrap();
    let missing = directory.path().join("socket");
    let without = |arguments: &[&str]| {
        let mut command = gatekeeper(arguments);
        command.env("GATEKEEPER_SOCKET", &missing).env("GATEKEEPER_REASONS", &file);
        command
    };
    says(&mut without(&["why"]), line);
    says(&mut without(&["why", "AAAA-AAAA"]), "nothing was denied, and nothing waits\n");
    // A daemon that answers is believed, whatever the file says.
    let refusing = Server::failing("no_such_request", "there is no request", None);
    let mut command = refusing.run(&["why", "AB12-CD34"]);
    fails(command.env("GATEKEEPER_REASONS", &file), 7, "there is no request");
    fs::remove_file(&file).unwrap();
    let output = without(&["why"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", report(&output));
}

#[test]
fn run_gives_the_command_the_path_of_its_file() {
    let enrolled =
        json!({ "enrolled": { "agent": "builder", "cgroup": own_cgroup(), "reasons": "/run/gatekeeper/reasons/x" } });
    let show = ["run", "--agent", "builder", "--", "sh", "-c", "echo \"$GATEKEEPER_REASONS\""];
    says(&mut Server::replying(enrolled).run(&show), "/run/gatekeeper/reasons/x\n");
    // What an outer run was given is not passed on.
    says(enrolling().run(&show).env("GATEKEEPER_REASONS", "/outer"), "\n");
}
