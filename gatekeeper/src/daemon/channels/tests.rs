//! What the status says of channels of which a part does not run.

use tempfile::tempdir;

use super::{lines, *};
use crate::{
    channel::Channel,
    config::{ChannelKind, SecretSource},
};

/// A channel that falls over.
struct Broken;

impl Channel for Broken {
    async fn post(&self, _: &Card, _: &str) -> Result<MessageId, Failure> {
        Err(Failure::Outage("away".to_owned()))
    }

    async fn edit(&self, _: &MessageId, _: &Card) -> Result<(), Failure> {
        Ok(())
    }

    async fn add(&self, _: &MessageId, _: &[String], _: &str) -> Result<(), Failure> {
        Ok(())
    }

    async fn listen(&self, _: Inbox, _: Option<String>) -> Failure {
        panic!("a fault");
    }
}

fn line() -> Line {
    let config = ChannelConfig {
        name: "chat".to_owned(),
        kind: ChannelKind::Workflows { url: SecretSource::Credential("url".to_owned()) },
    };
    let (orders, _) = mpsc::unbounded_channel();
    let (shown, gathered, early) = (HashMap::new(), BTreeSet::new(), Vec::new());
    Line { config, orders, problem: None, is_over: false, shown, gathered, early }
}

#[test]
fn what_is_over_for_good_stays_in_the_status() {
    let mut line = line();
    assert!(!line.works());
    assert_eq!(line.fails(&Failure::Outage("away".to_owned())).as_deref(), Some("away"));
    assert_eq!(line.fails(&Failure::Outage("away".to_owned())), None);
    assert!(line.works() && line.problem.is_none());
    let told = line.fails(&Failure::Fatal("revoked".to_owned()));
    assert_eq!(told.as_deref(), Some("revoked; then `systemctl restart gatekeeper`"));
    // The other half of it goes on.
    assert!(!line.works());
    assert_eq!(line.fails(&Failure::Outage("away".to_owned())), None);
    assert_eq!(line.problem, told);
}

#[test]
fn without_a_runtime_each_channel_is_down() {
    let (events, mut received) = mpsc::unbounded_channel();
    let (_running, ended) = oneshot::channel();
    let starts: Vec<lines::Start> = vec![Box::new(|| unreachable!()), Box::new(|| unreachable!())];
    lines::carry(Err(std::io::Error::other("no descriptors")), starts, ended, &events);
    for expected in 0..2 {
        let Ok(Event::Channel { number, event: ChannelEvent::Down(Failure::Fatal(why)) }) = received.try_recv() else {
            panic!("channel {expected} is not down");
        };
        assert_eq!((number, why.as_str()), (expected, "what all channels run on cannot be started: no descriptors"));
    }
}

#[tokio::test]
async fn a_part_that_falls_over_is_told() {
    let directory = tempdir().unwrap();
    let (store, _) = Store::open(directory.path().join("chat.json"));
    let (sender, mut events) = mpsc::channel(EVENTS);
    let (_orders, receiver) = mpsc::unbounded_channel();
    lines::spawn(Broken, store, Inbox::new(sender), receiver, async {});
    let Some(ChannelEvent::Down(Failure::Fatal(why))) = events.recv().await else { panic!("nothing is told") };
    assert!(why.starts_with("a fault of gatekeeper's own has ended it"), "{why}");
}
