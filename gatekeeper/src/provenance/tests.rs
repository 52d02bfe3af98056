//! Crashes, damage, full disks, restarts.

use std::{
    collections::BTreeMap,
    fs,
    io::{Error as IoError, ErrorKind},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use gatekeeper_common::{TaskKey, sip::Digest};
use serde_json::Value;
use sha2::Digest as _;
use tempfile::TempDir;

use super::{log::SegmentFile, *};
use crate::{
    action::{Action, ActionKind, Target, Task},
    broker::{self, Broker, Effect, Held, Input, Now, Outcome, Ticket},
    request::{self, Ask, Decider, Decision, RequestId, Risk},
    text::Text,
};

const BOOT: &str = "11111111-2222-3333-4444-555555555555";
const NONCE: u64 = 5;

fn now() -> Now {
    Now { wall_ms: 1_700_000_000_000, boot_ns: 5_000_000_000 }
}

fn open(dir: &Path) -> Opened {
    try_open(dir, BOOT).unwrap()
}

/// A log that was closed can be in use for a moment: a child that another test is starting has a copy of its lock until it
/// runs its program.
fn try_open(dir: &Path, boot: &str) -> Result<Opened, Error> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match Log::open(dir, boot, now()) {
            Err(Error::InUse { .. }) if Instant::now() < until => thread::yield_now(),
            result => return result,
        }
    }
}

fn stop(text: &str) -> Record {
    Record::DaemonStop { reason: text.to_owned(), open_holds: 0 }
}

fn read(dir: &Path) -> Vec<Value> {
    let mut reader = Reader::open(dir).unwrap();
    let mut records = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        assert!(!entry.leaf.contains(&b'\n'));
        records.push(serde_json::from_slice(&entry.leaf).unwrap());
    }
    records
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["type"].as_str().unwrap()).collect()
}

fn task() -> Task {
    Task {
        pid: 40,
        tid: 41,
        parent: 1,
        start_ns: 7,
        cgroup: 9,
        comm: Text::from("bash"),
        real_uid: 1_000,
        login_uid: None,
        session: None,
    }
}

fn exec(args: Vec<Text>, env: Vec<Text>) -> Action {
    let target = Target::Program {
        path: Text::from("/usr/bin/git"),
        called: Text::from("git"),
        args,
        env,
        interpreter: false,
        cwd: None,
    };
    Action {
        kind: ActionKind::Exec,
        agent: "builder".to_owned(),
        uid: 1_000,
        gid: 1_000,
        target,
        object: None,
        foreign_mount: false,
        digest: "00".repeat(16),
    }
}

fn held(hold: u64, action: Action, outcome: Outcome) -> Input {
    Input::Held(Box::new(Held {
        hold,
        supersedes: None,
        key: TaskKey { task: hold, start_ns: 7 },
        task: task(),
        stage: 0,
        digest: Digest { low: hold, high: 0 },
        action,
        interpreter: None,
        outcome,
        context: None,
        since_ns: now().boot_ns,
    }))
}

fn ask() -> Outcome {
    Outcome::Ask(Ask {
        rule: "tools".to_owned(),
        deadline: Duration::from_secs(60),
        danger_allow_on_timeout: false,
        risk: Risk::High,
        reason: None,
        quorum: None,
        escalation: Vec::new(),
        danger_self_review: false,
        comment: Default::default(),
        second_factor: false,
        grants: Vec::new(),
    })
}

fn push() -> Action {
    exec(vec![Text::from("git"), Text::from("push")], Vec::new())
}

/// A broker whose records go into a log.
struct Daemon {
    broker: Broker,
    log: Log,
    latest: Option<Ticket>,
}

impl Daemon {
    fn new(log: Log) -> Self {
        Self { broker: Broker::new(NONCE), log, latest: None }
    }

    fn step(&mut self, input: Input) {
        for effect in self.broker.step(input, now()) {
            if let Effect::Append { ticket, record } = effect {
                self.log.push(&record.into(), now()).unwrap();
                self.latest = ticket.or(self.latest);
            }
        }
        self.log.commit().unwrap();
        if let Some(through) = self.latest.take() {
            self.step(Input::Logged { through });
        }
    }

