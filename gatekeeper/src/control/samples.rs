//! Requests and reports for tests.

use std::{collections::BTreeMap, time::Duration};

use super::protocol::{
    AgentStatus, ChannelStatus, ErrorNote, LogStatus, Mode, PolicyStatus, ProgramStatus, RingStatus, StatusReport,
};
use crate::{
    action::{Action, ActionKind, Object, Target, Task},
    request::{Ancestor, Ask, Context, Request, RequestId, Risk, State},
    text::Text,
};

/// A request to run `git push`, from a task that tries to forge lines on the terminal.
pub(crate) fn request(hold: u64) -> Request {
    let texts = |texts: &[&str]| texts.iter().map(|text| Text::from(*text)).collect::<Vec<_>>();
    let object =
        Object { dev: 0x80_0001, ino: 42, generation: 1, mode: 0o100_755, uid: 0, nlink: 1, size: 9_000, ctime_ns: 5 };
    Request {
        id: RequestId::new(0x1234, hold),
        hold,
        task: Task {
            pid: 4_000,
            tid: 4_001,
            parent: 3_999,
            start_ns: 77,
            cgroup: 88,
            comm: Text::from("ba\x1b[2Jsh"),
            real_uid: 1_000,
            login_uid: Some(1_000),
            session: Some(3),
        },
        action: Action {
            kind: ActionKind::Exec,
            agent: "builder".to_owned(),
            uid: 1_000,
            gid: 1_000,
            target: Target::Program {
                path: Text::from("/usr/bin/git"),
                called: Text::from("git"),
                args: texts(&["git", "push", "--force", "a b\nc"]),
                env: texts(&["PATH=/usr/bin", "HOME=/home/ann"]),
                interpreter: false,
                cwd: Some(object),
            },
            object: Some(object),
            foreign_mount: false,
            digest: "00112233445566778899aabbccddeeff".to_owned(),
        },
        context: Context {
            exe: Some(Text::from("/bin/bash")),
            args: texts(&["bash", "-c", "git push --force"]),
            cwd: Some(Text::from("/home/ann/project")),
            env: texts(&["PATH=/usr/bin"]),
            ancestry: vec![
                Ancestor { pid: 3_999, exe: Some(Text::from("/usr/bin/node")), args: texts(&["node", "agent.js"]) },
                Ancestor { pid: 1, exe: None, args: Vec::new() },
            ],
            cgroup: Some(Text::from("/gatekeeper/builder/1")),
            user: Some("ann".to_owned()),
            login_user: Some("ann".to_owned()),
            sha256: Some("f".repeat(64)),
            intent: Some("publish the release".to_owned()),
            labels: BTreeMap::from([("ticket".to_owned(), "OPS-7".to_owned())]),
            ..Context::default()
        },
        ask: Ask {
            rule: "git-push".to_owned(),
            deadline: Duration::from_secs(300),
            danger_allow_on_timeout: false,
            risk: Risk::High,
            reason: Some("pushes leave this host".to_owned()),
            quorum: None,
            escalation: Vec::new(),
            danger_self_review: false,
        },
        held_at_ms: 1_700_000_000_000,
        deadline_ms: 1_700_000_300_000,
        state: State::Pending,
        decision: None,
        votes: Vec::new(),
        escalated: 0,
        extended: 0,
    }
}

/// A healthy daemon.
pub(crate) fn status() -> StatusReport {
    StatusReport {
        version: "0.1.0".to_owned(),
        kernel: "6.12.0".to_owned(),
        mode: Mode::Enforce,
        uptime: Duration::from_secs(3_725),
        policy: PolicyStatus { digest: "0123456789abcdef".to_owned(), rules: 4 },
        agents: vec![AgentStatus { name: "builder".to_owned(), cgroups: vec![Text::from("/gatekeeper/builder/1")] }],
        programs: vec![
            ProgramStatus { name: "bprm_creds_for_".to_owned(), attached: true },
            ProgramStatus { name: "socket_bind".to_owned(), attached: true },
        ],
        open_holds: 2,
        pending: 1,
        counters: BTreeMap::from([("holds".to_owned(), 12), ("reruns".to_owned(), 0)]),
        ring: RingStatus { size_bytes: 1 << 22, used_bytes: 0, lost: 0 },
        log: LogStatus { path: "/var/lib/gatekeeper/log".to_owned(), healthy: true, records: 99, problem: None },
        channels: vec![ChannelStatus {
            name: "ops-room".to_owned(),
            kind: "matrix".to_owned(),
            problem: Some("the server cannot be reached".to_owned()),
            shown: 1,
        }],
        errors: vec![ErrorNote { at_ms: 1_700_000_000_000, text: "a test error".to_owned() }],
    }
}
