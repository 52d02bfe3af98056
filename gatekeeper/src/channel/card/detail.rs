//! Everything that is known about a request, in labelled lines. Nothing is left out or cut here.

use super::{
    Needs, action,
    action::{action_line, quoted_all},
    time,
};
use crate::{
    action::{Object, Target},
    request::{Ancestor, Ask, Context, Decider, Decision, Effect, GrantLength, Request, Risk, State, Vote},
    text::Text,
};

/// Arguments up to this many characters stay in one line.
const ONE_LINE: usize = 60;

/// The name of a state.
pub fn state_name(state: &State) -> &'static str {
    match state {
        State::Pending => "pending",
        State::Decided => "decided",
        State::Released => "released",
        State::Denied => "denied",
        State::TimedOut => "timed out",
        State::Withdrawn => "withdrawn",
        State::Superseded => "superseded",
    }
}

/// The name of a risk.
pub fn risk_name(risk: Risk) -> &'static str {
    match risk {
        Risk::Low => "low",
        Risk::Medium => "medium",
        Risk::High => "high",
        Risk::Critical => "critical",
    }
}

/// Text from a person or a file, made safe for a terminal.
pub fn safe(text: &str) -> String {
    Text::from(text).to_string()
}

/// Who acts, for people.
pub fn user(request: &Request) -> String {
    request.context.user.as_deref().map_or_else(|| format!("uid {}", request.action.uid), safe)
}

/// A line of the whole description: a label, or none where the line belongs to the one above, and a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Empty where the line belongs to the one above.
    pub label: &'static str,
    /// Safe to show: what an agent chose is escaped.
    pub text: String,
}

/// Columns of the labels and the space behind them.
pub const LABEL_COLUMNS: usize = 13;

/// Collects lines.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn add(&mut self, label: &'static str, text: impl Into<String>) {
        self.0.push(Line { label, text: text.into() });
    }

    fn add_some(&mut self, label: &'static str, text: Option<String>) {
        if let Some(text) = text {
            self.add(label, text);
        }
    }

    /// A label once, then a line for each.
    fn add_each(&mut self, label: &'static str, texts: impl IntoIterator<Item = String>) {
        for (position, text) in texts.into_iter().enumerate() {
            self.add(if position == 0 { label } else { "" }, text);
        }
    }

    /// Arguments: in one line when that is short, else one per line with its number.
    fn add_arguments(&mut self, label: &'static str, arguments: &[Text]) {
        let line = quoted_all(arguments);
        if line.chars().count() <= ONE_LINE {
            self.add(label, line);
        } else {
            let numbered = arguments.iter().enumerate();
            self.add_each(label, numbered.map(|(number, argument)| format!("[{number}] {}", action::quoted(argument))));
        }
    }
}