    fn decide(&mut self, hold: u64, effect: request::Effect) {
        let by = Decider::Reviewer {
            name: "first".to_owned(),
            channel: "cli".to_owned(),
            account: "1000".to_owned(),
            evidence: None,
        };
        let decision =
            Decision { effect, by, reason: Some("fine\u{202e}".to_owned()), grant: None, at_ms: now().wall_ms };
        self.step(Input::Decide { reply_to: 0, id: RequestId::new(NONCE, hold), decision, groups: Default::default() });
    }
}

#[test]
fn records_read_back_in_order() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).log;
    log.append(&[stop("a"), stop("b")], now()).unwrap();
    log.push(&stop("c"), now()).unwrap();
    assert!(log.is_dirty());
    assert_eq!(read(dir.path()).len(), 3, "not written before it is asked for");
    log.flush().unwrap();
    let records = read(dir.path());
    assert_eq!(kinds(&records), ["segment", "daemon_stop", "daemon_stop", "daemon_stop"]);
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record["index"], index);
        assert_eq!(record["v"], LEAF_VERSION);
        assert_eq!(record["boot_id"], BOOT);
    }
    assert_eq!(records[3]["durable"], 3);
    assert_eq!(records[3]["reason"], "c");
}

#[test]
fn only_the_owner_can_look() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path().join("log");
    let mut daemon = Daemon::new(open(&dir).log);
    daemon.step(held(1, exec(Vec::new(), vec![Text::from("A=b")]), ask()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("blobs")), 0o700);
    assert_eq!(mode(&dir.join("00000000.log")), 0o600);
    let blob = fs::read_dir(dir.join("blobs")).unwrap().next().unwrap().unwrap();
    assert_eq!(mode(&blob.path()), 0o600);
}

#[test]
fn a_second_daemon_is_kept_out() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    assert!(matches!(Log::open(dir.path(), BOOT, now()), Err(Error::InUse { .. })));
    drop(first);
    open(dir.path());
}

/// A log of a few records, each durable before the next.
fn small_log(dir: &Path) -> Vec<u8> {
    let mut log = open(dir).log;
    for text in ["one", "two", "three"] {
        log.append(&[stop(text)], now()).unwrap();
    }
    fs::read(segment_path(dir, 0)).unwrap()
}

fn frame_starts(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    while let frame::Parsed::Frame(leaf) = frame::parse(&bytes[*starts.last().unwrap()..]) {
        starts.push(starts.last().unwrap() + leaf.end);
    }
    starts
}

#[test]
fn a_log_that_was_cut_anywhere_recovers_its_longest_valid_part() {
    let dir = TempDir::new().unwrap();
    let whole = small_log(dir.path());
    let starts = frame_starts(&whole);
    assert_eq!(starts.len(), 5);
    for length in 0..=whole.len() {
        fs::write(segment_path(dir.path(), 0), &whole[..length]).unwrap();
        let kept = starts.iter().rposition(|start| *start <= length).unwrap();
        let torn = length - starts[kept];
        // Reading beside it works before the daemon has looked.
        assert_eq!(read(dir.path()).len(), kept);
        let Opened { mut log, recovery, .. } = open(dir.path());
        assert_eq!(recovery.as_ref().map(|recovery| recovery.dropped_bytes), (torn > 0).then_some(torn as u64));
        if let Some(recovery) = recovery {
            let bytes = fs::read(dir.path().join(recovery.kept_in)).unwrap();
            assert_eq!(bytes, whole[starts[kept]..length]);
        }
        log.append(&[stop("after")], now()).unwrap();
        let records = read(dir.path());
        let recoveries = kinds(&records).iter().filter(|kind| **kind == "recovery").count();
        assert_eq!(recoveries, usize::from(torn > 0), "cut at {length}");
        let fresh = usize::from(kept == 0);
        assert_eq!(records.len(), kept + fresh + recoveries + 1, "cut at {length}");
        assert_eq!(records.last().unwrap()["reason"], "after");
    }
}

