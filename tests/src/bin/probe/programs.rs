//! Acts on programs and namespaces.

use std::{
    ffi::CString,
    fs::File,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _, unix::process::ExitStatusExt as _},
    process::Command,
    ptr,
};

use rustix::{
    io::{Errno, Result},
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};

pub(crate) fn act(act: &[&str]) -> Option<Result<String>> {
    let done = |result: Result<()>| result.map(|()| "ok".to_owned());
    let result = match *act {
        ["exec", path, ref arguments @ ..] => Err(become_program(Command::new(path).args(arguments))),
        ["exec-padded", path, count, size] => Err(exec_padded(path, count, size)),
        ["exec-shared", path, file] => Err(exec_shared(path, file)),
        ["run", path, ref arguments @ ..] => status(Command::new(path).args(arguments)),
        ["nested", path, ref arguments @ ..] => nested(path, arguments),
        ["unshare-mounts"] => done(unshare_mounts()),
        ["bind-mount", from, to] => done(mount_bind(from, to)),
        _ => return None,
    };
    Some(result)
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Returns only if it fails.
fn become_program(command: &mut Command) -> Errno {
    errno(&command.exec())
}

fn exec_padded(path: &str, count: &str, size: &str) -> Errno {
    let (Ok(count), Ok(size)) = (count.parse::<usize>(), size.parse::<usize>()) else { return Errno::INVAL };
    let padding = std::iter::repeat_n("a".repeat(size), count);
    become_program(Command::new(path).arg("serve").args(padding))
}

/// The argument is a text in memory that another process can rewrite while this one is held.
fn exec_shared(path: &str, file: &str) -> Errno {
    let (Ok(path), Ok(file)) = (CString::new(path), File::open(file)) else { return Errno::INVAL };
    let Ok(length) = file.metadata().map(|metadata| metadata.len() as usize) else { return Errno::IO };
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let shared = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if shared == libc::MAP_FAILED {
        return Errno::NOMEM;
    }
    let serve = c"serve";
    let arguments = [path.as_ptr(), serve.as_ptr(), shared.cast_const().cast(), ptr::null()];
    let environment = [ptr::null()];
    // SAFETY: both lists end in null; their strings end in zero and are alive, the one in the file by the test's
    // promise, and the kernel checks every address anyway.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    errno(&std::io::Error::last_os_error())
}

fn status(command: &mut Command) -> Result<String> {
    let status = command.status().map_err(|error| errno(&error))?;
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown".to_owned(),
    })
}

/// The program is process 1 of a new pid namespace.
fn nested(path: &str, arguments: &[&str]) -> Result<String> {
    status(Command::new("unshare").args(["--pid", "--fork", "--kill-child"]).arg(path).args(arguments))
}

fn unshare_mounts() -> Result<()> {
    // SAFETY: only the mount namespace changes; no memory, no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}
