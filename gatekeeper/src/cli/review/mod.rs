//! `gatekeeper review`: an interactive view of what waits, and the keys to decide it.
//!
//! One thread waits for the keyboard, one for the daemon, one for signals, and one for each decision on its way; the
//! view itself is a single loop over what they report. `model` and `draw` are pure; `screen` owns the terminal.

mod draw;
mod model;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::Duration,
};

use self::{
    draw::draw,
    model::{Command, Key, View},
    screen::{Input, TakenScreen, read_input},
};
use super::Terminal;
use crate::{
    channel::card::time,
    control::{
        client::{Client, ClientError},
        protocol::{Call, CallError, ErrorCode},
    },
    exit::{Exit, Failure},
    request::{Effect, Request, RequestId},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

/// How often times are drawn anew while nothing happens.
const TICK: Duration = Duration::from_millis(500);

/// Pause before the next attempt to reach a daemon that went away.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How long the view may take to leave when it is told to by a signal.
const LEAVE_TIME: Duration = Duration::from_secs(2);

/// Everything that can happen to the view.
enum Event {
    Key(Key),
    Resize,
    /// The keyboard is gone.
    NoInput(io::Error),
    /// A connection is up: this waits.
    Snapshot(Vec<Request>),
    Change(Box<Request>),
    /// The connection is down, for now.
    Lost(ClientError),
    /// There is no point in trying again.
    Refused(ClientError),
    Decided {
        id: RequestId,
        effect: Effect,
        answer: Box<Result<Request, ClientError>>,
    },
    /// The process is asked to end.
    Terminate,
}

pub(super) fn run(Arguments {}: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    if terminal.output.is_json() {
        return Err(Failure::message(Exit::Usage, "review has no JSON; use `gatekeeper pending --watch --json`"));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let message = "review needs a terminal; use `gatekeeper pending`, `show`, `approve` and `deny` without one";
        return Err(Failure::message(Exit::Usage, message));
    }
    // Before the screen is taken, so that the usual errors look as usual.
    let mut client = terminal.connect()?;
    let requests = client.watch()?;

    let (events, incoming) = mpsc::channel();
    let socket = terminal.socket.clone();
    let failed = |error| Failure::new(Exit::Failure, anyhow::Error::new(error).context("cannot use the terminal"));
    spawn_signals(events.clone()).map_err(failed)?;
    let mut screen = TakenScreen::take().map_err(failed)?;
    spawn_keyboard(events.clone());
    spawn_watcher(client, socket.clone(), events.clone());

    let mut view = View::new();
    view.replace(requests, time::now_ms());
    loop {
        let (width, height) = crossterm::terminal::size().map_err(failed)?;
        let drawn = draw(&view, usize::from(width), usize::from(height), time::now_ms());
        view.scroll = view.scroll.min(drawn.max_scroll);
        screen.show(&drawn).map_err(failed)?;
        let event = match incoming.recv_timeout(TICK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => continue,
            // This loop holds a sender itself.
            Err(RecvTimeoutError::Disconnected) => return Ok(Exit::Success),
        };
        let now_ms = time::now_ms();
        match event {
            Event::Key(key) => match view.press(key, drawn.page, now_ms) {
                Some(Command::Quit) => return Ok(Exit::Success),
                Some(Command::Decide { id, effect, reason }) => {
                    spawn_decision(socket.clone(), id, effect, reason, events.clone());
                }
                None => {}
            },
            Event::Resize => {}
            Event::NoInput(error) => return Err(failed(error)),
            Event::Snapshot(requests) => view.replace(requests, now_ms),
            Event::Change(request) => view.change(*request, now_ms),
            Event::Lost(error) => view.lost = Some(error.to_string()),
            Event::Refused(error) => return Err(error.into()),
            Event::Decided { id, effect, answer } => {
                view.decided(id, effect, answer.map_err(|error| error.to_string()), now_ms);
            }
            Event::Terminate => return Ok(Exit::Success),
        }
    }
}

/// The threads end with the process; a view that is gone needs no report, so that they cannot send is no error.
fn spawn_keyboard(events: Sender<Event>) {
    thread::spawn(move || {
        loop {
            let event = match read_input() {
                Ok(Input::Key(key)) => Event::Key(key),
                Ok(Input::Resize) => Event::Resize,
                Err(error) => return drop(events.send(Event::NoInput(error))),
            };
            if events.send(event).is_err() {
                return;
            }
        }
    });
}

fn spawn_signals(events: Sender<Event>) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut hangup, mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        drop(events.send(Event::Terminate));
        // A terminal that takes no more output blocks the view, but must not keep the process alive.
        thread::sleep(LEAVE_TIME);
        let _ = crossterm::terminal::disable_raw_mode();
        std::process::exit(i32::from(Exit::Failure.code()));
    });
    Ok(())
}

/// Passes changes on, and connects again when the daemon was away.
fn spawn_watcher(client: Client, socket: PathBuf, events: Sender<Event>) {
    thread::spawn(move || {
        let mut connected = Ok(client);
        loop {
            let error = match connected {
                Ok(client) => pass_changes_on(client, &events),
                Err(error) => error,
            };
            let event = if is_passing(&error) { Event::Lost(error) } else { Event::Refused(error) };
            if events.send(event).is_err() {
                return;
            }
            thread::sleep(RECONNECT_PAUSE);
            connected = reconnect(&socket, &events);
        }
    });
}

fn pass_changes_on(mut client: Client, events: &Sender<Event>) -> ClientError {
    loop {
        match client.next_change() {
            Ok(request) => drop(events.send(Event::Change(Box::new(request)))),
            Err(error) => return error,
        }
    }
}

fn reconnect(socket: &Path, events: &Sender<Event>) -> Result<Client, ClientError> {
    let mut client = Client::connect(socket)?;
    let requests = client.watch()?;
    drop(events.send(Event::Snapshot(requests)));
    Ok(client)
}

/// Whether a daemon that restarts would explain the error.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::NoSocket { .. }
        | ClientError::NotListening { .. }
        | ClientError::Closed { .. }
        | ClientError::Silent { .. }
        | ClientError::Broken { .. } => true,
        ClientError::Call(CallError { code, .. }) => {
            matches!(code, ErrorCode::Busy | ErrorCode::TooSlow | ErrorCode::Stopping)
        }
        _ => false,
    }
}

fn spawn_decision(socket: PathBuf, id: RequestId, effect: Effect, reason: Option<String>, events: Sender<Event>) {
    thread::spawn(move || {
        let decide = || Client::connect(&socket)?.request(&Call::Decide { id, effect, reason, grant: None });
        let answer = Box::new(decide());
        drop(events.send(Event::Decided { id, effect, answer }));
    });
}
