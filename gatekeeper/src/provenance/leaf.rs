//! The form of a record: one JSON object that starts with the same fields in the same order.
//!
//! A leaf is written once and never again from its parts, so nothing here needs a canonical order; what others may rely
//! on are the names.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    Error, LEAF_VERSION, MAX_LEAF_BYTES, Record,
    blobs::{BlobRef, Blobs},
    json::Json,
};
use crate::{
    action::{Action, Target},
    broker::{self, Grant, GrantEnd, Now},
    request::{Context, MessageId, RequestId, Vote},
    text::Text,
};

/// Parts up to this many bytes stay in the leaf whatever its size. More than what stands for a blob, head included.
const SMALL_PART_BYTES: usize = 2_048;

/// Characters of a part that the leaf shows when the part itself lies in a blob.
const HEAD_CHARS: usize = 256;

/// What stands in front of each record.
pub(super) struct Envelope<'a> {
    /// Counts from 0 over all segments.
    pub(super) index: u64,
    /// Records before this one were durable when this one was made.
    pub(super) durable: u64,
    pub(super) now: Now,
    pub(super) boot_id: &'a str,
}

/// Appends the leaf.
pub(super) fn write(
    out: &mut Vec<u8>,
    envelope: &Envelope<'_>,
    record: &Record,
    blobs: &mut Blobs,
) -> Result<(), Error> {
    let start = out.len();
    let Envelope { index, durable, now: Now { wall_ms, boot_ns }, boot_id } = envelope;
    let mut json = Json(out);
    json.raw("{\"v\":").number(LEAF_VERSION).raw(",\"index\":").number(*index).raw(",\"durable\":").number(*durable);
    json.raw(",\"wall_ms\":").number(*wall_ms).raw(",\"boot_ns\":").number(*boot_ns);
    json.raw(",\"boot_id\":").string(boot_id).raw(",\"type\":\"");
    let body = write_body(out, record, blobs)?;
    if out.len() - start > MAX_LEAF_BYTES {
        shorten(out, body, MAX_LEAF_BYTES - (body - start), blobs)?;
    }
    Ok(())
}

/// Ends the type's name and appends the fields. Says where they begin: at the comma in place of their opening brace.
fn body(out: &mut Vec<u8>, name: &str, fields: &impl Serialize) -> Result<usize, Error> {
    out.extend_from_slice(name.as_bytes());
    out.push(b'"');
    let start = out.len();
    serde_json::to_writer(&mut *out, fields).map_err(Error::Encode)?;
    out[start] = b',';
    Ok(start)
}

#[derive(Serialize)]
struct ContextFields<'a> {
    hold: u64,
    id: RequestId,
    context: &'a Context,
}

#[derive(Serialize)]
struct CardFields<'a> {
    id: RequestId,
    channel: &'a str,
    message: &'a MessageId,
    digest: &'a str,
}

#[derive(Serialize)]
struct ActFields<'a> {
    id: RequestId,
    channel: &'a str,
    account: &'a str,
    verb: &'a str,
    event: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct StoppedFields<'a> {
    id: RequestId,
    cgroup: &'a Text,
}

#[derive(Serialize)]
struct GrantFields<'a> {
    id: RequestId,
    grant: &'a Grant,
}

#[derive(Serialize)]
struct GrantEndFields<'a> {
    id: RequestId,
    end: &'a GrantEnd,
}

#[derive(Serialize)]
struct ChannelFields<'a> {
    channel: &'a str,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct VoteFields<'a> {
    hold: u64,
    id: RequestId,
    vote: &'a Vote,
}

#[derive(Serialize)]
struct StartFields<'a> {
    version: &'a str,
    kernel: &'a str,
    mode: &'a str,
    pid: u32,
    config_sha256: Option<&'a str>,
}

#[derive(Serialize)]
struct StopFields<'a> {
    reason: &'a str,
    open_holds: u64,
}

#[derive(Serialize)]
struct ReloadFields<'a> {
    config_sha256: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct CallerFields<'a> {
    pid: u32,
    uid: u32,
    reason: &'a str,
    unreported: u64,
}

