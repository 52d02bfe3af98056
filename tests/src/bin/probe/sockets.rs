//! Acts on sockets.

use std::net::SocketAddr;

use rustix::{
    io::{Errno, Result},
    net::{self, AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt::set_socket_reuseaddr},
};

pub(crate) fn act(act: &[&str]) -> Option<Result<()>> {
    let (what, address) = match *act {
        [what @ ("bind" | "listen" | "connect"), address] => (what, address),
        _ => return None,
    };
    Some(parse(address).and_then(|(family, address)| {
        let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if what == "connect" {
            return net::connect(&socket, &address);
        }
        // It stays until this process ends, so that others can see it.
        let socket = std::mem::ManuallyDrop::new(socket);
        if family != AddressFamily::UNIX {
            set_socket_reuseaddr(&*socket, true)?;
        }
        net::bind(&*socket, &address)?;
        if what == "listen" { net::listen(&*socket, 1) } else { Ok(()) }
    }))
}

fn parse(address: &str) -> Result<(AddressFamily, SocketAddrAny)> {
    if let Some(path) = address.strip_prefix("unix:") {
        return Ok((AddressFamily::UNIX, SocketAddrUnix::new(path)?.into()));
    }
    if let Some(name) = address.strip_prefix('@') {
        return Ok((AddressFamily::UNIX, SocketAddrUnix::new_abstract_name(name.as_bytes())?.into()));
    }
    let address: SocketAddr = address.parse().map_err(|_| Errno::INVAL)?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok((family, address.into()))
}
