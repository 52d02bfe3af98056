//! Requests and reports for tests.

use std::{collections::BTreeMap, time::Duration};

use super::protocol::{
    AgentStatus, ChannelStatus, ErrorNote, LogStatus, Mode, PolicyStatus, ProgramStatus, RingStatus, StatusReport,
};
pub(crate) use crate::request::samples::request;
use crate::text::Text;

/// A healthy daemon.
pub(crate) fn status() -> StatusReport {
    StatusReport {
        version: "0.1.0".to_owned(),
        kernel: "6.12.0".to_owned(),
        host: "host-1".to_owned(),
        boot_id: "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
        mode: Mode::Enforce,
        uptime: Duration::from_secs(3_725),
        policy: PolicyStatus { digest: "0123456789abcdef".to_owned(), rules: 4 },
        agents: vec![AgentStatus { name: "builder".to_owned(), cgroups: vec![Text::from("/gatekeeper/builder/1")] }],
        programs: vec![
            ProgramStatus { name: "bprm_creds_for_".to_owned(), attached: true },
            ProgramStatus { name: "socket_bind".to_owned(), attached: true },
        ],
        open_holds: 2,
        pending: 1,
        counters: BTreeMap::from([("holds".to_owned(), 12), ("reruns".to_owned(), 0)]),
        ring: RingStatus { size_bytes: 1 << 22, lost: 3 },
        log: LogStatus { path: "/var/lib/gatekeeper/log".to_owned(), healthy: true, records: 99, problem: None },
        channels: vec![ChannelStatus {
            name: "ops-room".to_owned(),
            kind: "matrix".to_owned(),
            problem: Some("the server cannot be reached".to_owned()),
            shown: 1,
        }],
        errors: vec![ErrorNote { at_ms: 1_700_000_000_000, text: "a test error".to_owned() }],
    }
}
