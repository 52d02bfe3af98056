//! Calls to the Bot Connector: posts, changes and who is who, with a token that goes to the configured server only.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::{
    channel::{Failure, http, outbound, secret::Secret},
    clock::Clock,
};

/// What tokens are for.
const SCOPE: &str = "https://api.botframework.com/.default";
/// How long before its end a token is replaced, so that none ends on its way.
const EARLY: Duration = Duration::from_secs(300);

/// Calls the Bot Connector.
pub(super) struct Connector {
    client: Client,
    /// The server of this tenant's region.
    service: Url,
    token_url: Url,
    app_id: String,
    secret: Secret,
    clock: Arc<dyn Clock>,
    token: Mutex<Option<Token>>,
}

#[derive(Clone, Debug)]
struct Token {
    secret: Secret,
    /// By the boot clock.
    until: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("app_id", &self.app_id).finish_non_exhaustive()
    }
}

/// Where everything is.
pub(super) struct Places {
    pub(super) service: Url,
    pub(super) token: Url,
}

/// What is known of a member of a conversation.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Member {
    /// The object id in Entra; the server calls it by either name.
    #[serde(alias = "aadObjectId")]
    pub(super) object_id: String,
    pub(super) tenant_id: String,
    pub(super) user_role: String,
    pub(super) user_principal_name: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Denied {
    error: String,
    error_description: String,
}

#[derive(Deserialize)]
struct Posted {
    id: String,
}

impl Connector {
    pub(super) fn new(client: Client, places: Places, app_id: String, secret: Secret, clock: Arc<dyn Clock>) -> Self {
        let Places { service, token } = places;
        Self { client, service, token_url: token, app_id, secret, clock, token: Mutex::default() }
    }

    /// Makes a message; returns its id.
    pub(super) async fn post(&self, conversation: &str, activity: &Value) -> Result<String, Failure> {
        let path = ["v3", "conversations", conversation, "activities"];
        let response = self.call(Method::POST, &path, Some(activity)).await?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND {
            let way_out = "set `conversation` to one that the bot is in";
            return Err(Failure::Fatal(format!("Teams does not know the conversation {conversation:?}: {way_out}")));
        }
        let body = http::body(checked(response).await?).await?;
        let posted: Result<Posted, _> = serde_json::from_slice(&body);
        posted
            .map(|posted| posted.id)
            .map_err(|error| Failure::Outage(format!("Teams took a message and named it unreadably: {error}")))
    }

    /// Puts another message in a message's place.
    pub(super) async fn update(&self, conversation: &str, id: &str, activity: &Value) -> Result<(), Failure> {
        let path = ["v3", "conversations", conversation, "activities", id];
        let response = self.call(Method::PUT, &path, Some(activity)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(Failure::Refused("the card is not in Teams any more".to_owned()));
        }
        checked(response).await.map(drop)
    }

    /// Who somebody is, by the server's own knowledge.
    pub(super) async fn member(&self, conversation: &str, user: &str) -> Result<Member, Failure> {
        let path = ["v3", "conversations", conversation, "members", user];
        let response = checked(self.call(Method::GET, &path, None).await?).await?;
        serde_json::from_slice(&http::body(response).await?)
            .map_err(|error| Failure::Outage(format!("Teams describes a member unreadably: {error}")))
    }

    /// Makes sure that there is a token.
    pub(super) async fn sign_in(&self) -> Result<(), Failure> {
        self.token().await.map(drop)
    }

    /// Calls, with another token if the one that was kept is not good any more.
    async fn call(&self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Response, Failure> {
        let (token, kept) = self.token().await?;
        let response = self.send(method.clone(), path, body, &token).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        *self.token.lock().await = None;
        if kept {
            // Nothing was done yet, so this is no repetition.
            let (token, _) = self.token().await?;
            let response = self.send(method, path, body, &token).await?;
            if response.status() != StatusCode::UNAUTHORIZED {
                return Ok(response);
            }
        }
        *self.token.lock().await = None;
        let app = &self.app_id;
        Err(Failure::Fatal(format!("Teams refuses the bot {app}: enable its Teams channel, and check `service_url`")))
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Value>,
        token: &Secret,
    ) -> Result<Response, Failure> {
        let mut url = self.service.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let mut request = self.client.request(method, url).bearer_auth(token.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await.map_err(http::outage)
    }

    /// A token, and whether it was there before.
    async fn token(&self) -> Result<(Secret, bool), Failure> {
        let now = Duration::from_nanos(self.clock.now().boot_ns);
        let mut kept = self.token.lock().await;
        if let Some(Token { secret, until }) = &*kept
            && now < *until
        {
            return Ok((secret.clone(), true));
        }
        let Granted { access_token, expires_in } = self.request_token().await?;
        let secret = Secret::new(&access_token);
        let until = now.saturating_add(Duration::from_secs(expires_in)).saturating_sub(EARLY);
        *kept = Some(Token { secret: secret.clone(), until });
        Ok((secret, false))
    }

    async fn request_token(&self) -> Result<Granted, Failure> {
        // Written as a query is, which is what a form's body is, too.
        let mut form = self.token_url.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", &self.app_id)
            .append_pair("client_secret", self.secret.expose())
            .append_pair("scope", SCOPE);
        let body = form.query().unwrap_or_default().to_owned();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let request = self.client.post(self.token_url.clone()).header(CONTENT_TYPE, form_type).body(body);
        let response = request.send().await.map_err(http::outage)?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(Failure::Limited(outbound::pause(&response)));
        }
        if status.is_server_error() {
            return Err(Failure::Outage(format!("Entra gives no token: {status}")));
        }
        let body = http::body(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                // Not the text: the token may be in it.
                .map_err(|_| Failure::Outage("Entra gives a token that cannot be read".to_owned()));
        }
        let Denied { error, error_description } = serde_json::from_slice(&body).unwrap_or_default();
        // Its first word is the number to look up, such as AADSTS7000215.
        let number = word(error_description.split(':').next().unwrap_or_default());
        let app = &self.app_id;
        Err(Failure::Fatal(format!(
            "Entra refuses the secret or the id of the bot {app} ({status}, {} {number}): the secret may have expired or \
             been revoked; make a new one in the app's registration and put it into its file",
            word(&error)
        )))
    }
}

/// An answer that says that it worked.
async fn checked(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Failure::Limited(outbound::pause(&response)));
    }
    let body = http::body(response).await.unwrap_or_default();
    let error: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = format!("{status} {}", word(error["error"]["code"].as_str().unwrap_or_default()));
    Err(match status {
        StatusCode::FORBIDDEN => Failure::Fatal(format!(
            "Teams does not let the bot in ({text}): add the app to the team, and allow it there"
        )),
        StatusCode::PRECONDITION_FAILED | StatusCode::REQUEST_TIMEOUT => {
            Failure::Outage(format!("Teams fails: {text}"))
        }
        status if status.is_server_error() => Failure::Outage(format!("Teams fails: {text}")),
        _ => Failure::Refused(format!("Teams refuses a message: {text}")),
    })
}

/// A word of the server's, short and harmless.
fn word(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect()
}
