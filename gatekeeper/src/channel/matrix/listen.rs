//! What people do in the room: reactions to cards, and typed commands.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time};

use super::{DIGEST_FIELD, KnownCard, Matrix, REQUEST_FIELD, render};
use crate::{
    channel::{Account, Act, Answer, Event, Evidence, Failure, Inbox, MessageId, Standing, Verb, command},
    request::RequestId,
};

/// How long the server keeps a request waiting when nothing happens.
const POLL: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });
/// Events of one answer; more are fetched when there are more.
const TIMELINE: u32 = 100;
/// First pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(15);
/// Notes that wait to be sent. Who does more than that at once is not told of all of it.
const NOTES: usize = 64;

/// How far the room has been read.
#[derive(Debug, Default)]
struct Place {
    cursor: Option<String>,
    /// Events after the cursor that were dealt with already.
    done: BTreeSet<String>,
}

/// What somebody is told in a thread.
struct Note {
    once: String,
    content: Value,
}

struct Listener<'a> {
    matrix: &'a Matrix,
    inbox: &'a Inbox,
    /// The bot itself.
    own: String,
    notes: &'a mpsc::Sender<Note>,
}

/// Takes what people do until something is fatal. Whom the server does not let tell something, keeps nobody back.
pub(super) async fn run(matrix: &Matrix, inbox: &Inbox, cursor: Option<String>) -> Failure {
    let (notes, queued) = mpsc::channel(NOTES);
    tokio::select! {
        failure = listen(matrix, inbox, cursor, &notes) => failure,
        failure = tell(matrix, inbox, queued) => failure,
    }
}

async fn listen(matrix: &Matrix, inbox: &Inbox, cursor: Option<String>, notes: &mpsc::Sender<Note>) -> Failure {
    let mut place = Place { cursor, ..Place::default() };
    let mut pause = FIRST_PAUSE;
    let mut listener = None;
    loop {
        let result = async {
            if listener.is_none() {
                listener = Some(start(matrix, inbox, notes).await?);
                inbox.up().await;
            }
            match &listener {
                Some(listener) => listener.poll(&mut place).await,
                None => Ok(()),
            }
        };
        match result.await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(failure @ Failure::Fatal(_)) => return failure,
            Err(failure) => {
                let wait = if let Failure::Limited(wait) = failure { wait } else { pause };
                pause = (pause * 2).min(LAST_PAUSE);
                if !matches!(failure, Failure::Limited(_)) {
                    // Said once more when it is back.
                    listener = None;
                    inbox.down(failure).await;
                }
                time::sleep(wait).await;
            }
        }
    }
}

