//! The connection between a channel and its server, which can be made to go wrong in all ways in which connections do.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What is to go wrong.
#[derive(Debug, Default)]
struct Faults {
    /// Nobody gets through.
    cut: bool,
    /// The server takes the next request with this in its first line, and its answer is lost.
    lose: Option<&'static str>,
    /// Requests with this in their first line reach the server, and no answer to them ever comes.
    mute: Option<&'static str>,
    /// The next request with this in its first line never reaches the server; this is the answer.
    answer: Option<(&'static str, String)>,
    /// What answers say instead, as long as what it stands for.
    rewrite: Option<(&'static [u8], &'static [u8])>,
    open: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    ends: [TcpStream; 2],
    frozen: Arc<AtomicBool>,
}

/// A port that stands for a server's.
#[derive(Debug)]
pub(super) struct Wire {
    address: SocketAddr,
    faults: Arc<Mutex<Faults>>,
}

impl Wire {
    /// A wire to a server on this host.
    pub(super) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::<Mutex<Faults>>::default();
        let shared = Arc::clone(&faults);
        // It lives as long as the test's process.
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if !locked(&shared).cut
                    && let Ok(server) = TcpStream::connect(server)
                {
                    connect(client, server, &shared);
                }
            }
        });
        Self { address, faults }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        locked(&self.faults)
    }

    /// Ends all connections, and lets no new one come about.
    pub(super) fn cut(&self) {
        let mut faults = self.faults();
        faults.cut = true;
        for Connection { ends, .. } in faults.open.drain(..) {
            // They may have ended.
            ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
        }
    }

    /// Lets new connections come about.
    pub(super) fn mend(&self) {
        self.faults().cut = false;
    }

    /// Has the connections that there are stay open and do nothing any more.
    pub(super) fn freeze(&self) {
        let faults = self.faults();
        assert!(!faults.open.is_empty(), "there is no connection");
        faults.open.iter().for_each(|connection| connection.frozen.store(true, Ordering::SeqCst));
    }

    /// Loses the answer to the next request with this in its first line.
    pub(super) fn lose(&self, path: &'static str) {
        self.faults().lose = Some(path);
    }

    /// Has requests with this in their first line reach the server, and no answers come, from now on.
    pub(super) fn mute(&self, path: &'static str) {
        self.faults().mute = Some(path);
    }

    /// Ends that for later requests.
    pub(super) fn unmute(&self) {
        self.faults().mute = None;
    }

    /// Answers the next request with this in its first line, instead of the server.
    pub(super) fn answer(&self, path: &'static str, answer: String) {
        self.faults().answer = Some((path, answer));
    }

    /// Whether everything that was to go wrong did.
    pub(super) fn is_done(&self) -> bool {
        let faults = self.faults();
        faults.lose.is_none() && faults.answer.is_none()
    }

    /// Changes all answers from now on. What is written must be as long as what was there.
    pub(super) fn rewrite(&self, from: &'static [u8], to: &'static [u8]) {
        assert_eq!(from.len(), to.len());
        self.faults().rewrite = Some((from, to));
    }
}

fn locked(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(client: TcpStream, server: TcpStream, faults: &Arc<Mutex<Faults>>) {
    let frozen = Arc::<AtomicBool>::default();
    let [lost, muted] = [(); 2].map(|()| Arc::<AtomicBool>::default());
    let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
    locked(faults).open.push(Connection { ends, frozen: Arc::clone(&frozen) });
    let [client_2, server_2] = [client.try_clone().unwrap(), server.try_clone().unwrap()];
    let (shared, is_frozen) = (Arc::clone(faults), Arc::clone(&frozen));
    let (loses, mutes) = (Arc::clone(&lost), Arc::clone(&muted));
    thread::spawn(move || {
        carry(&client, &server, |request| {
            if is_frozen.load(Ordering::SeqCst) {
                return Some(false);
            }
            let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let has = |path: &str| line.windows(path.len()).any(|part| part == path.as_bytes());
            let mut faults = locked(&shared);
            if let Some((_, answer)) = faults.answer.take_if(|(path, _)| has(path)) {
                // It may be gone.
                let _ = (&client).write_all(answer.as_bytes());
                return None;
            }
            if faults.mute.is_some_and(has) {
                mutes.store(true, Ordering::SeqCst);
            }
            if faults.lose.take_if(|path| has(path)).is_some() {
                loses.store(true, Ordering::SeqCst);
            }
            Some(true)
        });
    });
    let shared = Arc::clone(faults);
    thread::spawn(move || {
        carry(&server_2, &client_2, |answer| {
            if lost.load(Ordering::SeqCst) {
                return None;
            }
            if let Some((from, to)) = locked(&shared).rewrite {
                let found: Vec<_> = answer.windows(from.len()).enumerate().filter(|(_, part)| *part == from).collect();
                let found: Vec<_> = found.into_iter().map(|(at, _)| at).collect();
                found.into_iter().for_each(|at| answer[at..at + to.len()].copy_from_slice(to));
            }
            Some(!frozen.load(Ordering::SeqCst) && !muted.load(Ordering::SeqCst))
        });
    });
}

/// Carries bytes until an end closes. `look` says whether they are passed on; none ends both.
fn carry(mut from: &TcpStream, mut to: &TcpStream, mut look: impl FnMut(&mut [u8]) -> Option<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        match look(&mut buffer[..length]) {
            Some(true) if to.write_all(&buffer[..length]).is_ok() => {}
            Some(false) => {}
            _ => break,
        }
    }
    // One of them has ended already.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
