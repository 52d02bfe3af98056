//! Tables, JSON and goals.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::Samples;
use crate::measure::Operation;
use crate::profile::Profile;
use crate::stats::{Summary, ratio_bounds};

/// Extra instructions that open+close may cost outside of agents: what AppArmor adds for an unconfined process.
const OUTSIDE_GOAL: u64 = 361;
/// Instructions that a round trip may take with an automatic decider: twice what a tracer takes for two stops.
const ASK_GOAL: u64 = 48_000;

/// Under what an operation is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arm {
    /// The BPF LSM without programs.
    Bare,
    /// An empty program on each of gatekeeper's hooks.
    Empty,
    /// gatekeeper, outside of agents.
    Outside,
    /// gatekeeper, in an agent; no rule can match.
    Agent,
    /// gatekeeper, in an agent; a rule allows, which the daemon finds.
    ByRule,
    /// gatekeeper, in an agent; a program at the control socket approves.
    ByReviewer,
}

impl Arm {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Empty => "empty programs",
            Self::Outside => "outside agents",
            Self::Agent => "agent, no rule matches",
            Self::ByRule => "agent, daemon allows by rule",
            Self::ByReviewer => "agent, program approves",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Empty => "empty",
            Self::Outside => "outside",
            Self::Agent => "agent",
            Self::ByRule => "by_rule",
            Self::ByReviewer => "by_reviewer",
        }
    }
}

/// One line of the table.
struct Row {
    operation: Operation,
    arm: Arm,
    summary: Summary,
    base: Option<Base>,
}

/// How a line compares with the bare kernel.
struct Base {
    delta: i64,
    ratio: f64,
    bounds: (f64, f64),
}

/// Something that must hold.
struct Goal {
    text: String,
    measured: i64,
    limit: u64,
}

impl Goal {
    fn met(&self) -> bool {
        u64::try_from(self.measured).map_or(true, |measured| measured <= self.limit)
    }
}

/// All that was found.
pub(crate) struct Report {
    kernel: String,
    security_modules: String,
    rows: Vec<Row>,
    goals: Vec<Goal>,
}

impl Report {
    /// Sums up.
    ///
    /// # Errors
    /// Something was not measured.
    pub(crate) fn new(samples: &Samples) -> Result<Self> {
        let modules = "/sys/kernel/security/lsm";
        let security_modules = fs::read_to_string(modules).with_context(|| format!("cannot read {modules}"))?;
        let mut rows = Vec::with_capacity(samples.len());
        for (&(operation, arm), found) in samples {
            let summary = Summary::of(found).context("no samples")?;
            let base = match samples.get(&(operation, Arm::Bare)) {
                Some(bare) if arm != Arm::Bare => Some(compare(found, bare)?),
                _ => None,
            };
            rows.push(Row { operation, arm, summary, base });
        }
        let goals = goals(&rows)?;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Self { kernel, security_modules: security_modules.trim().to_owned(), rows, goals })
    }

    /// Whether no goal is missed.
    pub(crate) fn all_met(&self) -> bool {
        self.goals.iter().all(Goal::met)
    }

    /// For people.
    pub(crate) fn text(&self, profile: Option<&Profile>) -> String {
        let mut text = format!(
            "Guest instructions per operation; kernel {}, security modules {}\n\n",
            self.kernel, self.security_modules
        );
        let head = ("operation", "under", "median", "least", "p90", "more than bare", "ratio (95 % confidence)");
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<30} {:<29} {:>8} {:>8} {:>8} {:>15} {}",
            head.0, head.1, head.2, head.3, head.4, head.5, head.6
        );
        let mut last = None;
        for row in &self.rows {
            let operation = if last == Some(row.operation) { "" } else { row.operation.name() };
            last = Some(row.operation);
            let Summary { least, median, p90, .. } = row.summary;
            let _ = write!(text, "{operation:<30} {:<29} {median:>8} {least:>8} {p90:>8}", row.arm.name());
            if let Some(Base { delta, ratio, bounds }) = &row.base {
                let _ = write!(text, " {delta:>+15} {ratio:.4} ({:.4} to {:.4})", bounds.0, bounds.1);
            }
            text.push('\n');
        }
        text.push_str("\nGoals\n");
        for goal in &self.goals {
            let verdict = if goal.met() { "met   " } else { "MISSED" };
            let _ = writeln!(text, "{verdict} {}: {} (at most {})", goal.text, goal.measured, goal.limit);
        }
        if let Some(profile) = profile {
            let _ = writeln!(text, "\nOne round trip with the daemon's rule, while statistics are on");
            let sleeps = profile.daemon_sleeps_tenths;
            let _ = writeln!(text, "whole system call, median     {:>8}", profile.median);
            let _ = writeln!(
                text,
                "daemon, all threads           {:>8}   sleeps {}.{}",
                profile.daemon,
                sleeps / 10,
                sleeps % 10
            );
            for (name, (runs, each)) in &profile.programs {
                let _ = writeln!(text, "program {name:<22} {each:>8}   runs {runs}");
            }
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// For programs.
    ///
    /// # Errors
    /// A number has no JSON form.
    pub(crate) fn json(&self, profile: Option<&Profile>) -> Result<String> {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        let goals: Vec<Value> = self
            .goals
            .iter()
            .map(|goal| json!({ "goal": goal.text, "measured": goal.measured, "limit": goal.limit, "met": goal.met() }))
            .collect();
        let mut value = json!({
            "unit": "guest instructions",
            "kernel": self.kernel,
            "security_modules": self.security_modules,
            "operations": rows,
            "goals": goals,
        });
        if let Some(profile) = profile {
            let programs: Vec<Value> = profile
                .programs
                .iter()
                .map(|(name, (runs, each))| json!({ "program": name, "runs": runs, "each": each }))
                .collect();
            value["profile"] =
                json!({ "round_trip_median": profile.median, "daemon": profile.daemon, "programs": programs });
        }
        serde_json::to_string_pretty(&value).context("the report has no JSON form")
    }
}

