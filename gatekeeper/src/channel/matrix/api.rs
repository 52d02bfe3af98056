//! Calls of the client-server API, and what their errors mean.

use std::time::Duration;

use reqwest::{Client, Method, Url};
use serde_json::Value;

use super::super::{Failure, http, secret::Secret};

/// Pause after an error 429 that does not say how long to wait.
const LIMITED_PAUSE: Duration = Duration::from_secs(5);

/// One bot on one server.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    homeserver: String,
    token: Secret,
}

impl Api {
    pub(super) fn new(client: Client, homeserver: String, token: Secret) -> Self {
        Self { client, homeserver, token }
    }

    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.call(Method::GET, path, query, None, http::REQUEST_TIME).await
    }

    /// A call that the server may keep waiting for `wait`.
    pub(super) async fn poll(&self, path: &[&str], query: &[(&str, &str)], wait: Duration) -> Result<Value, Failure> {
        self.call(Method::GET, path, query, None, wait + http::REQUEST_TIME).await
    }

    pub(super) async fn put(&self, path: &[&str], content: &Value) -> Result<Value, Failure> {
        self.call(Method::PUT, path, &[], Some(content), http::REQUEST_TIME).await
    }

    pub(super) async fn post(&self, path: &[&str], content: &Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, &[], Some(content), http::REQUEST_TIME).await
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        content: Option<&Value>,
        time: Duration,
    ) -> Result<Value, Failure> {
        let bad_url = || Failure::Fatal(format!("{:?} is no URL of a Matrix server", self.homeserver));
        let mut url: Url = self.homeserver.parse().map_err(|_| bad_url())?;
        // Each part is escaped: ids have colons, exclamation marks and whatever a server likes.
        url.path_segments_mut()
            .map_err(|()| bad_url())?
            .pop_if_empty()
            .extend(["_matrix", "client", "v3"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.client.request(method, url).bearer_auth(self.token.expose()).timeout(time);
        if let Some(content) = content {
            request = request.json(content);
        }
        let response = request.send().await.map_err(http::outage)?;
        let status = response.status();
        let body = http::body(response).await?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        if status.is_success() {
            return answer.ok_or_else(|| Failure::Outage("the server's answer is no JSON".to_owned()));
        }
        let what = path.first().copied().unwrap_or_default();
        Err(failure(status.as_u16(), &answer.unwrap_or_default(), what))
    }
}

/// What an error of the API means (specification, "Standard error response").
fn failure(status: u16, answer: &Value, what: &str) -> Failure {
    let code = answer["errcode"].as_str().unwrap_or("no code");
    let said = answer["error"].as_str().unwrap_or("nothing");
    // A server's words may hold anything.
    let told = crate::text::Text::from(format!("{code} ({status}): {said}").as_str());
    match (status, code) {
        (429, _) | (_, "M_LIMIT_EXCEEDED") => {
            Failure::Limited(answer["retry_after_ms"].as_u64().map_or(LIMITED_PAUSE, Duration::from_millis))
        }
        (_, "M_UNKNOWN_TOKEN" | "M_MISSING_TOKEN") => Failure::Fatal(format!(
            "the server does not take the access token, {told}; log the bot in again and put the new token into its file"
        )),
        (_, "M_USER_DEACTIVATED" | "M_USER_LOCKED" | "M_USER_SUSPENDED") => {
            Failure::Fatal(format!("the bot's account is switched off, {told}; use another account"))
        }
        (403, "M_FORBIDDEN") if what == "rooms" || what == "join" => Failure::Fatal(format!(
            "the bot may not use the room, {told}; invite it, and let members send messages and reactions"
        )),
        (413, _) | (_, "M_TOO_LARGE" | "M_DUPLICATE_ANNOTATION" | "M_BAD_JSON" | "M_INVALID_PARAM") => {
            Failure::Refused(format!("the server refuses a message, {told}"))
        }
        (404, "M_NOT_FOUND" | "M_UNRECOGNIZED") if what != "rooms" => {
            Failure::Fatal(format!("this is no Matrix server, or an old one, {told}; correct `homeserver`"))
        }
        (400..=499, _) => Failure::Refused(format!("the server refuses it, {told}")),
        _ => Failure::Outage(format!("the server does not work, {told}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let answer = |code: &str| json!({ "errcode": code, "error": "x\u{202e}" });
        let Failure::Fatal(text) = failure(401, &answer("M_UNKNOWN_TOKEN"), "sync") else { panic!() };
        assert!(text.ends_with("log the bot in again and put the new token into its file"), "{text}");
        assert!(text.contains("M_UNKNOWN_TOKEN (401): x\\u{202e}"), "{text}");
        let limited = json!({ "errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 1500 });
        assert_eq!(failure(429, &limited, "rooms"), Failure::Limited(Duration::from_millis(1500)));
        assert!(matches!(failure(403, &answer("M_FORBIDDEN"), "rooms"), Failure::Fatal(_)));
        assert!(matches!(failure(413, &answer("M_TOO_LARGE"), "rooms"), Failure::Refused(_)));
        assert!(matches!(failure(404, &answer("M_UNRECOGNIZED"), "sync"), Failure::Fatal(_)));
        assert!(matches!(failure(502, &Value::Null, "rooms"), Failure::Outage(_)));
    }
}
