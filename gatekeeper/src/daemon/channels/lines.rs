//! The channels of the configuration, made and run: all on one thread, each with what listens and what sends.

use std::{io, sync::Arc};

use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

use super::super::{DaemonError, Event, start::boot_id};
use crate::{
    channel::{
        Channel, Event as ChannelEvent, Failure, Inbox, MessageId,
        card::Card,
        matrix::{self, Matrix},
        outbox::{self, Order},
        secret::Secret,
        slack::{self, Slack},
        store::Store,
        teams::{self, Teams},
        webhook::{self, Webhook},
        workflows::{self, Workflows},
    },
    clock::{Clock, SystemClock},
    config::{ChannelConfig, ChannelKind, Config, SecretSource},
    request::RequestId,
    reviewer::{Directory, KEY, statement::Place},
};

/// What starts a channel, on the thread of all of them.
pub(super) type Start = Box<dyn FnOnce() + Send>;

/// Name of this host, for people.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A channel of any type.
enum Made {
    Matrix(Matrix),
    Slack(Slack),
    Teams(Teams),
    Workflows(Workflows),
    Webhook(Webhook),
}

/// Makes a channel; nothing is sent yet.
fn make(channel: &ChannelConfig, reviewers: &Directory) -> Result<Made, DaemonError> {
    let made = match &channel.kind {
        ChannelKind::Matrix { homeserver, room, token } => Matrix::new(matrix::Settings {
            homeserver: homeserver.clone(),
            room: room.clone(),
            token: read_secret(channel, token)?,
        })
        .map(Made::Matrix),
        ChannelKind::Slack { api, workspace, conversation, app_token, bot_token } => Slack::new(slack::Settings {
            api: api.clone().unwrap_or_else(|| slack::API.to_owned()),
            app_token: read_secret(channel, app_token)?,
            bot_token: read_secret(channel, bot_token)?,
            team: workspace.clone(),
            conversation: conversation.clone(),
            times: slack::Times::default(),
        })
        .map(Made::Slack),
        ChannelKind::Teams { app_id, tenant, secret, conversation, service_url, listen, token_url, openid_url } => {
            Teams::new(
                teams::Settings {
                    app_id: app_id.clone(),
                    tenant: tenant.clone(),
                    secret: read_secret(channel, secret)?,
                    conversation: conversation.clone(),
                    service_url: service_url.clone(),
                    listen: *listen,
                    token_url: token_url.clone(),
                    openid_url: openid_url.clone(),
                },
                Arc::new(SystemClock),
            )
            .map(Made::Teams)
        }
        ChannelKind::Workflows { url } => {
            Workflows::new(workflows::Settings { url: read_secret(channel, url)? }).map(Made::Workflows)
        }
        ChannelKind::Webhook { url, signing_key, listen } => {
            let keys = reviewers.reviewers().iter().filter_map(|reviewer| reviewer.accounts.get(KEY).cloned());
            Webhook::new(
                webhook::Settings {
                    url: read_secret(channel, url)?,
                    signing_key: read_secret(channel, signing_key)?,
                    decisions: listen.map(|listen| webhook::Decisions { listen, keys: keys.collect() }),
                    place: Place::new(&host_name(), &boot_id()?),
                },
                Arc::new(SystemClock),
            )
            .map(Made::Webhook)
        }
    };
    made.map_err(|err| unusable(channel, err.to_string()))
}

/// Posts a harmless card to a channel of the configuration and edits it, as the daemon would: where it is.
///
/// # Errors
/// There is no such channel, or it does not work.
pub fn try_channel(config: &Config, name: &str) -> Result<MessageId, DaemonError> {
    let channel = configured(config, name)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| DaemonError::System("start the runtime", err))?;
    let tried = match make(channel, &config.reviewers)? {
        Made::Matrix(made) => runtime.block_on(post_and_edit(&made)),
        Made::Slack(made) => runtime.block_on(post_and_edit(&made)),
        Made::Teams(made) => runtime.block_on(post_and_edit(&made)),
        Made::Workflows(made) => runtime.block_on(post_and_edit(&made)),
        Made::Webhook(made) => runtime.block_on(post_and_edit(&made)),
    };
    tried.map_err(|err| unusable(channel, err.to_string()))
}

/// The public key with which receivers check what a webhook channel sends.
///
/// # Errors
/// There is no such channel, it is of another type, or its key cannot be read.
pub fn public_key(config: &Config, name: &str) -> Result<String, DaemonError> {
    let channel = configured(config, name)?;
    match make(channel, &config.reviewers)? {
        Made::Webhook(made) => Ok(made.public_key()),
        Made::Matrix(_) | Made::Slack(_) | Made::Teams(_) | Made::Workflows(_) => {
            Err(unusable(channel, format!("a channel of type {} signs nothing; webhooks do", channel.kind.name())))
        }
    }
}

fn configured<'a>(config: &'a Config, name: &str) -> Result<&'a ChannelConfig, DaemonError> {
    config.channels.iter().find(|channel| channel.name == name).ok_or_else(|| {
        let known: Vec<_> = config.channels.iter().map(|channel| channel.name.as_str()).collect();
        let reason = match known.as_slice() {
            [] => "the configuration has no [[channel]]".to_owned(),
            known => format!("the configuration has no such channel, only {}", known.join(", ")),
        };
        DaemonError::Channel { name: name.to_owned(), reason }
    })
}

