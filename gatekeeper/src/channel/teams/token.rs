//! Tokens that prove that a call comes from the Bot Framework, for this bot, and about the server that it says it is from.
//!
//! Pure: keys and time come in. There is one algorithm, and the key decides it, not the token.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use serde::{Deserialize, de::DeserializeOwned};

/// Who makes them.
const ISSUER: &str = "https://api.botframework.com";
/// How far the two clocks may differ, in seconds.
const SKEW: u64 = 300;
/// Longest token, in bytes. Real ones have about 1,500.
const MAX_BYTES: usize = 8_192;

/// A key of the Bot Framework.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Modulus and exponent, big-endian.
    pub(super) n: Vec<u8>,
    pub(super) e: Vec<u8>,
    /// The channels it may sign for.
    pub(super) endorsements: Vec<String>,
}

/// What has to be right about a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    /// The bot's own id.
    pub(super) app_id: &'a str,
    /// The call's `channelId`.
    pub(super) channel_id: &'a str,
    /// The call's `serviceUrl`.
    pub(super) service_url: &'a str,
    /// Seconds since the epoch.
    pub(super) now: u64,
}

/// Why a token proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadToken {
    #[error("the token is not a JSON web token")]
    Form,
    #[error("the token is not signed with RS256")]
    Algorithm,
    #[error("the token is not from the Bot Framework")]
    Issuer,
    #[error("the token is for another bot")]
    Audience,
    #[error("the token has expired; compare the clocks")]
    Expired,
    #[error("the token is not valid yet; compare the clocks")]
    Early,
    #[error("the token is signed with a key that the Bot Framework does not name")]
    Key,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token is for calls from another server")]
    Service,
    #[error("the token's key may not sign for this channel")]
    Endorsement,
}

/// A token that was read and not verified.
#[derive(Debug)]
pub(super) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    /// Which key it says that it is signed with.
    pub(super) key_id: String,
    claims: Claims,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    exp: u64,
    nbf: u64,
    #[serde(alias = "serviceUrl")]
    serviceurl: String,
}

impl<'a> Token<'a> {
    /// Reads a token, and refuses what no key could make good.
    pub(super) fn read(text: &'a str) -> Result<Self, BadToken> {
        if text.len() > MAX_BYTES {
            return Err(BadToken::Form);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(BadToken::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(BadToken::Form)?;
        let Header { alg, kid, crit } = part(header)?;
        if alg != "RS256" || crit.is_some() {
            return Err(BadToken::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| BadToken::Form)?;
        Ok(Self { signed, signature, key_id: kid, claims: part(claims)? })
    }

    /// Checks what needs no key, so that strangers cannot make anybody fetch keys.
    pub(super) fn check(&self, expected: Expected<'_>) -> Result<(), BadToken> {
        let Claims { iss, aud, exp, nbf, serviceurl } = &self.claims;
        let Expected { app_id, channel_id: _, service_url, now } = expected;
        if iss != ISSUER {
            Err(BadToken::Issuer)
        } else if !aud.eq_ignore_ascii_case(app_id) {
            Err(BadToken::Audience)
        } else if now > exp.saturating_add(SKEW) {
            Err(BadToken::Expired)
        } else if now.saturating_add(SKEW) < *nbf {
            Err(BadToken::Early)
        } else if serviceurl.trim_end_matches('/') != service_url.trim_end_matches('/') {
            Err(BadToken::Service)
        } else {
            Ok(())
        }
    }

    /// Checks everything.
    pub(super) fn verify(&self, key: &Key, expected: Expected<'_>) -> Result<(), BadToken> {
        self.check(expected)?;
        let Key { n, e, endorsements } = key;
        RsaPublicKeyComponents { n, e }
            .verify(&RSA_PKCS1_2048_8192_SHA256, self.signed.as_bytes(), &self.signature)
            .map_err(|_| BadToken::Signature)?;
        match endorsements.iter().any(|endorsed| endorsed == expected.channel_id) {
            true => Ok(()),
            false => Err(BadToken::Endorsement),
        }
    }
}

fn part<T: DeserializeOwned>(encoded: &str) -> Result<T, BadToken> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadToken::Form)?;
    serde_json::from_slice(&bytes).map_err(|_| BadToken::Form)
}