#[test]
fn a_changed_byte_in_durable_records_is_an_error_that_names_the_place() {
    let dir = TempDir::new().unwrap();
    let whole = small_log(dir.path());
    let starts = frame_starts(&whole);
    let last = starts[starts.len() - 2];
    let path = segment_path(dir.path(), 0);
    for at in 0..last {
        for bit in [0x01, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= bit;
            fs::write(&path, &damaged).unwrap();
            let place = starts[starts.iter().rposition(|start| *start <= at).unwrap()] as u64;
            match try_open(dir.path(), BOOT) {
                Err(Error::Damaged { path: named, offset, .. }) => assert_eq!((named, offset), (path.clone(), place)),
                other => panic!("byte {at}: {other:?}"),
            }
            assert_eq!(fs::read(&path).unwrap(), damaged, "nothing is dropped");
            let mut reader = Reader::open(dir.path()).unwrap();
            let error = loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("byte {at}: not noticed"),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Damaged { offset, .. } if offset == place));
        }
    }
    // The last record cannot be told from one that was torn: it is cut off, kept and reported.
    let mut damaged = whole.clone();
    damaged[last + 20] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let recovery = open(dir.path()).recovery.unwrap();
    assert_eq!((recovery.offset, recovery.dropped_bytes), (last as u64, (whole.len() - last) as u64));
}

#[test]
fn records_of_one_write_that_reached_the_disk_out_of_order_are_a_torn_tail() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).log;
    log.append(&[stop("one"), stop("two"), stop("three")], now()).unwrap();
    drop(log);
    let path = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    let starts = frame_starts(&bytes);
    bytes[starts[1]..starts[2]].fill(0);
    fs::write(&path, &bytes).unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.recovery.unwrap().offset, starts[1] as u64);
    assert_eq!(kinds(&read(dir.path())), ["segment", "recovery"]);
}

/// A segment on a disk that fails as long as it is told to.
#[derive(Debug)]
struct Failing {
    file: fs::File,
    /// Bytes that still fit.
    room: Arc<AtomicUsize>,
    failing_syncs: Arc<AtomicUsize>,
}