#[derive(Serialize)]
struct RunStartFields<'a> {
    run: &'a str,
    agent: &'a str,
    cgroup: &'a Text,
    pid: u32,
    uid: u32,
    command: &'a [Text],
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<&'a str>,
}

#[derive(Serialize)]
struct RunEndFields<'a> {
    run: &'a str,
    agent: &'a str,
    status: Option<i32>,
    signal: Option<i32>,
}

#[derive(Serialize)]
struct RecoveryFields<'a> {
    segment: u64,
    offset: u64,
    dropped_bytes: u64,
    kept_in: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct CounterFields<'a> {
    counter: &'a str,
    before: u64,
    now: u64,
}

#[derive(Serialize)]
struct SegmentFields {
    number: u64,
    replay_from: u64,
}

fn write_body(out: &mut Vec<u8>, record: &Record, blobs: &mut Blobs) -> Result<usize, Error> {
    match record {
        Record::Broker(record) => write_broker(out, record, blobs),
        Record::Card { request, channel, message, digest } => {
            body(out, "card", &CardFields { id: *request, channel, message, digest })
        }
        Record::ActRefused { request, channel, account, verb, event, reason } => {
            body(out, "act_refused", &ActFields { id: *request, channel, account, verb, event, reason })
        }
        Record::AgentStopped { request, cgroup } => body(out, "agent_stopped", &StoppedFields { id: *request, cgroup }),
        Record::Grant(grant) => body(out, "grant", &GrantFields { id: grant.id, grant }),
        Record::GrantEnd { id, end } => body(out, "grant_end", &GrantEndFields { id: *id, end }),
        Record::Channel { channel, problem } => {
            body(out, "channel", &ChannelFields { channel, problem: problem.as_deref() })
        }
        Record::DaemonStart { version, kernel, mode, pid, config_sha256 } => body(
            out,
            "daemon_start",
            &StartFields { version, kernel, mode, pid: *pid, config_sha256: config_sha256.as_deref() },
        ),
        Record::DaemonStop { reason, open_holds } => {
            body(out, "daemon_stop", &StopFields { reason, open_holds: *open_holds })
        }
        Record::Reload { config_sha256, error } => {
            let fields = ReloadFields { config_sha256: config_sha256.as_deref(), error: error.as_deref() };
            body(out, "reload", &fields)
        }
        Record::CallerRefused { pid, uid, reason, unreported } => {
            let fields = CallerFields { pid: *pid, uid: *uid, reason, unreported: *unreported };
            body(out, "caller_refused", &fields)
        }
        Record::Refused { task, action, refusal, reason } => Ok(fields(out, "refused", |json| {
            json.raw(",\"task\":").task(task);
            if let Some(action) = action {
                write_action(json.raw(",\"action\":"), action, None);
            }
            json.raw(",\"refusal\":").string(refusal).raw(",\"reason\":").string(reason);
        })),
        Record::Observed { task, action, outcome, rule } => Ok(fields(out, "observed", |json| {
            json.raw(",\"task\":").task(task);
            write_action(json.raw(",\"action\":"), action, None);
            json.raw(",\"outcome\":").string(outcome);
            if let Some(rule) = rule {
                json.raw(",\"rule\":").string(rule);
            }
        })),
        Record::RunStart { run, agent, cgroup, pid, uid, command, labels, intent } => {
            let (pid, uid, intent) = (*pid, *uid, intent.as_deref());
            body(out, "run_start", &RunStartFields { run, agent, cgroup, pid, uid, command, labels, intent })
        }
        Record::RunEnd { run, agent, status, signal } => {
            body(out, "run_end", &RunEndFields { run, agent, status: *status, signal: *signal })
        }
        Record::Recovery { segment, offset, dropped_bytes, kept_in, reason } => body(
            out,
            "recovery",
            &RecoveryFields { segment: *segment, offset: *offset, dropped_bytes: *dropped_bytes, kept_in, reason },
        ),
        Record::CounterAlarm { counter, before, now } => {
            body(out, "counter_alarm", &CounterFields { counter, before: *before, now: *now })
        }
        Record::LostWithBoot { hold, id, of_boot } => Ok(fields(out, "withdrawn", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"reason\":\"the host restarted\",\"of_boot\":").string(of_boot);
        })),
        Record::Segment { number, replay_from } => {
            body(out, "segment", &SegmentFields { number: *number, replay_from: *replay_from })
        }
    }
}

