//! A fake HTTP server and client on loopback, with threads and nothing else, for the fakes of chat servers.
//!
//! One source for the scenario tests and for the daemon's own ones, so it uses nothing of either. Each connection has one
//! request. What is not as HTTP/1.1 wants it makes the server's thread panic, and the caller see a broken connection.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// For each read and write: emulation on a busy machine is slow, a bug is for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Such as `POST`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Call {
    /// The value of a header, by its name in lower case; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status; 0 breaks the connection without an answer.
    pub status: u16,
    /// More headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Reply {
    /// A status and a body.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A server on a free port, gone when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// Starts a server; `answer` is called from several threads.
    ///
    /// # Panics
    /// When loopback cannot be used.
    pub fn start(answer: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = socket.local_addr().expect("its number");
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, answer) = (Arc::clone(&stopped), Arc::new(answer));
        thread::spawn(move || {
            for stream in socket.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let answer = Arc::clone(&answer);
                thread::spawn(move || serve(stream.expect("a connection"), &*answer));
            }
        });
        Self { address, stopped }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: TcpStream, answer: &dyn Fn(Call) -> Reply) {
    let mut reader = reader(&stream);
    let mut first = String::new();
    reader.read_line(&mut first).expect("a request's first line");
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
    let (headers, body) = rest(&mut reader);
    let Reply { status, headers, body } = answer(Call { method, path, headers, body });
    if status == 0 {
        return;
    }
    let mut text = format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(&body);
    // The caller may be gone.
    let _ = (&stream).write_all(text.as_bytes());
}

/// Sends a request and waits for the answer.
///
/// # Panics
/// When nothing listens there or no answer comes.
pub fn send(address: SocketAddr, call: &Call) -> Reply {
    let stream = TcpStream::connect(address).expect("a connection to the server");
    let Call { method, path, headers, body } = call;
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("connection: close\r\n\r\n");
    text.push_str(body);
    // A server that refuses a long body may close before it has read all of it, and answers all the same.
    let _ = (&stream).write_all(text.as_bytes());
    let mut reader = reader(&stream);
    let mut first = String::new();
    reader.read_line(&mut first).expect("an answer's first line");
    let status = first.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let (headers, body) = rest(&mut reader);
    Reply { status, headers, body }
}

fn reader(stream: &TcpStream) -> BufReader<&TcpStream> {
    stream.set_read_timeout(Some(PATIENCE)).expect("a patience for reading");
    stream.set_write_timeout(Some(PATIENCE)).expect("a patience for writing");
    BufReader::new(stream)
}

/// Headers and body.
fn rest(reader: &mut BufReader<&TcpStream>) -> (Vec<(String, String)>, String) {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, length)| length.parse().expect("a length"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the whole body");
    (headers, String::from_utf8(body).expect("a body of text"))
}
