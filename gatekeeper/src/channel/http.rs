//! The one kind of HTTP client that channels use.

use std::time::Duration;

use reqwest::{Client, Response, Url, redirect::Policy};

use super::Failure;

/// For a connection to be made.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For a whole request, answer included, that does not wait for events.
pub const REQUEST_TIME: Duration = Duration::from_secs(if cfg!(test) { 8 } else { 30 });
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

/// Reads a URL to which secrets may go: one of scheme `encrypted`, or of scheme `plain` if it never leaves this host.
///
/// # Errors
/// Says what is wrong with it, without the URL, in which there may be secrets.
pub fn private_url(text: &str, encrypted: &str, plain: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|_| "it is no URL".to_owned())?;
    let local = url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    match url.scheme() {
        scheme if scheme == encrypted => Ok(url),
        scheme if scheme == plain && local => Ok(url),
        scheme if scheme == plain => Err("it would send secrets in the clear".to_owned()),
        _ => Err(format!("it must begin with {encrypted}://")),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_leave_this_host_only_encrypted() {
        let read = |text: &str| private_url(text, "wss", "ws").map(|url| url.to_string());
        assert_eq!(read("wss://example.org/x"), Ok("wss://example.org/x".to_owned()));
        assert_eq!(read("ws://127.0.0.1:80/x"), Ok("ws://127.0.0.1/x".to_owned()));
        assert!(read("ws://[::1]:8080/").is_ok() && read("ws://localhost/").is_ok());
        assert_eq!(read("ws://example.org/"), Err("it would send secrets in the clear".to_owned()));
        assert_eq!(read("https://example.org/"), Err("it must begin with wss://".to_owned()));
        assert_eq!(read("example"), Err("it is no URL".to_owned()));
    }
}
