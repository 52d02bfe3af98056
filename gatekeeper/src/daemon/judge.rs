//! From a held action to what the policy says about it: the parts that need the file system.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{
    action::{Action, ActionKind, Target, Task},
    broker::{self, Interpreter, ScriptFact, View},
    context,
    kernel::events::Held,
    policy::{Evaluation, Outcome, Policy},
    request::Decider,
    text::Text,
};

/// The whole path of the program that interprets a script, and the file behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptInterpreter {
    path: Text,
    identity: Interpreter,
}

/// Finds out which interpreter would run a script. It reads files that an agent may control, so it belongs on a thread
/// that may block.
///
/// Only an interpreter that this process sees under the same name as the kernel side does is told: it can be judged
/// together with its script. Any other is judged when the kernel comes to it, and may be a request of its own.
pub(super) fn script_interpreter(task: &Task, action: &Action) -> Option<ScriptInterpreter> {
    let (named, identity) = context::interpreter_of(task, action).ok()??;
    let same = |what: &str| {
        let theirs = fs::read_link(format!("/proc/{}/{what}", task.pid)).ok()?;
        let own = fs::read_link(format!("/proc/self/{what}")).ok()?;
        (theirs == own).then_some(())
    };
    same("ns/mnt")?;
    same("root")?;
    let path = fs::canonicalize(Path::new(std::ffi::OsStr::from_bytes(named.bytes()))).ok()?;
    let metadata = fs::metadata(&path).ok()?;
    let dev = metadata.dev();
    // The kernel's own number of a device is not the one that user space gets.
    let dev = u64::from(rustix::fs::major(dev)) << 20 | u64::from(rustix::fs::minor(dev));
    if (dev, metadata.ino()) != (identity.dev, identity.ino) {
        return None;
    }
    Some(ScriptInterpreter { path: path.as_os_str().as_bytes().into(), identity })
}

/// How a task sees the file system. Reads links of `/proc` only, so it cannot block.
pub(super) fn view(task: &Task) -> Option<View> {
    let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", task.pid)).ok();
    let text = |path: PathBuf| Text::from(path.as_os_str().as_bytes());
    Some(View { mount_namespace: link("ns/mnt").map(text)?, root: link("root").map(text)? })
}

/// What the program of an exec is, as far as a grant must know. Blocks as [`script_interpreter`] can, but hashes nothing
/// beyond `until`.
pub(super) fn script_fact(task: &Task, action: &Action, until: Instant) -> ScriptFact {
    if action.kind != ActionKind::Exec {
        return ScriptFact::None;
    }
    match context::script_of(task, action, &|| Instant::now() > until) {
        Ok(None) => ScriptFact::None,
        Ok(Some((sha256, interpreter, file))) => ScriptFact::Script { sha256, interpreter, file },
        Err(_) => ScriptFact::Unknown,
    }
}

/// Whether the program of this hold may be a script that has to be looked into.
pub(super) fn may_be_script(held: &Held) -> bool {
    held.action.kind == ActionKind::Exec && held.stage == 0
}

/// Gives a path that starts at the root of its file system the mount points where the task sees that file system. None:
/// the task sees it nowhere.
fn whole_paths(task: &Task, dev: u64, path: &Text) -> Vec<Text> {
    let wanted = format!("{}:{}", dev >> 20, dev & 0xf_ffff);
    let Ok(mounts) = fs::read(format!("/proc/{}/mountinfo", task.pid)) else { return Vec::new() };
    let mut paths = Vec::new();
    for line in mounts.split(|byte| *byte == b'\n') {
        let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let (Some(device), Some(root), Some(point)) = (fields.get(2), fields.get(3), fields.get(4)) else { continue };
        if *device != wanted.as_bytes() {
            continue;
        }
        let (root, point) = (unescape(root), unescape(point));
        let below = if root == b"/" { Some(path.bytes()) } else { path.bytes().strip_prefix(root.as_slice()) };
        if let Some(below) = below
            && (below.is_empty() || below[0] == b'/')
        {
            let point = if point == b"/" { b"".as_slice() } else { point.as_slice() };
            let whole = [point, below].concat();
            paths.push(if whole.is_empty() { Text::from("/") } else { Text(whole) });
        }
    }
    paths
}

/// `/proc/PID/mountinfo` writes space, tab, line end and backslash in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Completes what the kernel side could not know: the agent's name, and the mount in front of a path.
pub(super) fn complete(held: &mut Held, agent: String) {
    held.action.agent = agent;
    if !held.path_in_filesystem {
        return;
    }
    let dev = held.action.object.map_or(0, |object| object.dev);
    if let Target::File { path, .. } = &mut held.action.target {
        let mut paths = whole_paths(&held.task, dev, path);
        // Several names for one file: rules are asked about the first, and about all others as about a foreign view.
        held.action.foreign_mount |= paths.len() != 1;
        if !paths.is_empty() {
            *path = paths.swap_remove(0);
        }
    }
}

/// What the policy says, for the action and the interpreter that comes with it.
pub(super) fn evaluate(policy: &Policy, action: &Action, interpreter: Option<&ScriptInterpreter>) -> Evaluation {
    let own = policy.evaluate(action);
    let Some(interpreter) = interpreter else { return own };
    let mut through = action.clone();
    if let Target::Program { path, interpreter: flag, .. } = &mut through.target {
        path.clone_from(&interpreter.path);
        *flag = true;
    }
    own.stricter(policy.evaluate(&through))
}

impl ScriptInterpreter {
    pub(super) fn identity(&self) -> Interpreter {
        self.identity
    }
}

/// The same for the broker.
pub(super) fn outcome(evaluation: Evaluation) -> broker::Outcome {
    let by = evaluation.rule.map_or(Decider::NoRule, |name| Decider::Rule { name });
    match evaluation.outcome {
        Outcome::Allow => broker::Outcome::Allow { by },
        Outcome::Deny { errno } => broker::Outcome::Deny { errno, by },
        Outcome::Ask(ask) => broker::Outcome::Ask(ask),
    }
}

/// The user id of a login name, from the host's own file: no name service that could block.
pub fn user_id(name: &str) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The group id of a group's name, from the host's own file.
pub(super) fn group_id(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Path of a process's cgroup below the cgroup mount.
pub(super) fn cgroup_of(pid: u32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// A directory that exists for files of the daemon's own.
pub(super) fn ensure_directory(path: &Path, mode: u32) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    match fs::DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => Ok(path.to_owned()),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_fields_are_unescaped() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/a\\0"), b"/a\\0");
    }
}
