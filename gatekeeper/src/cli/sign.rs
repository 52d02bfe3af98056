//! A reviewer's own signature: what `gatekeeper approve --key` has `ssh-keygen` sign, and shows before.
//!
//! The key never comes near this process: passphrases, agents and security keys are `ssh-keygen`'s business.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::{
    channel::{
        Verb,
        card::{Card, LABEL_COLUMNS, Line},
    },
    exit::{Exit, Failure},
    request::{Request, SignedStatement},
    reviewer::{
        signature::NAMESPACE,
        statement::{MAX_REASON_BYTES, Place, Statement},
    },
};

/// Has the key in `key` sign that its owner does `verb` about a request as it is shown now, on this host in this boot. All of
/// it goes to stderr first.
pub(super) fn sign(
    request: &Request,
    (host, boot): (&str, &str),
    verb: Verb,
    reason: Option<&str>,
    key: &Path,
    now_ms: u64,
) -> Result<SignedStatement, Failure> {
    if reason.is_some_and(|reason| reason.len() > MAX_REASON_BYTES || reason.chars().any(char::is_control)) {
        let message = format!("a reason that is signed is one line of at most {MAX_REASON_BYTES} bytes; shorten it");
        return Err(Failure::message(Exit::Usage, message));
    }
    let card = Card::new(request, host, &[]);
    let statement = Statement {
        request: request.id,
        place: Place::new(host, boot),
        card: card.digest.clone(),
        verb: verb.word().to_owned(),
        reason: reason.unwrap_or_default().to_owned(),
        at_ms: now_ms,
        nonce: nonce()?,
    };
    let text = statement.text();
    // What the daemon would not take need not be signed.
    Statement::parse(text.as_bytes()).map_err(|bad| Failure::new(Exit::Usage, bad))?;
    io::stderr().write_all(shown(&card, &text, key).as_bytes()).map_err(Failure::output)?;
    let signature = ssh_keygen(key, &text, &statement.nonce)?;
    Ok(SignedStatement { statement: text, signature })
}

/// What is signed, and what it is about.
fn shown(card: &Card, text: &str, key: &Path) -> String {
    let mut lines = vec![card.headline.clone()];
    lines.extend(card.lines.iter().map(|Line { label, text }| format!("{label:<LABEL_COLUMNS$}{text}")));
    lines.push(format!("\nsigned with the key {} is:", key.display()));
    lines.extend(text.lines().map(|line| format!("  {line}")));
    lines.join("\n") + "\n\n"
}

/// 32 hexadecimal digits that nobody can foresee.
fn nonce() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        Failure::message(Exit::Failure, "the kernel gives no random numbers, and a signature needs one")
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A directory that only this user can use, and that goes when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("gatekeeper-sign-{name}"));
        // Fails where there is something already: nobody can put a directory of theirs into its place.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing in it is secret.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Signs a text. Through files: what stands on its standard input is where `ssh-keygen` asks for a passphrase.
fn ssh_keygen(key: &Path, text: &str, name: &str) -> Result<String, Failure> {
    let failed =
        |what: &str, error: io::Error| Failure::new(Exit::Failure, anyhow::Error::new(error).context(what.to_owned()));
    let folder = Folder::make(name).map_err(|error| failed("cannot make a directory for the statement", error))?;
    let (statement, signature) = (folder.0.join("statement"), folder.0.join("statement.sig"));
    fs::write(&statement, text).map_err(|error| failed("cannot write the statement", error))?;
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"]).arg(key).arg(&statement).stdout(Stdio::null());
    let status = command
        .status()
        .map_err(|error| failed("cannot run ssh-keygen, which signs; install openssh-client", error))?;
    if !status.success() {
        let message = format!("ssh-keygen did not sign with {}: it ended with {status}", key.display());
        return Err(Failure::message(Exit::Failure, message));
    }
    fs::read_to_string(&signature).map_err(|error| failed("cannot read the signature that ssh-keygen wrote", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::samples,
        reviewer::{signature::verify, ssh_key::SshKey},
    };

    const PLACE: (&str, &str) = ("web-1\\", "00112233-4455-6677-8899-aabbccddeeff");

    #[test]
    fn what_is_signed_is_shown_and_verifies() {
        let key = SshKey::generate("ed25519");
        let request = samples::request(1);
        let SignedStatement { statement, signature } =
            sign(&request, PLACE, Verb::Approve, Some("fine"), &key.file(), 1_700_000_000_999).unwrap();
        let signed = verify(statement.as_bytes(), &signature).unwrap();
        // The daemon makes the same card of the same host, however odd its name is.
        let card = Card::new(&request, PLACE.0, &[]);
        let expected = Statement {
            request: request.id,
            place: Place::new(PLACE.0, PLACE.1),
            card: card.digest.clone(),
            verb: "approve".to_owned(),
            reason: "fine".to_owned(),
            at_ms: 1_700_000_000_000,
            nonce: signed.statement.nonce.clone(),
        };
        assert_eq!((signed.statement, signed.fingerprint), (expected, key.fingerprint()));
        let shown = shown(&card, &statement, &key.file());
        for line in statement.lines() {
            assert!(shown.contains(&format!("\n  {line}\n")), "{shown}");
        }
        assert!(shown.contains("arguments    git push --force \"a b\\nc\"\n"), "{shown}");
    }

    #[test]
    fn every_statement_has_a_nonce_of_its_own() {
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }

    #[test]
    fn a_reason_that_no_statement_can_have_is_refused_before_anything_is_signed() {
        let missing = Path::new("/no/such/key");
        let failure = sign(&samples::request(1), PLACE, Verb::Approve, Some("two\nlines"), missing, 0).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let error = failure.error.unwrap().to_string();
        assert_eq!(error, "a reason that is signed is one line of at most 1000 bytes; shorten it");
    }
}
