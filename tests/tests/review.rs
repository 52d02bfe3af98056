//! `gatekeeper review` on a real pseudo-terminal, against a socket that plays the daemon.
//!
//! What the view shows and what keys mean is tested beside its code; here is what needs a terminal: that keys arrive,
//! that a decision goes out, and that the terminal comes back as it was on every way out.
#![expect(clippy::unwrap_used, reason = "tests panic: that is how they fail")]

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};

/// How long anything may take, on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("GATEKEEPER_BIN") {
        return path.into();
    }
    let beside = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("gatekeeper");
    assert!(beside.exists(), "{} is missing: run `cargo build -p gatekeeper`, or set GATEKEEPER_BIN", beside.display());
    beside
}

fn request(state: &str) -> Value {
    json!({ "request": {
        "id": "AB12-CD34",
        "hold": 1,
        "task": {
            "pid": 10, "tid": 11, "parent": 9, "start_ns": 5, "cgroup": 7, "comm": "rm", "real_uid": 0,
            "login_uid": null, "session": null
        },
        "action": {
            "kind": "unlink", "agent": "builder", "uid": 0, "gid": 0,
            "target": { "file": { "path": "/etc/keys", "new_path": null, "argument": null, "detail": 0, "other": null } },
            "object": null, "foreign_mount": false, "digest": "00112233445566778899aabbccddeeff"
        },
        "context": {
            "exe": null, "args": [], "cwd": null, "env": [], "ancestry": [], "cgroup": null, "unit": null,
            "container": null, "terminal": null, "user": "root", "login_user": null, "sha256": null,
            "interpreter": null, "script": null, "intent": null, "labels": {}, "gaps": []
        },
        "ask": {
            "rule": "keys", "deadline": 60000, "danger_allow_on_timeout": false, "risk": "high", "reason": null
        },
        "held_at_ms": 0, "deadline_ms": 60000, "state": state, "decision": null
    } })
}

fn send(mut stream: &UnixStream, reply: &Value) {
    // A view that has ended reads no more.
    let _ = writeln!(stream, "{}", json!({ "version": 1, "reply": reply }));
}

/// Plays the daemon: watchers see one request, decisions are granted and reported.
fn play_daemon(socket: &Path) -> Receiver<Value> {
    let listener = UnixListener::bind(socket).unwrap();
    let (decisions, decided) = mpsc::channel();
    thread::spawn(move || {
        let mut watchers = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let call = serde_json::from_str::<Value>(&line).unwrap()["call"].clone();
            if call == json!("watch") {
                send(&stream, &request("pending"));
                send(&stream, &json!("current"));
                watchers.push(stream);
            } else {
                let state = if call["decide"]["effect"] == json!("allow") { "released" } else { "denied" };
                send(&stream, &request(state));
                let _ = decisions.send(call);
            }
        }
    });
    decided
}

/// The view on a pseudo-terminal of 80 columns and 24 rows.
struct Review {
    child: Child,
    terminal: File,
    /// Kept open, so that the terminal can be looked at after the view has left it.
    far: OwnedFd,
    settings_before: String,
    shown: String,
    decided: Receiver<Value>,
    _directory: tempfile::TempDir,
}

impl Review {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let decided = play_daemon(&socket);
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        tcsetwinsize(&near, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let far: OwnedFd = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into();
        let settings_before = settings(&far);
        let child = Command::new(binary())
            .arg("review")
            .env("GATEKEEPER_SOCKET", &socket)
            .env("TERM", "xterm-256color")
            .stdin(far.try_clone().unwrap())
            .stdout(far.try_clone().unwrap())
            .stderr(far.try_clone().unwrap())
            .spawn()
            .unwrap();
        let terminal = File::from(near);
        let shown = String::new();
        Self { child, terminal, far, settings_before, shown, decided, _directory: directory }
    }

