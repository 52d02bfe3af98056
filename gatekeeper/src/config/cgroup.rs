//! Which control groups belong to an agent.

use std::fmt;

use gatekeeper_common::MAX_CGROUP_LEVEL;

use crate::policy::{Fault, Pattern, PatternOf};

/// A path or glob below the cgroup root: `/agents.slice`, `/system.slice/coder-*.service`. What matches is the topmost
/// cgroup of the agent; everything below it belongs to the agent too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPattern(Pattern);

impl CgroupPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, Fault> {
        let pattern = Pattern::new(source, PatternOf::Cgroup)?;
        if source == "/" {
            return Err(Fault::new(
                "the root cgroup holds the whole host, gatekeeper included",
                "name the cgroup of the agent, such as \"/agents.slice\"",
            ));
        }
        let first = pattern.slashes().next().unwrap_or_default();
        if pattern.slashes().any(|level| level != first) {
            return Err(Fault::new(
                "the branches of the braces lie at different depths",
                "write one pattern for each depth",
            ));
        }
        if first > MAX_CGROUP_LEVEL as usize {
            return Err(Fault::new(
                format!("the cgroup lies {first} levels below the root"),
                format!("name one at most {MAX_CGROUP_LEVEL} levels deep"),
            ));
        }
        Ok(Self(pattern))
    }

    /// Whether a cgroup, given by its path below the cgroup root such as `/agents.slice`, is an agent's topmost one.
    pub fn matches(&self, path_below_cgroup_root: &str) -> bool {
        self.0.matches(path_below_cgroup_root.as_bytes())
    }

    /// The deepest cgroup whose path is certain and below which everything that matches lies, such as `/system.slice`,
    /// or `/` for the root. It is where to look for cgroups that match, and to watch for new ones.
    pub fn directory(&self) -> &str {
        let source = self.source();
        let certain = source.find(['*', '?', '[', '{']).unwrap_or(source.len());
        match source[..certain].rfind('/') {
            Some(0) | None => "/",
            Some(at) => &source[..at],
        }
    }

    /// How many levels below the root a match lies: 1 for `/agents.slice`.
    pub fn level(&self) -> usize {
        self.0.slashes().next().unwrap_or_default()
    }

    /// Whether it names exactly one cgroup.
    pub fn is_literal(&self) -> bool {
        self.0.is_literal()
    }

    /// The pattern as it was written.
    pub fn source(&self) -> &str {
        self.0.source()
    }
}

impl fmt::Display for CgroupPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_paths_at_their_level() {
        let pattern = CgroupPattern::new("/system.slice/coder-*.service").expect("good");
        assert!(pattern.matches("/system.slice/coder-1.service"));
        assert!(!pattern.matches("/system.slice/coder-1.service/sub"));
        assert!(!pattern.matches("/system.slice/sshd.service"));
        assert_eq!((pattern.directory(), pattern.level(), pattern.is_literal()), ("/system.slice", 2, false));
    }

    #[test]
    fn literal_patterns_take_systemd_escapes_as_they_are() {
        let pattern = CgroupPattern::new(r"/agents.slice/a\x2db.service").expect("good");
        assert!(pattern.matches(r"/agents.slice/a\x2db.service"));
        assert_eq!((pattern.directory(), pattern.is_literal()), ("/agents.slice", true));
        assert_eq!(CgroupPattern::new("/agents.slice").expect("good").directory(), "/");
        assert_eq!(CgroupPattern::new("/a/*/c").expect("good").directory(), "/a");
    }

    #[test]
    fn impossible_patterns_are_refused() {
        let deep = "/x".repeat(16);
        for bad in ["", "/", "a", "/a/", "/a//b", "/a/../b", "/a/**", "/{a,b/c}", &deep] {
            assert!(CgroupPattern::new(bad).is_err(), "{bad}");
        }
        assert!(CgroupPattern::new(&"/x".repeat(15)).is_ok());
    }
}
