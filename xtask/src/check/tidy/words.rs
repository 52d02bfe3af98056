//! Words that must not be there, and one that must.

use super::{Finding, SourceFile};

/// Longer files do not fit in a head.
const MOST_LINES: usize = 700;
/// Where the text of this file would find itself, the words are put together from parts.
const UNFINISHED: [&str; 2] = [concat!("to", "do!("), concat!("unimple", "mented!(")];
const IGNORED: &str = concat!("#[ig", "nore");
const SLEEPS: [&str; 2] = [concat!("thread::", "sleep"), concat!("time::", "sleep")];
const UNRELEASED: &str = "Unreleased";

/// The rules for single files.
pub(super) fn file(file: &SourceFile, root: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines() {
        if line.contains(root) {
            findings.push(file.finding(
                number,
                "a path of this very checkout",
                "make it relative, or find it out at run time",
            ));
        }
    }
    if file.is_rust() {
        findings.extend(rust(file));
    }
    findings
}

fn rust(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_tests = is_test(&file.path);
    for (number, line) in file.code() {
        // By custom, tests come last in a file.
        in_tests |= line.contains("#[cfg(test)]");
        if UNFINISHED.iter().any(|word| line.contains(word)) {
            findings.push(file.finding(number, "unfinished code", "finish it, or leave the feature out"));
        }
        if line.contains(IGNORED) {
            findings.push(file.finding(number, "a test that does not run", "mend it or remove it"));
        }
        // The harness looks at a condition again and again in one place, with a pause between two looks.
        if in_tests && !file.path.ends_with("tests/src/wait.rs") && SLEEPS.iter().any(|word| line.contains(word)) {
            findings.push(file.finding(
                number,
                "a test sleeps, which is too long on one machine and too short on another",
                "wait for the condition itself",
            ));
        }
    }
    let lines = file.text.lines().count();
    if lines > MOST_LINES {
        findings.push(file.finding(
            0,
            format!("{lines} lines, more than the {MOST_LINES} that fit in a head"),
            "split it where its parts know least about each other",
        ));
    }
    findings
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The changelog has a place for what is not released yet.
pub(super) fn changelog(files: &[SourceFile]) -> Vec<Finding> {
    let way_out = "add a heading `## Unreleased` and say there what changes for users";
    match files.iter().find(|file| file.path == "docs/CHANGELOG.md") {
        None => vec![Finding {
            path: "docs/CHANGELOG.md".into(),
            line: 0,
            reason: "there is no changelog".into(),
            way_out: way_out.into(),
        }],
        Some(file) => {
            let mut headings = file.lines().filter_map(|(_, line)| line.strip_prefix("## "));
            if headings.any(|heading| heading.trim_matches(['[', ']', ' ']) == UNRELEASED) {
                return Vec::new();
            }
            vec![file.finding(0, "the changelog has no section for what is not released yet", way_out)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::broken;
    use super::*;

    fn only(path: &str, text: &str) -> String {
        let broken = broken(&[(path, text)]);
        assert_eq!(broken.len(), 1, "{broken:?}");
        broken.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn unfinished_code_is_found() {
        for word in UNFINISHED {
            assert_eq!(
                only("xtask/src/a.rs", &format!("\n{word})")).split(';').next(),
                Some("xtask/src/a.rs:2: unfinished code")
            );
        }
    }

    #[test]
    fn ignored_tests_are_found() {
        assert!(
            only("xtask/src/a.rs", &format!("{IGNORED}]\nfn a() {{}}\n")).starts_with("xtask/src/a.rs:1: a test that")
        );
    }

    #[test]
    fn sleeping_tests_are_found_and_sleeping_programs_are_not() {
        let [sleep, _] = SLEEPS;
        assert!(only("tests/src/lib.rs", &format!("std::{sleep}(x)")).contains("a test sleeps"));
        assert!(
            only("xtask/src/a.rs", &format!("#[cfg(test)]\nmod tests {{\nstd::{sleep}(x)"))
                .contains("a.rs:3: a test sleeps")
        );
        assert_eq!(broken(&[("xtask/src/a.rs", &format!("std::{sleep}(x)"))]), [""; 0]);
    }

    #[test]
    fn long_files_are_found() {
        assert!(only("xtask/src/a.rs", &"x\n".repeat(MOST_LINES + 1)).contains("701 lines"));
        assert_eq!(broken(&[("xtask/src/a.rs", &"x\n".repeat(MOST_LINES))]), [""; 0]);
    }

    #[test]
    fn paths_of_the_checkout_are_found_in_any_file() {
        assert!(only("README.md", "see /home/me/gatekeeper/target\n").contains("a path of this very checkout"));
    }

    #[test]
    fn the_changelog_has_an_unreleased_section() {
        assert!(only("docs/CHANGELOG.md", "# Changelog\n## 0.1.0\n").contains("no section"));
        assert_eq!(broken(&[("docs/CHANGELOG.md", "## [Unreleased]\n")]), [""; 0]);
        assert!(changelog(&[]).iter().any(|finding| finding.reason == "there is no changelog"));
    }
}
