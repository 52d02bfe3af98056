//! Signatures by a reviewer's own SSH key over a statement, as `ssh-keygen -Y sign -n gatekeeper` makes them.
//!
//! The format is OpenSSH's `PROTOCOL.sshsig`, with ed25519 keys only: those in files and agents, and those in security keys
//! (`ed25519-sk`, `PROTOCOL.u2f`), which have to have been touched. What is verified is that the holder of a key signed
//! exactly this text for this purpose; whose key it is, and whether the statement comes in time and for the first time, is
//! for the caller.

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256, Sha512};

use super::statement::{BadStatement, Statement};

/// What signatures are for, so that one made for something else cannot be used here.
pub const NAMESPACE: &str = "gatekeeper";
/// Longest armored signature that is read, in bytes. Those of ed25519 keys take about 300.
pub const MAX_SIGNATURE_BYTES: usize = 4_096;

const ARMOR_BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const ARMOR_END: &str = "-----END SSH SIGNATURE-----";
/// First bytes of the signature, and of what is signed.
const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
/// Keys in files and agents.
const KEY_TYPE: &str = "ssh-ed25519";
/// Keys in security keys.
const TOUCHED_KEY_TYPE: &str = "sk-ssh-ed25519@openssh.com";
/// Among a security key's flags: somebody was there and touched it.
const USER_PRESENT: u8 = 1;

/// A statement, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub statement: Statement,
    /// The key's fingerprint, as `ssh-keygen -l` shows it: `SHA256:…`.
    pub fingerprint: String,
}

/// Why something is no signed statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSignature {
    /// Not what `ssh-keygen` writes.
    #[error("the signature is not in the form that `ssh-keygen -Y sign` writes: {0}")]
    Form(&'static str),
    /// Made for something else.
    #[error("the signature was made for another purpose: sign with `ssh-keygen -Y sign -n {NAMESPACE}`")]
    Namespace,
    /// Made with a kind of key that is not taken.
    #[error(
        "the signature is not by an ed25519 key: make one with `ssh-keygen -t ed25519`, or with `ssh-keygen -t ed25519-sk` in \
         a security key"
    )]
    KeyType,
    /// By a security key that nobody touched.
    #[error("nobody touched the security key: make a key without `-O no-touch-required`")]
    Untouched,
    /// Another text was signed, or with another key.
    #[error("the signature does not fit the statement: it was made over another text or with another key")]
    Wrong,
    /// The text is good for nothing.
    #[error(transparent)]
    Statement(#[from] BadStatement),
}

/// Verifies an armored signature over a statement's text.
///
/// # Errors
/// The signature is not one, not for this, or not over this text; or the text is no statement.
pub fn verify(statement: &[u8], armored: &str) -> Result<Signed, BadSignature> {
    let blob = dearmor(armored)?;
    let mut rest = blob.strip_prefix(MAGIC).ok_or(BadSignature::Form("it does not begin with SSHSIG"))?;
    if number(&mut rest)? != VERSION {
        return Err(BadSignature::Form("it has another version"));
    }
    let key_blob = string(&mut rest)?;
    let namespace = string(&mut rest)?;
    let reserved = string(&mut rest)?;
    let hash_name = string(&mut rest)?;
    let signature_blob = string(&mut rest)?;
    if !rest.is_empty() {
        return Err(BadSignature::Form("something follows it"));
    }
    if namespace != NAMESPACE.as_bytes() {
        return Err(BadSignature::Namespace);
    }
    if !reserved.is_empty() {
        return Err(BadSignature::Form("its reserved field is in use"));
    }
    let mut message = MAGIC.to_vec();
    for part in [namespace, reserved, hash_name, &message_hash(hash_name, statement)?] {
        put(&mut message, part);
    }
    let Parts { key, signature, signed } = parts(key_blob, signature_blob, message)?;
    UnparsedPublicKey::new(&ED25519, key).verify(&signed, signature).map_err(|_| BadSignature::Wrong)?;
    Ok(Signed { statement: Statement::parse(statement)?, fingerprint: fingerprint(key_blob) })
}

