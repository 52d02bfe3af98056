//! The errors that a denied action may fail with.

use rustix::io::Errno;
use serde::Serialize;

use super::fault::{Fault, suggest};

/// Names and values. Errors that make programs try again at once, such as `EINTR`, are left out: a denied action would
/// come back in a loop.
const KNOWN: [(&str, Errno); 13] = [
    ("EPERM", Errno::PERM),
    ("EACCES", Errno::ACCESS),
    ("ENOENT", Errno::NOENT),
    ("EIO", Errno::IO),
    ("EBUSY", Errno::BUSY),
    ("EROFS", Errno::ROFS),
    ("ENOSPC", Errno::NOSPC),
    ("EOPNOTSUPP", Errno::OPNOTSUPP),
    ("EADDRINUSE", Errno::ADDRINUSE),
    ("ENETUNREACH", Errno::NETUNREACH),
    ("ETIMEDOUT", Errno::TIMEDOUT),
    ("ECONNREFUSED", Errno::CONNREFUSED),
    ("EHOSTUNREACH", Errno::HOSTUNREACH),
];

/// The error that a denied action fails with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DenyErrno(u16);

impl DenyErrno {
    /// Operation not permitted: the default.
    pub const EPERM: Self = Self(Errno::PERM.raw_os_error() as u16);

    /// Reads a name such as `EACCES`.
    ///
    /// # Errors
    /// The name is none of the known ones.
    pub fn new(name: &str) -> Result<Self, Fault> {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        let (_, errno) = known.ok_or_else(|| {
            Fault::new(
                format!("{name:?} is no error that a denied action can fail with"),
                suggest(name, KNOWN.iter().map(|(name, _)| *name)),
            )
        })?;
        u16::try_from(errno.raw_os_error())
            .map(Self)
            .map_err(|_| Fault::new(format!("{name:?} has no number here"), "use EPERM"))
    }

    /// The number, 1 to 4095.
    pub fn number(self) -> u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_reads_as_a_number_the_kernel_accepts() {
        for (name, _) in KNOWN {
            let number = DenyErrno::new(name).expect("known").number();
            assert!((1..=4095).contains(&number), "{name}");
        }
        assert_eq!(DenyErrno::new("EPERM"), Ok(DenyErrno::EPERM));
        assert!(DenyErrno::new("EINTR").is_err());
    }
}
