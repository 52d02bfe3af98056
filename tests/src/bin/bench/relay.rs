//! Carries connections between the benchmark's machine and a server of the host, on both sides of the emulator's network.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::net::{Shutdown, shutdown, sockopt::set_tcp_nodelay};

/// Takes connections to a port of loopback from now on, and carries each to the same port of another machine.
///
/// # Errors
/// The port is taken.
pub(crate) fn listen(server: SocketAddrV4) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, server.port()));
    let listener = listener.with_context(|| format!("cannot take port {} of loopback", server.port()))?;
    thread::spawn(move || -> io::Result<()> {
        loop {
            let (near, _) = listener.accept()?;
            thread::spawn(move || carry(&near.into(), &TcpStream::connect(server)?.into()));
        }
    });
    Ok(())
}

/// Carries standard input and output, which are one socket, to a port of loopback until both directions have ended.
///
/// # Errors
/// Nothing is there, or the connection breaks.
pub(crate) fn pass(port: u16) -> Result<()> {
    let near = io::stdin().as_fd().try_clone_to_owned().context("cannot take standard input")?;
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("the server is not there")?;
    carry(&near, &far.into()).context("the connection broke")
}

fn carry(near: &OwnedFd, far: &OwnedFd) -> io::Result<()> {
    for socket in [near, far] {
        // A socket of another kind waits for nothing.
        let _ = set_tcp_nodelay(socket, true);
    }
    thread::scope(|scope| {
        let back = scope.spawn(|| copy(far, near));
        copy(near, far)?;
        back.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

/// Copies until there is no more, and passes that on.
fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let (mut input, mut output) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    io::copy(&mut input, &mut output)?;
    shutdown(to, Shutdown::Write)?;
    Ok(())
}