/// Everything that is known about a request.
pub fn detail(request: &Request, now_ms: u64) -> Vec<Line> {
    // Exhaustive, so that whoever adds a field decides here whether people see it.
    let Request {
        id,
        hold,
        task,
        action: what,
        context,
        ask,
        held_at_ms,
        deadline_ms,
        state,
        decision,
        votes,
        escalated: _,
        extended,
    } = request;
    let mut lines = Lines::default();
    lines.add("request", format!("{id}, {}", state_name(state)));
    if let Some(decision) = decision {
        add_decision(&mut lines, decision);
    }
    add_target(&mut lines, request);
    let Ask {
        rule,
        deadline: _,
        danger_allow_on_timeout,
        risk,
        reason,
        quorum: _,
        escalation,
        danger_self_review,
        comment: _,
        second_factor: _,
        grants,
    } = ask;
    lines.add("rule", format!("{}, risk {}", safe(rule), risk_name(*risk)));
    lines.add_some("why it asks", reason.as_deref().map(safe));
    if let Some(quorum) = request.quorum() {
        let left = escalation.len().saturating_sub(usize::try_from(request.escalated).unwrap_or(usize::MAX));
        let later = if left == 0 { String::new() } else { format!(" ({left} more to ask later)") };
        lines.add("asks", format!("{quorum}{later}"));
    }
    let needs = Needs::of(ask);
    lines.add_some("to approve", needs.to_approve(*id));
    lines.add_some("to deny", needs.to_deny());
    lines.add_each("approved by", votes.iter().map(vote_line));
    if *danger_self_review {
        lines.add("beware", "the rule lets people decide about agents of their own");
    }
    lines.add_some("may be for", offered(grants));
    lines.add("held", format!("{} ({} ago)", time::rfc3339(*held_at_ms), time::age(*held_at_ms, now_ms)));
    let then = if *danger_allow_on_timeout { "then ALLOWED" } else { "then denied" };
    let left =
        if state.is_final() { String::new() } else { format!(" ({} left, {then})", time::left(*deadline_ms, now_ms)) };
    let moved = if *extended == 0 { String::new() } else { format!(", moved {extended} times") };
    lines.add("deadline", format!("{}{left}{moved}", time::rfc3339(*deadline_ms)));

    let Context {
        exe,
        args,
        cwd,
        env,
        ancestry,
        cgroup,
        unit,
        container,
        terminal,
        user: _,
        login_user,
        sha256,
        interpreter,
        script,
        intent,
        labels,
        gaps,
    } = context;
    lines.add("agent", safe(&what.agent));
    lines.add_some("intent", intent.as_deref().map(safe));
    lines.add_each("labels", labels.iter().map(|(name, value)| format!("{}={}", safe(name), safe(value))));
    let login = match (login_user, task.login_uid) {
        (Some(name), Some(uid)) => format!(", logged in as {} (uid {uid})", safe(name)),
        (None, Some(uid)) => format!(", logged in as uid {uid}"),
        (_, None) => String::new(),
    };
    let real = if task.real_uid == what.uid { String::new() } else { format!(", real uid {}", task.real_uid) };
    lines.add("user", format!("{} (uid {}, gid {}){real}{login}", user(request), what.uid, what.gid));
    lines.add(
        "process",
        format!("{} {}, thread {}, parent {}", task.pid, action::quoted(&task.comm), task.tid, task.parent),
    );
    lines.add_some("runs now", exe.as_ref().map(action::quoted));
    if !args.is_empty() {
        lines.add_arguments("started as", args);
    }
    lines.add_some("directory", cwd.as_ref().map(action::quoted));
    lines.add_each("ancestry", ancestry.iter().map(ancestor_line));
    lines.add_some("cgroup", cgroup.as_ref().map(Text::to_string));
    lines.add_some("unit", unit.as_ref().map(Text::to_string));
    lines.add_some("container", container.as_ref().map(Text::to_string));
    lines.add_some("terminal", terminal.as_ref().map(Text::to_string));
    lines.add_some("session", task.session.map(|session| session.to_string()));
    lines.add_some("sha256", sha256.as_deref().map(safe));
    lines.add_some("interpreter", interpreter.as_ref().map(action::quoted));
    if let Some(script) = script {
        let text = script.bytes().strip_suffix(b"\n").unwrap_or(script.bytes());
        lines.add_each("script", text.split(|byte| *byte == b'\n').map(|line| format!("| {}", Text::from(line))));
    }
    lines.add_each("context env", env.iter().map(Text::to_string));
    if let Target::Program { env, .. } = &what.target {
        lines.add_each("new env", env.iter().map(Text::to_string));
    }
    lines.add("digest", safe(&what.digest));
    lines.add("hold", format!("{hold}, cgroup id {}, task started {} ns after boot", task.cgroup, task.start_ns));
    lines.add_each("not known", gaps.iter().map(|gap| safe(gap)));
    lines.0
}

/// What approving for longer than once would mean, where the rule offers it.
fn offered(grants: &[GrantLength]) -> Option<String> {
    let (last, first) = grants.split_last()?;
    let first: Vec<_> = first.iter().map(|length| format!("{}, ", length.in_words())).collect();
    let or = if first.is_empty() { "" } else { "or " };
    Some(format!("the same action by the same agent run, {}{or}{}", first.concat(), last.in_words()))
}

fn vote_line(vote: &Vote) -> String {
    let Vote { by, groups, reason, grant, at_ms } = vote;
    let groups: Vec<_> = groups.iter().map(|group| safe(group)).collect();
    let groups = if groups.is_empty() { String::new() } else { format!(" ({})", groups.join(", ")) };
    let reason = reason.as_deref().map_or_else(String::new, |reason| format!(": {}", safe(reason)));
    let grant = grant.map_or_else(String::new, |length| format!(" {}", length.in_words()));
    format!("{}{groups}{grant}, {}{reason}", decider(by), time::rfc3339(*at_ms))
}

/// Who decided.
fn decider(by: &Decider) -> String {
    match by {
        Decider::Reviewer { name, channel, account, evidence } => {
            let message = evidence.as_deref().and_then(|evidence| evidence.message.as_ref());
            let message = message.map_or_else(String::new, |message| format!(", message {}", safe(&message.0)));
            let signed = if by.is_signed() { ", signed" } else { "" };
            format!("{} ({} account {}{message}{signed})", safe(name), safe(channel), safe(account))
        }
        Decider::Rule { name } => format!("rule {}", safe(name)),
        Decider::Grant { id, by } => format!("grant {id}, given by {}", safe(&by.join(" and "))),
        Decider::NoRule => "no rule matched".to_owned(),
        Decider::Deadline => "the deadline".to_owned(),
        Decider::Daemon => "gatekeeper itself".to_owned(),
    }
}

fn add_decision(lines: &mut Lines, decision: &Decision) {
    let Decision { effect, by, reason, grant, at_ms } = decision;
    let effect = match effect {
        Effect::Allow => "allow".to_owned(),
        Effect::Deny { errno } => format!("deny with errno {errno}"),
    };
    let grant = grant.map_or_else(String::new, |length| format!(" {}", length.in_words()));
    lines.add("decision", format!("{effect}{grant}, by {}, {}", decider(by), time::rfc3339(*at_ms)));
    lines.add_some("its reason", reason.as_deref().map(safe));
}

