//! Tells whether two held actions are the same one: a hash of everything that makes an action what it is.
//!
//! The kernel side's own digest cannot be compared over time, because it covers the whole environment, in which shells
//! count. Here a few variables are left out ([`HARMLESS_VARIABLES`]), and nothing else. An action of which anything is
//! not known has no fingerprint, so no grant can be given for it, and none can match it.

use sha2::{Digest as _, Sha256};

use crate::{
    action::{Action, ActionKind, Address, Object, Target, Task},
    text::Text,
};

/// Environment variables in which two executions may differ and be the same action: shells set them by themselves, and
/// programs take from them no more than how deep shells are nested, what ran last, and how large a terminal is.
pub const HARMLESS_VARIABLES: [&str; 4] = ["_", "SHLVL", "COLUMNS", "LINES"];

/// What was found in the program of an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptFact {
    /// It is no script, or the action is no exec.
    None,
    /// A script.
    Script {
        /// SHA-256 of its content, hexadecimal.
        sha256: String,
        /// Its interpreter, as its first line names it.
        interpreter: Text,
        /// The file which that name means to the task, with size and time of change.
        file: Object,
    },
    /// It could not be told.
    Unknown,
}

/// How the task sees the file system: what a path means depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its mount namespace, as the kernel names it: `mnt:[4026531841]`.
    pub mount_namespace: Text,
    /// Path of its root directory.
    pub root: Text,
}

/// Hashes fields so that no two rows of fields look alike.
struct Fields(Sha256);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.bytes(&number.to_be_bytes())
    }

    fn text(&mut self, text: &Text) -> &mut Self {
        self.bytes(text.bytes())
    }

    fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a Text>) -> &mut Self {
        let texts: Vec<_> = texts.into_iter().collect();
        self.number(texts.len() as u64);
        texts.into_iter().fold(self, |fields, text| fields.text(text))
    }

    fn option_text(&mut self, text: Option<&Text>) -> &mut Self {
        self.number(u64::from(text.is_some()));
        text.into_iter().fold(self, Self::text)
    }

    fn option_object(&mut self, object: Option<&Object>) -> &mut Self {
        self.number(u64::from(object.is_some()));
        object.into_iter().fold(self, Self::object)
    }

    fn object(&mut self, object: &Object) -> &mut Self {
        // Exhaustive, so that a new fact cannot be forgotten. The number of names says nothing about the object.
        let Object { dev, ino, generation, mode, uid, nlink: _, size, ctime_ns } = object;
        let numbers = [*dev, *ino, u64::from(*generation), u64::from(*mode), u64::from(*uid), *size, *ctime_ns];
        numbers.into_iter().fold(self, Self::number)
    }
}

