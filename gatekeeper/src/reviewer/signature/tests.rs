//! Against the real `ssh-keygen`.

use proptest::prelude::*;

use super::*;
use crate::{
    request::RequestId,
    reviewer::{
        ssh_key::{self, SshKey},
        statement::Place,
    },
};

fn text() -> String {
    let statement = Statement {
        request: RequestId::new(7, 42),
        place: Place::new("web-1", "00112233-4455-6677-8899-aabbccddeeff"),
        card: "0f".repeat(32),
        verb: "deny".to_owned(),
        reason: "not on a Friday".to_owned(),
        at_ms: 1_700_000_000_000,
        nonce: "a-nonce_of_its_own".to_owned(),
    };
    statement.text()
}

#[test]
fn what_ssh_keygen_signs_is_verified() {
    let key = SshKey::generate("ed25519");
    let signed = verify(text().as_bytes(), &key.sign(&text(), NAMESPACE)).unwrap();
    assert_eq!(signed.statement.text(), text());
    assert_eq!(signed.fingerprint, key.fingerprint());
}

#[test]
fn both_of_its_hashes_are_known() {
    let key = SshKey::generate("ed25519");
    for hash in ["sha256", "sha512"] {
        assert!(verify(text().as_bytes(), &key.sign_with_hash(&text(), NAMESPACE, hash)).is_ok(), "{hash}");
    }
}

#[test]
fn another_text_another_purpose_and_another_kind_of_key_are_refused() {
    let key = SshKey::generate("ed25519");
    let signature = key.sign(&text(), NAMESPACE);
    let altered = text().replace("deny", "approve");
    assert_eq!(verify(altered.as_bytes(), &signature), Err(BadSignature::Wrong));
    assert_eq!(verify(text().as_bytes(), &key.sign(&text(), "file")), Err(BadSignature::Namespace));
    let other = SshKey::generate("ecdsa");
    assert_eq!(verify(text().as_bytes(), &other.sign(&text(), NAMESPACE)), Err(BadSignature::KeyType));
    let nonsense = key.sign("hello\n", NAMESPACE);
    assert!(matches!(verify(b"hello\n", &nonsense), Err(BadSignature::Statement(_))));
}

#[test]
fn no_bit_of_a_signature_can_be_changed() {
    let key = SshKey::generate("ed25519");
    let blob = dearmor(&key.sign(&text(), NAMESPACE)).unwrap();
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut changed = blob.clone();
            changed[at] ^= 1 << bit;
            let armored = format!("{ARMOR_BEGIN}\n{}\n{ARMOR_END}\n", STANDARD.encode(changed));
            assert!(verify(text().as_bytes(), &armored).is_err(), "byte {at}, bit {bit}");
        }
    }
    for cut in 0..blob.len() {
        let armored = format!("{ARMOR_BEGIN}\n{}\n{ARMOR_END}\n", STANDARD.encode(&blob[..cut]));
        assert!(verify(text().as_bytes(), &armored).is_err(), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn what_anybody_sends_is_read_without_a_panic(bytes: Vec<u8>) {
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        blob.extend_from_slice(&bytes);
        let armored = format!("{ARMOR_BEGIN}\n{}\n{ARMOR_END}\n", STANDARD.encode(blob));
        prop_assert!(verify(&bytes, &armored).is_err());
        prop_assert!(verify(&bytes, &String::from_utf8_lossy(&bytes)).is_err());
    }
}

/// What a security key would sign with: a key of its own, an application, flags and a counter. Nobody has one at hand in
/// tests, so the form is held against `ssh-keygen`, which verifies it.
struct SecurityKey {
    pair: ring::signature::Ed25519KeyPair,
}

impl SecurityKey {
    fn new() -> Self {
        Self { pair: ring::signature::Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap() }
    }

    fn blob(&self) -> Vec<u8> {
        use ring::signature::KeyPair as _;
        let mut blob = Vec::new();
        for part in [TOUCHED_KEY_TYPE.as_bytes(), self.pair.public_key().as_ref(), b"ssh:"] {
            put(&mut blob, part);
        }
        blob
    }

    fn sign(&self, text: &str, flags: u8) -> String {
        let digest = Sha512::digest(text);
        let head: [&[u8]; 3] = [NAMESPACE.as_bytes(), b"", b"sha512"];
        let mut message = MAGIC.to_vec();
        head.into_iter().chain([digest.as_slice()]).for_each(|part| put(&mut message, part));
        let mut signed = Sha256::digest("ssh:").to_vec();
        signed.push(flags);
        signed.extend_from_slice(&9_u32.to_be_bytes());
        signed.extend_from_slice(&Sha256::digest(&message));
        let mut signature = Vec::new();
        put(&mut signature, TOUCHED_KEY_TYPE.as_bytes());
        put(&mut signature, self.pair.sign(&signed).as_ref());
        signature.push(flags);
        signature.extend_from_slice(&9_u32.to_be_bytes());
        let mut blob = MAGIC.to_vec();
        blob.extend_from_slice(&VERSION.to_be_bytes());
        put(&mut blob, &self.blob());
        head.into_iter().chain([signature.as_slice()]).for_each(|part| put(&mut blob, part));
        format!("{ARMOR_BEGIN}\n{}\n{ARMOR_END}\n", STANDARD.encode(blob))
    }
}

#[test]
fn a_security_key_that_was_touched_signs_like_any() {
    let key = SecurityKey::new();
    let signature = key.sign(&text(), USER_PRESENT);
    assert!(ssh_key::accepts(&format!("{TOUCHED_KEY_TYPE} {}", STANDARD.encode(key.blob())), &text(), &signature));
    let signed = verify(text().as_bytes(), &signature).unwrap();
    assert_eq!(signed.fingerprint, fingerprint(&key.blob()));
    let altered = text().replace("deny", "approve");
    assert_eq!(verify(altered.as_bytes(), &signature), Err(BadSignature::Wrong));
    assert_eq!(verify(text().as_bytes(), &key.sign(&text(), 0)), Err(BadSignature::Untouched));
}

#[test]
fn no_bit_of_a_security_keys_signature_can_be_changed() {
    let blob = dearmor(&SecurityKey::new().sign(&text(), USER_PRESENT)).unwrap();
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut changed = blob.clone();
            changed[at] ^= 1 << bit;
            let armored = format!("{ARMOR_BEGIN}\n{}\n{ARMOR_END}\n", STANDARD.encode(changed));
            assert!(verify(text().as_bytes(), &armored).is_err(), "byte {at}, bit {bit}");
        }
    }
}
