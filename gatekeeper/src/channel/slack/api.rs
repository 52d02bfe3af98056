//! Calls of the Web API, and what their errors mean.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Url, header};
use serde_json::Value;

use super::super::{Failure, http, secret::Secret};
use crate::text::Text;

/// Pause after an error 429 that does not say how long to wait.
const LIMITED_PAUSE: Duration = Duration::from_secs(5);

/// Which of the app's two tokens a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The app-level one, which only opens sockets.
    App,
    /// The bot's, for everything else.
    Bot,
}

impl Token {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app-level token (xapp-…)",
            Self::Bot => "bot token (xoxb-…)",
        }
    }

    /// How to get another one.
    fn renewal(self) -> &'static str {
        match self {
            Self::App => "make a new app-level token with the scope connections:write",
            Self::Bot => "install the app in the workspace again",
        }
    }
}

/// A call's answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) body: Value,
    /// What the token may do, where Slack says so.
    pub(super) scopes: Option<String>,
}

/// One app in one workspace.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    /// Ends with a slash.
    base: Url,
    app_token: Secret,
    bot_token: Secret,
}

impl Api {
    pub(super) fn new(client: Client, base: &str, app_token: Secret, bot_token: Secret) -> Result<Self, Failure> {
        let bad = |why| Failure::Fatal(format!("{base:?} cannot be used as Slack's API: {why}; correct `api`"));
        let mut base = http::private_url(base, "https", "http").map_err(bad)?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { client, base, app_token, bot_token })
    }

    /// Asks for something. Methods that read do not understand JSON.
    pub(super) async fn read(&self, method: &str, query: &[(&str, &str)]) -> Result<Reply, Failure> {
        let mut url = self.url(method)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(Token::Bot, method, self.client.get(url)).await
    }

    /// Changes something.
    pub(super) async fn write(&self, method: &str, content: &Value) -> Result<Reply, Failure> {
        let request = self
            .client
            .post(self.url(method)?)
            .header(header::CONTENT_TYPE, "application/json; charset=utf-8")
            .body(content.to_string());
        self.send(Token::Bot, method, request).await
    }

    /// Asks for the address of a new socket. The address is a secret: who has it gets what people do.
    pub(super) async fn open_socket(&self) -> Result<Secret, Failure> {
        let method = "apps.connections.open";
        let request = self
            .client
            .post(self.url(method)?)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body("");
        let reply = self.send(Token::App, method, request).await?;
        match reply.body["url"].as_str() {
            Some(url) => Ok(Secret::new(url)),
            None => Err(Failure::Outage("Slack named no address for a socket".to_owned())),
        }
    }

    fn url(&self, method: &str) -> Result<Url, Failure> {
        self.base.join(method).map_err(|_| Failure::Fatal(format!("{method} is no part of a URL")))
    }

    async fn send(&self, token: Token, method: &str, request: RequestBuilder) -> Result<Reply, Failure> {
        let secret = match token {
            Token::App => &self.app_token,
            Token::Bot => &self.bot_token,
        };
        let response = request.bearer_auth(secret.expose()).send().await.map_err(http::outage)?;
        let status = response.status().as_u16();
        let said = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (retry_after, scopes) = (said("retry-after"), said("x-oauth-scopes"));
        if status == 429 {
            let seconds = retry_after.and_then(|text| text.trim().parse().ok());
            return Err(Failure::Limited(seconds.map_or(LIMITED_PAUSE, Duration::from_secs)));
        }
        if (300..400).contains(&status) {
            let text = format!("{method} is answered with a redirect ({status}), and tokens go nowhere else");
            return Err(Failure::Fatal(format!("{text}; correct `api`")));
        }
        let body = http::body(response).await?;
        if status >= 500 {
            return Err(Failure::Outage(format!("Slack does not work: {method} is answered with status {status}")));
        }
        let body: Value = serde_json::from_slice(&body).map_err(|_| {
            Failure::Outage(format!("{method} is answered with status {status} and something that is no JSON"))
        })?;
        if body["ok"] == true { Ok(Reply { body, scopes }) } else { Err(failure(token, method, &body)) }
    }
}

