//! What all servers that channels call have in common: where secrets may be sent, and how they say "later".

use std::{net::IpAddr, time::Duration};

use reqwest::{Response, Url, header::RETRY_AFTER};

use super::Failure;

/// When a server says "later" and not when.
const PAUSE: Duration = Duration::from_secs(30);
/// Longest pause that a server can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// Reads an address to which secrets may be sent: https, or anything on this very host.
///
/// # Errors
/// It is none. `what` says whose address it is; the address itself may be a secret, and is not shown.
pub fn address(what: &str, text: &str) -> Result<Url, Failure> {
    let bad = |reason: &str| Failure::Fatal(format!("the address of {what} {reason}"));
    let url = Url::parse(text.trim()).map_err(|error| bad(&format!("cannot be read: {error}")))?;
    let host = url.host_str().unwrap_or_default();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_here = host == "localhost" || literal.is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_here => {}
        _ => return Err(bad("has to begin with https://, unless it is on this host")),
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(bad("must have no user, password or fragment in it"));
    }
    Ok(url)
}

/// How long a server wants to be left alone.
pub fn pause(response: &Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    // Some give a date instead, which is as good as nothing with clocks that differ.
    seconds.map_or(PAUSE, Duration::from_secs).clamp(Duration::from_secs(1), LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_sent_over_tls_only() {
        for good in ["https://example.org/hook?a=b", "http://127.0.0.1:8080/", "http://[::1]:1/", "http://localhost/x"]
        {
            assert!(address("it", good).is_ok(), "{good}");
        }
        for bad in [
            "http://example.org/",
            "http://127.0.0.1.example.org/",
            "http://localhost.example.org/",
            "ftp://127.0.0.1/",
            "https://user:secret@example.org/",
            "example.org",
            "",
        ] {
            let Err(Failure::Fatal(text)) = address("the receiver", bad) else { panic!("{bad} passes") };
            assert!(text.starts_with("the address of the receiver "), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
