//! One socket: opened, kept alive, and every envelope acknowledged as soon as it is read.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::mpsc::UnboundedSender,
    time::{self, Instant},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{
    super::{Failure, http},
    Shared,
    payload::{self, Place, Wish},
};
use crate::text::Text;

/// Longest message that is taken, in bytes. A click brings its whole card along.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a socket tells, with its number.
#[derive(Debug)]
pub(super) enum Note {
    /// It works.
    Ready(u64),
    /// It will be closed soon, and needs a replacement now.
    Leaving(u64),
    /// Somebody wants something.
    Wish(Box<Wish>),
    /// It is gone, and why. Nothing comes after this.
    Ended(u64, Failure),
}

/// Opens a socket after a while and reads from it until it ends.
pub(super) async fn run(shared: Arc<Shared>, number: u64, delay: Duration, notes: UnboundedSender<Note>) {
    if !delay.is_zero() {
        time::sleep(delay).await;
    }
    let failure = work(&shared, number, &notes).await;
    // Whoever listens has gone otherwise, and drops this with everything else; the same goes for all notes.
    let _ = notes.send(Note::Ended(number, failure));
}

async fn work(shared: &Shared, number: u64, notes: &UnboundedSender<Note>) -> Failure {
    let opened = async {
        let mut socket = open(shared).await?;
        let app = hello(&mut socket, shared.times.hello).await?;
        Ok((socket, app))
    };
    match opened.await {
        Ok((socket, app)) => {
            let _ = notes.send(Note::Ready(number));
            let mut connection = Connection { shared, socket, app, number, notes, leaves_at: None };
            connection.read().await
        }
        Err(failure) => failure,
    }
}

async fn open(shared: &Shared) -> Result<Socket, Failure> {
    let address = shared.api.open_socket().await?;
    let url = http::private_url(address.expose(), "wss", "ws")
        .map_err(|why| Failure::Outage(format!("Slack named an address for a socket that is of no use: {why}")))?;
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES)).max_frame_size(Some(MAX_MESSAGE_BYTES));
    let connecting = connect_async_with_config(url.as_str(), Some(config), true);
    match time::timeout(shared.times.hello, connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(err)) => Err(lost(&err.to_string())),
        Err(_) => Err(lost("it could not be opened in time")),
    }
}

/// Waits for the first message, which names the app.
async fn hello(socket: &mut Socket, patience: Duration) -> Result<String, Failure> {
    let greeting = async {
        while let Some(message) = socket.next().await {
            let message = message.map_err(|err| lost(&err.to_string()))?;
            let Message::Text(text) = message else { continue };
            let value: Value = serde_json::from_str(&text).unwrap_or_default();
            match value["type"].as_str() {
                Some("hello") => {
                    let app = value["connection_info"]["app_id"].as_str();
                    return app.map(str::to_owned).ok_or_else(|| lost("its greeting names no app"));
                }
                Some("disconnect") => return Err(disconnected(&value)),
                _ => {}
            }
        }
        Err(lost("it was closed before it began"))
    };
    time::timeout(patience, greeting).await.unwrap_or_else(|_| Err(lost("there was no greeting in time")))
}

fn lost(why: &str) -> Failure {
    Failure::Outage(format!("no socket to Slack: {}", Text::from(why)))
}

fn disconnected(message: &Value) -> Failure {
    match message["reason"].as_str().unwrap_or("no reason") {
        "link_disabled" => Failure::Fatal(
            "link_disabled: Socket Mode is switched off for the app; switch it on in the app's settings".to_owned(),
        ),
        reason => lost(&format!("Slack closes it ({reason})")),
    }
}

/// A socket that works.
struct Connection<'a> {
    shared: &'a Shared,
    socket: Socket,
    app: String,
    number: u64,
    notes: &'a UnboundedSender<Note>,
    /// When it is closed from here, once it is to be.
    leaves_at: Option<Instant>,
}

impl Connection<'_> {
    async fn read(&mut self) -> Failure {
        let times = &self.shared.times;
        let mut heard = Instant::now();
        let mut ping = time::interval_at(heard + times.ping, times.ping);
        ping.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            let silent_at = heard + times.idle;
            let until = self.leaves_at.map_or(silent_at, |leaves_at| leaves_at.min(silent_at));
            tokio::select! {
                message = time::timeout_at(until, self.socket.next()) => match message {
                    Ok(Some(Ok(message))) => {
                        heard = Instant::now();
                        if let Err(failure) = self.take(message).await {
                            return failure;
                        }
                    }
                    Ok(Some(Err(err))) => return lost(&err.to_string()),
                    Ok(None) => return lost("it was closed"),
                    Err(_) if self.leaves_at.is_some_and(|at| at < silent_at) => {
                        // The other side may be gone already.
                        let _ = time::timeout(times.hello, self.socket.close(None)).await;
                        return lost("its replacement has taken over");
                    }
                    Err(_) => return lost("nothing was heard for too long"),
                },
                _ = ping.tick() => if let Err(failure) = self.send(Message::Ping("gatekeeper".into())).await {
                    return failure;
                },
            }
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Failure> {
        let Message::Text(text) = message else { return Ok(()) };
        let Ok(envelope) = serde_json::from_str::<Value>(&text) else { return Ok(()) };
        if envelope["type"] == "disconnect" {
            let failure = disconnected(&envelope);
            if matches!(failure, Failure::Fatal(_)) {
                return Err(failure);
            }
            if self.leaves_at.is_none() {
                self.leaves_at = Some(Instant::now() + self.shared.times.drain);
                let _ = self.notes.send(Note::Leaving(self.number));
            }
            return Ok(());
        }
        if let Some(id) = envelope["envelope_id"].as_str() {
            // Before anything is done about it, and whether or not it is understood: it would come again otherwise.
            self.send(Message::text(json!({ "envelope_id": id }).to_string())).await?;
            let place = Place { team: &self.shared.team, app: &self.app, conversation: &self.shared.conversation };
            if let Some(wish) = payload::read(&envelope, place) {
                let _ = self.notes.send(Note::Wish(Box::new(wish)));
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) -> Result<(), Failure> {
        match time::timeout(self.shared.times.idle, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(err)) => Err(lost(&err.to_string())),
            Err(_) => Err(lost("nothing can be sent")),
        }
    }
}