async fn post_and_edit(channel: &impl Channel) -> Result<MessageId, Failure> {
    let now = Clock::now(&SystemClock);
    let host = host_name();
    let card = Card::of_test(RequestId::new(now.wall_ms, now.boot_ns), &host);
    let message = channel.post(&card, &format!("test {}", card.request)).await?;
    channel.offer(&message, &card).await?;
    let ended = Card { status: vec!["the test is over".to_owned()], is_final: true, ..card };
    channel.edit(&message, &ended).await?;
    Ok(message)
}

/// Makes a channel; what is returned starts it. `forward` is what carries its events to the loop.
///
/// # Errors
/// A secret cannot be read, or the channel's settings are of no use.
pub(super) fn prepare(
    channel: &ChannelConfig,
    reviewers: &Directory,
    store: Store,
    inbox: Inbox,
    orders: mpsc::UnboundedReceiver<Order>,
    forward: impl Future<Output = ()> + Send + 'static,
) -> Result<Start, DaemonError> {
    Ok(match make(channel, reviewers)? {
        Made::Matrix(made) => Box::new(move || spawn(made, store, inbox, orders, forward)),
        Made::Slack(made) => Box::new(move || spawn(made, store, inbox, orders, forward)),
        Made::Teams(made) => Box::new(move || spawn(made, store, inbox, orders, forward)),
        Made::Workflows(made) => Box::new(move || spawn(made, store, inbox, orders, forward)),
        Made::Webhook(made) => Box::new(move || spawn(made, store, inbox, orders, forward)),
    })
}

/// The thread of all channels: starts them, and lasts until `ended`. If there is no runtime, each of them is down.
pub(super) fn carry(
    runtime: io::Result<Runtime>,
    starts: Vec<Start>,
    ended: oneshot::Receiver<()>,
    events: &mpsc::UnboundedSender<Event>,
) {
    match runtime {
        Ok(runtime) => runtime.block_on(async {
            starts.into_iter().for_each(|start| start());
            // For as long as the daemon runs: nothing is ever sent.
            let _ = ended.await;
        }),
        Err(err) => {
            for number in 0..starts.len() {
                let failure = Failure::Fatal(format!("what all channels run on cannot be started: {err}"));
                // The daemon has stopped otherwise.
                let _ = events.send(Event::Channel { number, event: ChannelEvent::Down(failure) });
            }
        }
    }
}

/// Runs a channel on this thread's runtime.
pub(super) fn spawn<C: Channel>(
    channel: C,
    store: Store,
    inbox: Inbox,
    orders: mpsc::UnboundedReceiver<Order>,
    forward: impl Future<Output = ()> + Send + 'static,
) {
    let channel = Arc::new(channel);
    let cursor = store.cursor().map(str::to_owned);
    tokio::spawn(forward);
    let (listener, listening) = (channel.clone(), inbox.clone());
    watch(inbox.clone(), async move { Some(listener.listen(listening, cursor).await) });
    watch(inbox.clone(), outbox::run(channel, store, inbox, orders));
}

/// Runs a part of a channel, and tells when it does not any more, and why.
fn watch(inbox: Inbox, part: impl Future<Output = Option<Failure>> + Send + 'static) {
    let part = tokio::spawn(part);
    tokio::spawn(async move {
        let failure = match part.await {
            Ok(failure) => failure,
            Err(err) => {
                Some(Failure::Fatal(format!("a fault of gatekeeper's own has ended it, please report it: {err}")))
            }
        };
        if let Some(failure) = failure {
            inbox.down(failure).await;
        }
    });
}

fn unusable(channel: &ChannelConfig, reason: String) -> DaemonError {
    DaemonError::Channel { name: channel.name.clone(), reason }
}

/// Reads a secret from its file or from systemd's credentials.
fn read_secret(channel: &ChannelConfig, source: &SecretSource) -> Result<Secret, DaemonError> {
    let path = match source {
        SecretSource::File(path) => path.clone(),
        SecretSource::Credential(name) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                let reason = format!(
                    "there is no credential {name}, since systemd handed over none; add `LoadCredential={name}:PATH` to the \
                     unit"
                );
                unusable(channel, reason)
            })?;
            std::path::PathBuf::from(directory).join(name)
        }
    };
    let shown = path.display();
    let text = std::fs::read_to_string(&path)
        .map_err(|err| unusable(channel, format!("its secret cannot be read from {shown}: {err}")))?;
    if let SecretSource::File(_) = source {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(&path).map_err(|err| unusable(channel, format!("{shown}: {err}")))?;
        if metadata.mode() & 0o077 != 0 {
            let reason = format!("others than its owner may use {shown}, which holds a secret; `chmod 600 {shown}`");
            return Err(unusable(channel, reason));
        }
    }
    let secret = Secret::new(&text);
    let plain = !secret.expose().is_empty() && secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if plain { Ok(secret) } else { Err(unusable(channel, format!("{shown} holds no secret of one line"))) }
}
