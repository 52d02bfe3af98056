//! What agents are told about their own actions: kept in memory for `gatekeeper why`, and written to the run's file.
//!
//! Which run an action belongs to is found out while the action waits; its process may be gone when it ends. Nothing of one
//! run is ever told to another, and everything is bounded, because an agent chooses how often it is denied.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
};

use super::{core::Daemon, notice_files::NoticeFiles};
use crate::{
    action::{Action, Task},
    broker::{self, Change, RunScope},
    channel::card,
    control::protocol::{CallError, ErrorCode},
    kernel::events::Held,
    request::{Decider, Notice, NoticeKind, Request, RequestId, State},
};

/// Notices that are kept of one run, and that one answer has.
const PER_RUN: usize = 50;
const PER_ANSWER: usize = 20;
/// Runs whose notices are kept. Those of which nothing was heard for longest are forgotten first.
const RUNS: usize = 256;
/// Notices about what no reviewer was asked about, for each run and second: an agent can cause any number.
const UNASKED_PER_SECOND: u32 = 20;
/// Characters of an action.
const ACTION_CHARACTERS: usize = 1_000;

/// What was told to one run.
#[derive(Debug, Default)]
struct RunNotices {
    notices: VecDeque<Notice>,
    /// The second in which the latest unasked notices came, and how many.
    second: (u64, u32),
    /// When something was told last, milliseconds since the epoch.
    at_ms: u64,
}

/// What was told to all of them.
#[derive(Debug, Default)]
pub(super) struct Notices {
    runs: BTreeMap<RunScope, RunNotices>,
    /// The run of each open request.
    asking: HashMap<RequestId, RunScope>,
    /// Where the files are; none if they cannot be made.
    pub(super) files: Option<NoticeFiles>,
}

impl Notices {
    /// The run that an open request belongs to.
    pub(super) fn run_of(&self, request: RequestId) -> Option<&RunScope> {
        self.asking.get(&request)
    }

    /// Keeps a notice. `false`: there are too many.
    fn keep(&mut self, run: &RunScope, notice: &Notice) -> bool {
        if !self.runs.contains_key(run) && self.runs.len() >= RUNS {
            let oldest = self.runs.iter().min_by_key(|(_, kept)| kept.at_ms).map(|(run, _)| run.clone());
            oldest.and_then(|oldest| self.runs.remove(&oldest));
        }
        let kept = self.runs.entry(run.clone()).or_default();
        if notice.request.is_none() {
            let second = notice.at_ms / 1_000;
            kept.second = if kept.second.0 == second { (second, kept.second.1.saturating_add(1)) } else { (second, 1) };
            if kept.second.1 > UNASKED_PER_SECOND {
                return false;
            }
        }
        if kept.notices.len() == PER_RUN {
            kept.notices.pop_front();
        }
        kept.at_ms = notice.at_ms;
        kept.notices.push_back(notice.clone());
        true
    }

    /// What a run is told: the latest, oldest first. Without a run (reviewers), what all runs are.
    fn told(&self, run: Option<&RunScope>, waiting: Vec<Notice>, id: Option<RequestId>) -> Vec<Notice> {
        let of_runs = self.runs.iter().filter(|(known, _)| run.is_none_or(|run| run == *known));
        let ended = of_runs.flat_map(|(_, kept)| kept.notices.iter().cloned());
        let mut all: Vec<_> = ended
            .chain(waiting)
            .filter(|notice| id.map_or(notice.outcome.is_obstacle(), |id| notice.request == Some(id)))
            .collect();
        all.sort_by_key(|notice| notice.at_ms);
        all.split_off(all.len().saturating_sub(PER_ANSWER))
    }
}

fn action_line(action: &Action) -> String {
    card::action_line(action).chars().take(ACTION_CHARACTERS).collect()
}