/// Ends the type's name and appends the fields, each behind a comma. Says where they begin.
fn fields(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Json<'_>)) -> usize {
    let mut json = Json(out);
    json.raw(name).raw("\"");
    let start = json.0.len();
    write(&mut json);
    json.raw("}");
    start
}

/// Which hold and which request a record is about.
fn about(json: &mut Json<'_>, hold: u64, id: Option<RequestId>) {
    json.raw(",\"hold\":").number(hold);
    if let Some(id) = id {
        json.raw(",\"id\":\"").raw(&id.to_string()).raw("\"");
    }
}

fn write_broker(out: &mut Vec<u8>, record: &broker::Record, blobs: &mut Blobs) -> Result<usize, Error> {
    let start = match record {
        broker::Record::Hold { request, stage, since_ns, deadline_ns, continues } => fields(out, "hold", |json| {
            about(json, request.hold, Some(request.id));
            json.raw(",\"stage\":").number(*stage).raw(",\"task\":").task(&request.task);
            write_action(json.raw(",\"action\":"), &request.action, Some(blobs));
            json.raw(",\"ask\":").ask(&request.ask).raw(",\"since_ns\":").number(*since_ns);
            json.raw(",\"held_at_ms\":").number(request.held_at_ms);
            json.raw(",\"deadline_ms\":").number(request.deadline_ms);
            json.raw(",\"deadline_ns\":").number(*deadline_ns);
            if let Some(continues) = continues {
                json.raw(",\"continues\":").number(*continues);
            }
        }),
        broker::Record::Settled(settled) => fields(out, "hold", |json| {
            about(json, settled.hold, None);
            json.raw(",\"stage\":").number(settled.stage).raw(",\"task\":").task(&settled.task);
            write_action(json.raw(",\"action\":"), &settled.action, None);
            json.raw(",\"decision\":").decision(&settled.decision);
        }),
        broker::Record::Context(request) => {
            let fields = ContextFields { hold: request.hold, id: request.id, context: &request.context };
            return body(out, "context", &fields);
        }
        broker::Record::Decision { hold, id, decision } => fields(out, "decision", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"decision\":").decision(decision);
        }),
        broker::Record::Expiry { hold, id, decision } => fields(out, "expiry", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"decision\":").decision(decision);
        }),
        broker::Record::Vote { hold, id, vote } => {
            return body(out, "vote", &VoteFields { hold: *hold, id: *id, vote });
        }
        broker::Record::Escalated { hold, id, by } => fields(out, "escalated", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"by\":").decider(by);
        }),
        broker::Record::Extended { hold, id, by, deadline_ms, deadline_ns } => fields(out, "extended", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"by\":").decider(by).raw(",\"deadline_ms\":").number(*deadline_ms);
            json.raw(",\"deadline_ns\":").number(*deadline_ns);
        }),
        broker::Record::Verdict { hold, id, effect } => fields(out, "verdict", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"effect\":").effect(*effect);
        }),
        broker::Record::Release { hold, id, state, effect, presumed } => fields(out, "release", |json| {
            about(json, *hold, Some(*id));
            json.raw(",\"state\":").state(state).raw(",\"effect\":").effect(*effect);
            presume(json, *presumed);
        }),
        broker::Record::Refused { hold, id, errno, reason } => fields(out, "refused", |json| {
            about(json, *hold, *id);
            json.raw(",\"errno\":").number(*errno).raw(",\"reason\":").string(reason);
        }),
        broker::Record::Withdrawn { hold, id, presumed } => fields(out, "withdrawn", |json| {
            about(json, *hold, *id);
            presume(json, *presumed);
        }),
        broker::Record::Superseded { hold, id, by } => fields(out, "superseded", |json| {
            about(json, *hold, *id);
            if let Some(by) = by {
                json.raw(",\"by\":").number(*by);
            }
        }),
        broker::Record::Alarm { hold, text } => fields(out, "alarm", |json| {
            about(json, *hold, None);
            json.raw(",\"reason\":").string(text);
        }),
    };
    Ok(start)
}

