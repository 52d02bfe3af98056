//! The port: HTTP calls, and sockets that begin as HTTP calls.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Shared,
    methods::{self, Needs},
    refusal, socket,
    state::{Fault, Token},
};

/// Longest request that is read, in bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// What comes of a call.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    /// Seconds to wait.
    pub(super) retry_after: Option<u64>,
    /// Scopes of the token.
    scopes: Option<String>,
}

/// The answer is lost on its way.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost, as it was told to be")]
struct Lost;

/// Takes connections until it is dropped.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(|request| answer(shared.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    // Clients come and go as they like.
                    let _ = connection.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Lost> {
    if request.uri().path() == "/link" {
        return Ok(socket::accept(&shared, request));
    }
    let Some(method) = request.uri().path().strip_prefix("/api/").map(str::to_owned) else {
        return Ok(response(&Reply { status: 404, body: refusal("not_found"), retry_after: None, scopes: None }));
    };
    let fault = {
        let mut state = shared.state();
        state.faults.get_mut(&method).filter(|faults| !faults.is_empty()).map(|faults| faults.remove(0))
    };
    let plain = |status, body| Reply { status, body, retry_after: None, scopes: None };
    let reply = match &fault {
        Some(Fault::Status(status)) => plain(*status, refusal("service_unavailable")),
        Some(Fault::Error(error)) => plain(200, refusal(error)),
        Some(Fault::Limited(seconds)) => Reply { retry_after: Some(*seconds), ..plain(429, refusal("ratelimited")) },
        Some(Fault::LoseAnswer) | None => call(&shared, &method, request).await,
    };
    let lost = fault == Some(Fault::LoseAnswer);
    shared.saw(json!({
        "saw": "call", "method": method, "status": reply.status, "ok": reply.body["ok"], "error": reply.body["error"],
        "details": reply.body["response_metadata"]["messages"], "lost": lost,
    }));
    if lost { Err(Lost) } else { Ok(response(&reply)) }
}

fn response(reply: &Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(reply.body.to_string()));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(seconds) = reply.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if let Some(Ok(scopes)) = reply.scopes.as_deref().map(HeaderValue::from_str) {
        headers.insert("x-oauth-scopes", scopes);
    }
    response
}

async fn call(shared: &Shared, method: &str, request: Request<Incoming>) -> Reply {
    let no = |error: &str| Reply { status: 200, body: refusal(error), retry_after: None, scopes: None };
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    let Some(needs) = methods::needs(method) else { return no("unknown_method") };
    let arguments = arguments(&needs, request).await;
    let mut state = shared.state();
    // A token among the arguments would do for most methods; here it does for none.
    let Some(token) = token else { return no("not_authed") };
    let Some(Token { is_app, is_revoked, scopes }) = state.tokens.get(&token).cloned() else {
        return no("invalid_auth");
    };
    if is_revoked {
        return no("token_revoked");
    }
    if is_app != needs.app_token {
        return no("not_allowed_token_type");
    }
    let has = scopes.join(",");
    if !needs.scopes.is_empty() && !needs.scopes.iter().any(|scope| scopes.iter().any(|has| has == scope)) {
        let mut reply = no("missing_scope");
        reply.body["needed"] = json!(needs.scopes.join(","));
        reply.body["provided"] = json!(has);
        return reply;
    }
    if let Some(seconds) = state.too_early(method) {
        return Reply { retry_after: Some(seconds), status: 429, ..no("ratelimited") };
    }
    let body = methods::call(shared, &mut state, method, &arguments);
    Reply { status: 200, body, retry_after: None, scopes: Some(has) }
}

/// Reads a call's arguments. Methods that only read take them as a form or in the URL, the others as JSON, too.
async fn arguments(needs: &Needs, request: Request<Incoming>) -> Map<String, Value> {
    let mut arguments = form(request.uri().query().unwrap_or_default());
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.starts_with("application/json"));
    let is_get = request.method() == Method::GET;
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if is_get {
        return arguments;
    }
    if !is_json {
        arguments.extend(form(&String::from_utf8_lossy(&body)));
    } else if needs.takes_json
        && let Ok(Value::Object(object)) = serde_json::from_slice(&body)
    {
        arguments.extend(object);
    }
    arguments
}

/// Reads a form. Arguments that are objects come as JSON in it.
fn form(text: &str) -> Map<String, Value> {
    let mut arguments = Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decoded(key), decoded(value));
        let parsed = matches!(key.as_str(), "blocks" | "metadata" | "view").then(|| serde_json::from_str(&value).ok());
        arguments.insert(key, parsed.flatten().unwrap_or(Value::String(value)));
    }
    arguments
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
