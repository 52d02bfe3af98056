//! Does one privileged act, or one after another on command, and says how each ended: `ok`, or the name of its errno.
//!
//! `probe ACT…` does one act and exits with 0 or 1. `probe serve` says `ok`, then reads one act per line. An exec keeps
//! the process: what runs then is expected to be another `probe serve`, which says `ok` by itself. Descriptor 0 is read
//! byte by byte, so that nothing is lost between one image and the next.

mod files;
mod programs;
mod sockets;

use std::process::ExitCode;

use rustix::io::Errno;

use self::files::Kept;

/// Every act with its arguments; `serve` reads them from a line, so none may hold a space.
const ACTS: &str = "\
exec PATH [ARG…]        become PATH
exec-padded PATH N SIZE become PATH, as `serve` with N more arguments of SIZE bytes
exec-shared PATH FILE   become PATH, as `serve` with one more argument that lies in the mapped FILE
run PATH [ARG…]         start PATH as a child and say its exit status
nested PATH [ARG…]      the same from the first process of a new pid namespace
unshare-mounts          get a mount namespace of its own
bind-mount FROM TO      make FROM visible at TO
open PATH FLAGS         open; FLAGS like rdwr,creat,excl,trunc,append,tmpfile
keep PATH               open for reading and writing, and keep the descriptor
write                   write one byte to the kept descriptor
ftruncate SIZE          of the kept descriptor; so fchmod MODE, fchown UID
truncate PATH SIZE
rename FROM TO          and exchange FROM TO
link FROM TO            and symlink POINTS-TO PATH
unlink PATH             and rmdir PATH
mkdir PATH              and mkfifo PATH
chmod PATH MODE         and chown PATH UID
setxattr PATH           trusted.probe; and removexattr PATH
setacl PATH             an access list with one more user
bind ADDRESS            127.0.0.1:PORT, [::1]:PORT, unix:PATH, @NAME
listen ADDRESS          binds first
connect ADDRESS";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut kept = None;
    match words.as_slice() {
        ["serve", ..] => serve(&mut kept),
        [] | ["--help", ..] => {
            say(ACTS);
            ExitCode::from(2)
        }
        act => {
            let outcome = outcome(act, &mut kept);
            say(&outcome);
            ExitCode::from(u8::from(outcome != "ok"))
        }
    }
}

fn serve(kept: &mut Option<Kept>) -> ExitCode {
    say("ok");
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match rustix::io::read(rustix::stdio::stdin(), &mut byte) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(_) if byte == *b"\n" => {
                let text = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                let words: Vec<&str> = text.split(' ').collect();
                say(&outcome(&words, kept));
            }
            Ok(_) => line.push(byte[0]),
            Err(Errno::INTR) => {}
            Err(error) => {
                say(&name(error));
                return ExitCode::FAILURE;
            }
        }
    }
}

fn outcome(act: &[&str], kept: &mut Option<Kept>) -> String {
    let done = programs::act(act)
        .or_else(|| sockets::act(act).map(|result| result.map(|()| "ok".to_owned())))
        .or_else(|| files::act(act, kept).map(|result| result.map(|()| "ok".to_owned())));
    match done {
        Some(Ok(text)) => text,
        Some(Err(error)) => name(error),
        None => format!("unknown act {act:?}"),
    }
}

/// The names of the errnos that tests expect; the number of any other.
fn name(error: Errno) -> String {
    let known = [
        (Errno::PERM, "EPERM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::ACCESS, "EACCES"),
        (Errno::EXIST, "EEXIST"),
        (Errno::XDEV, "EXDEV"),
        (Errno::INVAL, "EINVAL"),
        (Errno::ROFS, "EROFS"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NODATA, "ENODATA"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::CONNREFUSED, "ECONNREFUSED"),
        (Errno::INTR, "EINTR"),
        (Errno::TXTBSY, "ETXTBSY"),
    ];
    let known = known.into_iter().find(|(number, _)| *number == error).map(|(_, name)| name.to_owned());
    known.unwrap_or_else(|| format!("errno {}", error.raw_os_error()))
}

/// Says a line. Nobody reads it any more, if that fails.
fn say(line: &str) {
    let mut rest = format!("{line}\n").into_bytes();
    while let Ok(count @ 1..) = rustix::io::write(rustix::stdio::stdout(), &rest) {
        rest.drain(..count);
        if rest.is_empty() {
            break;
        }
    }
}
