//! Socket Mode: sockets, and envelopes that have to be acknowledged.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{sync::mpsc, time};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{
    Shared,
    state::{APP, Order, Socket, State},
};

/// How often an envelope is delivered at most.
const ATTEMPTS: u64 = 4;

/// Makes a socket of a call that shows a ticket.
pub(super) fn accept(shared: &Arc<Shared>, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let no = || {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    };
    let query = request.uri().query().unwrap_or_default();
    let ticket = query.split('&').find_map(|pair| pair.strip_prefix("ticket="));
    let used = ticket.is_some_and(|ticket| {
        let mut state = shared.state();
        let found = state.tickets.iter().position(|known| known == ticket);
        found.map(|at| state.tickets.remove(at)).is_some()
    });
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let Some(Ok(key)) = key.filter(|_| used).map(|key| HeaderValue::from_str(&key)) else { return no() };
    let upgrade = hyper::upgrade::on(&mut request);
    let shared = shared.clone();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let stream = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
            serve(&shared, stream).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    response
}

async fn serve<S>(shared: &Shared, mut stream: WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let (number, open) = {
        let mut state = shared.state();
        let number = state.number();
        state.sockets.insert(number, Socket { orders });
        (number, state.sockets.len())
    };
    let hello = json!({
        "type": "hello",
        "num_connections": open,
        "connection_info": { "app_id": APP },
        "debug_info": { "host": "fake", "started": "now", "build_number": 1, "approximate_connection_time": 18_060 },
    });
    let mut alive = stream.send(Message::text(hello.to_string())).await.is_ok();
    shared.saw(json!({ "saw": "connected", "socket": number }));
    while alive {
        tokio::select! {
            order = ordered.recv() => match order {
                Some(Order::Send(text)) => alive = stream.send(Message::text(text)).await.is_ok(),
                Some(Order::Freeze) => {
                    while let Some(Order::Send(_) | Order::Freeze) = ordered.recv().await {}
                    alive = false;
                }
                Some(Order::Close) | None => {
                    // The client may be gone already.
                    let _ = stream.close(None).await;
                    alive = false;
                }
            },
            message = stream.next() => match message {
                Some(Ok(Message::Text(text))) => acknowledged(shared, number, &text),
                Some(Ok(Message::Ping(_))) => shared.saw(json!({ "saw": "ping", "socket": number })),
                Some(Ok(Message::Close(_)) | Err(_)) | None => alive = false,
                Some(Ok(_)) => {}
            },
        }
    }
    shared.state().sockets.remove(&number);
    shared.saw(json!({ "saw": "closed", "socket": number }));
}

fn acknowledged(shared: &Shared, number: u64, text: &str) {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let Some(id) = answer["envelope_id"].as_str() else {
        shared.saw(json!({ "saw": "nonsense", "socket": number, "text": text }));
        return;
    };
    shared.state().acknowledged.push(id.to_owned());
    shared.saw(json!({ "saw": "acknowledged", "socket": number, "envelope": id }));
}

impl State {
    /// Tells a socket what to do. `false`: there is no such socket.
    pub(super) fn order(&self, number: u64, order: Order) -> bool {
        self.sockets.get(&number).is_some_and(|socket| socket.orders.send(order).is_ok())
    }

    /// The socket whose turn it is. Slack gives no promise which one.
    fn next_socket(&mut self) -> Option<u64> {
        let after = self.sockets.range(self.last_socket + 1..).next().or_else(|| self.sockets.iter().next());
        let number = after.map(|(number, _)| *number)?;
        self.last_socket = number;
        Some(number)
    }
}

/// Delivers an envelope until it is acknowledged, to one socket at a time.
pub(super) fn deliver(shared: &Arc<Shared>, kind: &str, payload: Value, first: Option<u64>) -> String {
    let (id, twice) = {
        let mut state = shared.state();
        let twice = state.duplicates > 0;
        state.duplicates = state.duplicates.saturating_sub(1);
        (state.name("envelope-"), twice)
    };
    let mut envelope = json!({
        "envelope_id": id, "type": kind, "payload": payload, "accepts_response_payload": kind == "interactive",
    });
    let (shared, name) = (shared.clone(), id.clone());
    tokio::spawn(async move {
        for attempt in 0..ATTEMPTS {
            envelope["retry_attempt"] = json!(attempt);
            envelope["retry_reason"] = json!(if attempt == 0 { "" } else { "timeout" });
            let socket = {
                let mut state = shared.state();
                let socket = first.filter(|_| attempt == 0).or_else(|| state.next_socket());
                if let Some(number) = socket {
                    let copies = if twice && attempt == 0 { 2 } else { 1 };
                    for _ in 0..copies {
                        state.order(number, Order::Send(envelope.to_string()));
                    }
                }
                socket
            };
            shared.saw(json!({ "saw": "delivered", "envelope": name, "socket": socket, "attempt": attempt }));
            if is_acknowledged(&shared, &name).await {
                return;
            }
            shared.saw(json!({ "saw": "unacknowledged", "envelope": name, "socket": socket, "attempt": attempt }));
        }
        shared.saw(json!({ "saw": "given up", "envelope": name }));
    });
    id
}

/// Waits for an acknowledgement as long as Slack does.
async fn is_acknowledged(shared: &Shared, id: &str) -> bool {
    let mut changes = shared.changes.subscribe();
    let waiting = async {
        while !shared.state().acknowledged.iter().any(|known| known == id) {
            // The sender lives as long as the fake.
            if changes.changed().await.is_err() {
                break;
            }
        }
    };
    time::timeout(shared.times.acknowledge, waiting).await.is_ok()
}

/// Announces a socket's end, and ends it a while later. `link_disabled` ends it at once.
pub(super) fn disconnect(shared: &Arc<Shared>, number: u64, reason: &str) -> bool {
    let message = json!({ "type": "disconnect", "reason": reason, "debug_info": { "host": "fake" } });
    if !shared.state().order(number, Order::Send(message.to_string())) {
        return false;
    }
    let farewell = if reason == "link_disabled" { Duration::ZERO } else { shared.times.farewell };
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut changes = shared.changes.subscribe();
        let gone = async { while shared.state().sockets.contains_key(&number) && changes.changed().await.is_ok() {} };
        if time::timeout(farewell, gone).await.is_err() {
            shared.state().order(number, Order::Close);
        }
    });
    true
}

/// A trigger for one user.
pub(super) fn trigger(state: &mut State, user: &str, life: Duration) -> String {
    let trigger = state.name("trigger-");
    state.triggers.insert(trigger.clone(), (user.to_owned(), Instant::now() + life));
    trigger
}