impl SegmentFile for Failing {
    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        let room = self.room.load(Ordering::Relaxed).min(bytes.len());
        self.room.fetch_sub(room, Ordering::Relaxed);
        self.file.write_all_at(&bytes[..room], offset)?;
        if room < bytes.len() { Err(IoError::from(ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn sync(&self) -> std::io::Result<()> {
        let failing = self.failing_syncs.load(Ordering::Relaxed);
        if failing > 0 {
            self.failing_syncs.store(failing - 1, Ordering::Relaxed);
            // What a kernel may do: the data is gone, and the next sync succeeds.
            let length = self.file.metadata()?.len();
            self.file.write_all_at(&[0; 8], length.saturating_sub(8))?;
            return Err(IoError::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.file.sync_data()
    }

    fn truncate(&self, length: u64) -> std::io::Result<()> {
        self.file.set_len(length)
    }
}

fn on_failing_disk(dir: &Path, room: usize, failing_syncs: usize) -> (Log, Arc<AtomicUsize>) {
    let mut log = open(dir).log;
    let room = Arc::new(AtomicUsize::new(room));
    let file = fs::OpenOptions::new().read(true).write(true).open(segment_path(dir, 0)).unwrap();
    let failing_syncs = Arc::new(AtomicUsize::new(failing_syncs));
    log.file = Box::new(Failing { file, room: room.clone(), failing_syncs });
    (log, room)
}

#[test]
fn a_full_disk_loses_nothing_and_writes_nothing_twice() {
    for room in (0..700).step_by(7) {
        let dir = TempDir::new().unwrap();
        let (mut log, left) = on_failing_disk(dir.path(), room, 0);
        let mut durable = 0;
        for number in 0..6 {
            log.push(&stop(&number.to_string()), now()).unwrap();
            match log.commit() {
                Ok(()) => durable = number + 1,
                Err(Error::Io { operation: "write", source, .. }) => assert_eq!(source.kind(), ErrorKind::StorageFull),
                Err(error) => panic!("{error}"),
            }
            // Readers never see a half record, and never less than what was promised.
            assert_eq!(read(dir.path()).len(), 1 + durable);
        }
        left.store(1 << 20, Ordering::Relaxed);
        log.commit().unwrap();
        let reasons: Vec<_> = read(dir.path())[1..].iter().map(|record| record["reason"].clone()).collect();
        assert_eq!(reasons, ["0", "1", "2", "3", "4", "5"], "room for {room}");
    }
}

#[test]
fn a_failed_sync_writes_everything_again() {
    let dir = TempDir::new().unwrap();
    let (mut log, _) = on_failing_disk(dir.path(), 1 << 20, 2);
    log.push(&stop("one"), now()).unwrap();
    log.flush().unwrap();
    log.push(&stop("two"), now()).unwrap();
    assert!(log.commit().is_err());
    assert!(log.commit().is_err());
    log.commit().unwrap();
    assert!(!log.is_dirty());
    let records = read(dir.path());
    assert_eq!(kinds(&records), ["segment", "daemon_stop", "daemon_stop"]);
    assert_eq!((&records[1]["reason"], &records[2]["reason"]), (&Value::from("one"), &Value::from("two")));
}

#[test]
fn dev_full_is_a_clear_error() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).log;
    log.file = Box::new(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    log.push(&stop("one"), now()).unwrap();
    let error = log.commit().unwrap_err();
    assert_eq!(error.to_string(), format!("cannot write {}", segment_path(dir.path(), 0).display()));
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "No space left on device (os error 28)");
}

#[test]
fn what_an_agent_can_cause_without_limit_is_only_counted_while_the_disk_fails() {
    let dir = TempDir::new().unwrap();
    let (mut log, room) = on_failing_disk(dir.path(), 0, 0);
    let action = exec(vec![Text(vec![b'x'; 60_000])], Vec::new());
    let observed = Record::Observed { task: task(), action, outcome: "ask".to_owned(), rule: None };
    for _ in 0..400 {
        log.push(&observed, now()).unwrap();
    }
    assert!(log.commit().is_err());
    log.push(&stop("kept"), now()).unwrap();
    room.store(usize::MAX / 2, Ordering::Relaxed);
    log.commit().unwrap();
    let records = read(dir.path());
    assert!(records.len() < 400);
    assert_eq!(records[records.len() - 2]["reason"], "kept");
    let last = records.last().unwrap();
    assert_eq!((&last["type"], &last["counter"]), (&Value::from("counter_alarm"), &Value::from("log_dropped")));
    assert_eq!(last["now"].as_u64().unwrap() as usize + records.len() - 3, 400);
}

#[test]
fn segments_follow_each_other() {
    let dir = TempDir::new().unwrap();
    let mut log = open(dir.path()).log;
    log.segment_bytes = 1_000;
    let mut reader = Reader::open(dir.path()).unwrap();
    let mut seen = 0;
    for number in 0..60 {
        log.append(&[stop(&number.to_string())], now()).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            assert_eq!(entry.index, seen);
            seen += 1;
        }
        assert_eq!(seen, log.records(), "a reader that follows sees everything at once");
    }
    assert!(segments(dir.path()).unwrap().len() > 5);
    drop(log);
    assert_eq!(open(dir.path()).log.records(), seen);

    fs::remove_file(segment_path(dir.path(), 3)).unwrap();
    assert!(matches!(Log::open(dir.path(), BOOT, now()), Err(Error::MissingSegment { .. })));
}

#[test]
fn a_crash_right_after_a_segment_was_made_is_no_damage() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    daemon.step(held(1, push(), ask()));
    let before = daemon.log.records();
    drop(daemon);
    fs::write(segment_path(dir.path(), 1), b"").unwrap();
    let Opened { log, open: holds, recovery, .. } = open(dir.path());
    assert_eq!((holds.len(), recovery), (1, None));
    assert_eq!(log.records(), before + 1);
    assert_eq!(read(dir.path()).last().unwrap()["replay_from"], 0);
}

#[test]
fn a_restarted_daemon_learns_what_was_open() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    daemon.log.segment_bytes = 1_500;
    for hold in 1..=6 {
        daemon.step(held(hold, push(), ask()));
    }
    daemon.step(held(7, push(), Outcome::Allow { by: Decider::NoRule }));
    daemon.decide(2, request::Effect::Allow);
    daemon.decide(3, request::Effect::Deny { errno: 13 });
    daemon.step(Input::Applied { hold: 3, effect: request::Effect::Deny { errno: 13 } });
    daemon.step(Input::Gone { hold: 4, why: broker::Gone::TaskEnded });
    daemon.step(Input::Gone { hold: 5, why: broker::Gone::Superseded });
    assert!(segments(dir.path()).unwrap().len() > 3);
    drop(daemon);

