//! Writes JSON without asking twice: the records on the way to a verdict are written here, several times for each action
//! that waits, and a general serialiser takes about four times as many instructions for them.
//!
//! The form is the one that `serde` derives for the same types and reads back, but that fields which are `None` are left
//! out.

use std::net::IpAddr;

use crate::{
    action::{Address, Object, Task},
    request::{Ask, Decider, Decision, Effect, Evidence, MessageId, Risk, State},
    text::Text,
};

/// Appends JSON. Keys and punctuation are written by the caller, as they come.
pub(super) struct Json<'a>(pub(super) &'a mut Vec<u8>);

impl Json<'_> {
    pub(super) fn raw(&mut self, json: &str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    pub(super) fn number(&mut self, number: impl Into<u64>) -> &mut Self {
        let mut number = number.into();
        let mut digits = [0; 20];
        let mut at = digits.len();
        // Two at a time: nearly all numbers here are times of 13 to 19 digits, and dividing is what costs.
        while number >= 10 {
            let pair = (number % 100) as u8;
            number /= 100;
            at -= 2;
            digits[at] = b'0' + pair / 10;
            digits[at + 1] = b'0' + pair % 10;
        }
        if number > 0 || at == digits.len() {
            at -= 1;
            digits[at] = b'0' + number as u8;
        }
        self.0.extend_from_slice(&digits[at..]);
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.raw(if flag { "true" } else { "false" })
    }

    pub(super) fn string(&mut self, string: &str) -> &mut Self {
        self.0.push(b'"');
        if is_verbatim(string.as_bytes()) {
            self.0.extend_from_slice(string.as_bytes());
        } else {
            for c in string.chars() {
                match c {
                    '"' => self.0.extend_from_slice(b"\\\""),
                    '\\' => self.0.extend_from_slice(b"\\\\"),
                    '\0'..='\x1f' => self.0.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
                    c => self.0.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        self.0.push(b'"');
        self
    }

    pub(super) fn text(&mut self, text: &Text) -> &mut Self {
        if is_verbatim(text.bytes()) {
            self.0.push(b'"');
            self.0.extend_from_slice(text.bytes());
            self.0.push(b'"');
            self
        } else {
            self.string(&text.to_string())
        }
    }

    pub(super) fn texts(&mut self, texts: &[Text]) -> &mut Self {
        let mut before = "[";
        for text in texts {
            self.raw(before).text(text);
            before = ",";
        }
        self.raw(if texts.is_empty() { "[]" } else { "]" })
    }

    pub(super) fn task(&mut self, task: &Task) -> &mut Self {
        let Task { pid, tid, parent, start_ns, cgroup, comm, real_uid, login_uid, session } = task;
        self.raw("{\"pid\":").number(*pid).raw(",\"tid\":").number(*tid).raw(",\"parent\":").number(*parent);
        self.raw(",\"start_ns\":").number(*start_ns).raw(",\"cgroup\":").number(*cgroup);
        self.raw(",\"comm\":").text(comm).raw(",\"real_uid\":").number(*real_uid);
        if let Some(login_uid) = login_uid {
            self.raw(",\"login_uid\":").number(*login_uid);
        }
        if let Some(session) = session {
            self.raw(",\"session\":").number(*session);
        }
        self.raw("}")
    }

    pub(super) fn object(&mut self, object: &Object) -> &mut Self {
        let Object { dev, ino, generation, mode, uid, nlink, size, ctime_ns } = object;
        self.raw("{\"dev\":").number(*dev).raw(",\"ino\":").number(*ino);
        self.raw(",\"generation\":").number(*generation).raw(",\"mode\":").number(*mode);
        self.raw(",\"uid\":").number(*uid).raw(",\"nlink\":").number(*nlink);
        self.raw(",\"size\":").number(*size).raw(",\"ctime_ns\":").number(*ctime_ns).raw("}")
    }

    /// [`crate::action::Target::File`].
    pub(super) fn file(
        &mut self,
        path: &Text,
        new_path: Option<&Text>,
        argument: Option<&Text>,
        detail: u64,
        other: Option<&Object>,
    ) -> &mut Self {
        self.raw("{\"file\":{\"path\":").text(path);
        if let Some(new_path) = new_path {
            self.raw(",\"new_path\":").text(new_path);
        }
        if let Some(argument) = argument {
            self.raw(",\"argument\":").text(argument);
        }
        self.raw(",\"detail\":").number(detail);
        if let Some(other) = other {
            self.raw(",\"other\":").object(other);
        }
        self.raw("}}")
    }

    /// [`crate::action::Target::Socket`].
    pub(super) fn socket(&mut self, address: &Address) -> &mut Self {
        self.raw("{\"socket\":{\"address\":");
        match address {
            Address::Ip { ip, port } => {
                self.raw("{\"ip\":{\"ip\":\"");
                match ip {
                    IpAddr::V4(ip) => {
                        let [a, b, c, d] = ip.octets();
                        self.number(a).raw(".").number(b).raw(".").number(c).raw(".").number(d)
                    }
                    IpAddr::V6(ip) => self.raw(&ip.to_string()),
                };
                self.raw("\",\"port\":").number(*port).raw("}}")
            }
            Address::Unix(name) => self.raw("{\"unix\":").text(name).raw("}"),
            Address::Other { family, data } => {
                self.raw("{\"other\":{\"family\":").number(*family).raw(",\"data\":").text(data).raw("}}")
            }
        };
        self.raw("}}")
    }

    pub(super) fn ask(&mut self, ask: &Ask) -> &mut Self {
        let Ask {
            rule,
            deadline,
            danger_allow_on_timeout,
            risk,
            reason,
            quorum,
            escalation,
            danger_self_review,
            grants,
        } = ask;
        self.raw("{\"rule\":").string(rule).raw(",\"deadline\":");
        self.number(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX));
        self.raw(",\"danger_allow_on_timeout\":").flag(*danger_allow_on_timeout);
        self.raw(match risk {
            Risk::Low => ",\"risk\":\"low\"",
            Risk::Medium => ",\"risk\":\"medium\"",
            Risk::High => ",\"risk\":\"high\"",
            Risk::Critical => ",\"risk\":\"critical\"",
        });
        if let Some(reason) = reason {
            self.raw(",\"reason\":").string(reason);
        }
        if let Some(quorum) = quorum {
            self.raw(",\"quorum\":").string(&quorum.to_string());
        }
        let mut before = ",\"escalation\":[";
        for step in escalation {
            self.raw(before).string(&step.to_string());
            before = ",";
        }
        self.raw(if escalation.is_empty() { ",\"escalation\":[]" } else { "]" });
        self.raw(",\"danger_self_review\":").flag(*danger_self_review);
        let mut before = ",\"grants\":[";
        for length in grants {
            self.raw(before).string(&length.to_string());
            before = ",";
        }
        self.raw(if grants.is_empty() { "}" } else { "]}" })
    }

    pub(super) fn effect(&mut self, effect: Effect) -> &mut Self {
        match effect {
            Effect::Allow => self.raw("\"allow\""),
            Effect::Deny { errno } => self.raw("{\"deny\":{\"errno\":").number(errno).raw("}}"),
        }
    }

    pub(super) fn state(&mut self, state: &State) -> &mut Self {
        self.raw(match state {
            State::Pending => "\"pending\"",
            State::Decided => "\"decided\"",
            State::Released => "\"released\"",
            State::Denied => "\"denied\"",
            State::TimedOut => "\"timed_out\"",
            State::Withdrawn => "\"withdrawn\"",
            State::Superseded => "\"superseded\"",
        })
    }

    pub(super) fn decider(&mut self, by: &Decider) -> &mut Self {
        match by {
            Decider::Reviewer { name, channel, account, evidence } => {
                self.raw("{\"kind\":\"reviewer\",\"name\":").string(name);
                self.raw(",\"channel\":").string(channel).raw(",\"account\":").string(account);
                if let Some(Evidence { message, event, card }) = evidence.as_deref() {
                    self.raw(",\"evidence\":{\"event\":").string(event);
                    if let Some(MessageId(message)) = message {
                        self.raw(",\"message\":").string(message);
                    }
                    if let Some(card) = card {
                        self.raw(",\"card\":").string(card);
                    }
                    self.raw("}");
                }
                self.raw("}")
            }
            Decider::Rule { name } => self.raw("{\"kind\":\"rule\",\"name\":").string(name).raw("}"),
            Decider::Grant { id, by } => {
                self.raw("{\"kind\":\"grant\",\"id\":\"").raw(&id.to_string()).raw("\",\"by\":[");
                for (position, name) in by.iter().enumerate() {
                    self.raw(if position == 0 { "" } else { "," }).string(name);
                }
                self.raw("]}")
            }
            Decider::NoRule => self.raw("{\"kind\":\"no_rule\"}"),
            Decider::Deadline => self.raw("{\"kind\":\"deadline\"}"),
            Decider::Daemon => self.raw("{\"kind\":\"daemon\"}"),
        }
    }

    pub(super) fn decision(&mut self, decision: &Decision) -> &mut Self {
        let Decision { effect, by, reason, grant, at_ms } = decision;
        self.raw("{\"effect\":").effect(*effect).raw(",\"by\":").decider(by);
        if let Some(reason) = reason {
            self.raw(",\"reason\":").string(reason);
        }
        if let Some(length) = grant {
            self.raw(",\"grant\":").string(&length.to_string());
        }
        self.raw(",\"at_ms\":").number(*at_ms).raw("}")
    }
}

/// Whether bytes stand for themselves in JSON and in the escaped form of agent text alike.
fn is_verbatim(bytes: &[u8]) -> bool {
    // Without an early end, so that many bytes are looked at together.
    !bytes.iter().fold(false, |other, byte| other | !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use std::{fmt::Debug, time::Duration};

    use proptest::prelude::*;
    use serde::{Serialize, de::DeserializeOwned};

    use super::*;
    use crate::{
        action::Target,
        request::{GrantLength, RequestId},
    };

    /// What is written here reads back, and says the same as `serde` does.
    fn agree<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, write: impl FnOnce(&mut Json<'_>)) {
        let mut out = Vec::new();
        write(&mut Json(&mut out));
        let read: T = serde_json::from_slice(&out).unwrap();
        assert_eq!(&read, value);
        let mut theirs = serde_json::to_value(value).unwrap();
        without_nulls(&mut theirs);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).unwrap(), theirs);
    }

    fn without_nulls(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.retain(|_, value| !value.is_null());
                map.values_mut().for_each(without_nulls);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(without_nulls),
            _ => {}
        }
    }

    fn target(json: &mut Json<'_>, target: &Target) {
        match target {
            Target::File { path, new_path, argument, detail, other } => {
                json.file(path, new_path.as_ref(), argument.as_ref(), *detail, other.as_ref());
            }
            Target::Socket { address } => {
                json.socket(address);
            }
            Target::Program { .. } => unreachable!("the leaf writes it"),
        }
    }

    proptest! {
        #[test]
        fn this_writer_and_serde_agree(
            bytes: Vec<u8>,
            string: String,
            numbers: [u64; 4],
            small: [u32; 4],
            some: [bool; 2],
            errno: u16,
            ip: IpAddr,
        ) {
            let text = Text(bytes);
            agree(&string, |json| { json.string(&string); });
            agree(&text, |json| { json.text(&text); });
            agree(&vec![text.clone(); usize::from(errno % 3)], |json| { json.texts(&vec![text.clone(); usize::from(errno % 3)]); });
            let task = Task {
                pid: small[0],
                tid: small[1],
                parent: small[2],
                start_ns: numbers[0],
                cgroup: numbers[1],
                comm: text.clone(),
                real_uid: small[3],
                login_uid: some[0].then_some(small[0]),
                session: some[1].then_some(small[1]),
            };
            agree(&task, |json| { json.task(&task); });
            let object = Object {
                dev: numbers[0],
                ino: numbers[1],
                generation: small[0],
                mode: small[1],
                uid: small[2],
                nlink: small[3],
                size: numbers[2],
                ctime_ns: numbers[3],
            };
            agree(&object, |json| { json.object(&object); });
            for address in [
                Address::Ip { ip, port: errno },
                Address::Unix(text.clone()),
                Address::Other { family: errno, data: text.clone() },
            ] {
                let socket = Target::Socket { address };
                agree(&socket, |json| target(json, &socket));
            }
            let file = Target::File {
                path: text.clone(),
                new_path: some[0].then(|| text.clone()),
                argument: some[1].then(|| text.clone()),
                detail: numbers[0],
                other: some[0].then_some(object),
            };
            agree(&file, |json| target(json, &file));
            for risk in [Risk::Low, Risk::Medium, Risk::High, Risk::Critical] {
                let ask = Ask {
                    rule: string.clone(),
                    deadline: Duration::from_millis(numbers[0]),
                    danger_allow_on_timeout: some[0],
                    risk,
                    reason: some[1].then(|| string.clone()),
                    quorum: some[0].then(|| "2 of ops or leads".parse().unwrap()),
                    escalation: vec!["leads".parse().unwrap(); usize::from(errno % 3)],
                    danger_self_review: some[1],
                    grants: vec![GrantLength::Run; usize::from(errno % 3)],
                };
                agree(&ask, |json| { json.ask(&ask); });
            }
            let evidence = Evidence {
                message: some[0].then(|| MessageId(string.clone())),
                event: string.clone(),
                card: some[1].then(|| string.clone()),
            };
            let reviewer = Decider::Reviewer {
                name: string.clone(),
                channel: string.clone(),
                account: string.clone(),
                evidence: some[0].then(|| Box::new(evidence)),
            };
            let rule = Decider::Rule { name: string.clone() };
            let id = RequestId::new(numbers[0], u64::from(errno));
            let grant = Decider::Grant { id, by: vec![string.clone(); usize::from(errno % 3)] };
            for by in [reviewer, rule, grant, Decider::NoRule, Decider::Deadline, Decider::Daemon] {
                let effect = if some[0] { Effect::Allow } else { Effect::Deny { errno } };
                let grant = some[0].then_some(GrantLength::Run);
                let decision = Decision { effect, by, reason: some[1].then(|| string.clone()), grant, at_ms: numbers[0] };

                agree(&decision, |json| { json.decision(&decision); });
            }
        }
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 1, 9, 10, 11, 99, 100, 101, 999, 1_000, 12_345, 1_000_000, u64::MAX - 1, u64::MAX] {
            agree(&number, |json| {
                json.number(number);
            });
        }
    }

    #[test]
    fn states_are_named_as_serde_names_them() {
        use State::*;
        for state in [Pending, Decided, Released, Denied, TimedOut, Withdrawn, Superseded] {
            agree(&state, |json| {
                json.state(&state);
            });
        }
    }
}
