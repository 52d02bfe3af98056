//! A reviewer's SSH key in a folder of its own, made and used by the real `ssh-keygen`.
//!
//! One source for the scenario tests and for the daemon's own ones, so it uses nothing of either.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A key that is gone when this is dropped.
#[derive(Debug)]
pub struct SshKey {
    folder: TempDir,
}

impl SshKey {
    /// Makes a key of a kind such as `ed25519`.
    ///
    /// # Panics
    /// Without `ssh-keygen`.
    pub fn generate(kind: &str) -> Self {
        let key = Self { folder: tempfile::tempdir().expect("a folder for a key") };
        key.keygen(&["-q", "-t", kind, "-N", "", "-C", "test", "-f"], &["key"]);
        key
    }

    /// Its fingerprint, `SHA256:…`.
    pub fn fingerprint(&self) -> String {
        let shown = self.keygen(&["-l", "-f"], &["key.pub"]);
        shown.split_whitespace().nth(1).expect("ssh-keygen -l shows size, fingerprint, comment").to_owned()
    }

    /// Signs a text for a purpose.
    pub fn sign(&self, text: &str, namespace: &str) -> String {
        self.sign_with_hash(text, namespace, "sha512")
    }

    /// Signs a text for a purpose, with the hash `sha256` or `sha512`.
    ///
    /// # Panics
    /// When the signature cannot be read.
    pub fn sign_with_hash(&self, text: &str, namespace: &str, hash: &str) -> String {
        fs::write(self.path("statement"), text).expect("the statement's file");
        let signature = self.path("statement.sig");
        // ssh-keygen would ask before it writes over an older one.
        let _ = fs::remove_file(&signature);
        let hash = format!("hashalg={hash}");
        self.keygen(&["-Y", "sign", "-O", &hash, "-n", namespace, "-f"], &["key", "statement"]);
        fs::read_to_string(signature).expect("the signature's file")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn keygen(&self, arguments: &[&str], files: &[&str]) -> String {
        let mut command = Command::new("ssh-keygen");
        command.args(arguments).args(files.iter().map(|file| self.path(file))).stdin(Stdio::null());
        let output = command.output().expect("ssh-keygen has to be installed (openssh-client)");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
