//! `[[channel]]`: ways to reach reviewers beyond the command line.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

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
    /// A conversation in a Slack workspace.
    Slack {
        /// Base URL of the Web API, if it is not Slack's own.
        api: Option<String>,
        /// The workspace's id, `T…`.
        workspace: String,
        /// The conversation's id, `C…` or `G…`.
        conversation: String,
        /// Where the app-level token is.
        app_token: SecretSource,
        /// Where the bot token is.
        bot_token: SecretSource,
    },
    /// A bot in Microsoft Teams.
    Teams {
        /// The app's id.
        app_id: String,
        /// The tenant whose people may decide.
        tenant: String,
        /// Where the app's client secret is.
        secret: SecretSource,
        /// The id of the channel or chat for cards.
        conversation: String,
        /// The server of the tenant's region.
        service_url: String,
        /// Where to listen.
        listen: SocketAddr,
        /// Where tokens come from, if not from Entra.
        token_url: Option<String>,
        /// Where keys are named, if not at the Bot Framework's address.
        openid_url: Option<String>,
    },
    /// A workflow of Teams that posts and takes nothing back.
    Workflows {
        /// Where its address is.
        url: SecretSource,
    },
    /// A program that gets signed events, and decisions that reviewers sign.
    Webhook {
        /// Where its address is.
        url: SecretSource,
        /// Where the key is that signs events.
        signing_key: SecretSource,
        /// Where to listen for decisions; none: events only.
        listen: Option<SocketAddr>,
    },
}

impl ChannelKind {
    /// The type's name, under which reviewers have their accounts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Matrix { .. } => "matrix",
            Self::Slack { .. } => "slack",
            Self::Teams { .. } => "teams",
            Self::Workflows { .. } => "workflows",
            Self::Webhook { .. } => "webhook",
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

/// The types, with the keys that each takes.
const KINDS: [(&str, &[&str]); 5] = [
    ("matrix", &["homeserver", "room", "token"]),
    ("slack", &["workspace", "conversation", "app_token", "bot_token", "api"]),
    ("teams", &["app_id", "tenant", "secret", "conversation", "service_url", "listen", "token_url", "openid_url"]),
    ("workflows", &["url"]),
    ("webhook", &["url", "signing_key", "listen"]),
];

impl Checker<'_> {
    pub(super) fn channels(
        &mut self,
        channels: &[Spanned<Table<file::Channel>>],
        reviewers: &Directory,
    ) -> Vec<ChannelConfig> {
        let mut names = BTreeSet::new();
        let mut checked = Vec::new();
        for raw in channels {
            let file::Channel { name, kind, .. } = &raw.as_ref().0;
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
            let Some((known, keys)) = KINDS.iter().find(|(known, _)| *known == kind.as_ref()) else {
                let way_out = suggest(kind.as_ref(), KINDS.iter().map(|(known, _)| *known));
                self.fail(kind.span(), format!("{:?} is no type of channel", kind.as_ref()), way_out);
                continue;
            };
            self.refuse_other_keys(&raw.as_ref().0, known, keys);
            // A workflow takes nothing back, and neither does a webhook that does not listen.
            let decides = *known != "workflows" && (*known != "webhook" || raw.as_ref().0.listen.is_some());
            if decides && !reviewers.reviewers().iter().any(|reviewer| reviewer.accounts.contains_key(*known)) {
                let key = if *known == "webhook" { "key" } else { known };
                self.fail(
                    raw.span(),
                    format!("no reviewer has an account on {known}, so nobody could decide there"),
                    format!("add `{key} = \"…\"` to a `[[reviewer]]`"),
                );
            }
            let kind = match *known {
                "slack" => self.slack(raw),
                "teams" => self.teams(raw),
                "workflows" => self
                    .required(raw, raw.as_ref().0.url.as_ref(), "url", secret)
                    .map(|url| ChannelKind::Workflows { url }),
                "webhook" => self.webhook(raw),
                _ => self.matrix(raw),
            };
            checked.extend(kind.map(|kind| ChannelConfig { name, kind }));
        }
        checked
    }

    fn matrix(&mut self, raw: &Spanned<Table<file::Channel>>) -> Option<ChannelKind> {
        let file::Channel { homeserver, room, token, .. } = &raw.as_ref().0;
        let homeserver = self.required(raw, homeserver.as_ref(), "homeserver", server_url);
        let room = self.required(raw, room.as_ref(), "room", room_id);
        let token = self.required(raw, token.as_ref(), "token", secret);
        Some(ChannelKind::Matrix { homeserver: homeserver?, room: room?, token: token? })
    }

