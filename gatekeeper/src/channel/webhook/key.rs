//! The key that signs events, after the Standard Webhooks specification: asymmetric, so that a receiver can check who sent
//! an event and cannot send one itself.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::channel::{Failure, secret::Secret};

const SECRET_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// Signs events with ed25519.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads `whsk_` and the base64 of 32 secret bytes, or of those and the 32 bytes of the public key.
    ///
    /// # Errors
    /// It is anything else.
    pub fn read(secret: &Secret) -> Result<Self, Failure> {
        let bad = || {
            let way_out = "make one with `printf 'whsk_%s\\n' \"$(openssl rand -base64 32)\"`";
            Failure::Fatal(format!(
                "the webhook's signing key is not {SECRET_PREFIX} and base64 of 32 bytes: {way_out}"
            ))
        };
        let bytes = secret.expose().strip_prefix(SECRET_PREFIX).and_then(|key| STANDARD.decode(key).ok());
        let bytes = bytes.ok_or_else(bad)?;
        let pair = match bytes.split_at_checked(32) {
            Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
            Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            None => return Err(bad()),
        };
        pair.map(Self).map_err(|_| bad())
    }

    /// The public key, for receivers: `whpk_…`.
    pub fn public(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.public_key()))
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signature = self.0.sign(format!("{id}.{timestamp}.{body}").as_bytes());
        format!("v1a,{}", STANDARD.encode(signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_two_forms() {
        let seed = [7; 32];
        let short = SigningKey::read(&Secret::new(&format!("whsk_{}\n", STANDARD.encode(seed)))).unwrap();
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let both = [&seed, pair.public_key().as_ref()].concat();
        let long = SigningKey::read(&Secret::new(&format!("whsk_{}", STANDARD.encode(&both)))).unwrap();
        assert_eq!(short.public(), long.public());
        assert!(short.public().starts_with("whpk_"));
        let mut wrong = both;
        wrong[40] ^= 1;
        let encoded = |bytes: &[u8]| format!("whsk_{}", STANDARD.encode(bytes));
        for bad in [encoded(&wrong), encoded(&seed[1..]), "whsec_AAAA".to_owned(), "whsk_?".to_owned(), String::new()] {
            let Err(Failure::Fatal(text)) = SigningKey::read(&Secret::new(&bad)) else { panic!("{bad} passes") };
            assert!(text.contains("openssl rand"), "{text}");
        }
    }
}