/// What an answer that is not ok means (the methods' reference pages list their errors).
pub(super) fn failure(token: Token, method: &str, answer: &Value) -> Failure {
    let code = answer["error"].as_str().unwrap_or("an error without a name");
    let named = |key: &str| answer[key].as_str().map(|text| Text::from(text).to_string());
    let which = token.name();
    let fatal = |what: String| Failure::Fatal(format!("{code}: {what}"));
    match code {
        "ratelimited" | "rate_limited" => Failure::Limited(LIMITED_PAUSE),
        // The methods' pages say of the first that part of the call may have been done all the same.
        "fatal_error" | "internal_error" | "service_unavailable" | "request_timeout" | "team_added_to_org" => {
            Failure::Outage(format!("{code}: Slack does not work, in {method}"))
        }
        "invalid_auth" | "not_authed" => {
            fatal(format!("Slack does not take the {which}; copy it from the app's settings into its file once more"))
        }
        "account_inactive" => fatal(format!(
            "the {which} belongs to a bot or workspace that is switched off; {} and put the new token into its file",
            token.renewal()
        )),
        "token_revoked" | "token_expired" => {
            let end = if code == "token_revoked" { "was revoked" } else { "has expired" };
            fatal(format!("the {which} {end}; {} and put the new token into its file", token.renewal()))
        }
        "missing_scope" | "no_permission" => {
            let needed = named("needed").unwrap_or_else(|| format!("that {method} needs"));
            fatal(format!(
                "the {which} lacks the scope {needed}; add it to the app as in its manifest, then {}",
                token.renewal()
            ))
        }
        "not_allowed_token_type" => fatal(format!(
            "what is given as {which} is a token of another kind; app-level tokens begin with xapp-, bot tokens with xoxb-"
        )),
        "team_access_not_granted"
        | "access_denied"
        | "ekm_access_denied"
        | "enterprise_is_restricted"
        | "org_login_required"
        | "two_factor_setup_required" => fatal(format!(
            "the {which} may not be used in this workspace; have an administrator of the workspace approve the app"
        )),
        "channel_not_found" => fatal(
            "the bot sees no such conversation; correct `conversation`, or invite the bot to it if it is private"
                .to_owned(),
        ),
        "not_in_channel" => fatal("the bot is not in the conversation; invite it there with /invite".to_owned()),
        "is_archived" => fatal("the conversation is archived; name another one as `conversation`".to_owned()),
        _ if code.starts_with("restricted_action") => {
            fatal("the workspace's settings forbid the bot to write there; have an administrator allow it".to_owned())
        }
        _ => {
            let details: Vec<_> = answer["response_metadata"]["messages"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .take(3)
                .map(|text| Text::from(text).to_string())
                .collect();
            let details = if details.is_empty() { String::new() } else { format!(" ({})", details.join("; ")) };
            Failure::Refused(format!("Slack refuses {method}: {}{details}", Text::from(code)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(code: &str) -> Failure {
        failure(Token::Bot, "chat.postMessage", &json!({ "ok": false, "error": code }))
    }

    #[test]
    fn errors_that_need_an_operator_name_themselves_and_the_way_out() {
        let codes = [
            "invalid_auth",
            "not_authed",
            "account_inactive",
            "token_revoked",
            "token_expired",
            "no_permission",
            "missing_scope",
            "not_allowed_token_type",
            "team_access_not_granted",
            "channel_not_found",
            "not_in_channel",
            "is_archived",
            "restricted_action_read_only_channel",
        ];
        for code in codes {
            let Failure::Fatal(text) = of(code) else { panic!("{code}") };
            assert!(text.starts_with(&format!("{code}: ")), "{text}");
            assert!(text.contains("; "), "{text} has no way out");
        }
        assert_eq!(
            of("token_revoked"),
            Failure::Fatal(
                "token_revoked: the bot token (xoxb-…) was revoked; install the app in the workspace again and put the new \
                 token into its file"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_missing_scope_is_named() {
        let answer = json!({ "ok": false, "error": "missing_scope", "needed": "users:read", "provided": "chat:write" });
        let Failure::Fatal(text) = failure(Token::Bot, "users.info", &answer) else { panic!() };
        assert!(text.contains("lacks the scope users:read; add it"), "{text}");
    }

    #[test]
    fn other_errors_are_limits_outages_or_refusals() {
        assert!(matches!(of("ratelimited"), Failure::Limited(_)));
        assert!(matches!(of("fatal_error"), Failure::Outage(_)));
        assert!(matches!(of("internal_error"), Failure::Outage(_)));
        for code in ["msg_too_long", "invalid_blocks", "message_not_found", "cant_update_message", "new_one\u{202e}"] {
            assert!(matches!(of(code), Failure::Refused(_)), "{code}");
        }
        let Failure::Refused(text) = of("x\u{202e}") else { panic!() };
        assert!(text.contains("x\\u{202e}"), "{text}");
    }
}
