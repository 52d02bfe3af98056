//! A request for tests.

use std::{collections::BTreeMap, time::Duration};

use super::{Ancestor, Ask, Context, Request, RequestId, Risk, State};
use crate::{
    action::{Action, ActionKind, Object, Target, Task},
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
                env: texts(&["PATH=/usr/bin", "HOME=/home/dev"]),
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
            cwd: Some(Text::from("/home/dev/project")),
            env: texts(&["PATH=/usr/bin"]),
            ancestry: vec![
                Ancestor { pid: 3_999, exe: Some(Text::from("/usr/bin/node")), args: texts(&["node", "agent.js"]) },
                Ancestor { pid: 1, exe: None, args: Vec::new() },
            ],
            cgroup: Some(Text::from("/gatekeeper/builder/1")),
            user: Some("dev".to_owned()),
            login_user: Some("dev".to_owned()),
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
            comment: Default::default(),
            second_factor: false,
            grants: Vec::new(),
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
