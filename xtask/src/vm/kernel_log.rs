//! The kernel console of the guest: kept in a file, watched for signs that the kernel broke.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How much of the console a failure shows: a panic with its trace, and some of what came before.
const TAIL_LINES: usize = 60;
/// What a kernel prints when it cannot be trusted any more. Blocked tasks are not among these: a held parent of a
/// vfork child sleeps for as long as a reviewer thinks.
const FATAL_MARKS: [&str; 7] = [
    "Kernel panic - not syncing",
    "BUG: ",
    "Oops: ",
    "general protection fault",
    "Internal error: ",
    "detected stalls on CPUs",
    "self-detected stall on CPU",
];
const WARNING_MARK: &str = "WARNING: CPU: ";

/// What the guest's kernel has said so far.
pub(crate) struct KernelLog {
    path: PathBuf,
    file: File,
    line: Vec<u8>,
    tail: VecDeque<String>,
    fatal: Option<String>,
    warnings: usize,
}

impl KernelLog {
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        let tail = VecDeque::with_capacity(TAIL_LINES);
        Ok(Self { path: path.to_path_buf(), file, line: Vec::new(), tail, fatal: None, warnings: 0 })
    }

    /// Takes bytes as they came from the console.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))?;
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                b'\r' => {}
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    /// Adds a line that did not come from the kernel, such as a complaint of the emulator.
    pub(crate) fn note(&mut self, line: &str) {
        self.end_line();
        self.keep(line.to_owned());
    }

    /// The first line that says the kernel broke.
    pub(crate) fn fatal(&self) -> Option<&str> {
        self.fatal.as_deref()
    }

    /// How many times the kernel warned.
    pub(crate) fn warnings(&self) -> usize {
        self.warnings
    }

    /// The last lines, oldest first.
    pub(crate) fn tail(&self) -> String {
        let unfinished = String::from_utf8_lossy(&self.line).into_owned();
        let lines = self.tail.iter().chain((!unfinished.is_empty()).then_some(&unfinished));
        lines.map(|line| format!("  | {line}\n")).collect()
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if self.fatal.is_none() && FATAL_MARKS.iter().any(|mark| line.contains(mark)) {
            self.fatal = Some(without_time(&line).to_owned());
        }
        self.warnings += usize::from(line.contains(WARNING_MARK));
        self.keep(line);
    }

    fn keep(&mut self, line: String) {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

/// The message without its `[   12.345678] `.
fn without_time(line: &str) -> &str {
    match line.split_once("] ") {
        Some((time, message)) if time.starts_with('[') => message,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(text: &str) -> KernelLog {
        let directory = tempfile::tempdir().unwrap();
        let mut log = KernelLog::create(&directory.path().join("log")).unwrap();
        // In pieces, as a serial line delivers it.
        for piece in text.as_bytes().chunks(7) {
            log.push(piece).unwrap();
        }
        log
    }

    #[test]
    fn a_panic_is_seen() {
        let log = log_of("[    1.0] hello\r\n[    2.5] Kernel panic - not syncing: Attempted to kill init!\r\n");
        assert_eq!(log.fatal(), Some("Kernel panic - not syncing: Attempted to kill init!"));
    }

    #[test]
    fn a_soft_lockup_and_an_oops_are_seen() {
        assert!(log_of("[ 1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 61s!\n").fatal().is_some());
        assert!(log_of("[ 1.0] Oops: 0000 [#1] PREEMPT SMP\n").fatal().is_some());
        assert!(log_of("[ 1.0] rcu: INFO: rcu_preempt self-detected stall on CPU\n").fatal().is_some());
    }

    #[test]
    fn a_blocked_task_and_a_warning_are_no_failure() {
        let log = log_of("[ 1.0] INFO: task sh:12 blocked for more than 120 seconds.\n[ 2.0] WARNING: CPU: 0 PID: 1\n");
        assert_eq!((log.fatal(), log.warnings()), (None, 1));
    }

    #[test]
    fn the_tail_is_bounded_and_ends_with_the_unfinished_line() {
        let text: String = (0..200).map(|number| format!("line {number}\n")).collect();
        let tail = log_of(&format!("{text}unfin")).tail();
        assert_eq!(tail.lines().count(), TAIL_LINES + 1);
        assert!(tail.starts_with("  | line 140\n") && tail.ends_with("  | line 199\n  | unfin\n"), "{tail}");
    }
}
