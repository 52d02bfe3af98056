//! Posts that must not be made twice, for servers that cannot tell a repetition by themselves.
//!
//! What was posted is remembered while the process lives. Across a restart the caller's own record has to do, so between
//! a post and that record there is a moment in which a crash leaves a second copy.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

use super::{Failure, MessageId};

/// Posts that are remembered: many more than can wait at once, so only those of ended requests are forgotten.
const REMEMBERED: usize = 8_192;

type Posts = HashMap<String, Arc<OnceCell<MessageId>>>;

/// What was posted, by the names of the posts.
#[derive(Debug, Default)]
pub struct Once(Mutex<(Posts, VecDeque<String>)>);

impl Once {
    /// Posts, unless the post of this name was made already, or waits for the one that is being made.
    ///
    /// # Errors
    /// Those of `post`; then the next call posts again.
    pub async fn post<F>(&self, once: &str, post: impl FnOnce() -> F) -> Result<MessageId, Failure>
    where
        F: Future<Output = Result<MessageId, Failure>>,
    {
        let cell = self.cell(once);
        cell.get_or_try_init(post).await.cloned()
    }

    fn cell(&self, once: &str) -> Arc<OnceCell<MessageId>> {
        // Nothing here can panic half-way.
        let mut posts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (cells, order) = &mut *posts;
        if let Some(cell) = cells.get(once) {
            return Arc::clone(cell);
        }
        if order.len() >= REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            cells.remove(&oldest);
        }
        order.push_back(once.to_owned());
        Arc::clone(cells.entry(once.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_post_is_made_once_and_a_failed_one_again() {
        let once = Once::default();
        let id = |id: &str| Ok(MessageId(id.to_owned()));
        let failed = once.post("a", || async { Err(Failure::Outage("down".to_owned())) }).await;
        assert_eq!(failed, Err(Failure::Outage("down".to_owned())));
        assert_eq!(once.post("a", || async { id("1") }).await, id("1"));
        assert_eq!(once.post("a", || async { id("2") }).await, id("1"));
        assert_eq!(once.post("b", || async { id("3") }).await, id("3"));
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let once = Once::default();
        for post in 0..REMEMBERED + 10 {
            once.post(&post.to_string(), || async { Ok(MessageId(String::new())) }).await.unwrap();
        }
        let posts = once.0.lock().unwrap();
        assert_eq!((posts.0.len(), posts.1.len()), (REMEMBERED, REMEMBERED));
    }
}
