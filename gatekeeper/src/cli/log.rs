//! `gatekeeper log`: what the provenance log says. It reads the files itself, so it works with any daemon or none.

use std::{io, path::PathBuf, time::Duration};

use rustix::fs::inotify;

use super::Terminal;
use crate::{
    exit::{Exit, Failure},
    provenance::{self, Reader},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Go on as the log grows
    #[arg(long, short)]
    follow: bool,
    /// Only the latest records
    #[arg(long, short = 'n', value_name = "COUNT")]
    last: Option<usize>,
    /// The log's directory
    #[arg(long, value_name = "PATH", env = "GATEKEEPER_LOG_DIR", default_value = "/var/lib/gatekeeper/log")]
    directory: PathBuf,
}

/// How long a change of the directory may go unseen, should the watch miss it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn run(arguments: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let failed = |error: provenance::Error| Failure::new(Exit::Log, error);
    // Before the first read, so that nothing falls between.
    let watch = if arguments.follow { Some(watch(&arguments.directory)?) } else { None };
    let mut reader = Reader::open(&arguments.directory).map_err(failed)?;
    let mut kept = std::collections::VecDeque::new();
    while let Some(entry) = reader.next().map_err(failed)? {
        match arguments.last {
            Some(last) => {
                kept.push_back(entry.leaf);
                if kept.len() > last {
                    kept.pop_front();
                }
            }
            None => show(terminal, &entry.leaf)?,
        }
    }
    for leaf in kept {
        show(terminal, &leaf)?;
    }
    let Some(watch) = watch else { return Ok(Exit::Success) };
    loop {
        terminal.output.flush()?;
        wait(&watch)?;
        while let Some(entry) = reader.next().map_err(failed)? {
            show(terminal, &entry.leaf)?;
        }
    }
}

fn show(terminal: &mut Terminal, leaf: &[u8]) -> Result<(), Failure> {
    if terminal.output.is_json() {
        // As it was written: one object on one line, agent text escaped.
        terminal.output.line(String::from_utf8_lossy(leaf))
    } else {
        terminal.output.line(provenance::line(leaf))
    }
}

fn watch(directory: &std::path::Path) -> Result<rustix::fd::OwnedFd, Failure> {
    let failed = |error: rustix::io::Errno| {
        let error = anyhow::Error::new(io::Error::from(error));
        Failure::new(Exit::Log, error.context(format!("cannot watch {}", directory.display())))
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
    inotify::add_watch(&watch, directory, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE).map_err(failed)?;
    Ok(watch)
}

fn wait(watch: &rustix::fd::OwnedFd) -> Result<(), Failure> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let patience = Timespec { tv_sec: LOOK_AGAIN.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&patience)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(Failure::new(Exit::Log, io::Error::from(error))),
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut news = inotify::Reader::new(watch, &mut buffer);
    while news.next().is_ok() {}
    Ok(())
}