/// The fingerprint of a key in OpenSSH's wire form.
fn fingerprint(key_blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(key_blob)))
}

/// The bytes between the two lines that frame them.
fn dearmor(armored: &str) -> Result<Vec<u8>, BadSignature> {
    if armored.len() > MAX_SIGNATURE_BYTES {
        return Err(BadSignature::Form("it is too long"));
    }
    let inner = armored
        .trim()
        .strip_prefix(ARMOR_BEGIN)
        .and_then(|rest| rest.strip_suffix(ARMOR_END))
        .ok_or(BadSignature::Form("the first or the last line is missing"))?;
    let encoded: String = inner.split_ascii_whitespace().collect();
    STANDARD.decode(encoded).map_err(|_| BadSignature::Form("it is not base64"))
}

/// Reads a big-endian number of 32 bits.
fn number(rest: &mut &[u8]) -> Result<u32, BadSignature> {
    let (number, after) = rest.split_first_chunk().ok_or(BadSignature::Form("it ends early"))?;
    *rest = after;
    Ok(u32::from_be_bytes(*number))
}

/// Reads a string: its length, then its bytes.
fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], BadSignature> {
    let early = BadSignature::Form("it ends early");
    let length = usize::try_from(number(rest)?).map_err(|_| early.clone())?;
    let (string, after) = rest.split_at_checked(length).ok_or(early)?;
    *rest = after;
    Ok(string)
}

/// Writes a string as [`string`] reads it. Ours are far shorter than its length can say.
fn put(out: &mut Vec<u8>, string: &[u8]) {
    out.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(string);
}

fn message_hash(name: &[u8], statement: &[u8]) -> Result<Vec<u8>, BadSignature> {
    match name {
        b"sha512" => Ok(Sha512::digest(statement).to_vec()),
        b"sha256" => Ok(Sha256::digest(statement).to_vec()),
        _ => Err(BadSignature::Form("it uses another hash than SHA-512 and SHA-256")),
    }
}

/// What ed25519 verifies.
struct Parts<'a> {
    key: &'a [u8],
    signature: &'a [u8],
    signed: Vec<u8>,
}

/// Takes key and signature apart, and finds what exactly the key has signed of a message: a security key signs it together
/// with what it knows itself.
fn parts<'a>(mut key: &'a [u8], mut signature: &'a [u8], message: Vec<u8>) -> Result<Parts<'a>, BadSignature> {
    let key_type = string(&mut key)?;
    let is_touched = key_type == TOUCHED_KEY_TYPE.as_bytes();
    if !is_touched && key_type != KEY_TYPE.as_bytes() {
        return Err(BadSignature::KeyType);
    }
    if string(&mut signature)? != key_type {
        return Err(BadSignature::Form("key and signature are of two kinds"));
    }
    let key_bytes = string(&mut key)?;
    let signature_bytes = string(&mut signature)?;
    if key_bytes.len() != 32 || signature_bytes.len() != 64 {
        return Err(BadSignature::Form("key or signature have another length"));
    }
    let mut signed = message;
    if is_touched {
        let application = string(&mut key)?;
        let (flags, after) = signature.split_first().ok_or(BadSignature::Form("it ends early"))?;
        signature = after;
        let counter = number(&mut signature)?;
        if flags & USER_PRESENT == 0 {
            return Err(BadSignature::Untouched);
        }
        let message = Sha256::digest(&signed);
        signed = Sha256::digest(application).to_vec();
        signed.push(*flags);
        signed.extend_from_slice(&counter.to_be_bytes());
        signed.extend_from_slice(&message);
    }
    if !key.is_empty() || !signature.is_empty() {
        return Err(BadSignature::Form("something follows key or signature"));
    }
    Ok(Parts { key: key_bytes, signature: signature_bytes, signed })
}

#[cfg(test)]
mod tests;