fn presume(json: &mut Json<'_>, presumed: bool) {
    if presumed {
        json.raw(",\"presumed\":true");
    }
}

/// `blobs`: where to keep the environment of a program, or nowhere. Environments hold secrets, and a leaf is for ever: the
/// action's digest covers it, the blob can be erased.
fn write_action(json: &mut Json<'_>, action: &Action, blobs: Option<&mut Blobs>) {
    let Action { kind, agent, uid, gid, target, object, foreign_mount, digest } = action;
    json.raw("{\"kind\":\"").raw(kind.name()).raw("\",\"agent\":").string(agent);
    json.raw(",\"uid\":").number(*uid).raw(",\"gid\":").number(*gid).raw(",\"target\":");
    match target {
        Target::Program { path, called, args, env, interpreter, cwd } => {
            json.raw("{\"program\":{\"path\":").text(path).raw(",\"called\":").text(called);
            json.raw(",\"args\":").texts(args).raw(",\"interpreter\":").flag(*interpreter);
            if let Some(blobs) = blobs
                && !env.is_empty()
            {
                let mut bytes = Vec::new();
                Json(&mut bytes).texts(env);
                let BlobRef { blob, bytes, .. } = blobs.put(bytes, None);
                json.raw(",\"env\":{\"blob\":\"").raw(&blob).raw("\",\"bytes\":").number(bytes as u64).raw("}");
            }
            if let Some(cwd) = cwd {
                json.raw(",\"cwd\":").object(cwd);
            }
            json.raw("}}");
        }
        Target::File { path, new_path, argument, detail, other } => {
            json.file(path, new_path.as_ref(), argument.as_ref(), *detail, other.as_ref());
        }
        Target::Socket { address } => {
            json.socket(address);
        }
    }
    if let Some(object) = object {
        json.raw(",\"object\":").object(object);
    }
    if *foreign_mount {
        json.raw(",\"foreign_mount\":true");
    }
    json.raw(",\"digest\":").string(digest).raw("}");
}

/// Moves the largest parts of the fields from `start` on into blobs, until the fields take at most `limit` bytes.
fn shorten(out: &mut Vec<u8>, start: usize, limit: usize, blobs: &mut Blobs) -> Result<(), Error> {
    out[start] = b'{';
    let mut fields: Value = serde_json::from_slice(&out[start..]).map_err(Error::Encode)?;
    loop {
        let part = match largest(&mut fields) {
            Some((_, part)) => part,
            // Very many small fields: the largest of those at the top goes as a whole.
            None => match fields.as_object_mut().and_then(|map| map.values_mut().max_by_key(|value| size(value))) {
                Some(part) => part,
                None => break,
            },
        };
        let bytes = serde_json::to_vec(part).map_err(Error::Encode)?;
        let head = String::from_utf8_lossy(&bytes).chars().take(HEAD_CHARS).collect();
        *part = serde_json::to_value(blobs.put(bytes, Some(head))).map_err(Error::Encode)?;
        if size(&fields) <= limit {
            break;
        }
    }
    out.truncate(start);
    serde_json::to_writer(&mut *out, &fields).map_err(Error::Encode)?;
    out[start] = b',';
    Ok(())
}

/// Bytes of a value's JSON form.
fn size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match serde_json::to_writer(&mut count, value) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

/// The largest list or string that is worth a blob. What already is one has only small parts.
fn largest(value: &mut Value) -> Option<(usize, &mut Value)> {
    match value {
        Value::Object(map) => map.values_mut().filter_map(largest).max_by_key(|(size, _)| *size),
        Value::Array(_) | Value::String(_) => {
            let size = size(value);
            (size > SMALL_PART_BYTES).then_some((size, value))
        }
        _ => None,
    }
}