fn add_target(lines: &mut Lines, request: &Request) {
    let what = &request.action;
    match &what.target {
        Target::Program { path, called, args, env: _, interpreter, cwd: _ } => {
            lines.add("action", format!("{} {}", what.kind, action::quoted(path)));
            let role = if *interpreter { "script" } else { "called as" };
            lines.add(role, action::quoted(called));
            lines.add_arguments("arguments", args);
        }
        Target::File { .. } | Target::Socket { .. } => lines.add("action", action_line(what)),
    }
    lines.add_some("object", what.object.as_ref().map(object_line));
    match &what.target {
        Target::Program { cwd: Some(cwd), .. } => lines.add("started in", object_line(cwd)),
        Target::File { other: Some(other), new_path: Some(_), .. } => lines.add("replaces", object_line(other)),
        Target::File { other: Some(other), new_path: None, .. } => lines.add("within", object_line(other)),
        _ => {}
    }
    if what.foreign_mount {
        lines.add("beware", "the path leads over a mount that this host may know under another name");
    }
}

fn object_line(object: &Object) -> String {
    let Object { dev, ino, generation, mode, uid, nlink, size, ctime_ns } = object;
    let content = match (size, ctime_ns) {
        (0, 0) => String::new(),
        (size, ctime_ns) => format!(", {size} bytes, changed {}", time::rfc3339(ctime_ns / 1_000_000)),
    };
    let (major, minor) = (dev >> 20, dev & 0xf_ffff);
    format!(
        "device {major}:{minor}, inode {ino} (generation {generation}), mode {mode:06o}, owner {uid}, names {nlink}{content}"
    )
}

fn ancestor_line(ancestor: &Ancestor) -> String {
    let Ancestor { pid, exe, args } = ancestor;
    let exe = exe.as_ref().map_or_else(|| "?".to_owned(), action::quoted);
    if args.is_empty() { format!("{pid} {exe}") } else { format!("{pid} {exe}: {}", quoted_all(args)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::samples;

    fn shown(request: &Request) -> String {
        let lines = detail(request, request.held_at_ms + 65_000);
        lines.iter().map(|Line { label, text }| format!("{label:<LABEL_COLUMNS$}{text}\n")).collect()
    }

    #[test]
    fn the_whole_request_is_shown() {
        let expected = "\
request      0000-14YQ, pending
action       exec /usr/bin/git
called as    git
arguments    git push --force \"a b\\nc\"
object       device 8:1, inode 42 (generation 1), mode 100755, owner 0, names 1, 9000 bytes, changed 1970-01-01T00:00:00Z
started in   device 8:1, inode 42 (generation 1), mode 100755, owner 0, names 1, 9000 bytes, changed 1970-01-01T00:00:00Z
rule         git-push, risk high
why it asks  pushes leave this host
held         2023-11-14T22:13:20Z (1m 5s ago)
deadline     2023-11-14T22:18:20Z (3m 55s left, then denied)
agent        builder
intent       publish the release
labels       ticket=OPS-7
user         dev (uid 1000, gid 1000), logged in as dev (uid 1000)
process      4000 \"ba\\x1b[2Jsh\", thread 4001, parent 3999
runs now     /bin/bash
started as   bash -c \"git push --force\"
directory    /home/dev/project
ancestry     3999 /usr/bin/node: node agent.js
             1 ?
cgroup       /gatekeeper/builder/1
session      3
sha256       ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
context env  PATH=/usr/bin
new env      PATH=/usr/bin
             HOME=/home/dev
digest       00112233445566778899aabbccddeeff
hold         1, cgroup id 88, task started 77 ns after boot
";
        let id = samples::request(1).id.to_string();
        assert_eq!(shown(&samples::request(1)), expected.replace("0000-14YQ", &id));
    }

    #[test]
    fn long_arguments_have_a_line_each_and_nothing_is_cut() {
        let mut request = samples::request(1);
        let long = "x".repeat(5_000);
        let Target::Program { args, .. } = &mut request.action.target else { unreachable!("the sample is an exec") };
        args.push(Text::from(&*long));
        request.context.script = Some(Text::from("#!/bin/sh\nrm -rf \x1b[8m/\n"));
        let shown = shown(&request);
        assert!(shown.contains(&format!("             [4] {long}\n")));
        assert!(shown.contains("script       | #!/bin/sh\n             | rm -rf \\x1b[8m/\n"));
    }

    #[test]
    fn nothing_that_others_chose_reaches_the_terminal_raw() {
        let mut request = samples::request(1);
        let hostile = "x\x1b]0;y\x07\n\u{202e}z";
        request.context.intent = Some(hostile.to_owned());
        request.context.labels.insert(hostile.to_owned(), hostile.to_owned());
        request.context.gaps.push(hostile.to_owned());
        request.ask.reason = Some(hostile.to_owned());
        request.context.user = Some(hostile.to_owned());
        request.decision = Some(Decision {
            effect: Effect::Allow,
            grant: None,
            by: Decider::Reviewer {
                name: hostile.to_owned(),
                channel: hostile.to_owned(),
                account: hostile.to_owned(),
                evidence: None,
            },
            reason: Some(hostile.to_owned()),
            at_ms: 0,
        });
        for Line { text, .. } in detail(&request, 0) {
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }
}
