//! A small HTTP server for channels that are called: one path, bounded in every direction.
//!
//! It speaks plain HTTP; whoever is on another host reaches it through a proxy that ends TLS. It checks nobody: each
//! channel proves who calls by signatures or tokens, before it believes a word.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{Failure, Inbox};

/// Callers that are served at once; more wait in the kernel's queue. Reviewers are people, and few.
const MAX_CONNECTIONS: usize = 64;
/// For a caller to send its headers, and again for its body.
const READ_TIME: Duration = Duration::from_secs(10);
/// For everything on one connection, which has one request.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// Headers of a request, in bytes. Bearer tokens take about 2,000.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Pauses between two tries to listen, or to accept when the process has no descriptors left.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// A request with its body.
#[derive(Debug)]
pub struct Received {
    /// The value of the header `Authorization`, if it is text.
    pub authorization: Option<String>,
    /// The body, not longer than the listener's limit.
    pub body: Bytes,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Reply {
    /// Refuses with a reason, which is for whoever called.
    pub fn refusal(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, body: json!({ "error": reason.into() }) }
    }
}

/// Where and what to serve.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where to listen. Port 0 takes a free one.
    pub address: SocketAddr,
    /// The one path.
    pub path: &'static str,
    /// Longest body, in bytes.
    pub max_body_bytes: usize,
}

/// Where a listener listens, once it does.
#[derive(Clone, Debug)]
pub struct Bound(watch::Sender<Option<SocketAddr>>);

impl Default for Bound {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Bound {
    /// The address with its true port, or none while nothing listens.
    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.borrow()
    }
}

/// Serves POST requests to one path until it is dropped; tells the inbox when that works and when it does not.
///
/// Returns only when this process may not listen there.
pub async fn serve<H, F>(place: Place, bound: &Bound, inbox: &Inbox, answer: H) -> Failure
where
    H: Fn(Received) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send,
{
    let socket = match bind(place.address, inbox).await {
        Ok(socket) => socket,
        Err(failure) => return failure,
    };
    bound.0.send_replace(socket.local_addr().ok());
    inbox.up().await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this future, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&places).acquire_owned().await else { continue };
        match socket.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                connections.spawn(async move {
                    // Too slow: whoever it is has to call again.
                    let _ = timeout(CONNECTION_TIME, connection(stream, place, answer)).await;
                    drop(permit);
                });
            }
            // Such as too many open files: the next try may find some closed.
            Err(error) => {
                debug!(%error, "cannot accept a connection");
                sleep(PAUSES[0]).await;
            }
        }
    }
}

/// Listens, trying again while the address is taken or not there yet.
async fn bind(address: SocketAddr, inbox: &Inbox) -> Result<TcpListener, Failure> {
    let [mut pause, longest] = PAUSES;
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        let text = format!("cannot listen on {address}: {error}");
        if error.kind() == io::ErrorKind::PermissionDenied {
            return Err(Failure::Fatal(format!("{text}; choose a port above 1023")));
        }
        inbox.down(Failure::Outage(text)).await;
        sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

async fn connection<H, F>(stream: TcpStream, place: Place, answer: H)
where
    H: Fn(Received) -> F,
    F: Future<Output = Reply>,
{
    let service = service_fn(|request| async {
        Ok::<_, Infallible>(response(match receive(request, place).await {
            Ok(received) => answer(received).await,
            Err(refusal) => refusal,
        }))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIME)
        .max_buf_size(MAX_HEADER_BYTES)
        // Idle connections would take the places of those who have something to say.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended early");
    }
}

async fn receive(request: Request<Incoming>, place: Place) -> Result<Received, Reply> {
    if request.uri().path() != place.path {
        return Err(Reply::refusal(StatusCode::NOT_FOUND, format!("there is only {}", place.path)));
    }
    if request.method() != Method::POST {
        return Err(Reply::refusal(StatusCode::METHOD_NOT_ALLOWED, "only POST is taken here"));
    }
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let body = Limited::new(request.into_body(), place.max_body_bytes);
    let too_slow = |_| Reply::refusal(StatusCode::REQUEST_TIMEOUT, "the request took too long");
    match timeout(READ_TIME, body.collect()).await.map_err(too_slow)? {
        Ok(body) => Ok(Received { authorization, body: body.to_bytes() }),
        Err(error) if error.is::<LengthLimitError>() => Err(Reply::refusal(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request is longer than {} bytes", place.max_body_bytes),
        )),
        Err(_) => Err(Reply::refusal(StatusCode::BAD_REQUEST, "the request's body ends early")),
    }
}

fn response(Reply { status, body }: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    }
    response
}
