//! The outbox with a channel that keeps what it is sent, on a clock that moves by itself.

use std::sync::Mutex;

use tokio::task::JoinHandle;

use super::*;
use crate::channel::{plan::CARDS_PER_RUN, stand_in};

/// What the messages of a conversation show, oldest first, and how many calls that took.
#[derive(Debug, Default)]
struct Conversation {
    messages: Vec<Card>,
    /// What was said below which of them, by its name.
    notes: BTreeMap<String, (usize, String)>,
    names: Vec<String>,
    posts: usize,
    edits: usize,
    /// So many posts pass, then one is refused for a while.
    limit: usize,
}

impl Conversation {
    /// The digest that is shown now, if one is.
    fn digest(&self) -> Option<&Card> {
        self.messages.iter().rfind(|card| card.more.is_some() && !card.is_final)
    }

    /// Requests that have a card of their own.
    fn cards(&self) -> BTreeSet<RequestId> {
        self.messages.iter().filter(|card| card.more.is_none()).map(|card| card.request).collect()
    }
}

struct Keeper(Arc<Mutex<Conversation>>);

impl Channel for Keeper {
    async fn post(&self, card: &Card, once: &str) -> Result<MessageId, Failure> {
        let mut kept = self.0.lock().unwrap();
        if kept.limit > 0 && (kept.posts + kept.edits) % kept.limit == kept.limit - 1 {
            kept.edits += 1;
            return Err(Failure::Limited(Duration::from_secs(1)));
        }
        if let Some(there) = kept.names.iter().position(|name| name == once) {
            return Ok(MessageId(there.to_string()));
        }
        kept.posts += 1;
        kept.names.push(once.to_owned());
        kept.messages.push(card.clone());
        Ok(MessageId((kept.messages.len() - 1).to_string()))
    }

    async fn edit(&self, message: &MessageId, card: &Card) -> Result<(), Failure> {
        let mut kept = self.0.lock().unwrap();
        kept.edits += 1;
        let at: usize = message.0.parse().unwrap();
        kept.messages[at] = card.clone();
        Ok(())
    }

    async fn add(&self, message: &MessageId, lines: &[String], once: &str) -> Result<(), Failure> {
        let mut kept = self.0.lock().unwrap();
        let said = (message.0.parse().unwrap(), lines.join(" "));
        let is_new = kept.notes.insert(once.to_owned(), said.clone()).is_none_or(|before| {
            assert_eq!(before, said, "{once} names something else");
            false
        });
        // The answer to the first try is lost.
        if kept.limit > 0 && is_new { Err(Failure::Outage("lost".to_owned())) } else { Ok(()) }
    }

    async fn listen(&self, _: Inbox, _: Option<String>) -> Failure {
        std::future::pending().await
    }
}

struct Bench {
    kept: Arc<Mutex<Conversation>>,
    orders: mpsc::UnboundedSender<Order>,
    events: mpsc::Receiver<Event>,
    gathered: BTreeSet<RequestId>,
    running: JoinHandle<Option<Failure>>,
    directory: Arc<tempfile::TempDir>,
}

impl Bench {
    fn start(kept: Arc<Mutex<Conversation>>, directory: Arc<tempfile::TempDir>) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (sender, events) = mpsc::channel(4_096);
        let (store, _) = Store::open(directory.path().join("chat.json"));
        let running = tokio::spawn(run(Arc::new(Keeper(kept.clone())), store, Inbox::new(sender), receiver));
        Self { kept, orders, events, gathered: BTreeSet::new(), running, directory }
    }

    fn new() -> Self {
        Self::start(Arc::default(), Arc::new(tempfile::tempdir().unwrap()))
    }

    /// A daemon that starts again.
    fn restart(self) -> Self {
        self.running.abort();
        Self::start(self.kept, self.directory)
    }

    fn show(&self, hold: u64) {
        self.orders.send(Order::Show(Arc::new(stand_in::card(hold)))).unwrap();
    }

    fn end(&self, hold: u64) {
        self.orders.send(Order::Show(Arc::new(stand_in::ended(hold)))).unwrap();
    }

    /// Lets pass what is needed for everything to be sent. The clock is paused: no time is spent.
    async fn settle(&mut self) {
        pass(Duration::from_secs(600)).await;
        while let Ok(event) = self.events.try_recv() {
            if let Event::Gathered(requests) = event {
                self.gathered = requests;
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&Conversation) -> T) -> T {
        look(&self.kept.lock().unwrap())
    }
}