impl Daemon {
    /// A request is new or has ended: its run is found out, or told.
    pub(super) fn notice_request(&mut self, request: &Request, change: Change) {
        match change {
            Change::Asked => {
                if let Some(run) = self.run_scope(&request.task) {
                    self.notices.asking.insert(request.id, run);
                }
            }
            Change::Ended => {
                let Some(run) = self.notices.asking.remove(&request.id) else { return };
                let notice = Notice::of(request, action_line(&request.action), self.now().wall_ms);
                self.tell_run(&run, &request.action.agent, &notice);
            }
            _ => {}
        }
    }

    /// A rule decided without asking: what it denies is told.
    pub(super) fn notice_rule(&mut self, held: &Held, outcome: &broker::Outcome) {
        let broker::Outcome::Deny { by: Decider::Rule { name }, .. } = outcome else { return };
        if !self.broker.is_new(held.hold) {
            return;
        }
        let reason = self.config.policy.rules().iter().find(|rule| rule.name == *name).and_then(|r| r.reason.clone());
        self.notice_unasked(&held.task, &held.action, NoticeKind::Rule, Some(name.clone()), reason);
    }

    /// Something was denied about which no reviewer was asked.
    pub(super) fn notice_unasked(
        &mut self,
        task: &Task,
        action: &Action,
        outcome: NoticeKind,
        rule: Option<String>,
        reason: Option<String>,
    ) {
        let Some(run) = self.run_scope(task) else { return };
        let (action_text, at_ms) = (action_line(action), self.now().wall_ms);
        let notice = Notice { outcome, request: None, rule, action: action_text, reason, at_ms };
        self.tell_run(&run, &action.agent, &notice);
    }

    fn tell_run(&mut self, run: &RunScope, agent: &str, notice: &Notice) {
        if !self.notices.keep(run, notice) {
            return;
        }
        let cgroup = String::from_utf8_lossy(run.cgroup.bytes());
        let Some(files) = &self.notices.files else { return };
        let Some(name) = self.agents.reasons_file(agent, &cgroup) else { return };
        let Ok(line) = serde_json::to_string(notice) else { return };
        if let Err(err) = files.append(name, &line) {
            let path = files.path(name);
            self.error(format!("{} cannot be written, so the agent is not told: {err}", path.display()));
        }
    }

    /// Makes the directory of the files, and removes those that belong to no run any more.
    pub(super) fn open_notice_files(&mut self) {
        let runtime = self.config.paths.runtime.clone();
        let opened = NoticeFiles::open(&runtime).and_then(|files| {
            files.keep_only(&self.agents.reasons_files())?;
            Ok(files)
        });
        match opened {
            Ok(files) => self.notices.files = Some(files),
            Err(err) => self.error(format!("agents get no files with reasons below {}: {err}", runtime.display())),
        }
    }

    /// A file for a new run, by its name; none if that cannot be had, and then the run does without.
    pub(super) fn make_notice_file(&mut self) -> Option<String> {
        match self.notices.files.as_ref()?.create() {
            Ok(name) => Some(name),
            Err(err) => {
                self.error(format!("a run gets no file with reasons: {err}"));
                None
            }
        }
    }

    /// A run has ended, and nobody reads its file any more.
    pub(super) fn remove_notice_file(&mut self, name: &str) {
        if let Some(files) = &self.notices.files
            && let Err(err) = files.remove(name)
        {
            self.error(format!("the file {name} of an ended run cannot be removed: {err}"));
        }
    }

    /// Forgets what was told to runs that are gone.
    pub(super) fn forget_gone_runs(&mut self) {
        let root = self.agents.cgroup_root().to_owned();
        self.notices.runs.retain(|run, _| {
            let path = root.join(String::from_utf8_lossy(run.cgroup.bytes()).trim_start_matches('/'));
            fs::metadata(path).is_ok_and(|found| std::os::unix::fs::MetadataExt::ino(&found) == run.cgroup_id)
        });
    }

