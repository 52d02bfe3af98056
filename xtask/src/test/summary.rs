//! Counting what libtest says, and saying it in one place at the end.

use std::fmt;

use crate::command::strip_colours;

/// One group of test binaries: the units, or the scenarios on one kernel.
#[derive(Debug)]
pub(crate) struct Suite {
    name: String,
    parts: Vec<Part>,
    problem: Option<String>,
}

/// One test binary.
#[derive(Debug)]
struct Part {
    name: String,
    counts: Option<Counts>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

impl Suite {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), parts: Vec::new(), problem: None }
    }

    /// Takes one line of what cargo and libtest write.
    pub(crate) fn take_line(&mut self, line: &str) {
        let line = strip_colours(line);
        let line = line.trim();
        if let Some(name) = line.strip_prefix("Running ") {
            let name = name.strip_prefix("unittests ").unwrap_or(name);
            // Behind it stands the path of the binary; its file name tells equal sources of several packages apart.
            let (source, binary) = name.split_once(" (").unwrap_or((name, ""));
            let package = binary.trim_end_matches(')').rsplit('/').next().unwrap_or_default();
            let package = package.rsplit_once('-').map_or(package, |(package, _)| package);
            self.parts.push(Part { name: format!("{package} {source}").trim().to_owned(), counts: None });
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.parts.push(Part { name: format!("{name} documentation"), counts: None });
        } else if let Some(counts) = parse_result(line) {
            match self.parts.last_mut() {
                Some(part) if part.counts.is_none() => part.counts = Some(counts),
                // Documentation tests come in several runs under one heading.
                Some(Part { counts: Some(sum), .. }) => sum.add(counts),
                _ => self.parts.push(Part { name: String::new(), counts: Some(counts) }),
            }
        }
    }

    /// Something went wrong besides failed tests; the first reason counts.
    pub(crate) fn fail(&mut self, reason: String) {
        self.problem.get_or_insert(reason);
    }

    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.parts.iter().filter_map(|part| part.counts).for_each(|counts| sum.add(counts));
        sum
    }

    /// What is wrong besides failed tests that are counted already.
    fn uncounted_problem(&self, filtered: bool) -> Option<String> {
        if let Some(part) = self.parts.iter().find(|part| part.counts.is_none()) {
            return Some(format!("{} did not finish", part.name));
        }
        let Counts { passed, failed } = self.counts();
        match &self.problem {
            Some(problem) if failed == 0 => Some(problem.clone()),
            None if passed + failed == 0 && !filtered => Some("no test ran".into()),
            _ => None,
        }
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Reads `test result: ok. 3 passed; 0 failed; …`.
fn parse_result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        let count = counts.split(';').find_map(|part| part.trim().strip_suffix(word))?;
        count.trim().parse().ok()
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")? })
}

/// All suites of one run. Its text ends with the sum, alone on a line.
#[derive(Debug)]
pub(crate) struct Summary {
    suites: Vec<Suite>,
    /// A filter may leave a suite without tests, though not all of them.
    filtered: bool,
}

impl Summary {
    pub(crate) fn new(filtered: bool) -> Self {
        Self { suites: Vec::new(), filtered }
    }

    pub(crate) fn add(&mut self, suite: Suite) {
        self.suites.push(suite);
    }

    pub(crate) fn is_success(&self) -> bool {
        let Counts { passed, failed } = self.counts();
        failed == 0 && passed > 0
    }

    /// Problems that no test result shows count as a failure each.
    fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for suite in &self.suites {
            sum.add(suite.counts());
            sum.failed += usize::from(suite.uncounted_problem(self.filtered).is_some());
        }
        if sum == Counts::default() {
            sum.failed = 1;
        }
        sum
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for suite in &self.suites {
            let Counts { passed, failed } = suite.counts();
            // Worded unlike the sum, which has to be the only line of its kind.
            writeln!(f, "{}: passed {passed}, failed {failed}", suite.name)?;
            for part in &suite.parts {
                if let Some(Counts { passed, failed }) = part.counts.filter(|counts| *counts != Counts::default()) {
                    writeln!(f, "    {}: passed {passed}, failed {failed}", part.name)?;
                }
            }
            if let Some(problem) = suite.uncounted_problem(self.filtered) {
                writeln!(f, "    FAILED: {problem}")?;
            }
        }
        let sum = self.counts();
        if self.suites.iter().all(|suite| suite.counts() == Counts::default()) {
            writeln!(f, "FAILED: no test ran")?;
        }
        writeln!(f, "{} passed, {} failed", sum.passed, sum.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, text: &str) -> Suite {
        let mut suite = Suite::new(name);
        text.lines().for_each(|line| suite.take_line(line));
        suite
    }

    fn summary(suites: Vec<Suite>) -> Summary {
        Summary { suites, filtered: false }
    }

    const TWO: &str = "     Running unittests src/lib.rs (target/debug/deps/gatekeeper-0a1b)\n\
        running 2 tests\n\
        test a ... ok\n\
        test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
    const FAILED: &str = "     Running kernel\n\
        test result: \x1b[31mFAILED\x1b[0m. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out\n";

    #[test]
    fn results_are_summed_up_and_the_sum_stands_alone() {
        let text = summary(vec![suite("units", TWO), suite("kernel 6.1", FAILED)]).to_string();
        assert_eq!(
            text,
            "units: passed 2, failed 0\n    gatekeeper src/lib.rs: passed 2, failed 0\n\
             kernel 6.1: passed 1, failed 3\n    kernel: passed 1, failed 3\n3 passed, 3 failed\n"
        );
    }

    #[test]
    fn a_suite_without_tests_fails() {
        let summary = summary(vec![suite("units", TWO), suite("kernel 6.1", "")]);
        assert!(!summary.is_success());
        assert!(summary.to_string().ends_with("FAILED: no test ran\n2 passed, 1 failed\n"), "{summary}");
    }

    #[test]
    fn a_filter_may_leave_a_suite_without_tests_but_not_all() {
        let filtered = Summary { suites: vec![suite("units", TWO), suite("cli", "")], filtered: true };
        assert!(filtered.is_success());
        let nothing = Summary { suites: vec![suite("cli", "")], filtered: true };
        assert!(!nothing.is_success());
        assert!(nothing.to_string().ends_with("0 passed, 1 failed\n"));
    }

    #[test]
    fn a_binary_that_does_not_finish_fails() {
        let summary = summary(vec![suite("kernel 6.12", &format!("{TWO}     Running kernel\ntest a ... "))]);
        assert!(!summary.is_success());
        assert!(summary.to_string().contains("FAILED: kernel did not finish"), "{summary}");
    }

    #[test]
    fn a_problem_besides_the_tests_fails() {
        let mut broken = suite("kernel 6.12", TWO);
        broken.fail("the guest's kernel broke".into());
        let summary = summary(vec![broken]);
        assert!(!summary.is_success());
        assert!(summary.to_string().ends_with("FAILED: the guest's kernel broke\n2 passed, 1 failed\n"), "{summary}");
    }

    #[test]
    fn other_lines_are_no_results() {
        assert_eq!(parse_result("test result: who knows"), None);
        assert_eq!(parse_result("2 passed; 0 failed"), None);
    }
}
