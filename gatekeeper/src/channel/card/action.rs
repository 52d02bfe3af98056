//! An action in one line.

use crate::{
    action::{Action, ActionKind, Target},
    text::Text,
};

/// Characters of an argument that need no quotes to be seen as one.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte)
}

/// Text that an agent chose, so that its beginning and end show: in quotes unless it is one plain word.
pub(super) fn quoted(text: &Text) -> String {
    if !text.bytes().is_empty() && text.bytes().iter().copied().all(is_bare) {
        return text.to_string();
    }
    format!("\"{}\"", text.to_string().replace('"', "\\\""))
}

/// Several of them, with a space between.
pub fn quoted_all(texts: &[Text]) -> String {
    texts.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// The whole action in one line, nothing left out but environment and working directory.
pub fn action_line(action: &Action) -> String {
    let Action { kind, target, .. } = action;
    match target {
        Target::Program { path, called, args, interpreter, .. } => {
            let path = quoted(path);
            let role = if *interpreter { format!(" as interpreter of {}", quoted(called)) } else { String::new() };
            format!("{kind} {path}{role}: {}", quoted_all(args))
        }
        Target::File { path, new_path, argument, detail, .. } => {
            let path = quoted(path);
            let new_path = new_path.as_ref().map_or_else(|| "?".to_owned(), quoted);
            let argument = argument.as_ref().map_or_else(|| "?".to_owned(), quoted);
            match kind {
                ActionKind::Open => format!("{kind} {path} ({})", open_flags(*detail)),
                ActionKind::Create | ActionKind::Mkdir | ActionKind::Mknod | ActionKind::Chmod => {
                    format!("{kind} {path} (mode {:04o})", detail & 0o7777)
                }
                ActionKind::Chown => format!("{kind} {path} (to {})", owner(*detail)),
                ActionKind::Link => format!("{kind} {path} as {new_path}"),
                ActionKind::Rename if detail & 2 != 0 => format!("{kind} {path} in exchange with {new_path}"),
                ActionKind::Rename => format!("{kind} {path} to {new_path}"),
                ActionKind::Symlink => format!("{kind} {path} pointing to {argument}"),
                ActionKind::Xattr => format!("{kind} {path} (attribute {argument})"),
                _ => format!("{kind} {path}"),
            }
        }
        Target::Socket { address } => format!("{kind} {address}"),
    }
}

/// What `open` is asked for, by the flags of x86-64 and arm64 that both share, the rest as a number.
fn open_flags(flags: u64) -> String {
    const NAMES: [(u64, &str); 3] = [(0o1000, "truncate"), (0o2000, "append"), (0o100, "create")];
    let access = match flags & 3 {
        0 => "read",
        1 => "write",
        2 => "read and write",
        _ => "control",
    };
    let mut shown = vec![access];
    shown.extend(NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name));
    shown.join(", ")
}

/// `uid << 32 | gid`; all ones leave it as it is.
fn owner(detail: u64) -> String {
    let shown = |id: u32| if id == u32::MAX { "same".to_owned() } else { id.to_string() };
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the group")]
    let (uid, gid) = ((detail >> 32) as u32, detail as u32);
    format!("user {}, group {}", shown(uid), shown(gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{action::Address, control::samples};

    fn file(kind: ActionKind, detail: u64) -> Action {
        let target = Target::File {
            path: Text::from("/etc/a b"),
            new_path: Some(Text::from("/etc/new")),
            argument: Some(Text::from("user.x")),
            detail,
            other: None,
        };
        Action { kind, target, ..samples::request(1).action }
    }

    #[test]
    fn every_kind_has_a_line() {
        let cases = [
            (ActionKind::Open, 0o1001, "open \"/etc/a b\" (write, truncate)"),
            (ActionKind::Open, 0o2002, "open \"/etc/a b\" (read and write, append)"),
            (ActionKind::Create, 0o100_644, "create \"/etc/a b\" (mode 0644)"),
            (ActionKind::Mknod, 0o020_600, "mknod \"/etc/a b\" (mode 0600)"),
            (ActionKind::Mkdir, 0o755, "mkdir \"/etc/a b\" (mode 0755)"),
            (ActionKind::Symlink, 0, "symlink \"/etc/a b\" pointing to user.x"),
            (ActionKind::Link, 0, "link \"/etc/a b\" as /etc/new"),
            (ActionKind::Unlink, 0, "unlink \"/etc/a b\""),
            (ActionKind::Rmdir, 0, "rmdir \"/etc/a b\""),
            (ActionKind::Rename, 0, "rename \"/etc/a b\" to /etc/new"),
            (ActionKind::Rename, 2, "rename \"/etc/a b\" in exchange with /etc/new"),
            (ActionKind::Truncate, 0, "truncate \"/etc/a b\""),
            (ActionKind::Chmod, 0o4755, "chmod \"/etc/a b\" (mode 4755)"),
            (ActionKind::Chown, 5 << 32 | 0xffff_ffff, "chown \"/etc/a b\" (to user 5, group same)"),
            (ActionKind::Xattr, 0, "xattr \"/etc/a b\" (attribute user.x)"),
        ];
        for (kind, detail, expected) in cases {
            assert_eq!(action_line(&file(kind, detail)), expected);
        }
        let address = Address::Ip { ip: std::net::IpAddr::from([127, 0, 0, 1]), port: 80 };
        let bind = Action { kind: ActionKind::Bind, target: Target::Socket { address }, ..samples::request(1).action };
        assert_eq!(action_line(&bind), "bind 127.0.0.1:80");
        let exec = samples::request(1).action;
        assert_eq!(action_line(&exec), "exec /usr/bin/git: git push --force \"a b\\nc\"");
    }

    #[test]
    fn quotes_cannot_be_forged() {
        let shown = |text: &str| quoted(&Text::from(text));
        assert_eq!(shown("plain-1.0/x"), "plain-1.0/x");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("a\" \"b"), "\"a\\\" \\\"b\"");
        assert_eq!(shown("\\"), "\"\\\\\"");
        assert_eq!(shown("ü"), "\"ü\"");
    }
}