    /// The answer to `gatekeeper why`: for an agent's process, whose cgroup is `inside`, only what concerns its own run.
    pub(super) fn why(&self, inside: Option<&str>, id: Option<RequestId>) -> Result<Vec<Notice>, CallError> {
        let run = match inside {
            Some(cgroup) => Some(self.scope_of(cgroup).ok_or_else(|| {
                CallError::new(
                    ErrorCode::NotPermitted,
                    "it cannot be told which run of an agent this process belongs to",
                )
            })?),
            None => None,
        };
        let is_own = |request: &Request| run.is_none() || self.notices.run_of(request.id) == run.as_ref();
        let waiting = self.broker.open_requests().filter(|request| is_own(request) && !request.state.is_final());
        let waiting = waiting
            .filter(|request| matches!(request.state, State::Pending | State::Decided))
            .map(|request| Notice::of(request, action_line(&request.action), request.held_at_ms));
        let told = self.notices.told(run.as_ref(), waiting.collect(), id);
        match id {
            Some(id) if told.is_empty() => Err(super::calls::no_such_request(id)),
            _ => Ok(told),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Text;

    fn run(number: u64) -> RunScope {
        RunScope { cgroup: Text::from("/gatekeeper/a/run-1"), cgroup_id: number }
    }

    fn notice(outcome: NoticeKind, hold: Option<u64>, at_ms: u64) -> Notice {
        let request = hold.map(|hold| RequestId::new(1, hold));
        Notice { outcome, request, rule: None, action: "exec".to_owned(), reason: None, at_ms }
    }

    #[test]
    fn a_run_is_told_about_itself_only() {
        let mut notices = Notices::default();
        let (own, other) = (notice(NoticeKind::Denied, Some(1), 1), notice(NoticeKind::Denied, Some(2), 2));
        assert!(notices.keep(&run(1), &own) && notices.keep(&run(2), &other));
        assert_eq!(notices.told(Some(&run(1)), Vec::new(), None), std::slice::from_ref(&own));
        assert_eq!(notices.told(Some(&run(1)), Vec::new(), other.request), []);
        assert_eq!(notices.told(Some(&run(3)), Vec::new(), None), []);
        assert_eq!(notices.told(None, Vec::new(), None), [own, other]);
    }

    #[test]
    fn what_went_on_is_told_only_when_asked_for() {
        let mut notices = Notices::default();
        let released = notice(NoticeKind::Released, Some(1), 1);
        notices.keep(&run(1), &released);
        assert_eq!(notices.told(Some(&run(1)), Vec::new(), None), []);
        assert_eq!(notices.told(Some(&run(1)), Vec::new(), released.request), [released]);
        let waiting = notice(NoticeKind::Pending, Some(2), 2);
        assert_eq!(notices.told(Some(&run(1)), vec![waiting.clone()], None), [waiting]);
    }

    #[test]
    fn everything_is_bounded() {
        let mut notices = Notices::default();
        let kept = (0..100).filter(|_| notices.keep(&run(0), &notice(NoticeKind::Rule, None, 1_500))).count();
        assert_eq!(kept, UNASKED_PER_SECOND as usize);
        assert!(notices.keep(&run(0), &notice(NoticeKind::Rule, None, 2_000)), "the next second");
        assert!(
            notices.keep(&run(0), &notice(NoticeKind::Denied, Some(1), 1_500)),
            "a person's word is never left out"
        );
        for number in 0..1_000 {
            notices.keep(&run(number), &notice(NoticeKind::Denied, Some(number), 3_000 + number));
            notices.keep(&run(5_000), &notice(NoticeKind::Denied, Some(number), 3_000 + number));
        }
        assert_eq!(notices.runs.len(), RUNS);
        assert!(notices.runs.values().all(|kept| kept.notices.len() <= PER_RUN));
        assert_eq!(notices.told(None, Vec::new(), None).len(), PER_ANSWER);
        assert!(!notices.runs.contains_key(&run(0)) && notices.runs.contains_key(&run(999)), "the oldest go first");
    }
}
