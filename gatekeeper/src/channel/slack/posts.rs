//! Posts that are made once, however often they are asked for.
//!
//! Slack has no key for that, so each message carries its name as metadata, and the conversation itself is the memory: it
//! is read once after a start, and again after a post whose outcome is not known.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{super::Failure, Shared, render::Rendered};

/// What the metadata of gatekeeper's messages says they are.
const EVENT_TYPE: &str = "gatekeeper_post";
/// Messages that are read at a time, and how often: what came before the latest thousand is not looked for.
const PAGE: &str = "200";
const PAGES: usize = 5;
/// Names that are remembered before the memory is dropped and read anew.
const MOST: usize = 10_000;

/// Names of posts and their timestamps, in one place: the conversation or a thread.
type Known = HashMap<String, String>;

/// Which posts there are. One at a time: Slack takes about one a second anyway.
#[derive(Debug, Default)]
pub(super) struct Posts {
    /// By thread; an empty name stands for the conversation. What is missing has to be read.
    places: Mutex<HashMap<String, Known>>,
}

impl Posts {
    /// Finds out which cards there are, so that the first post need not.
    pub(super) async fn prepare(&self, shared: &Shared) -> Result<(), Failure> {
        let mut places = self.places.lock().await;
        let known = read(shared, None).await?;
        places.insert(String::new(), known);
        Ok(())
    }

    /// Posts into the conversation or into a thread of it, unless a post of this name is there. Gives its timestamp.
    pub(super) async fn post(
        &self,
        shared: &Shared,
        thread: Option<&str>,
        once: &str,
        content: &Rendered,
    ) -> Result<String, Failure> {
        let place = thread.unwrap_or_default().to_owned();
        let mut places = self.places.lock().await;
        if places.values().map(HashMap::len).sum::<usize>() + places.len() > MOST {
            places.clear();
        }
        // Taken out until the outcome is known, so that whatever ends this early leaves nothing that is wrong.
        let mut known = match places.remove(&place) {
            Some(known) => known,
            None => read(shared, thread).await?,
        };
        if let Some(ts) = known.get(once).cloned() {
            places.insert(place, known);
            return Ok(ts);
        }
        let Rendered { text, blocks, .. } = content;
        let mut message = json!({
            "channel": shared.conversation,
            "text": text,
            "blocks": blocks,
            // The text is escaped, not marked up, and names nobody.
            "mrkdwn": false,
            "parse": "none",
            "link_names": false,
            "unfurl_links": false,
            "unfurl_media": false,
            "metadata": { "event_type": EVENT_TYPE, "event_payload": { "once": once } },
        });
        if let Some(thread) = thread {
            message["thread_ts"] = json!(thread);
        }
        let answer = match shared.api.write("chat.postMessage", &message).await {
            Ok(reply) => reply.body,
            Err(failure) => {
                // Everything else says for sure that there is no such message.
                if !matches!(failure, Failure::Outage(_)) {
                    places.insert(place, known);
                }
                return Err(failure);
            }
        };
        let Some(ts) = answer["ts"].as_str().map(str::to_owned) else {
            return Err(Failure::Outage("Slack named no message for what it took".to_owned()));
        };
        known.insert(once.to_owned(), ts.clone());
        places.insert(place, known);
        if thread.is_none() {
            // Nothing can be in the thread of a message that was not there.
            places.insert(ts.clone(), Known::new());
        }
        Ok(ts)
    }
}

/// Finds out which posts of the bot's are in a place.
async fn read(shared: &Shared, thread: Option<&str>) -> Result<Known, Failure> {
    let own = shared.identity().await?;
    let mut known = Known::new();
    let mut cursor = String::new();
    for _ in 0..PAGES {
        let mut query =
            vec![("channel", shared.conversation.as_str()), ("limit", PAGE), ("include_all_metadata", "true")];
        if let Some(thread) = thread {
            query.push(("ts", thread));
        }
        if !cursor.is_empty() {
            query.push(("cursor", &cursor));
        }
        let method = if thread.is_some() { "conversations.replies" } else { "conversations.history" };
        let answer = shared.api.read(method, &query).await?.body;
        for message in answer["messages"].as_array().into_iter().flatten() {
            // Other apps can write the same metadata, but not as this bot.
            let is_own = message["user"] == own.user || (message["bot_id"].is_string() && message["bot_id"] == own.bot);
            if let (true, Some(once), Some(ts)) = (is_own, name(message), message["ts"].as_str()) {
                known.insert(once.to_owned(), ts.to_owned());
            }
        }
        cursor = answer["response_metadata"]["next_cursor"].as_str().unwrap_or_default().to_owned();
        if cursor.is_empty() {
            break;
        }
    }
    Ok(known)
}

/// What a message of gatekeeper's is named.
fn name(message: &Value) -> Option<&str> {
    let metadata = &message["metadata"];
    (metadata["event_type"] == EVENT_TYPE).then(|| metadata["event_payload"]["once"].as_str())?
}
