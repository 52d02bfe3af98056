//! One caller: reads its calls, checks each, and writes the answers.

use std::{io, os::fd::AsFd as _, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
    sync::{broadcast, oneshot},
    time,
};

use super::{Answer, CALL_TIME, Incoming, Shared, WRITE_TIME};
use crate::{
    control::{
        peer::{Peer, Reason},
        protocol::{self, Call, CallError, ErrorCode, FrameError, Lines, Reply},
        socket::{self, Credentials},
    },
    request::{Context, Request},
};

/// Longest call of an agent's process, and how long it may take to send it: it has nothing to say but one word.
const AGENT_CALL_BYTES: usize = 4 * 1024;
const AGENT_CALL_TIME: Duration = Duration::from_secs(2);

/// Bytes per read.
const READ_BYTES: usize = 16 * 1024;

/// Why a connection ends. What the caller is to know has been written by then.
struct Ended;

fn stopping() -> CallError {
    CallError::new(ErrorCode::Stopping, "the daemon is stopping")
}

/// Serves a checked caller until it leaves or does something it must not.
pub(super) async fn serve(stream: UnixStream, peer: Peer, shared: &Shared) {
    let lines = Lines::new(protocol::MAX_CALL_BYTES);
    let mut connection = Connection { stream, peer, lines, shared };
    while let Ok(()) = connection.serve_call().await {}
}

/// Serves a process of an agent: one call, which can only be [`Call::Why`]. Anything else is refused and reported, as is
/// silence.
pub(super) async fn serve_agent(stream: UnixStream, peer: Peer, shared: &Shared) {
    let lines = Lines::new(AGENT_CALL_BYTES);
    let mut connection = Connection { stream, peer, lines, shared };
    // Either way it has ended.
    let _: Result<(), Ended> = connection.serve_agent_call().await;
}

struct Connection<'a> {
    stream: UnixStream,
    peer: Peer,
    lines: Lines,
    shared: &'a Shared,
}

