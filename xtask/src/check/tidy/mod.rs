//! House rules that no compiler checks.
//!
//! Each rule looks at the text of the checkout's files and reports place, reason and way out. Rules go by words, not by
//! syntax: they are for honest mistakes, and simple enough to trust.

mod arrows;
mod words;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::checkout::Checkout;
use crate::command;

/// A file of the checkout.
#[derive(Debug)]
struct SourceFile {
    /// Relative to the checkout.
    path: String,
    text: String,
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// From one; zero speaks of the whole file.
    line: usize,
    reason: String,
    way_out: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, reason, way_out } = self;
        if *line > 0 {
            write!(f, "{path}:{line}: {reason}; {way_out}")
        } else {
            write!(f, "{path}: {reason}; {way_out}")
        }
    }
}

impl SourceFile {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines and their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Lines of code without line comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    fn finding(&self, line: usize, reason: impl Into<String>, way_out: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, reason: reason.into(), way_out: way_out.into() }
    }
}

/// Checks every file that git tracks or would track; says how many there are.
///
/// # Errors
/// A rule is broken.
pub(crate) fn check(checkout: &Checkout) -> Result<String> {
    let files = files(checkout.root())?;
    let findings = findings(&files, &checkout.root().to_string_lossy());
    if !findings.is_empty() {
        bail!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    Ok(format!("{} files", files.len()))
}

fn findings(files: &[SourceFile], root: &str) -> Vec<Finding> {
    let mut findings = arrows::manifests(files);
    findings.extend(words::changelog(files));
    for file in files {
        findings.extend(arrows::modules(file));
        findings.extend(words::file(file, root));
    }
    findings.sort_by(|one, other| (&one.path, one.line).cmp(&(&other.path, other.line)));
    findings
}

fn files(root: &Path) -> Result<Vec<SourceFile>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut files = Vec::new();
    for path in command::capture(&mut git)?.split('\0').filter(|path| !path.is_empty()) {
        let full = root.join(path);
        // Deleted but not yet committed, or a link to a directory.
        if !full.is_file() {
            continue;
        }
        let bytes = fs::read(&full).with_context(|| format!("cannot read {path}"))?;
        // Binary files have no lines.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path: path.to_owned(), text });
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the rules say about a checkout with just these files, besides that it has no changelog.
    pub(super) fn broken(files: &[(&str, &str)]) -> Vec<String> {
        let mut files: Vec<SourceFile> =
            files.iter().map(|(path, text)| SourceFile { path: (*path).into(), text: (*text).into() }).collect();
        if !files.iter().any(|file| file.path.ends_with("CHANGELOG.md")) {
            files.push(SourceFile { path: "docs/CHANGELOG.md".into(), text: "## Unreleased\n".into() });
        }
        findings(&files, "/home/me/gatekeeper").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_finding_names_place_reason_and_way_out() {
        let finding = Finding { path: "a.rs".into(), line: 3, reason: "why".into(), way_out: "do this".into() };
        assert_eq!(finding.to_string(), "a.rs:3: why; do this");
    }

    #[test]
    fn a_good_checkout_has_no_findings() {
        let files = [
            ("gatekeeper/Cargo.toml", "[package]\nname = \"gatekeeper\"\n[lints]\nworkspace = true\n"),
            ("gatekeeper/src/broker/mod.rs", "use crate::request::Request; // not crate::kernel\n"),
            ("gatekeeper/src/kernel/load.rs", "use aya::Ebpf;\n"),
            ("tests/src/lib.rs", "fn wait_until() {}\n"),
        ];
        assert_eq!(broken(&files), [""; 0]);
    }
}
