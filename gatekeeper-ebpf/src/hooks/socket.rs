//! Sockets: bind, listen, connect.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use gatekeeper_common::{ActionKind, Refusal, limits::ADDRESS_BYTES};

use crate::{
    atomic::opaque,
    gate::{self, Match},
    layout::offset,
    read::{self, Typed},
    scratch::Scratch,
    tables::{self, AF_INET, AF_INET6},
};

const AF_UNSPEC: u16 = 0;
const AF_UNIX: u16 = 1;

/// Reads the inode number that names a socket to user space; 0 while it has none.
#[inline(always)]
fn inode_number(socket: Typed) -> u64 {
    let file = socket.pointer(offset!(socket_file));
    if file.is_null() { 0 } else { file.pointer(offset!(file_inode)).field(offset!(inode_ino)) }
}

/// Writes the name that a Unix socket is bound to. Returns the length of the address; 2 for a socket without a name.
#[inline(always)]
fn unix_name(slot: *mut Scratch, sk: u64) -> Result<u64, Refusal> {
    let address: u64 = read::kernel(sk, offset!(unix_address))?;
    if address == 0 {
        return Ok(2);
    }
    let length = opaque(u64::from(read::kernel::<u32>(address, offset!(unix_address_len))?));
    if length < 2 || length > ADDRESS_BYTES as u64 {
        return Err(Refusal::ADDRESS);
    }
    let name = address.wrapping_add(offset!(unix_address_name) as u64);
    // SAFETY: the text is longer than an address.
    let failed = unsafe { bpf_probe_read_kernel((&raw mut (*slot).text).cast(), length as u32, name as *const c_void) };
    if failed != 0 { Err(Refusal::ADDRESS) } else { Ok(length) }
}

/// An address that the caller gave; the kernel has copied it already.
#[inline(always)]
fn with_address(kind: ActionKind, socket: Typed, address: u64, length: u64) -> i64 {
    gate::decide(kind, |scope, slot| {
        let length = length & 0xffff_ffff;
        if length < 2 || length > ADDRESS_BYTES as u64 {
            return Err(Refusal::ADDRESS);
        }
        // SAFETY: the text is longer than an address.
        let failed =
            unsafe { bpf_probe_read_kernel((&raw mut (*slot).text).cast(), length as u32, address as *const c_void) };
        if failed != 0 {
            return Err(Refusal::ADDRESS);
        }
        let sk: u64 = read::kernel(socket.address(), offset!(socket_sk))?;
        let own_family: u16 = read::kernel(sk, offset!(sock_family))?;
        // SAFETY: at the start of the text, which is aligned.
        let head = unsafe { (&raw mut (*slot).text).cast::<u16>() };
        // SAFETY: as above.
        let mut family = unsafe { *head };
        if family == AF_UNSPEC {
            if kind.0 == ActionKind::CONNECT.0 {
                // Dissolves an association (connect(2)).
                return Ok(Match::No);
            }
            // `inet_bind` takes it for AF_INET.
            family = own_family;
            // SAFETY: as above.
            unsafe { *head = family };
        }
        // Bytes behind a short address are whatever was in the slot: never looked at.
        let port = if length >= 4 {
            // SAFETY: as above.
            u16::from_be(unsafe { *head.add(1) })
        } else {
            0
        };
        if !tables::socket_may_match(scope.agent, kind, family, port) {
            return Ok(Match::No);
        }
        let action = Scratch::action(slot);
        // SAFETY: a claimed slot.
        unsafe {
            (*slot).walk.end = length;
            (*action).name_len = length as u32;
            (*action).detail = inode_number(socket);
        }
        Ok(Match::Maybe)
    })
}

lsm! {
    /// `int socket_bind(struct socket *sock, struct sockaddr *address, int addrlen)`
    fn socket_bind(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        with_address(ActionKind::BIND, Typed::new(ctx.arg(0)), ctx.arg(1), ctx.arg(2))
    }
}

lsm! {
    /// `int socket_connect(struct socket *sock, struct sockaddr *address, int addrlen)`
    fn socket_connect(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        with_address(ActionKind::CONNECT, Typed::new(ctx.arg(0)), ctx.arg(1), ctx.arg(2))
    }
}

lsm! {
    /// `int socket_listen(struct socket *sock, int backlog)`. The address is the socket's own; the port is 0 if it was never
    /// bound and gets one only now.
    fn socket_listen(ctx) {
        let earlier: i64 = ctx.arg(2);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let socket = Typed::new(ctx.arg(0));
        let backlog: u64 = ctx.arg::<u64>(1) & 0xffff_ffff;
        gate::decide(ActionKind::LISTEN, |scope, slot| {
            let sk: u64 = read::kernel(socket.address(), offset!(socket_sk))?;
            let family: u16 = read::kernel(sk, offset!(sock_family))?;
            let port: u16 = if family == AF_INET || family == AF_INET6 { read::kernel(sk, offset!(sock_port))? } else { 0 };
            if !tables::socket_may_match(scope.agent, ActionKind::LISTEN, family, port) {
                return Ok(Match::No);
            }
            // `struct sockaddr_in` or `struct sockaddr_in6`, or the family alone.
            // SAFETY: inside the text, which is aligned.
            let text = unsafe { (&raw mut (*slot).text).cast::<u8>() };
            // SAFETY: as above.
            unsafe {
                *text.cast::<u16>() = family;
                *text.cast::<u16>().add(1) = port.to_be();
                *text.cast::<u32>().add(1) = 0;
            }
            let length = if family == AF_INET {
                // SAFETY: as above.
                unsafe { *text.cast::<u32>().add(1) = read::kernel(sk, offset!(sock_address))? };
                8
            } else if family == AF_INET6 {
                // SAFETY: as above.
                unsafe {
                    *text.cast::<u64>().add(1) = read::kernel(sk, offset!(sock_address6))?;
                    *text.cast::<u64>().add(2) = read::kernel(sk, offset!(sock_address6) + 8)?;
                }
                24
            } else if family == AF_UNIX {
                unix_name(slot, sk)?
            } else {
                2
            };
            let action = Scratch::action(slot);
            // SAFETY: a claimed slot.
            unsafe {
                (*slot).walk.end = length;
                (*action).name_len = length as u32;
                (*action).detail = backlog;
                (*action).other.ino = inode_number(socket);
            }
            Ok(Match::Maybe)
        })
    }
}
