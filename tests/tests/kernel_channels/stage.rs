//! Where the acts happen, and who acts.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use gatekeeper_tests::{Daemon, wait_until};
use serde_json::Value;

pub(crate) const BASE: &str = "/srv/gatekeeper-channels";

/// Makes the place anew, with a program in it about which the rule asks.
pub(crate) fn set() {
    // Not there yet, if this fails.
    let _ = fs::remove_dir_all(BASE);
    fs::create_dir_all(format!("{BASE}/tools")).unwrap();
    fs::copy("/bin/true", format!("{BASE}/tools/true")).unwrap();
}

/// The rule; `more` are keys of it.
pub(crate) fn rule(more: &str) -> String {
    format!(
        r#"
[[rule]]
name = "tools"
action = "exec"
path = "{BASE}/tools/**"
verdict = "ask"
{more}
"#
    )
}

/// Writes a secret as it has to be kept.
pub(crate) fn secret(path: &str, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A shell that becomes a guarded tool.
pub(crate) struct Tool(pub(crate) Child);

impl Tool {
    pub(crate) fn start(daemon: &Daemon) -> Self {
        let mut command: Command = daemon.command(&["run", "--agent", "worker", "--", "sh", "-c"]);
        command.arg(format!("exec {BASE}/tools/true argument"));
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn code(&mut self) -> Option<i32> {
        wait_until("the tool ends", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        // It has ended already, if this fails.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The time in seconds since the epoch.
pub(crate) fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn id(request: &Value) -> &str {
    request["id"].as_str().unwrap()
}

pub(crate) fn records(daemon: &Daemon, kind: &str) -> Vec<Value> {
    daemon.log().into_iter().filter(|record| record["type"] == kind).collect()
}