/// SHA-256 of an action and of who acts, hexadecimal. `stage` is the position in an exec's chain. `None`: something that
/// belongs to it is not known.
pub fn fingerprint(task: &Task, action: &Action, stage: u16, script: &ScriptFact, view: &View) -> Option<String> {
    let Task { pid: _, tid: _, parent: _, start_ns: _, cgroup: _, comm: _, real_uid, login_uid, session: _ } = task;
    let Action { kind, agent, uid, gid, target, object, foreign_mount, digest: _ } = action;
    // The path may mean another file elsewhere, and the same file may have another there.
    if *foreign_mount {
        return None;
    }
    let mut fields = Fields(Sha256::new());
    fields.bytes(b"gatekeeper action 1").bytes(kind.name().as_bytes()).bytes(agent.as_bytes());
    fields.number(u64::from(*uid)).number(u64::from(*gid)).number(u64::from(*real_uid));
    // The kernel's own number for nobody.
    fields.number(u64::from(login_uid.unwrap_or(u32::MAX))).number(u64::from(stage));
    fields.option_object(object.as_ref()).text(&view.mount_namespace).text(&view.root);
    match target {
        Target::Program { path, called, args, env, interpreter, cwd } => {
            let program = object.filter(|program| program.size != 0 && program.ctime_ns != 0)?;
            if args.is_empty() || !path.bytes().starts_with(b"/") {
                return None;
            }
            fields.object(&program).object(cwd.as_ref()?).text(path).text(called).texts(args);
            fields.texts(env.iter().filter(|entry| !is_harmless(entry))).number(u64::from(*interpreter));
            match script {
                ScriptFact::None => fields.number(0),
                ScriptFact::Script { sha256, interpreter, file } => {
                    fields.number(1).bytes(sha256.as_bytes()).text(interpreter).object(file)
                }
                ScriptFact::Unknown => return None,
            };
        }
        Target::File { path, new_path, argument, detail, other } => {
            // The kernel side tells neither which device a node is for, nor the value of an attribute.
            if matches!(kind, ActionKind::Mknod | ActionKind::Xattr) || !path.bytes().starts_with(b"/") {
                return None;
            }
            // Either the object is there, or the directory in which it will be.
            object.or(*other)?;
            fields.text(path).option_text(new_path.as_ref());
            fields.option_text(argument.as_ref()).number(*detail);
            fields.option_object(other.as_ref());
        }
        Target::Socket { address } => {
            match address {
                Address::Ip { ip, port } => fields.bytes(ip.to_string().as_bytes()).number(u64::from(*port)),
                // A relative name depends on the working directory, which is not known.
                Address::Unix(name) if matches!(name.bytes().first(), Some(b'/' | b'@')) => fields.text(name),
                Address::Unix(_) | Address::Other { .. } => return None,
            };
        }
    }
    Some(fields.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_harmless(entry: &Text) -> bool {
    let name = entry.bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
    HARMLESS_VARIABLES.iter().any(|harmless| harmless.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        action::ActionKind,
        request::{Request, samples},
    };

    fn sample() -> Request {
        let mut request = samples::request(1);
        let Target::Program { env, cwd, .. } = &mut request.action.target else { unreachable!("it is an exec") };
        *env = vec![Text::from("PATH=/usr/bin"), Text::from("SHLVL=1")];
        *cwd = Some(object(5));
        request.action.object = Some(object(7));
        request
    }

    fn view() -> View {
        View { mount_namespace: Text::from("mnt:[1]"), root: Text::from("/") }
    }

    fn object(ino: u64) -> Object {
        Object { dev: 1, ino, generation: 2, mode: 0o100_755, uid: 0, nlink: 1, size: 100, ctime_ns: 1_000 }
    }

    fn script(sha256: &str, interpreter: &str, ino: u64) -> ScriptFact {
        ScriptFact::Script { sha256: sha256.to_owned(), interpreter: Text::from(interpreter), file: object(ino) }
    }

    fn of(change: impl FnOnce(&mut Request)) -> Option<String> {
        let mut request = sample();
        change(&mut request);
        fingerprint(&request.task, &request.action, 0, &ScriptFact::None, &view())
    }

    fn program(request: &mut Request) -> (&mut Text, &mut Text, &mut Vec<Text>, &mut Vec<Text>, &mut Option<Object>) {
        let Target::Program { path, called, args, env, cwd, .. } = &mut request.action.target else {
            unreachable!("it is an exec")
        };
        (path, called, args, env, cwd)
    }

    #[test]
    fn whatever_makes_an_exec_another_makes_the_fingerprint_another() {
        let changes: Vec<fn(&mut Request)> = vec![
            |_| {},
            |r| r.action.agent.push('x'),
            |r| r.action.uid += 1,
            |r| r.action.gid += 1,
            |r| r.task.real_uid += 1,
            |r| r.task.login_uid = None,
            |r| r.action.object = Some(object(8)),
            |r| r.action.object = Some(Object { size: 101, ..object(7) }),
            |r| r.action.object = Some(Object { ctime_ns: 1_001, ..object(7) }),
            |r| r.action.object = Some(Object { generation: 3, ..object(7) }),
            |r| r.action.object = Some(Object { mode: 0o104_755, ..object(7) }),
            |r| *program(r).0 = Text::from("/usr/bin/other"),
            |r| *program(r).1 = Text::from("other"),
            |r| program(r).2.push(Text::from("--force")),
            |r| program(r).2.swap(0, 1),
            |r| program(r).3.push(Text::from("LD_PRELOAD=x")),
            |r| program(r).3[0] = Text::from("PATH=/tmp"),
            |r| program(r).3.clear(),
            |r| *program(r).4 = Some(object(6)),
        ];
        let hashes: Vec<_> = changes.iter().map(|change| of(change).expect("all is known")).collect();
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), changes.len(), "{hashes:#?}");
        let Request { task, action, .. } = sample();
        let scripts = [
            ScriptFact::None,
            script("a", "/bin/sh", 1),
            script("b", "/bin/sh", 1),
            script("a", "/bin/bash", 1),
            script("a", "/bin/sh", 2),
        ];
        let mut hashes: BTreeSet<_> =
            scripts.iter().map(|fact| fingerprint(&task, &action, 0, fact, &view())).collect();
        hashes.insert(fingerprint(&task, &action, 1, &ScriptFact::None, &view()));
        for other in
            [View { mount_namespace: Text::from("mnt:[2]"), ..view() }, View { root: Text::from("/jail"), ..view() }]
        {
            hashes.insert(fingerprint(&task, &action, 0, &ScriptFact::None, &other));
        }
        assert_eq!(hashes.len(), scripts.len() + 3);
    }

    #[test]
    fn who_repeats_an_act_does_the_same_although_some_things_differ() {
        let again = of(|r| {
            (r.task.pid, r.task.tid, r.task.start_ns, r.task.parent) = (9, 9, 9, 9);
            r.task.comm = Text::from("x");
            r.action.digest = "0".repeat(32);
            program(r).3[1] = Text::from("SHLVL=7");
            program(r).3.insert(0, Text::from("_=/usr/bin/env"));
        });
        assert_eq!(again, of(|_| {}));
        // Only the very names: what begins or ends like one of them is something else.
        for variable in ["SHLVL2=1", "XSHLVL=1", "_x=1", "OLDPWD=/"] {
            assert_ne!(of(|r| program(r).3.push(Text::from(variable))), of(|_| {}), "{variable}");
        }
    }

    #[test]
    fn an_action_of_which_something_is_unknown_has_none() {
        let changes: Vec<fn(&mut Request)> = vec![
            |r| r.action.foreign_mount = true,
            |r| r.action.object = None,
            |r| r.action.object = Some(Object { ctime_ns: 0, ..object(7) }),
            |r| *program(r).0 = Text::from("relative"),
            |r| program(r).2.clear(),
            |r| *program(r).4 = None,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(of(change), None, "{number}");
        }
        let Request { task, action, .. } = sample();
        assert_eq!(fingerprint(&task, &action, 0, &ScriptFact::Unknown, &view()), None);
    }

    #[test]
    fn files_and_addresses_are_told_apart() {
        let file = |kind, path: &str, detail, object: Option<Object>, other: Option<Object>| {
            let (path, mut request) = (Text::from(path), sample());
            request.action.kind = kind;
            request.action.object = object;
            request.action.target = Target::File { path, new_path: None, argument: None, detail, other };
            fingerprint(&request.task, &request.action, 0, &ScriptFact::None, &view())
        };
        let at = |address: Address| {
            let mut request = sample();
            (request.action.kind, request.action.object) = (ActionKind::Connect, None);
            request.action.target = Target::Socket { address };
            fingerprint(&request.task, &request.action, 0, &ScriptFact::None, &view())
        };
        let ip = |port| at(Address::Ip { ip: [127, 0, 0, 1].into(), port });
        let all = [
            file(ActionKind::Open, "/a", 1, Some(object(1)), None),
            file(ActionKind::Open, "/b", 1, Some(object(1)), None),
            file(ActionKind::Open, "/a", 2, Some(object(1)), None),
            file(ActionKind::Open, "/a", 1, Some(object(2)), None),
            file(ActionKind::Truncate, "/a", 1, Some(object(1)), None),
            file(ActionKind::Mkdir, "/a", 1, None, Some(object(1))),
            file(ActionKind::Mkdir, "/a", 1, None, Some(object(2))),
            ip(1),
            ip(2),
            at(Address::Unix(Text::from("/run/x"))),
            at(Address::Unix(Text::from("@x"))),
        ];
        assert!(all.iter().all(Option::is_some), "{all:?}");
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        for unknown in [
            file(ActionKind::Mknod, "/a", 1, Some(object(1)), None),
            file(ActionKind::Xattr, "/a", 1, Some(object(1)), None),
            file(ActionKind::Open, "a", 1, Some(object(1)), None),
            file(ActionKind::Create, "/a", 1, None, None),
            at(Address::Unix(Text::from("relative"))),
            at(Address::Unix(Text::from(""))),
            at(Address::Other { family: 38, data: Text::from("x") }),
        ] {
            assert_eq!(unknown, None);
        }
    }
}