    /// Reads the screen until it has shown this.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let end = Instant::now() + LIMIT;
        while !self.shown.contains(text) {
            assert!(Instant::now() < end, "{text:?} does not show within {LIMIT:?}: {:?}", self.shown);
            self.read(Duration::from_millis(100));
        }
    }

    /// Reads what there is within this time.
    fn read(&mut self, time: Duration) {
        let limit = Timespec { tv_sec: 0, tv_nsec: time.as_nanos().try_into().unwrap() };
        let mut polled = [PollFd::new(&self.terminal, PollFlags::IN)];
        if poll(&mut polled, Some(&limit)).unwrap() > 0 {
            let mut bytes = [0; 4096];
            let length = self.terminal.read(&mut bytes).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&bytes[..length]));
        }
    }

    fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Presses a key until something comes of it: the first presses may fall into the moment in which a request that has
    /// just come up cannot be decided.
    #[track_caller]
    fn press_until<T>(&mut self, keys: &str, mut happened: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + LIMIT;
        loop {
            self.press(keys);
            self.read(Duration::from_millis(100));
            if let Some(found) = happened(self) {
                return found;
            }
            assert!(Instant::now() < end, "{keys:?} does nothing within {LIMIT:?}: {:?}", self.shown);
        }
    }

    /// Waits for the end, and asserts that the terminal is as it was.
    #[track_caller]
    fn ends_well(mut self) {
        let end = Instant::now() + LIMIT;
        let status = loop {
            // What is not read could keep the view from writing.
            self.read(Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "no end within {LIMIT:?}: {:?}", self.shown);
        };
        self.shows("\u{1b}[?1049l");
        assert_eq!(status.code(), Some(0), "{:?}", self.shown);
        for (taken, given_back) in
            [("\u{1b}[?1049h", "\u{1b}[?1049l"), ("\u{1b}[?25l", "\u{1b}[?25h"), ("\u{1b}[?2004h", "\u{1b}[?2004l")]
        {
            let (taken, given_back) = (self.shown.rfind(taken), self.shown.rfind(given_back));
            assert!(taken.is_some() && given_back > taken, "{:?}", self.shown);
        }
        assert_eq!(settings(&self.far), self.settings_before);
    }
}

impl Drop for Review {
    fn drop(&mut self) {
        // Already ended, unless an assertion failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(terminal: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(terminal).unwrap())
}

#[test]
fn a_request_is_seen_and_approved() {
    let mut review = Review::start();
    review.shows("1 request waits");
    review.shows("unlink /etc/keys");
    assert_ne!(settings(&review.far), review.settings_before, "keys arrive one by one");
    let call = review.press_until("a", |review| review.decided.try_recv().ok());
    assert_eq!(call, json!({ "decide": { "id": "AB12-CD34", "effect": "allow", "reason": null } }));
    review.shows("approved AB12-CD34, it went on");
    review.press("q");
    review.ends_well();
}

#[test]
fn a_denial_carries_the_typed_reason() {
    let mut review = Review::start();
    review.shows("unlink /etc/keys");
    review.press_until("d", |review| review.shown.contains("why deny AB12-CD34?").then_some(()));
    // Whatever the repeated key has typed goes first; a paste is text, and its line end no Enter.
    review.press("\u{15}not \u{1b}[200~on\na\u{1b}[201~ Fridays\r");
    let call = review.press_until("", |review| review.decided.try_recv().ok());
    let expected = json!({ "id": "AB12-CD34", "effect": { "deny": { "errno": 1 } }, "reason": "not on a Fridays" });
    assert_eq!(call["decide"], expected);
    review.shows("denied AB12-CD34, it failed");
    review.press("\u{3}");
    review.ends_well();
}

#[test]
fn a_signal_gives_the_terminal_back() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let mut review = Review::start();
        review.shows("unlink /etc/keys");
        kill_process(Pid::from_child(&review.child), signal).unwrap();
        review.ends_well();
    }
}

#[test]
fn a_terminal_that_takes_no_output_cannot_keep_the_view_alive() {
    let mut review = Review::start();
    review.shows("unlink /etc/keys");
    // Nobody reads from here on: each key draws a screen, until the terminal is full and the view waits for it.
    let end = Instant::now() + LIMIT;
    let is_full = |review: &Review| {
        let mut polled = [PollFd::new(&review.far, PollFlags::OUT)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 0
    };
    while !is_full(&review) {
        assert!(Instant::now() < end, "the terminal does not fill up within {LIMIT:?}");
        review.press("?");
    }
    kill_process(Pid::from_child(&review.child), Signal::TERM).unwrap();
    let end = Instant::now() + LIMIT;
    let ended = || {
        let pid = Pid::from_child(&review.child);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        waitid(WaitId::Pid(pid), options).unwrap().is_some()
    };
    while !ended() {
        assert!(Instant::now() < end, "still there after {LIMIT:?}");
        thread::yield_now();
    }
    assert_eq!(settings(&review.far), review.settings_before);
}
