//! Tokens and keys: kept apart from everything that is shown, logged or compared.

use std::fmt;

/// A secret. It shows itself to nobody who does not ask for it by name.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Keeps a secret; space around it, such as the line end of its file, is no part of it.
    pub fn new(secret: &str) -> Self {
        Self(secret.trim().to_owned())
    }

    /// The secret itself, to be sent to whom it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show() {
        let secret = Secret::new("hunter2\n");
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}
