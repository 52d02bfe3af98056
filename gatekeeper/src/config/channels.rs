//! `[[channel]]`: ways to reach reviewers beyond the command line.

use std::{collections::BTreeSet, path::PathBuf};

use toml::Spanned;

use super::{
    checked::{Checker, absolute_path, identifier, plain},
    file::{self, Table},
};
use crate::{
    policy::{Fault, suggest},
    reviewer::Directory,
};

/// One way to reach reviewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelConfig {
    /// Unique.
    pub name: String,
    /// Of which type, with what that type needs.
    pub kind: ChannelKind,
}

/// The types of channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// A room on a Matrix server.
    Matrix {
        /// The server's base URL, without a slash at the end.
        homeserver: String,
        /// The room's id, `!…`.
        room: String,
        /// Where the access token is.
        token: SecretSource,
    },
}

impl ChannelKind {
    /// The type's name, under which reviewers have their accounts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Matrix { .. } => "matrix",
        }
    }
}

/// Where a secret is kept. Never in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A credential that systemd hands over, by its name.
    Credential(String),
}

const KINDS: [&str; 1] = ["matrix"];

impl Checker<'_> {
    pub(super) fn channels(
        &mut self,
        channels: &[Spanned<Table<file::Channel>>],
        reviewers: &Directory,
    ) -> Vec<ChannelConfig> {
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        for raw in channels {
            let file::Channel { name, kind, homeserver, room, token } = &raw.as_ref().0;
            let (Some(written), Some(kind)) = (name, kind) else {
                self.fail(
                    raw.span(),
                    "the channel has no name or no type",
                    "add `name = \"…\"` and `type = \"matrix\"`",
                );
                continue;
            };
            let Some(name) = self.check(name.as_ref(), |text| identifier(text, "a channel")) else { continue };
            if !names.insert(name.clone()) || name == crate::reviewer::CLI {
                self.fail(
                    written.span(),
                    format!("there is already a channel named {name:?}"),
                    "give each channel a name of its own; \"cli\" is the command line",
                );
            }
            if !KINDS.contains(&kind.as_ref().as_str()) {
                self.fail(
                    kind.span(),
                    format!("{:?} is no type of channel", kind.as_ref()),
                    suggest(kind.as_ref(), KINDS),
                );
                continue;
            }
            let homeserver = self.required(raw, homeserver.as_ref(), "homeserver", server_url);
            let room = self.required(raw, room.as_ref(), "room", room_id);
            let token = self.required(raw, token.as_ref(), "token", secret);
            if !reviewers.reviewers().iter().any(|reviewer| reviewer.accounts.contains_key(kind.as_ref())) {
                self.fail(
                    raw.span(),
                    format!("no reviewer has an account on {}, so nobody could decide there", kind.as_ref()),
                    format!("add `{} = \"…\"` to a `[[reviewer]]`", kind.as_ref()),
                );
            }
            if let (Some(homeserver), Some(room), Some(token)) = (homeserver, room, token) {
                checked.push(ChannelConfig { name, kind: ChannelKind::Matrix { homeserver, room, token } });
            }
        }
        checked
    }

    /// A key without which this type of channel makes no sense.
    fn required<T>(
        &mut self,
        channel: &Spanned<Table<file::Channel>>,
        value: Option<&Spanned<String>>,
        key: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        if value.is_none() {
            self.fail(channel.span(), format!("the channel has no `{key}`"), format!("add `{key} = \"…\"`"));
        }
        self.check(value, read)
    }
}

/// A server's base URL. Tokens go there, so it must be encrypted unless it never leaves this host.
pub(super) fn server_url(text: &str) -> Result<String, Fault> {
    plain(text, "a URL", 1024)?;
    let text = text.strip_suffix('/').unwrap_or(text);
    let bad =
        |reason: &str| Err(Fault::new(format!("{text:?} {reason}"), "write such as \"https://matrix.example.org\""));
    let Ok(url) = text.parse::<reqwest::Url>() else { return bad("is no URL") };
    let local = url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    match url.scheme() {
        "https" => {}
        "http" if local => {}
        "http" => return bad("would send secrets in the clear"),
        _ => return bad("is no URL of a web server"),
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return bad("has more in it than a server");
    }
    Ok(text.to_owned())
}

/// `!…`, as rooms are named for programs; an alias (`#…`) can be moved to another room.
fn room_id(text: &str) -> Result<String, Fault> {
    if text.starts_with('!') && text.len() > 1 && text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is no room id"),
        "write the internal id, such as \"!abc:example.org\"; an alias can be moved to another room",
    ))
}

/// Where a secret is.
pub(super) fn secret(text: &str) -> Result<SecretSource, Fault> {
    if let Some(name) = text.strip_prefix("credential:") {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        if plain && name.chars().all(|c| c.is_ascii_graphic()) {
            return Ok(SecretSource::Credential(name.to_owned()));
        }
    } else if text.starts_with('/') {
        return absolute_path(text).map(SecretSource::File);
    }
    // What was written may be the secret itself: it is not repeated.
    Err(Fault::new(
        "this is neither a file nor a credential",
        "put the secret into a file that only root can read and write its path, or \"credential:NAME\" of systemd",
    ))
}
