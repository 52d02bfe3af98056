//! What names mean: cgroup paths, terminals, users, environment.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

use super::process::read_bounded;
use crate::text::Text;

/// Entries of an environment that are shown.
const ENTRIES: usize = 64;

/// Bytes of one entry that are shown.
const ENTRY_BYTES: usize = 1_024;

/// Bytes of `/etc/passwd` that are read.
const PASSWD_BYTES: usize = 4 * 1024 * 1024;

/// Variables that decide what programs do, or say who asked. None that usually hold secrets.
const NAMES: &[&str] = &[
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "CONTAINER",
    "DISPLAY",
    "DOCKER_HOST",
    "EDITOR",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOME",
    "HOSTNAME",
    "IFS",
    "INVOCATION_ID",
    "JAVA_TOOL_OPTIONS",
    "KUBECONFIG",
    "LOCPATH",
    "LOGNAME",
    "MALLOC_CHECK_",
    "NODE_EXTRA_CA_CERTS",
    "NODE_OPTIONS",
    "NODE_PATH",
    "OLDPWD",
    "PAGER",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PROMPT_COMMAND",
    "PS4",
    "PWD",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "RUBYLIB",
    "RUBYOPT",
    "RUSTC_WRAPPER",
    "SHELL",
    "SHELLOPTS",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_ORIGINAL_COMMAND",
    "TERM",
    "TMPDIR",
    "USER",
    "VIRTUAL_ENV",
    "VISUAL",
    "XDG_SESSION_ID",
    "_JAVA_OPTIONS",
    "container",
];

/// Variables whose names begin so, for the same reasons.
const PREFIXES: &[&str] = &["LD_", "SUDO_", "GIT_SSH", "GIT_DIR", "GIT_EXEC", "GIT_EDITOR", "GIT_PAGER", "BASH_FUNC_"];

/// The entries whose names matter, bounded.
pub(super) fn interesting(env: &[Text]) -> Vec<Text> {
    let matters = |entry: &&Text| {
        let bytes = entry.bytes();
        let name = &bytes[..bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len())];
        NAMES.iter().any(|known| known.as_bytes() == name)
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
    };
    let bounded = |entry: &Text| Text::from(&entry.bytes()[..entry.bytes().len().min(ENTRY_BYTES)]);
    env.iter().filter(matters).take(ENTRIES).map(bounded).collect()
}

/// The systemd unit that a cgroup belongs to: the deepest name on the path that can hold processes.
pub(super) fn unit(cgroup: &[u8]) -> Option<Text> {
    const KINDS: [&[u8]; 5] = [b".service", b".scope", b".socket", b".mount", b".swap"];
    let is_unit = |name: &&[u8]| KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind));
    cgroup.split(|byte| *byte == b'/').rev().find(is_unit).map(Text::from)
}

/// The id of the container that a cgroup belongs to: 64 hexadecimal digits, alone (`/docker/ID`, `/kubepods/…/ID`) or
/// between a runtime's name and `.scope` (`docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`,
/// `libpod-ID.scope`).
pub(super) fn container(cgroup: &[u8]) -> Option<Text> {
    cgroup.split(|byte| *byte == b'/').rev().find_map(|name| {
        let name = name.strip_suffix(b".scope").unwrap_or(name);
        let (runtime, id) = match name.iter().rposition(|byte| *byte == b'-') {
            Some(dash) => (&name[..dash], &name[dash + 1..]),
            None => (&b""[..], name),
        };
        // The monitor of a container is not in it.
        let is_id = id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit) && !runtime.ends_with(b"conmon");
        is_id.then(|| Text::from(id))
    })
}

/// Name of a terminal by its device number, as `/proc/PID/stat` has it.
pub(super) fn terminal(device: u32) -> Option<Text> {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    let name = match (major, minor) {
        (0, 0) => return None,
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 0) => "tty".to_owned(),
        (5, 1) => "console".to_owned(),
        // Eight majors of 256 each.
        (136..144, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (188, _) => format!("ttyUSB{minor}"),
        (204, 64..) => format!("ttyAMA{}", minor - 64),
        (229, _) => format!("hvc{minor}"),
        _ => format!("{major}:{minor}"),
    };
    Some(Text::from(name.as_str()))
}

/// What `/etc/passwd` said.
struct Passwd {
    /// Tells one content of the file from the next: inode, size, time of the last change.
    version: (u64, u64, i64, i64),
    names: Vec<(u32, String)>,
}

/// The latest content, because it is asked for again and again.
static PASSWD: Mutex<Option<Passwd>> = Mutex::new(None);

/// Names of two users, by `/etc/passwd` alone: a name service could ask the network, or be what an agent runs.
pub(super) fn user_names(user: u32, login_user: Option<u32>) -> io::Result<(Option<String>, Option<String>)> {
    let file = File::open("/etc/passwd")?;
    let metadata = file.metadata()?;
    let version = (metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec());
    let mut cached = PASSWD.lock().unwrap_or_else(PoisonError::into_inner);
    if cached.as_ref().is_none_or(|known| known.version != version) {
        let (bytes, _) = read_bounded(&file, PASSWD_BYTES)?;
        *cached = Some(Passwd { version, names: parse_passwd(&bytes) });
    }
    let name = |uid: u32| {
        let names = &cached.as_ref()?.names;
        names.iter().find(|(known, _)| *known == uid).map(|(_, name)| name.clone())
    };
    Ok((name(user), login_user.and_then(name)))
}

pub(super) fn parse_passwd(bytes: &[u8]) -> Vec<(u32, String)> {
    let entry = |line: &[u8]| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, name.to_owned()))
    };
    bytes.split(|byte| *byte == b'\n').filter_map(entry).collect()
}
