//! The programs that start what an agent runs: none is left stopped, and each sees the right end.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use gatekeeper_tests::{Daemon, daemon::stopped_processes, program, wait_until};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::place::{self, Run, ask};

/// A parent, and what it says about its children, as `rc NUMBER` in lines of their own.
struct Case {
    command: Vec<String>,
    /// Requests that come, one after another.
    holds: usize,
    /// Processes that stop with the held one, itself included: so long no decision is taken.
    stop: usize,
    /// Exit status and `rc` lines when all is approved.
    approved: (i32, &'static str),
    /// The same when all is denied.
    denied: (i32, &'static str),
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Decides what comes until `has_ended` gives something.
fn decide<T>(daemon: &mut Daemon, case: &Case, approve: bool, mut has_ended: impl FnMut() -> Option<T>) -> T {
    let mut decided = 0;
    let end = wait_until("the parent ends", || {
        if let Some(end) = has_ended() {
            return Some(end);
        }
        let request = daemon.pending().into_iter().find(|request| request["state"] == "pending")?;
        place::stopped(case.stop);
        let state = if approve { daemon.approve(&request) } else { daemon.deny(&request) };
        assert_eq!(state["state"], if approve { "released" } else { "denied" });
        decided += 1;
        None
    });
    assert_eq!(decided, case.holds);
    wait_until("nobody is stopped any more", || stopped_processes().is_empty().then_some(()));
    end
}

fn check(status: ExitStatus, written: &str, expected: (i32, &str)) {
    let said: Vec<_> = written.lines().filter_map(|line| line.trim().strip_prefix("rc ")).collect();
    assert_eq!((status.code(), said.join(" ").as_str()), (Some(expected.0), expected.1), "{written}");
}

fn plain(case: &Case) {
    let mut daemon = place::shared();
    for approve in [true, false] {
        let command: Vec<_> = case.command.iter().map(String::as_str).collect();
        let mut run = Run::agent(&daemon, &command);
        decide(&mut daemon, case, approve, || (!run.is_running()).then_some(()));
        let (status, written) = run.finish();
        check(status, &written, if approve { case.approved } else { case.denied });
    }
}

/// A terminal of one's own, with a program in it.
struct Terminal {
    run: std::process::Child,
    keys: File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Runs an agent that has this terminal as its controlling one.
    fn start(daemon: &Daemon, command: &[&str]) -> Self {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let name = ptsname(&main, Vec::new()).unwrap();
        let side = |flags| rustix::fs::open(&*name, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (input, output, errors): (OwnedFd, OwnedFd, OwnedFd) =
            (side(OFlags::RDWR), side(OFlags::RDWR), side(OFlags::RDWR));
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(program("gatekeeper")).args(["run", "--agent", "worker", "--"]).args(command);
        setsid.env("GATEKEEPER_SOCKET", daemon.socket()).env("PS1", "prompt> ").env("TERM", "dumb");
        // A history would be written at the end, which is an act of its own.
        setsid.env("HISTFILE", "");
        setsid.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        let run = setsid.spawn().unwrap();
        let keys = File::from(main);
        let mut screen = keys.try_clone().unwrap();
        let shown = Arc::new(Mutex::new(String::new()));
        let sink = shown.clone();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO when the last process has closed its side.
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { run, keys, shown }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    fn wait_for(&self, text: &str) {
        wait_until(&format!("the terminal shows {text:?}"), || self.shown().contains(text).then_some(()));
    }

    fn enter(&mut self, line: &str) {
        self.shown.lock().unwrap().clear();
        self.keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

fn in_terminal(case: &Case) {
    let mut daemon = place::shared();
    for approve in [true, false] {
        let command: Vec<_> = case.command.iter().map(String::as_str).collect();
        let mut terminal = Terminal::start(&daemon, &command);
        let status = decide(&mut daemon, case, approve, || terminal.run.try_wait().unwrap());
        let expected = if approve { case.approved } else { case.denied };
        let lines = expected.1.split(' ').filter(|word| !word.is_empty()).count();
        wait_until("all is shown", || (terminal.shown().matches("rc ").count() >= lines).then_some(()));
        check(status, &terminal.shown(), expected);
    }
}

#[test]
fn bash_script() {
    let it = ask("true");
    let script = format!("{it}; echo rc $?; ({it}); echo rc $?; {it} | cat; echo rc ${{PIPESTATUS[0]}}");
    plain(&Case {
        command: words(&["bash", "-c", &script]),
        holds: 3,
        stop: 1,
        approved: (0, "0 0 0"),
        denied: (0, "126 126 126"),
    });
}

#[test]
fn timeout_around_a_program() {
    plain(&Case {
        command: words(&["timeout", "1000", &ask("true")]),
        holds: 1,
        stop: 1,
        approved: (0, ""),
        denied: (126, ""),
    });
}

#[test]
fn a_timeout_withdraws() {
    let mut daemon = place::shared();
    let mut run = Run::agent(&daemon, &["timeout", "0.5", &ask("true")]);
    let request = place::only(&mut daemon);
    daemon.wait_for_state(&request, "withdrawn");
    assert_eq!(run.finish().0.code(), Some(124));
}

#[test]
fn python_subprocess() {
    let text = r"
import os, subprocess, sys
program = sys.argv[1]
def attempt(what):
    try: print('rc', what(), flush=True)
    except OSError as error: print('rc', 'errno%d' % error.errno, flush=True)
attempt(lambda: subprocess.run([program]).returncode)
attempt(lambda: subprocess.Popen([program]).wait())
attempt(lambda: subprocess.Popen([program], preexec_fn=lambda: None).wait())
attempt(lambda: os.waitpid(os.posix_spawn(program, [program], {}), 0)[1])
attempt(lambda: subprocess.call(['sh', '-c', program + '; exit $?']))
";
    plain(&Case {
        command: words(&["/usr/bin/python3", "-c", text, &ask("true")]),
        holds: 5,
        stop: 1,
        approved: (0, "0 0 0 0 0"),
        denied: (0, "errno1 errno1 errno1 errno1 126"),
    });
}

#[test]
fn node_child_process() {
    let text = r"
const { spawn, spawnSync, execFile } = require('child_process');
const program = process.argv[1];
const say = (error, code) => console.log('rc', error ? error.code : code);
const sync = spawnSync(program);
say(sync.error, sync.status);
function attempt(start, then) {
  // An EPERM of spawn is thrown, not reported.
  try { start((error, code) => { say(error, code); then(); }); } catch (error) { say(error); then(); }
}
attempt(done => execFile(program, [], error => done(error, 0)), () =>
  attempt(done => { const child = spawn(program); child.on('error', done); child.on('exit', code => done(null, code)); }, () =>
    attempt(done => spawn('sh', ['-c', program + '; exit $?'], { stdio: 'ignore' }).on('exit', code => done(null, code)), () => {})));
";
    plain(&Case {
        command: words(&["node", "-e", text, &ask("true")]),
        holds: 4,
        stop: 1,
        approved: (0, "0 0 0 0"),
        denied: (0, "EPERM EPERM EPERM 126"),
    });
}

#[test]
fn make() {
    let (makefile, it) = (format!("{}/free/Makefile", place::BASE), ask("true"));
    // Made anew by every test's start, so it is written behind it.
    drop(place::shared());
    let text = format!("all: first\n\t@{it}; echo rc $$?\nfirst:\n\t@-{it} && :\n\t@-{it}\n");
    let case = Case {
        command: words(&[
            "sh",
            "-c",
            &format!(
                "printf '%b' '{}' >{makefile}; make -f {makefile}",
                text.replace('\n', "\\n").replace('\t', "\\t")
            ),
        ]),
        holds: 3,
        stop: 1,
        approved: (0, "0"),
        denied: (0, "126"),
    };
    plain(&case);
}

#[test]
fn git_commit_with_a_hook() {
    let repository = format!("{}/free/repository", place::BASE);
    let text = format!(
        "rm -rf {repository}; git init -q {repository}; cd {repository}; git config user.name n; git config user.email n@localhost
         printf '#!/bin/sh\\n{}\\n' >.git/hooks/pre-commit; chmod +x .git/hooks/pre-commit
         git commit -q --allow-empty -m message; echo rc $?; git log --oneline 2>/dev/null | wc -l | sed 's/^/rc /'",
        ask("true")
    );
    plain(&Case { command: words(&["sh", "-c", &text]), holds: 1, stop: 1, approved: (0, "0 1"), denied: (0, "1 0") });
}

/// sudo without a password, with or without a pty of its own.
fn sudoers(use_pty: bool) {
    let path = "/etc/sudoers.d/gatekeeper-robust";
    let negated = if use_pty { "" } else { "!" };
    // (The file must not be writable, and root may write it nevertheless.)
    fs::write(path, format!("root ALL=(ALL:ALL) NOPASSWD: ALL\nDefaults {negated}use_pty\n")).unwrap();
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o440)).unwrap();
    assert!(Path::new("/usr/bin/sudo").exists(), "the test needs sudo");
}

fn sudo_case(stop: usize) -> Case {
    let script = format!("sudo -n {}; echo rc $?", ask("true"));
    Case { command: words(&["bash", "-c", &script]), holds: 1, stop, approved: (0, "0"), denied: (0, "1") }
}

#[test]
fn sudo_without_a_terminal() {
    sudoers(false);
    plain(&sudo_case(2));
}

#[test]
fn sudo_in_a_terminal() {
    sudoers(false);
    in_terminal(&sudo_case(2));
}

#[test]
fn sudo_with_a_pty_of_its_own() {
    sudoers(true);
    // It stops its whole group: the shell, too.
    in_terminal(&sudo_case(3));
}

#[test]
fn sudo_that_stops_a_sibling() {
    sudoers(true);
    // `cat` is in sudo's group, and no ancestor of what waits.
    let script = format!("(sudo -n {}; :) | cat; echo rc end", ask("true"));
    in_terminal(&Case {
        command: words(&["bash", "-c", &script]),
        holds: 1,
        stop: 5,
        // What sudo says when its output is a pipe that was stopped, too, is its own affair.
        approved: (0, "end"),
        denied: (0, "end"),
    });
}

#[test]
fn sudo_whose_program_is_killed_while_it_waits() {
    sudoers(true);
    let mut daemon = place::shared();
    let mut terminal = Terminal::start(&daemon, &["bash", "-c", &format!("sudo -n {}; echo rc $?", ask("true"))]);
    let request = place::only(&mut daemon);
    place::stopped(3);
    let pid = i32::try_from(request["task"]["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    daemon.wait_for_state(&request, "withdrawn");
    wait_until("the shell ends", || terminal.run.try_wait().unwrap());
    terminal.wait_for("rc ");
}

#[test]
fn bash_with_job_control() {
    let mut daemon = place::shared();
    let it = ask("true");
    let mut terminal = Terminal::start(&daemon, &["bash", "--norc", "--noprofile", "-i"]);
    terminal.wait_for("prompt> ");
    // The shell takes a held program for one that was stopped by its user: it says so, and prompts again.
    terminal.enter(&it);
    terminal.wait_for("Stopped");
    terminal.wait_for("prompt> ");
    let request = place::only(&mut daemon);
    // To bring it to the foreground decides nothing.
    terminal.enter("fg");
    terminal.wait_for("Stopped");
    assert_eq!(place::only(&mut daemon)["id"], request["id"]);
    // Decided, it goes on in the background, and the shell can wait for it.
    assert_eq!(daemon.approve(&request)["state"], "released");
    terminal.enter("wait; echo rc $?");
    terminal.wait_for("rc 0");
    // Denied, the program that was forked for it reports so.
    terminal.enter(&format!("{it}; echo is $?"));
    terminal.wait_for("Stopped");
    let request = place::only(&mut daemon);
    assert_eq!(daemon.deny(&request)["state"], "denied");
    terminal.wait_for("Operation not permitted");
    // The shell tells the status once: by itself, if it looked after the job had ended, or as the result of `wait`.
    let told = terminal.shown();
    terminal.enter("wait %1; echo rc $?");
    wait_until("the shell tells that the job ended with 126", || {
        let told = told.clone() + &terminal.shown();
        (told.contains("rc 126") || told.contains("Exit 126")).then_some(())
    });
    terminal.enter("exit");
    let status = wait_until("the shell ends", || terminal.run.try_wait().unwrap());
    assert!(status.code().is_some(), "{status}");
}