/// Tells people in threads what became of what they did, until something is fatal.
async fn tell(matrix: &Matrix, inbox: &Inbox, mut notes: mpsc::Receiver<Note>) -> Failure {
    // Who sends them lasts longer than this.
    while let Some(Note { once, content }) = notes.recv().await {
        let mut pause = FIRST_PAUSE;
        loop {
            match matrix.send("m.room.message", &once, &content).await {
                Ok(_) | Err(Failure::Refused(_)) => break,
                Err(Failure::Limited(wait)) => time::sleep(wait).await,
                Err(failure @ Failure::Fatal(_)) => return failure,
                Err(failure @ Failure::Outage(_)) => {
                    if pause == FIRST_PAUSE {
                        inbox.tell(Event::Problem(failure)).await;
                    }
                    time::sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }
    std::future::pending().await
}

/// Finds out who the bot is, and whether it can do its work in the room.
async fn start<'a>(
    matrix: &'a Matrix,
    inbox: &'a Inbox,
    notes: &'a mpsc::Sender<Note>,
) -> Result<Listener<'a>, Failure> {
    let whoami = matrix.api.get(&["account", "whoami"], &[]).await?;
    let own = whoami["user_id"].as_str().unwrap_or_default().to_owned();
    // Does nothing where the bot is in it already, and accepts its invitation otherwise.
    matrix.api.post(&["join", &matrix.room], &json!({})).await?;
    let encryption = matrix.api.get(&["rooms", &matrix.room, "state", "m.room.encryption", ""], &[]).await;
    match encryption {
        Ok(_) => Err(Failure::Fatal(
            "the room is encrypted, and the bot could not read what people decide; use an unencrypted, invite-only room"
                .to_owned(),
        )),
        Err(Failure::Refused(_)) => Ok(Listener { matrix, inbox, own, notes }),
        Err(failure) => Err(failure),
    }
}

impl Listener<'_> {
    /// Waits for what happens next and hands it over, then has the place remembered.
    async fn poll(&self, place: &mut Place) -> Result<(), Failure> {
        let types = json!(["m.room.message", "m.reaction"]);
        // The very first time, only what comes later matters.
        let limit = if place.cursor.is_some() { TIMELINE } else { 0 };
        let filter = json!({
            "presence": { "types": [] },
            "account_data": { "types": [] },
            "room": {
                "rooms": [self.matrix.room],
                "state": { "types": [] },
                "ephemeral": { "types": [] },
                "account_data": { "types": [] },
                "timeline": { "types": types, "limit": limit },
            },
        })
        .to_string();
        let timeout = POLL.as_millis().to_string();
        let mut query = vec![("filter", filter.as_str())];
        if let Some(since) = place.cursor.as_deref() {
            query.extend([("since", since), ("timeout", timeout.as_str())]);
        }
        let answer = self.matrix.api.poll(&["sync"], &query, POLL).await?;
        let next = answer["next_batch"].as_str();
        let next = next.ok_or_else(|| Failure::Outage("the server's answer has no `next_batch`".to_owned()))?;
        let timeline = &answer["rooms"]["join"][&self.matrix.room]["timeline"];
        if let Some(since) = place.cursor.as_deref() {
            let mut events = timeline["events"].as_array().cloned().unwrap_or_default();
            if timeline["limited"] == true
                && let Some(before) = timeline["prev_batch"].as_str()
            {
                let mut earlier = self.earlier(before, since, &types).await?;
                earlier.append(&mut events);
                events = earlier;
            }
            for event in &events {
                let id = event["event_id"].as_str().unwrap_or_default();
                if !place.done.contains(id) {
                    self.event(event).await?;
                    place.done.insert(id.to_owned());
                }
            }
        }
        if place.cursor.as_deref() != Some(next) {
            *place = Place { cursor: Some(next.to_owned()), ..Place::default() };
            self.inbox.cursor(next.to_owned()).await;
        }
        Ok(())
    }

    /// What happened between two places, oldest first: more than one answer could hold.
    async fn earlier(&self, before: &str, since: &str, types: &Value) -> Result<Vec<Value>, Failure> {
        let filter = json!({ "types": types }).to_string();
        let limit = TIMELINE.to_string();
        let mut from = before.to_owned();
        let mut events = Vec::new();
        loop {
            let query =
                [("dir", "b"), ("from", from.as_str()), ("to", since), ("limit", limit.as_str()), ("filter", &filter)];
            let answer = self.matrix.api.get(&["rooms", &self.matrix.room, "messages"], &query).await?;
            let chunk = answer["chunk"].as_array().cloned().unwrap_or_default();
            let more = !chunk.is_empty();
            events.extend(chunk);
            match answer["end"].as_str() {
                Some(end) if more && end != from => from = end.to_owned(),
                _ => break,
            }
        }
        events.reverse();
        Ok(events)
    }

    async fn event(&self, event: &Value) -> Result<(), Failure> {
        let (Some(sender), Some(id)) = (event["sender"].as_str(), event["event_id"].as_str()) else { return Ok(()) };
        let content = &event["content"];
        let relation = &content["m.relates_to"];
        if sender == self.own {
            return Ok(());
        }
        let (act, thread) = match event["type"].as_str() {
            Some("m.reaction") => {
                let (Some(card), Some(verb)) =
                    (relation["event_id"].as_str(), relation["key"].as_str().and_then(render::verb))
                else {
                    return Ok(());
                };
                let Some(KnownCard { request, digest }) = self.card(card).await? else { return Ok(()) };
                let message = MessageId(card.to_owned());
                let evidence =
                    Evidence { message: Some(message.clone()), event: id.to_owned(), card: digest, signed: None };
                (self.act(sender, request, verb, None, false, evidence).await?, message)
            }
            // An edited message is another one's word for what somebody said before.
            Some("m.room.message") if relation["rel_type"] != "m.replace" => {
                let Some((verb, request, reason)) = content["body"].as_str().and_then(command::read) else {
                    return Ok(());
                };
                let message = MessageId(id.to_owned());
                let evidence =
                    Evidence { message: Some(message.clone()), event: id.to_owned(), card: None, signed: None };
                (self.act(sender, request, verb, reason, true, evidence).await?, message)
            }
            _ => return Ok(()),
        };
        let Some(Answer { counted, text }) = self.inbox.act(act).await else { return Ok(()) };
        // What counts shows in the card.
        if !counted {
            let content = render::note(&format!("{sender}: {text}"), &thread);
            // It is full otherwise.
            let _ = self.notes.try_send(Note { once: format!("answer {id}"), content });
        }
        Ok(())
    }

    async fn act(
        &self,
        sender: &str,
        request: RequestId,
        verb: Verb,
        reason: Option<String>,
        typed: bool,
        evidence: Evidence,
    ) -> Result<Act, Failure> {
        let account =
            Account { id: sender.to_owned(), name: sender.to_owned(), standing: self.standing(sender).await? };
        Ok(Act { account, request, verb, reason, typed, evidence })
    }

    /// Whether somebody is in the room now: who left or was banned since says nothing any more.
    async fn standing(&self, sender: &str) -> Result<Standing, Failure> {
        let member = ["rooms", &self.matrix.room, "state", "m.room.member", sender];
        match self.matrix.api.get(&member, &[]).await {
            Ok(member) if member["membership"] == "join" => Ok(Standing::Member),
            Ok(_) | Err(Failure::Refused(_)) => Ok(Standing::Unknown("not a member of the room any more".to_owned())),
            Err(failure) => Err(failure),
        }
    }

    /// Which card a message is, if it is one of the bot's own.
    async fn card(&self, message: &str) -> Result<Option<KnownCard>, Failure> {
        if let Some(card) = self.matrix.known(message) {
            return Ok(Some(card));
        }
        let event = match self.matrix.api.get(&["rooms", &self.matrix.room, "event", message], &[]).await {
            Ok(event) => event,
            Err(Failure::Refused(_)) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        // Anybody can write such fields into a message of their own.
        if event["sender"] != self.own {
            return Ok(None);
        }
        let content = &event["content"];
        let Some(request) = content[REQUEST_FIELD].as_str().and_then(|id| id.parse().ok()) else { return Ok(None) };
        let card = KnownCard { request, digest: content[DIGEST_FIELD].as_str().map(str::to_owned) };
        self.matrix.remember(message, card.clone());
        Ok(Some(card))
    }
}
