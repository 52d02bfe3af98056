//! Names and numbers of users and groups, from the host's own files.
//!
//! The daemon reads `/etc/passwd` and `/etc/group` itself instead of asking the name service, which may wait for a
//! network. Accounts that live elsewhere still count: a login session carries its groups as numbers, which the kernel
//! reports for each process.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why an account could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The account files of a host.
#[derive(Clone, Debug)]
pub struct Accounts {
    passwd: PathBuf,
    group: PathBuf,
}

impl Default for Accounts {
    fn default() -> Self {
        Self::below(Path::new("/etc"))
    }
}

impl Accounts {
    /// The files `passwd` and `group` in this directory.
    pub fn below(directory: &Path) -> Self {
        Self { passwd: directory.join("passwd"), group: directory.join("group") }
    }

    /// Login name of a user.
    pub fn user_name(&self, uid: u32) -> Result<Option<String>, AccountError> {
        let users = read(&self.passwd)?;
        Ok(users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
        }))
    }

    /// Number of a group.
    pub fn group_id(&self, name: &str) -> Result<Option<u32>, AccountError> {
        let groups = read(&self.group)?;
        Ok(groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
        }))
    }

    /// Name of a group.
    pub fn group_name(&self, gid: u32) -> Result<Option<String>, AccountError> {
        let groups = read(&self.group)?;
        Ok(groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
        }))
    }

    /// Whether the files say that this user is in this group: as its main group, or listed there.
    pub fn is_member(&self, user: &str, gid: u32) -> Result<bool, AccountError> {
        let users = read(&self.passwd)?;
        let main = users.lines().any(|line| {
            let mut fields = line.split(':');
            fields.next() == Some(user) && fields.nth(2).is_some_and(|field| field.parse() == Ok(gid))
        });
        if main {
            return Ok(true);
        }
        let groups = read(&self.group)?;
        Ok(groups.lines().any(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            matches!(fields[..], [_, _, number, members]
                if number.parse() == Ok(gid) && members.split(',').any(|member| member.trim() == user))
        }))
    }
}

fn read(path: &Path) -> Result<String, AccountError> {
    let bytes = std::fs::read(path).map_err(|source| AccountError::Read { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_come_from_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let passwd =
            "root:x:0:0::/root:/bin/sh\nbroken\ndev:x:1000:1000:Dev:/home/dev:/bin/sh\noncall:x:1001:50::/:/bin/sh\n";
        std::fs::write(directory.path().join("passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("group"), "root:x:0:\n#\nreview:x:50:dev,admin\nempty:x:51:\n").unwrap();
        let accounts = Accounts::below(directory.path());
        assert_eq!(accounts.user_name(1000).unwrap().as_deref(), Some("dev"));
        assert_eq!(accounts.user_name(7).unwrap(), None);
        assert_eq!(accounts.group_id("review").unwrap(), Some(50));
        assert_eq!(accounts.group_id("nobody").unwrap(), None);
        assert_eq!(accounts.group_name(51).unwrap().as_deref(), Some("empty"));
        assert!(accounts.is_member("dev", 50).unwrap(), "listed");
        assert!(accounts.is_member("oncall", 50).unwrap(), "main group");
        assert!(!accounts.is_member("de", 50).unwrap());
        assert!(!accounts.is_member("", 51).unwrap() || !accounts.is_member("root", 51).unwrap());
        assert!(!accounts.is_member("root", 50).unwrap());
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_path() {
        let error = Accounts::below(Path::new("/nonexistent")).group_id("x").unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nonexistent/group");
    }
}
