//! The control socket, spoken to directly: a new process for each look would dominate a test's time under emulation.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::{Value, json};

use super::wait::PATIENCE;

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects. None if nobody listens there.
    pub fn connect(socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
        Some(Self { stream: BufReader::new(stream) })
    }

    /// A handle on the same connection: shutting it down ends a [`Self::receive`] in another thread.
    pub fn closer(&self) -> UnixStream {
        self.stream.get_ref().try_clone().expect("a descriptor can be duplicated")
    }

    /// Makes a call that has one answer: the `reply`, or the `error`. None if the daemon closed the connection.
    pub fn try_call(&mut self, call: Value) -> Option<Result<Value, Value>> {
        self.send(&call)?;
        self.receive()
    }

    /// Makes a call that has one answer and gives its reply.
    ///
    /// # Panics
    /// If the daemon refuses, or is gone.
    pub fn call(&mut self, call: Value) -> Value {
        let shown = call.to_string();
        match self.try_call(call) {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => panic!("{shown} was refused: {error}"),
            None => panic!("the daemon closed the connection at {shown}"),
        }
    }

    /// The requests that wait.
    pub fn pending(&mut self) -> Vec<Value> {
        self.send(&json!("pending")).expect("the daemon listens");
        let mut requests = Vec::new();
        loop {
            match self.receive() {
                Some(Ok(reply)) if reply == json!("end") => return requests,
                Some(Ok(mut reply)) => requests.push(reply["request"].take()),
                other => panic!("the list of requests ends in {other:?}"),
            }
        }
    }

    /// Sends one call. None if the daemon closed the connection.
    pub fn send(&mut self, call: &Value) -> Option<()> {
        let frame = format!("{}\n", json!({ "version": 1, "call": call }));
        self.stream.get_mut().write_all(frame.as_bytes()).ok()
    }

    /// Takes one answer. None if the daemon closed the connection.
    pub fn receive(&mut self) -> Option<Result<Value, Value>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut frame: Value = serde_json::from_str(&line).expect("the daemon speaks JSON");
        match frame.get_mut("error") {
            Some(error) if !error.is_null() => Some(Err(error.take())),
            _ => Some(Ok(frame["reply"].take())),
        }
    }
}
