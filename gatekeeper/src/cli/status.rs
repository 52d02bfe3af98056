//! `gatekeeper status`: how the daemon is.

use super::Terminal;
use crate::{
    channel::card::{self, time},
    control::protocol::{Call, ChannelStatus, Mode, Reply, StatusReport},
    exit::{Exit, Failure},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(Arguments {}: Arguments, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let mut client = terminal.connect()?;
    let Reply::Status(report) = client.call(&Call::Status)? else {
        return Err(client.unexpected().into());
    };
    if terminal.output.is_json() {
        terminal.output.object(&report)?;
    } else {
        for line in lines(&report) {
            terminal.output.line(line)?;
        }
    }
    Ok(Exit::Success)
}

fn lines(report: &StatusReport) -> Vec<String> {
    let StatusReport {
        version,
        kernel,
        host,
        boot_id,
        mode,
        uptime,
        policy,
        agents,
        programs,
        open_holds,
        pending,
        counters,
        ring,
        log,
        channels,
        errors,
    } = report;
    let safe = card::safe;
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "OBSERVE ONLY: actions are reported, nothing waits",
    };
    let mut lines = vec![
        format!("gatekeeper   {} on kernel {}, up {}", safe(version), safe(kernel), time::short(*uptime)),
        format!("host         {}, boot {}", safe(host), safe(boot_id)),
        format!("mode         {mode}"),
        format!("policy       {} rules, digest {}", policy.rules, safe(&policy.digest)),
        format!("holds        {open_holds} open, {pending} requests wait for a reviewer"),
    ];
    if agents.is_empty() {
        lines.push("agents       none".to_owned());
    }
    for agent in agents {
        let cgroups: Vec<_> = agent.cgroups.iter().map(ToString::to_string).collect();
        let places = if cgroups.is_empty() { "no cgroup yet".to_owned() } else { cgroups.join(", ") };
        lines.push(format!("agent        {}: {places}", safe(&agent.name)));
    }
    let attached = programs.iter().filter(|program| program.attached).count();
    lines.push(format!("programs     {attached} of {} attached", programs.len()));
    for program in programs.iter().filter(|program| !program.attached) {
        lines.push(format!("NOT ATTACHED {}", safe(&program.name)));
    }
    lines.push(format!("ring         {} bytes, {} records did not fit", ring.size_bytes, ring.lost));
    let health = match (&log.problem, log.healthy) {
        (Some(problem), _) => format!("PROBLEM: {}", safe(problem)),
        (None, true) => "healthy".to_owned(),
        (None, false) => "NOT WRITABLE".to_owned(),
    };
    lines.push(format!("log          {}, {} records, {health}", safe(&log.path), log.records));
    for ChannelStatus { name, kind, problem, shown } in channels {
        let health =
            problem.as_deref().map_or_else(|| "works".to_owned(), |problem| format!("PROBLEM: {}", safe(problem)));
        lines.push(format!("channel      {} ({}), shows {shown} requests, {health}", safe(name), safe(kind)));
    }
    // A counter at zero says nothing; JSON has them all.
    for (name, count) in counters.iter().filter(|(_, count)| **count != 0) {
        lines.push(format!("counter      {} {count}", safe(name)));
    }
    for error in errors {
        lines.push(format!("error        {} {}", time::rfc3339(error.at_ms), safe(&error.text)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples;

    #[test]
    fn a_healthy_daemon_is_told_in_a_few_lines() {
        let expected = "\
gatekeeper   0.1.0 on kernel 6.12.0, up 1h 2m
host         host-1, boot 00112233-4455-6677-8899-aabbccddeeff
mode         enforce
policy       4 rules, digest 0123456789abcdef
holds        2 open, 1 requests wait for a reviewer
agent        builder: /gatekeeper/builder/1
programs     2 of 2 attached
ring         4194304 bytes, 3 records did not fit
log          /var/lib/gatekeeper/log, 99 records, healthy
channel      ops-room (matrix), shows 1 requests, PROBLEM: the server cannot be reached
counter      holds 12
error        2023-11-14T22:13:20Z a test error";
        assert_eq!(lines(&samples::status()).join("\n"), expected);
    }

    #[test]
    fn what_is_wrong_stands_out() {
        let mut report = samples::status();
        report.mode = Mode::Observe;
        report.programs[1].attached = false;
        report.log.problem = Some("disk full".to_owned());
        report.agents.clear();
        let shown = lines(&report).join("\n");
        for part in
            ["OBSERVE ONLY", "1 of 2 attached", "NOT ATTACHED socket_bind", "PROBLEM: disk full", "agents       none"]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
}
