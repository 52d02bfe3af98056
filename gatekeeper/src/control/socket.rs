//! What the standard library cannot ask of a Unix socket: who is at the other end, and who sent these very bytes.

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// `SO_PEERPIDFD` of `asm-generic/socket.h`, Linux 6.5 and newer.
const SO_PEERPIDFD: libc::c_int = 77;

/// A process as the kernel names it to the other end of a socket, in the reader's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    /// Process id; 0 if it has none here.
    pub(super) pid: u32,
    /// Effective user id.
    pub(super) uid: u32,
    /// Effective group id.
    pub(super) gid: u32,
}

impl From<libc::ucred> for Credentials {
    fn from(raw: libc::ucred) -> Self {
        Self { pid: u32::try_from(raw.pid).unwrap_or(0), uid: raw.uid, gid: raw.gid }
    }
}

/// Reads a socket option that is a plain C value of type `T`.
///
/// # Safety
/// Any bit pattern that the kernel may write for this option must be a valid `T`.
unsafe fn socket_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has `length` writable bytes, and both outlive the call.
    let status = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != mem::size_of::<T>() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "socket option of an unexpected size"));
    }
    // SAFETY: the kernel wrote all bytes, and the caller vouches for the type.
    Ok(unsafe { value.assume_init() })
}

/// Who connected (or who called listen, from the client's side), as of that moment.
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    // SAFETY: `ucred` is three integers.
    unsafe { socket_option::<libc::ucred>(socket, libc::SO_PEERCRED) }.map(Credentials::from)
}

/// A pidfd of who connected, which no reuse of the pid can mislead. `None` if the kernel is too old for that.
pub(super) fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    // SAFETY: the value is one integer.
    match unsafe { socket_option::<RawFd>(socket, SO_PEERPIDFD) } {
        // SAFETY: on success the kernel has installed this new descriptor for us alone.
        Ok(raw) => Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) })),
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads without waiting, and says who sent the bytes: not who connected, but who wrote. Bytes of two senders never
/// come together. Needs `SO_PASSCRED` on the socket.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<Credentials>)> {
    // Room for the credentials, aligned as a control message must be. Descriptors that a sender adds do not fit and are
    // closed by the kernel.
    const SPACE: usize = 64;
    #[repr(align(8))]
    struct Control([u8; SPACE]);
    let mut control = Control([0; SPACE]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `msghdr` is integers and pointers, for which zero is valid.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // Exactly the credentials' space, so that nothing else can be delivered beside them.
    // SAFETY: plain arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(mem::size_of::<libc::ucred>() as u32) } as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to `part`, `buffer` and `control`, which are writable and outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let mut sender = None;
    // SAFETY: `message` is as the kernel left it, and `control` is still alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside `control`.
        let found = unsafe { header.read_unaligned() };
        // SAFETY: plain arithmetic.
        let whole = unsafe { libc::CMSG_LEN(mem::size_of::<libc::ucred>() as u32) } as usize;
        #[allow(clippy::unnecessary_cast, reason = "the field's type differs between C libraries")]
        let is_whole = found.cmsg_len as usize >= whole;
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_CREDENTIALS && is_whole {
            // SAFETY: the header's length says that a `ucred` of three integers follows it.
            sender = Some(unsafe { libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned() }.into());
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok((length, sender))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::fd::AsFd as _, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn the_other_end_is_known_by_connection_and_by_message() {
        let (near, mut far) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&near, true).unwrap();
        let me = std::process::id();
        assert_eq!(peer_credentials(near.as_fd()).unwrap().pid, me);
        if let Some(pidfd) = peer_pidfd(near.as_fd()).unwrap() {
            let information = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
            assert!(information.contains(&format!("Pid:\t{me}\n")), "{information}");
        }
        let mut buffer = [0; 8];
        assert_eq!(receive(near.as_fd(), &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"hello").unwrap();
        let (length, sender) = receive(near.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hello");
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(sender.map(|sender| (sender.pid, sender.uid)), Some((me, uid)));
        drop(far);
        assert_eq!(receive(near.as_fd(), &mut buffer).unwrap().0, 0);
    }
}