impl Connection<'_> {
    async fn serve_agent_call(&mut self) -> Result<(), Ended> {
        let shared = self.shared;
        let read = tokio::select! {
            read = time::timeout(AGENT_CALL_TIME, self.next_frame()) => read,
            () = shared.stopped() => return self.fail(stopping()).await,
        };
        // Looked at again: the answer is about the run in which it is now.
        let inside = match self.shared.inspector.check(&self.peer) {
            Err(Reason::InsideAgent { cgroup }) => cgroup,
            Err(reason) => return self.refuse(reason).await,
            Ok(()) => return Err(Ended),
        };
        let call = match read {
            Ok(Ok(line)) => protocol::decode_call(&line).ok(),
            Ok(Err(_)) | Err(_) => None,
        };
        let Some(call @ Call::Why { .. }) = call else {
            return self.refuse(Reason::InsideAgent { cgroup: inside }).await;
        };
        let cgroup = String::from_utf8_lossy(inside.bytes()).into_owned();
        self.answer(call, Some(cgroup)).await
    }

    /// One call and its answer.
    async fn serve_call(&mut self) -> Result<(), Ended> {
        let shared = self.shared;
        let call = tokio::select! {
            call = time::timeout(CALL_TIME, self.read_call()) => call,
            () = shared.stopped() => return self.fail(stopping()).await,
        };
        let call = match call {
            Ok(call) => call?,
            // Nothing said is a caller that idles; half a call is one that went wrong.
            Err(_) if self.lines.is_empty() => return Err(Ended),
            Err(_) => return self.fail(CallError::new(ErrorCode::TooSlow, "the call did not arrive in time")).await,
        };
        if let Err(reason) = self.shared.inspector.check(&self.peer) {
            return self.refuse(reason).await;
        }
        self.answer(call, None).await
    }

    /// Hands a call to the daemon and writes what it says.
    async fn answer(&mut self, call: Call, inside: Option<String>) -> Result<(), Ended> {
        let (reply, answer) = oneshot::channel();
        let incoming = Incoming { call, peer: self.peer.clone(), inside, reply };
        if self.shared.outlets.calls.send(incoming).await.is_err() {
            return self.fail(stopping()).await;
        }
        match answer.await {
            Ok(Ok(Answer::One(reply))) => self.write_answer(Ok(reply)).await,
            Ok(Ok(Answer::Request(request))) => self.write_request(&request).await,
            Ok(Ok(Answer::Pending(requests))) => {
                self.write_requests(&requests).await?;
                self.write_answer(Ok(Reply::End)).await
            }
            Ok(Ok(Answer::Watch { pending, changes })) => {
                self.write_requests(&pending).await?;
                drop(pending);
                self.write_answer(Ok(Reply::Current)).await?;
                self.watch(changes).await
            }
            Ok(Err(error)) => self.write_answer(Err(error)).await,
            Err(oneshot::error::RecvError { .. }) => self.fail(stopping()).await,
        }
    }

    /// Passes changes on until either side ends.
    async fn watch(&mut self, mut changes: broadcast::Receiver<Arc<Request>>) -> Result<(), Ended> {
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                // A watcher has nothing more to say: this is its end, or a mistake.
                () = self.closed_or_speaks() => return Err(Ended),
                () = self.shared.stopped() => return self.fail(stopping()).await,
            };
            match change {
                Ok(request) => {
                    // What is shown to a watcher is for reviewers only, and it may have become an agent since.
                    match self.shared.inspector.check(&self.peer) {
                        Ok(()) => self.write_request(&request).await?,
                        // It ended, as watchers do: nothing to report.
                        Err(Reason::Gone) => return Err(Ended),
                        Err(reason) => return self.refuse(reason).await,
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let error = CallError::new(ErrorCode::TooSlow, format!("fell behind by {missed} changes"));
                    return self.fail(error.with_hint("start to watch again")).await;
                }
                Err(broadcast::error::RecvError::Closed) => {
                    return self.fail(stopping()).await;
                }
            }
        }
    }

    async fn closed_or_speaks(&self) {
        let mut byte = [0; 1];
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            let read = self.stream.try_io(Interest::READABLE, || socket::receive(self.stream.as_fd(), &mut byte));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }

    /// The next call, from the very process that connected.
    async fn read_call(&mut self) -> Result<Call, Ended> {
        let line = match self.next_frame().await {
            Ok(line) => line,
            Err(Some(error)) => return Err(self.fail_frame(&error).await),
            Err(None) => return Err(Ended),
        };
        match protocol::decode_call(&line) {
            Ok(call) => Ok(call),
            Err(error) => Err(self.fail_frame(&error).await),
        }
    }

    /// The next frame, from the very process that connected. No error to tell: the connection has ended.
    async fn next_frame(&mut self) -> Result<Vec<u8>, Option<FrameError>> {
        loop {
            match self.lines.next_line() {
                Ok(Some(line)) => return Ok(line),
                Ok(None) => {}
                Err(error) => return Err(Some(error)),
            }
            self.stream.readable().await.map_err(|_| None)?;
            let mut buffer = vec![0; READ_BYTES];
            let read = self.stream.try_io(Interest::READABLE, || socket::receive(self.stream.as_fd(), &mut buffer));
            match read {
                Ok((0, _)) => return Err(None),
                Ok((length, sender)) => {
                    let is_peer =
                        sender.is_some_and(|sender| sender.pid == self.peer.pid && sender.uid == self.peer.uid);
                    if !is_peer {
                        let pid = sender.map_or(0, |sender| sender.pid);
                        self.refuse(Reason::ForeignSender { pid }).await.map_err(|Ended| None)?;
                    }
                    self.lines.push(&buffer[..length]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(None),
            }
        }
    }

    async fn refuse(&mut self, reason: Reason) -> Result<(), Ended> {
        let Peer { pid, uid, gid, .. } = self.peer;
        let error = reason.error();
        self.shared.refused(Credentials { pid, uid, gid }, reason);
        self.fail(error).await
    }

    async fn fail_frame(&mut self, error: &FrameError) -> Ended {
        let code = match error {
            FrameError::Version { .. } => ErrorCode::VersionMismatch,
            FrameError::TooLarge { .. } => ErrorCode::TooLarge,
            FrameError::Malformed(_) | FrameError::Empty => ErrorCode::BadFrame,
        };
        // The parser's own words quote nothing of the frame but the names it does not know.
        let message = match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let _: Result<(), Ended> = self.fail(CallError::new(code, message)).await;
        Ended
    }

    /// Tells the caller, and ends.
    async fn fail(&mut self, error: CallError) -> Result<(), Ended> {
        self.write_answer(Err(error)).await?;
        Err(Ended)
    }

    async fn write_requests(&mut self, requests: &[Arc<Request>]) -> Result<(), Ended> {
        for request in requests {
            self.write_request(request).await?;
        }
        Ok(())
    }

    async fn write_request(&mut self, request: &Request) -> Result<(), Ended> {
        let frame = protocol::encode_request(request).or_else(|_| {
            // The action alone always fits. Leaving its surroundings out, and saying so, beats hiding the request.
            let gap = format!("all of it is left out: it is longer than {} bytes", protocol::MAX_REPLY_BYTES);
            let context = Context { gaps: vec![gap], ..Context::default() };
            protocol::encode_request(&Request { context, ..request.clone() })
        });
        match frame {
            Ok(frame) => self.write(&frame).await,
            Err(error) => {
                let message = format!("request {} cannot be sent: {error}", request.id);
                self.write_answer(Err(CallError::new(ErrorCode::TooLarge, message))).await
            }
        }
    }

    async fn write_answer(&mut self, answer: Result<Reply, CallError>) -> Result<(), Ended> {
        match protocol::encode_reply(answer) {
            Ok(frame) => self.write(&frame).await,
            Err(error) => {
                let error = CallError::new(ErrorCode::TooLarge, format!("the answer cannot be sent: {error}"));
                let frame = protocol::encode_reply(Err(error)).map_err(|_| Ended)?;
                self.write(&frame).await
            }
        }
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), Ended> {
        match time::timeout(WRITE_TIME, self.stream.write_all(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended),
        }
    }
}
