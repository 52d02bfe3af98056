//! Many acts at once, in the ways that strain holds: threads, processes, timers, signals. Says a line for each result,
//! `NAME ERRNO` with errno 0 for success; so even an errno that has no name is seen.
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::{
    ffi::CString,
    fs::OpenOptions,
    io,
    net::TcpListener,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

const USAGE: &str = "\
swarm threads N TIMES PREFIX     N threads, each opens PREFIXi for writing TIMES times
swarm processes N PREFIX         N processes, each opens PREFIXi for writing
swarm execs N SIZE PROGRAM       N processes, each becomes PROGRAM with an argument of SIZE bytes
swarm mixed TIMES PREFIX PROGRAM PORT   opens, starts and binds in turn
swarm timer NAME PATH            NAME is open, or exec; a timer sends SIGCONT every millisecond meanwhile
swarm handler PATH               opens for writing with a handler for SIGTERM
swarm thread-exec PROGRAM        a second thread becomes PROGRAM
swarm thread-exit PATH           the first thread ends, the second opens
swarm forks TIMES PATH           forks TIMES in one thread, and opens in another meanwhile
swarm spawn PROGRAM              posix_spawn, which waits for the exec";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *words.as_slice() {
        ["threads", count, times, prefix] => threads(number(count), number(times), prefix),
        ["processes", count, prefix] => processes(number(count), |index| open(&format!("{prefix}{index}"))),
        ["execs", count, size, program] => {
            let padding = "x".repeat(number(size));
            processes(number(count), |_| exec(program, &padding));
        }
        ["mixed", times, prefix, program, port] => mixed(number(times), prefix, program, port),
        ["timer", what, path] => timer(what, path),
        ["handler", path] => handler(path),
        ["thread-exec", program] => {
            let program = program.to_owned();
            // Never joined if it succeeds.
            let errno = thread::spawn(move || exec(&program, "")).join().unwrap_or(-1);
            println!("exec {errno}");
        }
        ["thread-exit", path] => thread_exit(path),
        ["forks", times, path] => forks(number(times), path),
        ["spawn", program] => spawn(program),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or(0)
}

fn errno_of(result: io::Result<()>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

fn open(path: &str) -> i32 {
    errno_of(OpenOptions::new().append(true).create(true).open(path).map(drop))
}

/// Returns only if it fails.
fn exec(program: &str, argument: &str) -> i32 {
    use std::os::unix::process::CommandExt as _;
    Command::new(program).arg(argument).exec().raw_os_error().unwrap_or(-1)
}

fn threads(count: usize, times: usize, prefix: &str) {
    let threads: Vec<_> = (0..count)
        .map(|index| {
            let path = format!("{prefix}{index}");
            thread::spawn(move || (0..times).map(|_| open(&path)).find(|errno| *errno != 0).unwrap_or(0))
        })
        .collect();
    for (index, thread) in threads.into_iter().enumerate() {
        println!("{index} {}", thread.join().unwrap_or(-1));
    }
}

/// Each process ends with its errno; this one says it.
fn processes(count: usize, act: impl Fn(usize) -> i32) {
    let mut children = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: there is only one thread; the child runs on with a copy of everything.
        match unsafe { libc::fork() } {
            0 => {
                let errno = act(index);
                // SAFETY: ends this process, without what the parent has not written yet.
                unsafe { libc::_exit(errno.min(255)) }
            }
            child => children.push(child),
        }
    }
    for (index, child) in children.into_iter().enumerate() {
        println!("{index} {}", wait(child));
    }
}

/// The exit status of a child, or the negative number of the signal that ended it.
fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: the status lives here.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            break;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return i32::MIN;
        }
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

fn mixed(times: usize, prefix: &str, program: &str, port: &str) {
    for turn in 0..times {
        // Fewer starts than opens and binds: each takes as long as ten of those.
        let errno = match turn % 20 {
            0 | 2 | 4 | 6 | 8 | 10 | 12 | 14 | 16 | 18 => open(&format!("{prefix}{turn}")),
            1 | 3 | 5 | 7 | 9 | 11 | 13 | 15 | 17 => errno_of(TcpListener::bind(format!("127.0.0.1:{port}")).map(drop)),
            _ => errno_of(Command::new(program).status().and_then(|status| {
                if status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
            })),
        };
        println!("{turn} {errno}");
    }
}

fn timer(what: &str, path: &str) {
    // SAFETY: plain data, for which zero is a value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGCONT;
    let mut id: libc::timer_t = std::ptr::null_mut();
    let millisecond = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let every = libc::itimerspec { it_interval: millisecond, it_value: millisecond };
    // SAFETY: both structures live here, and the kernel copies them.
    let started = unsafe {
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) == 0
            && libc::timer_settime(id, 0, &raw const every, std::ptr::null_mut()) == 0
    };
    let errno = match what {
        _ if !started => -1,
        "exec" => exec(path, ""),
        _ => open(path),
    };
    println!("{what} {errno}");
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn handler(path: &str) {
    // SAFETY: plain data, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count_signal as *const () as usize;
    // SAFETY: the structure lives here; the handler only counts.
    unsafe { libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut()) };
    // Not through the standard library, which would try again after EINTR and so hide it.
    let path = CString::new(path).unwrap_or_default();
    // SAFETY: the path ends in NUL.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY) };
    let errno = if file < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
    println!("open {errno}\nsignals {}", SIGNALS.load(Ordering::Relaxed));
}

fn thread_exit(path: &str) {
    let path = path.to_owned();
    thread::spawn(move || {
        println!("open {}", open(&path));
        std::process::exit(0);
    });
    // SAFETY: ends this thread alone; nothing of its stack is used by the other.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

fn forks(times: usize, path: &str) {
    let path = path.to_owned();
    let opener = thread::spawn(move || open(&path));
    let mut failed = 0;
    for _ in 0..times {
        // SAFETY: the child does nothing but end.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child at once.
            0 => unsafe { libc::_exit(0) },
            child if child > 0 => failed |= wait(child),
            _ => failed = io::Error::last_os_error().raw_os_error().unwrap_or(-1),
        }
    }
    println!("open {}\nforks {failed}", opener.join().unwrap_or(-1));
}

fn spawn(program: &str) {
    // The standard library uses posix_spawn when nothing has to run between fork and exec.
    match Command::new(program).status() {
        Ok(status) => println!("spawn 0\nstatus {}", status.code().unwrap_or(-1)),
        Err(error) => println!("spawn {}", error.raw_os_error().unwrap_or(-1)),
    }
}
