//! The Bot Framework's public keys: fetched when they are needed, kept for a day, and fetched again when an unknown one
//! turns up, but not as often as strangers like.

use std::{collections::HashMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Client, Url};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::Mutex;

use super::token::{BadToken, Key};
use crate::{
    channel::{Failure, http, outbound},
    clock::Clock,
};

/// How long keys are used without a look at whether they are still in force.
const LIFETIME: Duration = Duration::from_secs(24 * 3_600);
/// Least time between two fetches.
const FETCH_PAUSE: Duration = Duration::from_secs(60);
/// Keys that are kept: the Bot Framework has a handful.
const MAX_KEYS: usize = 100;

/// Fetches and keeps keys.
pub(super) struct Keys {
    client: Client,
    /// The OpenID configuration, which names the place of the keys.
    url: Url,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    keys: HashMap<String, Key>,
    /// By the boot clock.
    fetched: Option<Duration>,
    tried: Option<Duration>,
}

/// Why there is no key.
#[derive(Debug)]
pub(super) enum NoKey {
    /// The token is bad.
    Bad(BadToken),
    /// The keys cannot be had now.
    Failed(Failure),
}

#[derive(Deserialize)]
struct Configuration {
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<WebKey>,
}

#[derive(Deserialize)]
struct WebKey {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    endorsements: Vec<String>,
}

impl Keys {
    pub(super) fn new(client: Client, url: Url, clock: Arc<dyn Clock>) -> Self {
        Self { client, url, clock, kept: Mutex::default() }
    }

    /// The key of this id, as it was within the last day.
    pub(super) async fn key(&self, id: &str) -> Result<Key, NoKey> {
        let now = Duration::from_nanos(self.clock.now().boot_ns);
        let mut kept = self.kept.lock().await;
        let since = |then: Option<Duration>| then.map(|then| now.saturating_sub(then));
        let is_fresh = since(kept.fetched).is_some_and(|age| age < LIFETIME);
        if is_fresh && let Some(key) = kept.keys.get(id) {
            return Ok(key.clone());
        }
        // Old keys are not used when new ones cannot be had: they may have been withdrawn.
        if since(kept.tried).is_some_and(|age| age < FETCH_PAUSE) {
            return Err(match is_fresh {
                true => NoKey::Bad(BadToken::Key),
                false => NoKey::Failed(Failure::Outage("the Bot Framework's keys could not be fetched".to_owned())),
            });
        }
        kept.tried = Some(now);
        kept.keys = self.fetch().await.map_err(NoKey::Failed)?;
        kept.fetched = Some(now);
        kept.keys.get(id).cloned().ok_or(NoKey::Bad(BadToken::Key))
    }

    async fn fetch(&self) -> Result<HashMap<String, Key>, Failure> {
        let configuration: Configuration = self.read(self.url.clone()).await?;
        let url = outbound::address("the Bot Framework's keys", &configuration.jwks_uri)?;
        let set: KeySet = self.read(url).await?;
        let keys = set.keys.into_iter().filter(|key| key.kty == "RSA" && !key.kid.is_empty()).take(MAX_KEYS);
        Ok(keys
            .filter_map(|WebKey { kid, n, e, endorsements, .. }| {
                let [n, e] = [n, e].map(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
                Some((kid, Key { n: n?, e: e?, endorsements }))
            })
            .collect())
    }

    async fn read<T: DeserializeOwned>(&self, url: Url) -> Result<T, Failure> {
        let response = self.client.get(url).send().await.map_err(http::outage)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failure::Outage(format!("the Bot Framework's keys cannot be fetched: {status}")));
        }
        let body = http::body(response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::Outage(format!("the Bot Framework's keys cannot be read: {error}")))
    }
}
