//! The files in which agents read how their actions ended: one for each run, JSON lines, written by the daemon alone.
//!
//! They lie in a directory below the runtime directory, which only the daemon's user can write, so no name in it can be
//! made to lead elsewhere; each file is nevertheless opened without following links and looked at before it is written. A
//! file's name is random and its directory cannot be listed by others: who knows the name was told it.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};

use super::judge;

/// The directory, below the runtime directory.
const DIRECTORY: &str = "reasons";
/// Longest file, in bytes. Beyond it, the older half is dropped: an agent reads what happened lately.
pub(super) const MAX_FILE_BYTES: u64 = 128 * 1024;
/// Longest line, in bytes. What is longer is not written: the command `why` has it.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// The directory of the files.
#[derive(Debug)]
pub(super) struct NoticeFiles {
    path: PathBuf,
    directory: OwnedFd,
}

impl NoticeFiles {
    /// Makes the directory below `runtime`, if it is not there.
    pub(super) fn open(runtime: &Path) -> io::Result<Self> {
        let path = judge::ensure_directory(&runtime.join(DIRECTORY), 0o711)?;
        let directory = rustix::fs::open(&path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let directory = File::from(directory);
        let owner = rustix::process::geteuid().as_raw();
        if directory.metadata()?.uid() != owner {
            return Err(io::Error::other("the directory belongs to somebody else"));
        }
        // Whatever umask or an earlier version made of it.
        directory.set_permissions(fs::Permissions::from_mode(0o711))?;
        Ok(Self { path, directory: directory.into() })
    }

    /// Makes a file with a name that nobody can guess, and returns the name.
    pub(super) fn create(&self) -> io::Result<String> {
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let name = format!("{}.jsonl", random.trim());
        drop(self.make(&name)?);
        Ok(name)
    }

    /// The whole path of a file.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn make(&self, name: &str) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::from_raw_mode(0o600))?);
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        Ok(file)
    }

    /// Opens a file that is there, if it is one that this daemon or one before it made.
    fn existing(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, name, flags, Mode::empty())?);
        let found = file.metadata()?;
        let is_ours = found.is_file()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o022 == 0
            && found.nlink() == 1;
        if is_ours { Ok(file) } else { Err(io::Error::other("it is no file of gatekeeper's")) }
    }

    /// Adds a line, which has no line end.
    pub(super) fn append(&self, name: &str, line: &str) -> io::Result<()> {
        if line.len() > MAX_LINE_BYTES {
            return Ok(());
        }
        let line = format!("{line}\n");
        let mut file = self.existing(name, OFlags::WRONLY | OFlags::APPEND)?;
        if file.metadata()?.len() + line.len() as u64 > MAX_FILE_BYTES {
            file = self.shorten(name)?;
        }
        // In one piece, so that a reader never sees half a line.
        file.write_all(line.as_bytes())
    }

    /// Puts a file with the newer half of the lines in a file's place. Who has the old one open keeps it.
    fn shorten(&self, name: &str) -> io::Result<File> {
        let mut text = Vec::new();
        self.existing(name, OFlags::RDONLY)?.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
        let middle = text.len() / 2;
        let from = text[middle..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| middle + at + 1);
        let new = format!("{name}.new");
        // Left by a daemon that was killed here, perhaps.
        let _ = unlinkat(&self.directory, &*new, AtFlags::empty());
        let mut file = self.make(&new)?;
        file.write_all(&text[from..])?;
        renameat(&self.directory, &*new, &self.directory, name)?;
        Ok(file)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(err) => Err(err.into()),
        }
    }

    /// Removes the files of runs that ended while no daemon ran.
    pub(super) fn keep_only(&self, known: &std::collections::BTreeSet<String>) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string()
                && !known.contains(&name)
            {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn files() -> (tempfile::TempDir, NoticeFiles) {
        let directory = tempfile::tempdir().unwrap();
        let files = NoticeFiles::open(directory.path()).unwrap();
        (directory, files)
    }

    #[test]
    fn everybody_who_knows_the_name_can_read_and_nobody_can_list_or_write() {
        let (_directory, files) = files();
        let name = files.create().unwrap();
        files.append(&name, "{}").unwrap();
        files.append(&name, "[]").unwrap();
        assert_eq!(fs::read_to_string(files.path(&name)).unwrap(), "{}\n[]\n");
        assert_eq!(fs::metadata(files.path(&name)).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::metadata(&files.path).unwrap().mode() & 0o777, 0o711);
        assert_ne!(files.create().unwrap(), name);
    }

    #[test]
    fn only_the_newer_half_of_a_long_file_is_kept() {
        let (_directory, files) = files();
        let name = files.create().unwrap();
        let line = |number: usize| format!("{{\"number\":{number},\"fill\":\"{}\"}}", "x".repeat(1_000));
        for number in 0..500 {
            files.append(&name, &line(number)).unwrap();
            assert!(fs::metadata(files.path(&name)).unwrap().len() <= MAX_FILE_BYTES);
        }
        let text = fs::read_to_string(files.path(&name)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.last(), Some(&&*line(499)));
        // Whole lines, one after another, and more than a few.
        let first = 500 - lines.len();
        assert!(lines.len() > 50 && lines.iter().enumerate().all(|(at, text)| **text == line(first + at)), "{first}");
        // What is too long for a file of that size is left out whole.
        files.append(&name, &"x".repeat(MAX_LINE_BYTES + 1)).unwrap();
        assert_eq!(fs::read_to_string(files.path(&name)).unwrap(), text);
        assert_eq!(fs::metadata(files.path(&name)).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn what_was_put_in_a_files_place_is_not_written() {
        let (directory, files) = files();
        let name = files.create().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious\n").unwrap();
        fs::remove_file(files.path(&name)).unwrap();
        symlink(&victim, files.path(&name)).unwrap();
        assert!(files.append(&name, "{}").is_err(), "a symbolic link");
        fs::remove_file(files.path(&name)).unwrap();
        fs::hard_link(&victim, files.path(&name)).unwrap();
        assert!(files.append(&name, "{}").is_err(), "a hard link");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious\n");
        fs::remove_file(files.path(&name)).unwrap();
        assert!(files.append(&name, "{}").is_err(), "it is made once, with its run");
        fs::remove_dir(&files.path).unwrap();
        symlink(directory.path(), &files.path).unwrap();
        assert!(NoticeFiles::open(directory.path()).is_err(), "the directory is a link");
    }

    #[test]
    fn files_of_ended_runs_are_removed() {
        let (_directory, files) = files();
        let (one, other) = (files.create().unwrap(), files.create().unwrap());
        files.keep_only(&[one.clone()].into()).unwrap();
        assert!(files.path(&one).exists() && !files.path(&other).exists());
        files.remove(&one).unwrap();
        files.remove(&one).unwrap();
        assert!(!files.path(&one).exists());
    }
}