/// Moves the paused clock on, from one thing that is due to the next. Takes no time.
async fn pass(time: Duration) {
    assert!(time::timeout(time, std::future::pending::<()>()).await.is_err());
}

fn id(hold: u64) -> RequestId {
    stand_in::card(hold).request
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_five_cards_and_one_digest_in_few_messages_and_none_is_lost() {
    let mut bench = Bench::new();
    bench.kept.lock().unwrap().limit = 4;
    for hold in 1..=100 {
        bench.show(hold);
    }
    bench.settle().await;
    let all: BTreeSet<_> = (1..=100).map(id).collect();
    bench.look(|kept| {
        assert_eq!((kept.posts, kept.messages.len()), (CARDS_PER_RUN + 1, CARDS_PER_RUN + 1));
        assert_eq!(kept.cards(), (1..=5).map(id).collect());
        assert_eq!(kept.digest().unwrap().more, Some(95));
    });
    assert_eq!(bench.gathered, (6..=100).map(id).collect(), "the daemon knows which have no card");
    let cards = bench.look(Conversation::cards);
    assert_eq!(bench.gathered.union(&cards).copied().collect::<BTreeSet<_>>(), all);
    // One after another ends, and each of the others gets its card before the end.
    for hold in 1..=100 {
        bench.end(hold);
        bench.settle().await;
        let open: BTreeSet<_> = (hold + 1..=100).map(id).collect();
        let shown: BTreeSet<_> = bench.look(Conversation::cards).union(&bench.gathered).copied().collect();
        assert!(open.is_subset(&shown), "after {hold}");
        bench.look(|kept| {
            let waiting = kept.messages.iter().filter(|card| card.more.is_none() && !card.is_final).count();
            assert_eq!(waiting, open.len().min(CARDS_PER_RUN), "after {hold}");
            assert_eq!(kept.digest().and_then(|digest| digest.more).unwrap_or(0), bench.gathered.len(), "after {hold}");
        });
    }
    bench.look(|kept| {
        assert!(kept.digest().is_none() && kept.messages.iter().all(|card| card.is_final), "all messages end");
        assert_eq!(kept.messages.len(), 101, "one card each, and one digest");
    });
    assert!(!bench.running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_digest_are_gathered() {
    let mut bench = Bench::new();
    for hold in 1..=6 {
        bench.show(hold);
    }
    bench.settle().await;
    let before = bench.look(|kept| kept.edits);
    for hold in 7..=60 {
        bench.show(hold);
        pass(Duration::from_millis(20)).await;
    }
    bench.settle().await;
    bench.look(|kept| {
        assert_eq!(kept.digest().unwrap().more, Some(55));
        assert_eq!(kept.edits - before, 1, "54 changes within 1.1 s are one edit");
    });
}

#[tokio::test(start_paused = true)]
async fn few_requests_have_a_card_each_at_once() {
    let mut bench = Bench::new();
    for hold in 1..=5 {
        bench.show(hold);
    }
    bench.settle().await;
    bench.look(|kept| assert_eq!((kept.posts, kept.digest().is_none()), (5, true)));
    assert!(bench.gathered.is_empty());
}

#[tokio::test(start_paused = true)]
async fn somebody_can_have_a_card_sooner() {
    let mut bench = Bench::new();
    for hold in 1..=9 {
        bench.show(hold);
    }
    bench.settle().await;
    assert!(bench.gathered.contains(&id(9)));
    bench.orders.send(Order::Reveal(id(9))).unwrap();
    bench.settle().await;
    assert_eq!(bench.gathered, (6..=8).map(id).collect());
    bench.look(|kept| assert!(kept.cards().contains(&id(9)) && kept.digest().unwrap().more == Some(3)));
}

#[tokio::test(start_paused = true)]
async fn reminders_of_requests_without_a_card_stand_below_the_digest() {
    let mut bench = Bench::new();
    bench.kept.lock().unwrap().limit = 4;
    let remind = |bench: &Bench, hold, text: &str| {
        let order = Order::Add { request: id(hold), lines: vec![text.to_owned()], once: text.to_owned() };
        bench.orders.send(order).unwrap();
    };
    for hold in 1..=40 {
        bench.show(hold);
    }
    // Before the digest is there, and over a while.
    for hold in 1..=40 {
        remind(&bench, hold, "half");
        pass(Duration::from_millis(5)).await;
    }
    bench.settle().await;
    let below = |bench: &Bench, text: &str| {
        let mut notes = bench.look(|kept| kept.notes.values().cloned().collect::<Vec<_>>());
        notes.retain(|(_, note)| note.starts_with(text));
        notes
    };
    let half = below(&bench, "half");
    let digest = bench.look(|kept| kept.messages.iter().position(|card| card.more.is_some()).unwrap());
    for hold in 1..=5 {
        let at = bench.look(|kept| kept.messages.iter().position(|card| card.request == id(hold)).unwrap());
        assert!(half.contains(&(at, "half".to_owned())), "{hold}: {half:?}");
    }
    let gathered: Vec<_> = half.iter().filter(|(at, _)| *at == digest).collect();
    let [(_, note)] = gathered[..] else { panic!("one note for all: {gathered:?}") };
    let listed: Vec<_> = (6..=25).map(|hold| id(hold).to_string()).collect();
    assert_eq!(*note, format!("half This is about {} and 15 more.", listed.join(", ")));
    // Who ended is not spoken of, who has a card by now has it there.
    remind(&bench, 6, "later");
    remind(&bench, 7, "later");
    remind(&bench, 8, "later");
    bench.orders.send(Order::Reveal(id(7))).unwrap();
    bench.end(8);
    bench.settle().await;
    let own = bench.look(|kept| kept.messages.iter().position(|card| card.request == id(7)).unwrap());
    let expected = [(digest, format!("later This is about {}.", id(6))), (own, "later".to_owned())];
    let mut later = below(&bench, "later");
    later.sort();
    assert_eq!(later, expected);
    assert!(!bench.running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_daemon_edits_the_digest_that_is_there() {
    let mut bench = Bench::new();
    for hold in 1..=8 {
        bench.show(hold);
    }
    bench.settle().await;
    let mut bench = bench.restart();
    // Two have ended meanwhile; the order is the same.
    for hold in 2..=7 {
        bench.show(hold);
    }
    bench.orders.send(Order::Known((2..=7).map(id).collect())).unwrap();
    bench.settle().await;
    bench.look(|kept| {
        assert_eq!(kept.messages.iter().filter(|card| card.more.is_some()).count(), 1, "no second digest");
        assert_eq!(kept.digest().unwrap().more, Some(1));
    });
    assert_eq!(bench.gathered, [id(7)].into());
    let mut bench = bench.restart();
    bench.orders.send(Order::Known(BTreeSet::new())).unwrap();
    bench.settle().await;
    bench.look(|kept| assert!(kept.messages.iter().all(|card| card.is_final), "what ended unseen is told"));
    // A later flood has a digest of its own.
    for hold in 11..=17 {
        bench.show(hold);
    }
    bench.settle().await;
    bench.look(|kept| assert_eq!(kept.digest().unwrap().more, Some(2)));
}
