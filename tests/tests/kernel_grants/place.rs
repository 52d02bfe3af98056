//! Where the acts happen, and the rules about it.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use gatekeeper_tests::Daemon;
use serde_json::Value;

pub(crate) const BASE: &str = "/srv/gatekeeper-grants";

/// What the rule about `tools` says besides; the rest of the configuration is always the same.
pub(crate) fn config(more: &str) -> String {
    format!(
        r#"
[[agent]]
name = "worker"

[[rule]]
name = "refuse"
action = "exec"
path = "{BASE}/refused/**"
verdict = "deny"
reason = "nobody may run these"

[[rule]]
name = "tools"
action = "exec"
path = "{BASE}/tools/**"
verdict = "ask"
{more}
"#
    )
}

/// Makes the place anew, with programs and a script in it.
pub(crate) fn set() {
    // Not there yet, if this fails.
    let _ = fs::remove_dir_all(BASE);
    for directory in ["tools", "refused"] {
        fs::create_dir_all(format!("{BASE}/{directory}")).unwrap();
        fs::copy("/bin/true", format!("{BASE}/{directory}/true")).unwrap();
    }
    script("exit 0");
}

pub(crate) fn tool() -> String {
    format!("{BASE}/tools/true")
}

/// Writes the script, which does this, and gives its path.
pub(crate) fn script(does: &str) -> String {
    let path = format!("{BASE}/tools/script");
    fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(crate) fn id(request: &Value) -> &str {
    request["id"].as_str().unwrap()
}

/// Runs the command line, and gives what it wrote to its standard output.
///
/// # Panics
/// If it fails.
pub(crate) fn gatekeeper(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.command(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", errors(&output));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn records(daemon: &Daemon, kind: &str) -> Vec<Value> {
    daemon.log().into_iter().filter(|record| record["type"] == kind).collect()
}
