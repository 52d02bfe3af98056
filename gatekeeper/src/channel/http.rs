//! The one kind of HTTP client that channels use.

use std::time::Duration;

use reqwest::{Client, Response, redirect::Policy};

use super::Failure;

/// For a connection to be made.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For a whole request, answer included, that does not wait for events.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes.
const MAX_BODY_BYTES: usize = 8 << 20;

/// A client that follows no redirects (a token must not go elsewhere) and gives up in time.
///
/// # Errors
/// The host's certificates cannot be used.
pub fn client() -> Result<Client, Failure> {
    // The first one wins; all of them are the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("gatekeeper/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIME)
        .timeout(REQUEST_TIME)
        .build()
        .map_err(|err| Failure::Fatal(format!("no HTTP client can be made: {}", chain(&err))))
}

/// An error with its causes, in one line, and without the URL, in which there may be secrets.
pub fn outage(error: reqwest::Error) -> Failure {
    Failure::Outage(chain(&error.without_url()))
}

/// Reads the body of an answer, as far as its length is sensible.
///
/// # Errors
/// It ends early or is too long.
pub async fn body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(outage)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Failure::Outage(format!("the server's answer is longer than {MAX_BODY_BYTES} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
