//! On this process, its children, and files of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{
    gatherer::{STUCK_THREADS, THREADS},
    process::{is_below, parse_cgroup, parse_stat},
    surroundings::{container, interesting, parse_passwd, terminal, unit},
    *,
};
use crate::request::{Ask, Request, RequestId, Risk, State};

fn task(pid: u32, tid: u32) -> Task {
    let stat = parse_stat(&fs::read(format!("/proc/{pid}/task/{tid}/stat")).unwrap()).unwrap();
    Task {
        pid,
        tid,
        parent: stat.parent,
        start_ns: stat.start_ticks * 10_000_000 + 1_234,
        cgroup: 0,
        comm: Text::default(),
        real_uid: 0,
        login_uid: None,
        session: None,
    }
}

fn myself() -> Task {
    task(std::process::id(), rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned())
}

/// A child that lives until it is dropped.
struct Cat(Child);

impl Cat {
    fn new(configure: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = Command::new("cat");
        configure(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut child = command.spawn().unwrap();
        // The spawn returns while the kernel still sets the new program up; an echo says that it runs.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    fn task(&self) -> Task {
        task(self.0.id(), self.0.id())
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn listen() -> Action {
    Action {
        kind: ActionKind::Listen,
        agent: "builder".to_owned(),
        uid: 0,
        gid: 0,
        target: Target::Socket { address: crate::action::Address::Unix(Text::from("/run/x")) },
        object: None,
        foreign_mount: false,
        digest: String::new(),
    }
}

fn object(path: &Path) -> Object {
    let stat = fs::symlink_metadata(path).unwrap();
    let (major, minor) = (rustix::fs::major(stat.dev()), rustix::fs::minor(stat.dev()));
    Object {
        dev: u64::from(major) << 20 | u64::from(minor),
        ino: stat.ino(),
        generation: 0,
        mode: stat.mode(),
        uid: stat.uid(),
        nlink: 1,
        size: stat.size(),
        ctime_ns: stat.ctime() as u64 * 1_000_000_000 + stat.ctime_nsec() as u64,
    }
}

fn exec(path: &Path, env: &[&str]) -> Action {
    let path = path.canonicalize().unwrap();
    Action {
        kind: ActionKind::Exec,
        object: Some(object(&path)),
        target: Target::Program {
            path: Text::from(path.as_os_str().as_encoded_bytes()),
            called: Text::from("x"),
            args: Vec::new(),
            env: env.iter().copied().map(Text::from).collect(),
            interpreter: false,
            cwd: None,
        },
        ..listen()
    }
}

fn text(path: &Path) -> Text {
    Text::from(path.as_os_str().as_encoded_bytes())
}

#[test]
fn this_very_process_is_described_in_full() {
    let hints =
        Hints { intent: Some("tests".to_owned()), labels: BTreeMap::from([("team".to_owned(), "red".to_owned())]) };
    let context = gather(&myself(), &listen(), &hints);
    assert_eq!(context.exe, Some(text(&std::env::current_exe().unwrap())));
    let args: Vec<_> = std::env::args().map(|arg| Text::from(arg.as_str())).collect();
    assert_eq!(context.args, args);
    assert_eq!(context.cwd, Some(text(&std::env::current_dir().unwrap())));
    assert!(context.env.iter().any(|entry| entry.bytes().starts_with(b"PATH=")));
    assert_eq!(context.ancestry[0].pid, std::os::unix::process::parent_id());
    assert_eq!(context.ancestry.last().unwrap().pid, 1);
    assert!(context.cgroup.unwrap().bytes().starts_with(b"/"));
    assert_eq!(context.user.as_deref(), Some("root"));
    assert_eq!((context.intent, context.labels), (hints.intent, hints.labels));
    assert_eq!(context.gaps, Vec::<String>::new());
}

#[test]
fn a_child_is_described_by_its_own_facts() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let child = Cat::new(|command| {
        command.args(["-", "-"]).current_dir(&dir).env("BASH_ENV", "/tmp/evil").env("API_TOKEN", "hunter2")
    });
    let context = gather(&child.task(), &listen(), &Hints::default());
    assert_eq!(context.args, [Text::from("cat"), Text::from("-"), Text::from("-")]);
    assert_eq!(context.cwd, Some(text(&dir)));
    assert!(context.env.contains(&Text::from("BASH_ENV=/tmp/evil")));
    assert!(!format!("{context:?}").contains("hunter2"));
    assert_eq!(context.ancestry[0].pid, std::process::id());
    assert_eq!(context.ancestry[0].exe, Some(text(&std::env::current_exe().unwrap())));
    assert_eq!(context.gaps, Vec::<String>::new());
}

#[test]
fn another_task_with_the_same_id_is_not_confused_with_it() {
    let mut other = myself();
    other.start_ns += 20_000_000;
    let context = gather(&other, &listen(), &Hints::default());
    assert_eq!(context.gaps, ["the task: it ended, and its id belongs to another task now"]);
    assert_eq!((context.exe, context.args, context.ancestry), (None, Vec::new(), Vec::new()));
}

#[test]
fn what_cannot_be_read_is_a_gap() {
    let mut child = Cat::new(|command| command);
    let task = child.task();
    drop(child.0.stdin.take());
    let mut rest = Vec::new();
    child.0.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    // Its output is closed when it ends; wait until it is a zombie, without reaping it.
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
    let context = gather(&task, &listen(), &Hints::default());
    assert!(context.gaps.iter().any(|gap| gap.starts_with("executable: ")), "{:?}", context.gaps);
    assert_eq!(context.ancestry[0].pid, std::process::id());

    drop(child);
    let context = gather(&task, &listen(), &Hints::default());
    assert_eq!(context.gaps, ["the task: No such file or directory (os error 2)"]);
}

fn script(dir: &Path, content: &[u8]) -> std::path::PathBuf {
    let path = dir.canonicalize().unwrap().join("script");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_script_shows_its_interpreter_its_first_lines_and_its_digest() {
    let dir = TempDir::new().unwrap();
    let lines: String = (0..50).map(|number| format!("echo {number}\n")).collect();
    let content = format!("#! /bin/sh -e\n{lines}");
    let path = script(dir.path(), content.as_bytes());
    let action = exec(&path, &["LD_PRELOAD=/tmp/x.so", "API_TOKEN=hunter2"]);
    let context = gather(&myself(), &action, &Hints::default());
    assert_eq!(context.interpreter, Some(Text::from("/bin/sh")));
    let preview = context.script.unwrap().to_string();
    assert!(preview.ends_with("echo 18\\n"), "{preview}");
    let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(context.sha256, Some(digest));
    assert_eq!(context.env, [Text::from("LD_PRELOAD=/tmp/x.so")]);
    assert_eq!(context.gaps, Vec::<String>::new());

    let (name, interpreter) = interpreter_of(&myself(), &action).unwrap().unwrap();
    let shell = object(&Path::new("/bin/sh").canonicalize().unwrap());
    assert_eq!((name, interpreter), (Text::from("/bin/sh"), Interpreter { dev: shell.dev, ino: shell.ino }));
}

#[test]
fn a_program_that_is_no_script_has_no_interpreter() {
    let action = exec(Path::new("/bin/cat"), &[]);
    assert_eq!(interpreter_of(&myself(), &action).unwrap(), None);
    let context = gather(&myself(), &action, &Hints::default());
    assert_eq!((context.interpreter, context.script), (None, None));
    let known = context.sha256.unwrap();
    // The second time from memory.
    assert_eq!(gather(&myself(), &action, &Hints::default()).sha256, Some(known));
}

#[test]
fn an_interpreter_that_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    for name in ["/nonexistent/sh", "sh"] {
        let path = script(dir.path(), format!("#!{name}\n").as_bytes());
        let error = interpreter_of(&myself(), &exec(&path, &[])).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot find the interpreter {name}"));
    }
}

/// The gap that a changed file leaves; nothing of its content may be shown.
fn program_gap(action: &Action) -> String {
    let context = gather(&myself(), action, &Hints::default());
    assert_eq!((context.sha256, context.script, context.interpreter), (None, None, None));
    assert!(interpreter_of(&myself(), action).is_err());
    let [gap] = &context.gaps[..] else { panic!("{:?}", context.gaps) };
    gap.clone()
}

#[test]
fn a_file_that_is_not_the_one_that_was_held_is_not_shown() {
    let dir = TempDir::new().unwrap();
    let path = script(dir.path(), b"#!/bin/sh\n");
    let held = exec(&path, &[]);

    fs::write(&path, b"#!/bin/sh\nevil\n").unwrap();
    assert_eq!(program_gap(&held), "the program: it has changed since it was held");

    let other = script(&tempfile::tempdir_in(dir.path()).unwrap().keep(), b"#!/bin/sh\n");
    fs::rename(&other, &path).unwrap();
    assert_eq!(program_gap(&held), "the program: its path leads to another file by now");

    fs::remove_file(&path).unwrap();
    symlink("/bin/sh", &path).unwrap();
    // A file system may give the new file the old one's number; then its times and size tell.
    let noticed = ["its path leads to another file by now", "it has changed since it was held"];
    assert!(noticed.contains(&program_gap(&held).strip_prefix("the program: ").unwrap()));
    let Target::Program { called, args, env, interpreter, cwd, .. } = held.target.clone() else { panic!() };
    symlink(dir.path(), dir.path().join("link")).unwrap();
    let path_over_link = text(&dir.path().canonicalize().unwrap().join("link/script"));
    let target = Target::Program { path: path_over_link, called, args, env, interpreter, cwd };
    let over_link = Action { target, ..held.clone() };
    assert_eq!(program_gap(&over_link), "the program: Too many levels of symbolic links (os error 40)");

    // Without waiting for a writer, and without asking a driver.
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let fifo = Action { object: Some(object(&path)), ..held };
    assert_eq!(program_gap(&fifo), "the program: it is no regular file");
}

#[test]
fn the_device_of_a_mount_is_the_file_system_s() {
    let process = Process::open(&myself()).unwrap();
    let handle = fs::File::open("/proc/self").unwrap();
    let mount =
        rustix::fs::statx(&handle, "", rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::MNT_ID).unwrap();
    assert_eq!(process.device_of_mount(mount.stx_mnt_id).unwrap(), object(Path::new("/proc/self/")).dev);
    assert!(process.device_of_mount(u64::MAX).is_err());
}

#[test]
fn who_is_inside_an_agent_is_told_by_the_cgroup() {
    let me = std::process::id();
    assert!(inside_agent(me, &[Text::from("/")]).unwrap());
    assert!(!inside_agent(me, &[Text::from("/nonexistent.slice")]).unwrap());
    assert!(!inside_agent(me, &[]).unwrap());
    assert!(inside_agent(u32::MAX >> 1, &[Text::from("/")]).is_err());

    assert!(is_below(b"/a/b", b"/a"));
    assert!(is_below(b"/a/b", b"/a/b/"));
    assert!(is_below(b"/a", b"/"));
    assert!(!is_below(b"/ab", b"/a"));
    assert!(!is_below(b"/", b"/a"));
}

#[test]
fn stat_survives_hostile_names() {
    let stat = |name: &str| {
        let line = format!("7 ({name}) S 5 7 7 34817 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 1 2 3\n");
        parse_stat(line.as_bytes())
    };
    let expected = process::Stat { parent: 5, terminal: 34_817, start_ticks: 123_456 };
    for name in ["cat", ") R 1 1 1 0 ", "a\nb", "(((", ""] {
        assert_eq!(stat(name), Some(expected.clone()), "{name:?}");
    }
    for bad in [&b""[..], b"7", b"7 (cat)", b"7 (cat) S 5", b"\xff) \xff"] {
        assert_eq!(parse_stat(bad), None);
    }
}

#[test]
fn cgroup_paths_name_units_and_containers() {
    let id = "0123456789abcdef".repeat(4);
    let v2 = |path: &str| parse_cgroup(format!("4:memory:/x\n0::{path}\n").as_bytes()).unwrap();
    assert_eq!(v2("/a:b"), Text::from("/a:b"));
    assert_eq!(parse_cgroup(b"9:name=systemd:/user.slice\n8:pids:/\n"), Some(Text::from("/user.slice")));
    assert_eq!(parse_cgroup(b"8:pids:/\n"), None);

    let unit = |path: &str| unit(path.as_bytes()).map(|unit| unit.to_string());
    let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-foot.scope";
    assert_eq!(unit(user).as_deref(), Some("app-foot.scope"));
    assert_eq!(unit("/system.slice/cron.service/sub").as_deref(), Some("cron.service"));
    assert_eq!(unit("/user.slice"), None);
    assert_eq!(unit("/.service"), None);

    let container = |path: &str| container(path.as_bytes()).map(|id| id.to_string());
    for path in [
        format!("/docker/{id}"),
        format!("/system.slice/docker-{id}.scope"),
        format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope/init"),
        format!("/kubepods/burstable/pod1/{id}"),
        format!("/kubepods.slice/crio-{id}.scope"),
        format!("/machine.slice/libpod-{id}.scope/container"),
    ] {
        assert_eq!(container(&path), Some(id.clone()), "{path}");
    }
    for path in [format!("/machine.slice/libpod-conmon-{id}.scope"), format!("/{id}0"), "/docker/abc".to_owned()] {
        assert_eq!(container(&path), None, "{path}");
    }
}

#[test]
fn terminals_have_the_names_that_people_know() {
    let name = |device| terminal(device).map(|name| name.to_string());
    assert_eq!(name(0), None);
    assert_eq!(name(136 << 8 | 3).as_deref(), Some("pts/3"));
    assert_eq!(name(137 << 8 | 3).as_deref(), Some("pts/259"));
    assert_eq!(name(136 << 8 | 1 << 20).as_deref(), Some("pts/256"));
    assert_eq!(name(4 << 8 | 1).as_deref(), Some("tty1"));
    assert_eq!(name(4 << 8 | 64).as_deref(), Some("ttyS0"));
    assert_eq!(name(5 << 8 | 1).as_deref(), Some("console"));
    assert_eq!(name(229 << 8).as_deref(), Some("hvc0"));
    assert_eq!(name(250 << 8 | 9).as_deref(), Some("250:9"));
}

#[test]
fn users_are_known_by_the_password_file() {
    let users =
        parse_passwd(b"root:x:0:0::/root:/bin/sh\n# comment\nbad\ndev:x:1000:1000::/:/bin/sh\n:x:5:5::\n\xff:x:6:\n");
    assert_eq!(users, [(0, "root".to_owned()), (1_000, "dev".to_owned())]);
}

#[test]
fn interesting_entries_are_few_and_short() {
    let mut env = vec![Text::from("SECRET=1"), Text::from("PATH"), Text::from("PATHX=1")];
    env.extend((0..100).map(|number| Text(format!("LD_{number}={}", "x".repeat(5_000)).into_bytes())));
    let shown = interesting(&env);
    assert_eq!(shown[0], Text::from("PATH"));
    assert_eq!(shown.len(), 64);
    assert!(shown.iter().all(|entry| entry.bytes().len() <= 1_024));
}

#[test]
fn interpreters_are_found_as_the_kernel_finds_them() {
    let name = |line: &[u8]| file::interpreter(line).map(|name| name.to_string());
    assert_eq!(name(b"#!/bin/sh").as_deref(), Some("/bin/sh"));
    assert_eq!(name(b"#! \t/usr/bin/env python3\nx").as_deref(), Some("/usr/bin/env"));
    assert_eq!(name(b"#!/bin/sh\0junk\n").as_deref(), Some("/bin/sh"));
    assert_eq!(name(b"#!\n/bin/sh\n"), None);
    assert_eq!(name(b"#!   \n"), None);
    assert_eq!(name(b"\x7fELF"), None);
    assert_eq!(name(b""), None);
}

fn job(hold: u64) -> Job {
    let ask = Ask {
        rule: String::new(),
        deadline: Duration::ZERO,
        danger_allow_on_timeout: false,
        risk: Risk::Low,
        reason: None,
        quorum: None,
        escalation: Vec::new(),
        danger_self_review: false,
        comment: Default::default(),
        second_factor: false,
        grants: Vec::new(),
    };
    let request = Request {
        id: RequestId::new(0, hold),
        hold,
        task: myself(),
        action: listen(),
        context: Context::default(),
        ask,
        held_at_ms: 0,
        deadline_ms: 0,
        state: State::Pending,
        decision: None,
        votes: Vec::new(),
        escalated: 0,
        extended: 0,
    };
    Job { hold, request: Arc::new(request), hints: Hints::default() }
}

/// Longer than any of these tests takes, unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_gatherer_delivers_what_gather_finds() {
    let (send, receive) = mpsc::channel();
    let gatherer = Gatherer::new(move |hold, context| send.send((hold, context)).unwrap()).unwrap();
    for hold in 0..20 {
        gatherer.submit(job(hold));
    }
    let mut holds: Vec<_> = (0..20)
        .map(|_| {
            let (hold, context) = receive.recv_timeout(PATIENCE).unwrap();
            assert_eq!(context.exe, Some(text(&std::env::current_exe().unwrap())));
            hold
        })
        .collect();
    holds.sort_unstable();
    assert_eq!(holds, (0..20).collect::<Vec<_>>());
    assert_eq!((gatherer.timeouts(), gatherer.stuck_threads()), (0, 0));
}

#[test]
fn threads_that_get_stuck_hold_nothing_up() {
    let (send, receive) = mpsc::channel();
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let entrance = gate.clone();
    // Holds from 100 on get stuck after their first step.
    let gather = move |gathering: &Gathering, job: &Job| {
        gathering.add(|context| context.user = Some("dev".to_owned()));
        if job.hold >= 100 {
            let (open, opened) = &*entrance;
            drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        }
    };
    let deliver = move |hold, context| send.send((hold, context)).unwrap();
    let gatherer = Gatherer::with(Box::new(deliver), Box::new(gather), Duration::from_millis(20)).unwrap();

    for hold in 100..100 + STUCK_THREADS as u64 {
        gatherer.submit(job(hold));
    }
    for _ in 0..STUCK_THREADS {
        let (hold, context) = receive.recv_timeout(PATIENCE).unwrap();
        assert!(hold >= 100);
        assert_eq!(context.user.as_deref(), Some("dev"), "what is there already is delivered");
        assert_eq!(context.gaps, ["the rest could not be read within 20 ms"]);
    }
    assert_eq!((gatherer.timeouts(), gatherer.stuck_threads()), (STUCK_THREADS as u64, STUCK_THREADS));
    // All of them were replaced.
    gatherer.submit(job(1));
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap().0, 1);

    // More are not: then jobs wait, and what is waiting can be cancelled.
    for hold in 200..200 + THREADS as u64 {
        gatherer.submit(job(hold));
    }
    for _ in 0..THREADS {
        assert!(receive.recv_timeout(PATIENCE).unwrap().0 >= 200);
    }
    gatherer.submit(job(2));
    gatherer.submit(job(3));
    gatherer.cancel(2);

    // Once they come loose, work goes on, and nothing is delivered twice.
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!(receive.recv_timeout(PATIENCE).unwrap().0, 3);
    for hold in 4..50 {
        gatherer.submit(job(hold));
    }
    let mut holds: Vec<_> = (4..50).map(|_| receive.recv_timeout(PATIENCE).unwrap().0).collect();
    holds.sort_unstable();
    assert_eq!(holds, (4..50).collect::<Vec<_>>());
    assert!(receive.try_recv().is_err());
}
