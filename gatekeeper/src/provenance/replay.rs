//! What a restarted daemon has to know: the holds and the grants that had not ended.

use std::{borrow::Cow, collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{Error, Reader, segments};
use crate::{
    broker::{Grant, Restored},
    request::{Decision, RequestId, Vote},
};

/// What the log says about holds that have not ended.
#[derive(Debug, Default)]
pub struct Replay {
    /// Those of this boot, oldest first.
    pub open: Vec<Restored>,
    /// Those of earlier boots, whose tasks are gone: the boot, the hold and the request.
    pub(super) lost: Vec<(String, u64, RequestId)>,
    /// Grants of this boot that have not ended, oldest first.
    pub grants: Vec<Grant>,
    /// The segment in which each of them was given.
    pub(super) segment_of_grant: BTreeMap<RequestId, u64>,
    /// The segment in which each hold of this boot began.
    pub(super) segment_of: BTreeMap<u64, u64>,
    /// Index that the next record gets.
    pub(super) next_index: u64,
}

/// The fields of a record that matter here.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    boot_id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    hold: Option<u64>,
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(default)]
    continues: Option<u64>,
    #[serde(default)]
    held_at_ms: Option<u64>,
    #[serde(default)]
    deadline_ms: Option<u64>,
    #[serde(default)]
    deadline_ns: Option<u64>,
    #[serde(default)]
    decision: Option<Decision>,
    #[serde(default)]
    vote: Option<Vote>,
    #[serde(default)]
    grant: Option<Box<Grant>>,
    #[serde(default, borrow)]
    of_boot: Option<Cow<'a, str>>,
}

/// The fields of a segment's first record that matter here.
#[derive(Deserialize)]
struct First {
    #[serde(default)]
    replay_from: Option<u64>,
}

/// Reads which holds were open when the last daemon ended. Starts at the segment in which the oldest of them can lie,
/// which the first record of the last segment names.
///
/// # Errors
///
/// The log is damaged, or cannot be read.
pub fn replay(dir: &Path, boot_id: &str) -> Result<Replay, Error> {
    let numbers = segments(dir)?;
    let Some((&oldest, &newest)) = numbers.first().zip(numbers.last()) else { return Ok(Replay::default()) };
    let mut start = newest;
    // The newest segment is empty if the host went down right after it was made.
    while start > oldest && Reader::open_at(dir, start)?.next()?.is_none() {
        start -= 1;
    }
    if let Some(first) = Reader::open_at(dir, start)?.next()?
        && let Ok(First { replay_from: Some(from) }) = serde_json::from_slice(&first.leaf)
    {
        start = from.clamp(oldest, start);
    }
    let mut open: BTreeMap<(String, u64), (Restored, u64)> = BTreeMap::new();
    let mut grants: BTreeMap<RequestId, (Grant, u64)> = BTreeMap::new();
    let mut next_index = 0;
    let mut reader = Reader::open_at(dir, start)?;
    while let Some(entry) = reader.next()? {
        next_index = entry.index + 1;
        if !may_matter(&entry.leaf) {
            continue;
        }
        let Ok(line) = serde_json::from_slice::<Line<'_>>(&entry.leaf) else {
            // Checksummed, so written like that: by a later gatekeeper. Its holds will be asked about anew.
            tracing::warn!(index = entry.index, "a record of the provenance log has an unknown form");
            continue;
        };
        match (&*line.kind, line.id, line.grant) {
            // Those of an earlier boot ended with it.
            ("grant", Some(id), Some(grant)) if *line.boot_id == *boot_id => {
                grants.insert(id, (*grant, entry.segment));
            }
            ("grant_end", Some(id), _) => drop(grants.remove(&id)),
            _ => {}
        }
        let Some(hold) = line.hold else { continue };
        let boot = line.of_boot.unwrap_or(line.boot_id).into_owned();
        match (&*line.kind, line.decision) {
            ("hold", None) => {
                if let (Some(id), Some(held_at_ms), Some(deadline_ms), Some(deadline_ns)) =
                    (line.id, line.held_at_ms, line.deadline_ms, line.deadline_ns)
                {
                    let mut restored = Restored {
                        hold,
                        id,
                        held_at_ms,
                        deadline_ms,
                        deadline_ns,
                        decision: None,
                        votes: Vec::new(),
                        escalated: 0,
                        extended: 0,
                    };
                    // A request that goes on under another number keeps what people have said.
                    let earlier = line.continues.and_then(|earlier| open.remove(&(boot.clone(), earlier)));
                    if let Some((earlier, _)) = earlier {
                        let Restored { votes, escalated, extended, .. } = earlier;
                        restored = Restored { votes, escalated, extended, ..restored };
                    }
                    open.insert((boot, hold), (restored, entry.segment));
                }
            }
            ("decision" | "expiry", Some(decision)) => {
                if let Some((restored, _)) = open.get_mut(&(boot, hold)) {
                    restored.decision.get_or_insert(decision);
                }
            }
            ("vote", _) => {
                if let (Some((restored, _)), Some(vote)) = (open.get_mut(&(boot, hold)), line.vote) {
                    restored.votes.push(vote);
                }
            }
            ("escalated", _) => {
                if let Some((restored, _)) = open.get_mut(&(boot, hold)) {
                    restored.escalated += 1;
                }
            }
            ("extended", _) => {
                if let (Some((restored, _)), Some(deadline_ms), Some(deadline_ns)) =
                    (open.get_mut(&(boot, hold)), line.deadline_ms, line.deadline_ns)
                {
                    *restored =
                        Restored { deadline_ms, deadline_ns, extended: restored.extended + 1, ..restored.clone() };
                }
            }
            ("hold" | "release" | "refused" | "withdrawn" | "superseded", _) => {
                open.remove(&(boot, hold));
            }
            _ => {}
        }
    }
    let mut replay = Replay { next_index, ..Replay::default() };
    replay.segment_of_grant = grants.iter().map(|(id, (_, segment))| (*id, *segment)).collect();
    replay.grants = grants.into_values().map(|(grant, _)| grant).collect();
    replay.grants.sort_by_key(|grant| grant.given_at_ms);
    for ((boot, hold), (restored, segment)) in open {
        if boot == boot_id {
            replay.segment_of.insert(hold, segment);
            replay.open.push(restored);
        } else {
            replay.lost.push((boot, hold, restored.id));
        }
    }
    Ok(replay)
}

/// A quick look at the type, which has its place in front, before the whole record is parsed.
fn may_matter(leaf: &[u8]) -> bool {
    const NAME: &[u8] = b",\"type\":\"";
    let envelope = &leaf[..leaf.len().min(256)];
    let Some(at) = envelope.windows(NAME.len()).position(|window| window == NAME) else { return true };
    let kind = &envelope[at + NAME.len()..];
    ![b"context\"".as_slice(), b"verdict\"", b"observed\""].iter().any(|other| kind.starts_with(other))
}