fn row_json(row: &Row) -> Value {
    let Summary { least, median, p90, samples, .. } = row.summary;
    let mut value = json!({
        "operation": row.operation.name(),
        "arm": row.arm.key(),
        "median": median,
        "min": least,
        "p90": p90,
        "samples": samples,
    });
    if let Some(base) = &row.base {
        value["delta"] = base.delta.into();
        value["ratio"] = base.ratio.into();
        value["ratio_95"] = json!([base.bounds.0, base.bounds.1]);
    }
    value
}

#[expect(clippy::cast_precision_loss, reason = "instruction counts stay far below 2^52")]
fn compare(found: &[u64], bare: &[u64]) -> Result<Base> {
    let (own, base) = (Summary::of(found).context("no samples")?, Summary::of(bare).context("no samples")?);
    Ok(Base {
        delta: own.median.cast_signed() - base.median.cast_signed(),
        ratio: own.median as f64 / base.median as f64,
        bounds: ratio_bounds(found, bare).context("no samples")?,
    })
}

fn goals(rows: &[Row]) -> Result<Vec<Goal>> {
    let row = |operation: Operation, arm: Arm| {
        rows.iter()
            .find(|row| row.operation == operation && row.arm == arm)
            .with_context(|| format!("{} was not measured under {}", operation.name(), arm.name()))
    };
    let mut goals = Vec::new();
    for operation in [Operation::OpenRead, Operation::OpenWrite] {
        let base = row(operation, Arm::Outside)?.base.as_ref().context("the bare kernel was not measured")?;
        let text = format!("{} outside agents, more than bare", operation.name());
        goals.push(Goal { text, measured: base.delta, limit: OUTSIDE_GOAL });
    }
    let asked = row(Operation::Ask, Arm::ByRule)?.summary.median.cast_signed();
    goals.push(Goal { text: "round trip that the daemon decides by a rule".into(), measured: asked, limit: ASK_GOAL });
    Ok(goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(outside: u64, ask: u64) -> Samples {
        let mut samples = Samples::new();
        for operation in [Operation::OpenRead, Operation::OpenWrite] {
            samples.insert((operation, Arm::Bare), vec![5000; 9]);
            samples.insert((operation, Arm::Outside), vec![5000 + outside; 9]);
        }
        samples.insert((Operation::Ask, Arm::ByRule), vec![ask; 9]);
        samples
    }

    fn goals_of(samples: &Samples) -> Vec<bool> {
        let rows: Vec<Row> = samples
            .iter()
            .map(|(&(operation, arm), found)| Row {
                operation,
                arm,
                summary: Summary::of(found).unwrap(),
                base: samples.get(&(operation, Arm::Bare)).map(|bare| compare(found, bare).unwrap()),
            })
            .collect();
        goals(&rows).unwrap().iter().map(Goal::met).collect()
    }

    #[test]
    fn goals_hold_up_to_their_limit() {
        assert_eq!(goals_of(&samples(361, 48_000)), [true, true, true]);
        assert_eq!(goals_of(&samples(362, 48_001)), [false, false, false]);
    }

    #[test]
    fn what_was_not_measured_is_told() {
        assert!(goals(&[]).is_err_and(|error| error.to_string().contains("was not measured")));
    }
}
