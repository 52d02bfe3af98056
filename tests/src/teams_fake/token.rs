//! The fake Bot Framework's keys and tokens: good ones, and each kind of bad one.
//!
//! The keys are in the repository for all to see, so they are good for tests alone.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents},
};
use serde_json::{Value, json};

const KEYS: [&str; 2] = [include_str!("test_only_key_1.pem"), include_str!("test_only_key_2.pem")];

/// How the token of a call is made. The default is a good one.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// `iss`.
    pub issuer: String,
    /// `aud`; empty for the bot's id.
    pub audience: String,
    /// `serviceurl`; empty for the fake's own.
    pub service_url: String,
    /// `nbf` and `exp`, in seconds from the fake's time.
    pub lifetime: (i64, i64),
    /// `alg`: `RS256`, `HS256` with the public key as the secret, or `none` without a signature.
    pub algorithm: String,
    /// `kid`, and which key signs: 0 or 1.
    pub key: (String, usize),
}

impl Default for TokenSpec {
    fn default() -> Self {
        Self {
            issuer: "https://api.botframework.com".to_owned(),
            audience: String::new(),
            service_url: String::new(),
            lifetime: (-60, 3_600),
            algorithm: "RS256".to_owned(),
            key: ("key-0".to_owned(), 0),
        }
    }
}

/// A public key as the Bot Framework publishes it.
pub fn published(key: usize, endorsements: &[&str]) -> Value {
    let RsaPublicKeyComponents { n, e } = public(key);
    json!({
        "kty": "RSA", "use": "sig", "kid": format!("key-{key}"), "x5t": format!("key-{key}"),
        "n": URL_SAFE_NO_PAD.encode(n), "e": URL_SAFE_NO_PAD.encode(e), "endorsements": endorsements,
    })
}

/// A token of the fake's time.
pub(super) fn make(spec: &TokenSpec, app_id: &str, service_url: &str, now: u64) -> String {
    let TokenSpec { issuer, audience, service_url: other_service, lifetime: (from, to), algorithm, key } = spec;
    let (key_id, key) = key;
    let or = |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
    let header = json!({ "typ": "JWT", "alg": algorithm, "kid": key_id, "x5t": key_id });
    let claims = json!({
        "iss": issuer, "aud": or(audience, app_id), "serviceurl": or(other_service, service_url),
        "nbf": now.saturating_add_signed(*from), "exp": now.saturating_add_signed(*to),
    });
    let encoded = |part: Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encoded(header), encoded(claims));
    let signature = match algorithm.as_str() {
        "none" => Vec::new(),
        "HS256" => {
            // The classic confusion: the public key, which everybody knows, taken as a shared secret.
            let secret = hmac::Key::new(hmac::HMAC_SHA256, &public(*key).n);
            hmac::sign(&secret, signed.as_bytes()).as_ref().to_vec()
        }
        _ => {
            let pair = pair(*key);
            let mut signature = vec![0; pair.public().modulus_len()];
            let random = SystemRandom::new();
            pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).expect("a signature");
            signature
        }
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn pair(key: usize) -> RsaKeyPair {
    let inner = KEYS[key].lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
    let encoded: String = inner.take_while(|line| !line.starts_with('-')).collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(encoded).expect("a key in base64")).expect("an RSA key")
}

fn public(key: usize) -> RsaPublicKeyComponents<Vec<u8>> {
    pair(key).public().into()
}