    fn slack(&mut self, raw: &Spanned<Table<file::Channel>>) -> Option<ChannelKind> {
        let file::Channel { workspace, conversation, app_token, bot_token, api, .. } = &raw.as_ref().0;
        let workspace =
            self.required(raw, workspace.as_ref(), "workspace", |text| slack_id(text, "a workspace", &['T']));
        let conversation = self
            .required(raw, conversation.as_ref(), "conversation", |text| slack_id(text, "a conversation", &['C', 'G']));
        let app_token = self.required(raw, app_token.as_ref(), "app_token", secret);
        let bot_token = self.required(raw, bot_token.as_ref(), "bot_token", secret);
        let own_api = self.check(api.as_ref(), server_url);
        Some(ChannelKind::Slack {
            api: if api.is_some() { Some(own_api?) } else { None },
            workspace: workspace?,
            conversation: conversation?,
            app_token: app_token?,
            bot_token: bot_token?,
        })
    }

    fn teams(&mut self, raw: &Spanned<Table<file::Channel>>) -> Option<ChannelKind> {
        let file::Channel {
            app_id,
            tenant,
            secret: client_secret,
            conversation,
            service_url,
            listen,
            token_url,
            openid_url,
            ..
        } = &raw.as_ref().0;
        let id = |text: &str| plain(text, "an id", 256);
        let app_id = self.required(raw, app_id.as_ref(), "app_id", id);
        let tenant = self.required(raw, tenant.as_ref(), "tenant", id);
        let secret = self.required(raw, client_secret.as_ref(), "secret", secret);
        let conversation = self.required(raw, conversation.as_ref(), "conversation", id);
        let service_url = self.required(raw, service_url.as_ref(), "service_url", server_url);
        let listen = self.required(raw, listen.as_ref(), "listen", address);
        let token_url = self.check(token_url.as_ref(), server_url);
        let openid_url = self.check(openid_url.as_ref(), server_url);
        Some(ChannelKind::Teams {
            app_id: app_id?,
            tenant: tenant?,
            secret: secret?,
            conversation: conversation?,
            service_url: service_url?,
            listen: listen?,
            token_url,
            openid_url,
        })
    }

    fn webhook(&mut self, raw: &Spanned<Table<file::Channel>>) -> Option<ChannelKind> {
        let file::Channel { url, signing_key, listen, .. } = &raw.as_ref().0;
        let url = self.required(raw, url.as_ref(), "url", secret);
        let signing_key = self.required(raw, signing_key.as_ref(), "signing_key", secret);
        let own_listen = self.check(listen.as_ref(), address);
        Some(ChannelKind::Webhook { url: url?, signing_key: signing_key?, listen: own_listen })
    }

    /// A key of another type would have no effect.
    fn refuse_other_keys(&mut self, raw: &file::Channel, kind: &str, keys: &[&str]) {
        let file::Channel {
            name: _,
            kind: _,
            homeserver,
            room,
            token,
            workspace,
            conversation,
            app_token,
            bot_token,
            api,
            url,
            signing_key,
            listen,
            app_id,
            tenant,
            secret,
            service_url,
            token_url,
            openid_url,
        } = raw;
        let written = [
            ("homeserver", homeserver),
            ("room", room),
            ("token", token),
            ("workspace", workspace),
            ("conversation", conversation),
            ("app_token", app_token),
            ("bot_token", bot_token),
            ("api", api),
            ("url", url),
            ("signing_key", signing_key),
            ("listen", listen),
            ("app_id", app_id),
            ("tenant", tenant),
            ("secret", secret),
            ("service_url", service_url),
            ("token_url", token_url),
            ("openid_url", openid_url),
        ];
        for (key, value) in written {
            if let Some(value) = value
                && !keys.contains(&key)
            {
                self.fail(
                    value.span(),
                    format!("`{key}` has no meaning for a channel of type {kind:?}"),
                    format!("remove it; this type takes {}", keys.join(", ")),
                );
            }
        }
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

/// An id of Slack's, which never changes, unlike a name.
fn slack_id(text: &str, what: &str, first: &[char]) -> Result<String, Fault> {
    let plain = text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if plain && text.starts_with(first) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{text:?} is no id of {what} in Slack"),
        format!("write the id, such as \"{}0123ABCD\"; a name can change hands", first[0]),
    ))
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

/// An address with a port, to listen on.
fn address(text: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        Fault::new(format!("{text:?} is no address with a port"), "write such as \"127.0.0.1:8474\" or \"[::1]:8474\"")
    })
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
