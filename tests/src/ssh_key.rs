//! A reviewer's SSH key in a folder of its own, made and used by the real `ssh-keygen`.
//!
//! One source for the scenario tests and for the daemon's own ones, so it uses nothing of either.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// Whether `ssh-keygen -Y verify` finds that the key `public` signed this text for gatekeeper.
///
/// # Panics
/// Without `ssh-keygen`.
pub fn accepts(public: &str, text: &str, signature: &str) -> bool {
    let folder = tempfile::tempdir().expect("a folder for a signature");
    let file = |name: &str, content: &str| {
        fs::write(folder.path().join(name), content).expect("a file");
        folder.path().join(name)
    };
    let allowed = file("allowed", &format!("reviewer namespaces=\"gatekeeper\" {}\n", public.trim()));
    let signature = file("signature", signature);
    let text = fs::File::open(file("text", text)).expect("a file");
    let mut command = Command::new("ssh-keygen");
    command.args(["-Y", "verify", "-n", "gatekeeper", "-I", "reviewer", "-f"]).arg(allowed).arg("-s").arg(signature);
    let status = command.stdin(text).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("ssh-keygen has to be installed (openssh-client)").success()
}

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

    /// The private key's file.
    pub fn file(&self) -> PathBuf {
        self.path("key")
    }

    /// The public key, as `authorized_keys` has it.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn public(&self) -> String {
        fs::read_to_string(self.path("key.pub")).expect("the public key's file")
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
