//! Signatures by a reviewer's own SSH key over a statement, as `ssh-keygen -Y sign -n gatekeeper` makes them.
//!
//! The format is OpenSSH's `PROTOCOL.sshsig`, with ed25519 keys only. What is verified is that the holder of a key signed
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
/// The one kind of key.
const KEY_TYPE: &str = "ssh-ed25519";

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
    #[error("the signature is not by an ed25519 key: make one with `ssh-keygen -t ed25519`")]
    KeyType,
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
    let key = typed(key_blob, 32)?;
    let signature = typed(signature_blob, 64)?;
    let digest = match hash_name {
        b"sha512" => Sha512::digest(statement).to_vec(),
        b"sha256" => Sha256::digest(statement).to_vec(),
        _ => return Err(BadSignature::Form("it uses another hash than SHA-512 and SHA-256")),
    };
    let mut signed = MAGIC.to_vec();
    for part in [namespace, reserved, hash_name, &digest] {
        put(&mut signed, part);
    }
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

/// The second string of a pair whose first one names the kind of key; `length` bytes of it.
fn typed(mut blob: &[u8], length: usize) -> Result<&[u8], BadSignature> {
    if string(&mut blob)? != KEY_TYPE.as_bytes() {
        return Err(BadSignature::KeyType);
    }
    let bytes = string(&mut blob)?;
    if bytes.len() != length || !blob.is_empty() {
        return Err(BadSignature::Form("key or signature have another length"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