    let Opened { log, open: holds, .. } = open(dir.path());
    let found: Vec<_> = holds.iter().map(|hold| (hold.hold, hold.decision.as_ref().map(|d| d.effect))).collect();
    assert_eq!(found, [(1, None), (2, Some(request::Effect::Allow)), (6, None)]);
    assert_eq!(holds[0].id, RequestId::new(NONCE, 1));
    assert_eq!(holds[0].deadline_ns, now().boot_ns + 60_000_000_000);
    assert_eq!(holds[0].deadline_ms, now().wall_ms + 60_000);

    // A broker that adopts them goes on where the other was.
    let mut daemon = Daemon::new(log);
    daemon.step(Input::Adopt(holds));
    daemon.step(Input::Scan { open: [1, 6].into(), taken_ns: now().boot_ns });
    daemon.step(held(1, push(), ask()));
    daemon.decide(1, request::Effect::Allow);
    daemon.step(Input::Applied { hold: 1, effect: request::Effect::Allow });
    drop(daemon);
    let found: Vec<_> = replay(dir.path(), BOOT).unwrap().open.iter().map(|hold| hold.hold).collect();
    assert_eq!(found, [6]);

    // Another boot: the task is gone with the old one, and the log says so once.
    for _ in 0..2 {
        let opened = try_open(dir.path(), "other").unwrap();
        assert!(opened.open.is_empty());
    }
    let records = read(dir.path());
    let ends: Vec<_> = records.iter().filter(|record| record["of_boot"] == BOOT).collect();
    assert_eq!(ends.len(), 1);
    assert_eq!((&ends[0]["type"], &ends[0]["hold"]), (&Value::from("withdrawn"), &Value::from(6)));
}

#[test]
fn a_replay_reads_only_from_the_oldest_open_hold_on() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    daemon.log.segment_bytes = 1_500;
    for hold in 1..=20 {
        daemon.step(held(hold, push(), ask()));
        if hold != 15 {
            daemon.step(Input::Gone { hold, why: broker::Gone::TaskEnded });
        }
    }
    drop(daemon);
    let records = read(dir.path());
    let from = records.iter().rfind(|record| record["type"] == "segment").unwrap()["replay_from"].as_u64().unwrap();
    assert!(from > 2);
    for number in 0..from {
        // Not even there any more, as after pruning.
        fs::remove_file(segment_path(dir.path(), number)).unwrap();
    }
    assert_eq!(open(dir.path()).open[0].hold, 15);
}

fn blob(dir: &Path, reference: &Value) -> Vec<u8> {
    let name = reference["blob"].as_str().unwrap();
    let bytes = fs::read(dir.join("blobs").join(name)).unwrap();
    assert_eq!(name, blobs::hexadecimal(&sha2::Sha256::digest(&bytes)));
    assert_eq!(reference["bytes"], bytes.len());
    bytes
}

#[test]
fn environments_stay_out_of_the_leaves() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    let env = vec![Text::from("TOKEN=hunter2"), Text::from("PATH=/bin")];
    daemon.step(held(1, exec(vec![Text::from("git")], env.clone()), ask()));
    daemon.step(held(2, exec(vec![Text::from("git")], env.clone()), Outcome::Allow { by: Decider::NoRule }));
    let log = fs::read(segment_path(dir.path(), 0)).unwrap();
    assert!(!log.windows(7).any(|window| window == b"hunter2"));
    let record = &read(dir.path())[1];
    let kept: Vec<Text> =
        serde_json::from_slice(&blob(dir.path(), &record["action"]["target"]["program"]["env"])).unwrap();
    assert_eq!(kept, env);
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
}

