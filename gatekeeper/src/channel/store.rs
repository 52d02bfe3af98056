//! What a channel must not forget when the daemon ends: which message shows which request, and where to go on reading.
//!
//! One small file for each channel, replaced as a whole, so it is always one that was written. Losing it costs cards that
//! stay as they are, never a decision: those are in the provenance log.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::MessageId;
use crate::request::RequestId;

/// A card that is shown somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where.
    pub message: MessageId,
    /// Its headline, for when nothing else is known of the request any more.
    pub headline: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Content {
    cursor: Option<String>,
    /// Cards that have not been shown in their final state.
    shown: BTreeMap<RequestId, Shown>,
    /// Digests, by agent run.
    #[serde(default)]
    digests: BTreeMap<String, Shown>,
}

/// The file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    content: Content,
}

impl Store {
    /// Reads what the last daemon left. A damaged file counts as an empty one: the error says so, and is to be told.
    ///
    /// # Errors
    /// It cannot be read; what is returned with it works all the same.
    pub fn open(path: PathBuf) -> (Self, Option<io::Error>) {
        let read = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Content::default()),
            Err(err) => Err(err),
        };
        let (content, error) = match read {
            Ok(content) => (content, None),
            Err(err) => (Content::default(), Some(err)),
        };
        (Self { path, content }, error)
    }

    /// Where to go on reading.
    pub fn cursor(&self) -> Option<&str> {
        self.content.cursor.as_deref()
    }

    /// Cards that may not show the final state yet.
    pub fn shown(&self) -> &BTreeMap<RequestId, Shown> {
        &self.content.shown
    }

    /// Digests that have not been shown empty, by agent run.
    pub fn digests(&self) -> &BTreeMap<String, Shown> {
        &self.content.digests
    }

    /// Remembers which message shows the digest of an agent run; `None`: none does any more.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_digest(&mut self, run: &str, shown: Option<Shown>) -> io::Result<()> {
        match shown {
            Some(shown) => self.content.digests.insert(run.to_owned(), shown),
            None => self.content.digests.remove(run),
        };
        self.write()
    }

    /// Remembers where to go on reading.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_cursor(&mut self, cursor: String) -> io::Result<()> {
        self.content.cursor = Some(cursor);
        self.write()
    }

    /// Remembers which message shows a request.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_shown(&mut self, request: RequestId, shown: Shown) -> io::Result<()> {
        self.content.shown.insert(request, shown);
        self.write()
    }

    /// Forgets a request whose card is final.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn forget(&mut self, request: RequestId) -> io::Result<()> {
        self.content.shown.remove(&request);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(&self.content)?)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)?;
        // The new name is on disk when the directory is.
        File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_remembered_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.json");
        let id = RequestId::new(1, 2);
        let shown = Shown { message: MessageId("$1".to_owned()), headline: "a".to_owned() };
        let (mut store, error) = Store::open(path.clone());
        assert!(error.is_none());
        store.set_cursor("s1".to_owned()).unwrap();
        store.set_shown(id, shown.clone()).unwrap();
        store.set_digest("run", Some(shown.clone())).unwrap();
        let (mut store, _) = Store::open(path.clone());
        assert_eq!((store.cursor(), store.shown().get(&id)), (Some("s1"), Some(&shown)));
        assert_eq!(store.digests().get("run"), Some(&shown));
        store.set_digest("run", None).unwrap();
        assert!(store.digests().is_empty());
        store.forget(id).unwrap();
        assert!(Store::open(path).0.shown().is_empty());
    }

    #[test]
    fn a_damaged_file_is_told_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chat.json");
        fs::write(&path, "{").unwrap();
        let (mut store, error) = Store::open(path.clone());
        assert!(error.is_some());
        store.set_cursor("s1".to_owned()).unwrap();
        assert_eq!(Store::open(path).0.cursor(), Some("s1"));
    }
}
