//! A fake of Slack: what gatekeeper needs of its Web API and of Socket Mode, on one port of this host.
//!
//! It is no Slack, and what passes here may still fail there. It knows only what Slack documents, and is strict where Slack
//! is lenient: limits of blocks and texts, which token and scope a method needs, who owns a message, how long a trigger
//! lives, how soon an envelope has to be acknowledged. It is driven by commands (see [`command`]), and tells what it sees
//! as JSON values. It depends on nothing of gatekeeper's, whose own tests compile it from here, too.

pub mod blocks;
pub mod command;
mod methods;
mod people;
mod socket;
pub mod state;
mod web;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time};

pub use self::state::State;

/// How strict it is about time.
#[derive(Clone, Debug)]
pub struct Times {
    /// For an envelope to be acknowledged before it is delivered once more.
    pub acknowledge: Duration,
    /// How long a trigger is good for.
    pub trigger: Duration,
    /// Between the announcement of a socket's end and that end.
    pub farewell: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { acknowledge: Duration::from_secs(3), trigger: Duration::from_secs(3), farewell: Duration::from_secs(10) }
    }
}

/// What all of its tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    address: SocketAddr,
    times: Times,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // State is changed by whole steps, so it is sound whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was seen.
    fn saw(&self, what: Value) {
        self.state().log.push(what);
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

/// A running fake. It ends when this is dropped.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
        self.shared.state().sockets.clear();
    }
}

impl Fake {
    /// Starts it on a free port, with workspace `T1`, app `A1`, the bot `U0BOT` in the conversation `C1`, and the member
    /// `U1`.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(times: Times) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (changes, _) = watch::channel(0);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { address, times, state: Mutex::new(State::default()), changes });
        let serving = tokio::spawn(web::serve(listener, shared.clone()));
        Ok(Self { shared, serving })
    }

    /// Base URL of its Web API.
    pub fn api(&self) -> String {
        format!("http://{}/api/", self.shared.address)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// Carries out a command, see [`command`].
    ///
    /// # Errors
    /// The command makes no sense, or not now.
    pub fn command(&self, command: &Value) -> Result<Value, String> {
        command::carry_out(&self.shared, command)
    }

    /// Looks at what it knows.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state())
    }

    /// Waits until something is found in what it knows.
    ///
    /// # Errors
    /// It is not there after half a minute: says what there is instead.
    pub async fn wait<T>(&self, what: &str, mut find: impl FnMut(&State) -> Option<T>) -> Result<T, String> {
        let mut changes = self.shared.changes.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = self.look(&mut find) {
                    return found;
                }
                // The sender lives as long as this.
                let _ = changes.changed().await;
            }
        };
        let log = || self.look(|state| state.log.iter().map(|line| format!("\n{line}")).collect::<String>());
        time::timeout(Duration::from_secs(30), waiting)
            .await
            .map_err(|_| format!("waited in vain for {what}; the fake saw{}", log()))
    }

    /// What was seen after the first `from` of all, and waits if there is nothing.
    pub async fn seen(&self, from: usize) -> Vec<Value> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            let new = self.look(|state| state.log.get(from..).map(<[Value]>::to_vec).unwrap_or_default());
            if !new.is_empty() {
                return new;
            }
            let _ = changes.changed().await;
        }
    }
}

/// An answer of the Web API that says no.
fn refusal(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}