#[test]
fn no_leaf_is_too_large_and_nothing_of_it_is_lost() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    let many: Vec<_> = (0..30_000).map(|number| Text::from(number.to_string().as_str())).collect();
    let long = vec![Text(vec![0xff; 128 * 1024])];
    let medium = vec![Text(vec![b'a'; 64_000])];
    for (hold, args) in [many, long, medium].into_iter().enumerate() {
        let hold = hold as u64 + 1;
        daemon.step(held(hold, exec(args.clone(), Vec::new()), ask()));
        let context = request::Context {
            args: args.clone(),
            gaps: vec!["x".repeat(90_000)],
            labels: (0..5_000).map(|number| (format!("label{number}"), "value".to_owned())).collect(),
            ..request::Context::default()
        };
        daemon.step(Input::Context { hold, context: Box::new(context) });
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            assert!(entry.leaf.len() <= MAX_LEAF_BYTES);
            entries.push(serde_json::from_slice::<Value>(&entry.leaf).unwrap());
        }
        let [record, context] = &entries[entries.len() - 2..] else { panic!() };
        assert_eq!((&record["type"], &context["type"]), (&Value::from("hold"), &Value::from("context")));
        assert_eq!(record["index"].as_u64().unwrap() + 1, context["index"].as_u64().unwrap());
        let stored = &record["action"]["target"]["program"]["args"];
        let kept: Vec<Text> = match stored {
            Value::Array(_) => serde_json::from_value(stored.clone()).unwrap(),
            reference => serde_json::from_slice(&blob(dir.path(), reference)).unwrap(),
        };
        assert_eq!(kept, args);
        assert_eq!(line(&serde_json::to_vec(record).unwrap()).lines().count(), 1);
    }
    // The holds are found again although their records were cut.
    drop(daemon);
    assert_eq!(open(dir.path()).open.len(), 3);
}

#[test]
fn lines_for_people_say_what_happened_and_forge_nothing() {
    let dir = TempDir::new().unwrap();
    let mut daemon = Daemon::new(open(dir.path()).log);
    let action = exec(vec![Text::from("git"), Text::from("push\x1b[2J\nforged"), Text::from("\u{202e}x")], Vec::new());
    daemon.step(held(1, action, ask()));
    daemon.decide(1, request::Effect::Deny { errno: 13 });
    daemon.step(Input::Applied { hold: 1, effect: request::Effect::Deny { errno: 13 } });
    daemon.step(held(2, push(), Outcome::Allow { by: Decider::Rule { name: "all".to_owned() } }));
    let run = Record::RunStart {
        run: "r1".to_owned(),
        agent: "builder".to_owned(),
        cgroup: Text::from("/gatekeeper/r1"),
        pid: 5,
        uid: 0,
        command: vec![Text::from("bash"), Text::from("-c")],
        labels: BTreeMap::new(),
        intent: Some("tidy\nup".to_owned()),
    };
    daemon.log.append(&[run], now()).unwrap();
    let mut reader = Reader::open(dir.path()).unwrap();
    let mut lines = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        lines.push(line(&entry.leaf));
    }
    let id = RequestId::new(NONCE, 1);
    let time = "2023-11-14T22:13:20.000Z";
    assert_eq!(
        lines,
        [
            format!("{time}      0 segment       number 0"),
            format!(
                "{time}      1 hold          {id} builder exec /usr/bin/git push\\x1b[2J\\nforged \\u{{202e}}x by \
             bash[40] uid 1000 rule \"tools\""
            ),
            format!("{time}      2 decision      {id} deny (errno 13) by \"first\" (cli 1000): \"fine\\u{{202e}}\""),
            format!("{time}      3 verdict       {id} deny (errno 13)"),
            format!("{time}      4 release       {id} deny (errno 13) state \"denied\""),
            format!(
                "{time}      5 hold          hold 2 builder exec /usr/bin/git push by bash[40] uid 1000 allow by rule \"all\""
            ),
            format!(
                "{time}      6 run_start     pid 5 uid 0 run \"r1\" agent \"builder\" cgroup \"/gatekeeper/r1\" command bash -c intent \
             \"tidy\\nup\""
            ),
        ]
    );
    assert_eq!(line(b"\x1b{nonsense"), "unreadable record: \\x1b{nonsense");
}

#[test]
fn there_may_be_no_log() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(Reader::open(dir.path()), Err(Error::NoLog { .. })));
    assert!(matches!(Reader::open(&dir.path().join("none")), Err(Error::NoLog { .. })));
    let error = Reader::open(Path::new("/nowhere")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no provenance log in /nowhere: name the directory that `paths.state` of the daemon's configuration says"
    );
}
