//! Who may use whom: crates by their manifests, modules of the daemon by the paths in their source.

use super::{Finding, SourceFile};

/// Modules of package gatekeeper, lowest first. A module uses its own layer and lower ones.
const LAYERS: [&[&str]; 6] = [
    &["action", "quorum", "request", "text"],
    &["broker", "policy", "reviewer"],
    &["channel", "clock", "config", "context", "control", "kernel", "provenance"],
    &["daemon"],
    &["cli", "exit"],
    &["main", "lib"],
];
/// Modules that decide: the same inputs give the same result, so they can be tested to the last case.
const PURE: [&str; 6] = ["action", "broker", "policy", "quorum", "request", "reviewer"];
/// What a pure module does not touch.
const IMPURE_WORDS: [&str; 12] = [
    "tokio::",
    "aya::",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::env",
    // Not all of rustix: its error numbers are mere constants.
    "rustix::fs",
    "rustix::net",
    "rustix::process",
    "SystemTime::now",
    "Instant::now",
];
/// Packages of this workspace that another one may depend on.
const PACKAGE_ARROWS: [(&str, &[&str]); 5] = [
    ("gatekeeper", &["gatekeeper-common"]),
    ("gatekeeper-common", &[]),
    ("gatekeeper-ebpf", &["gatekeeper-common"]),
    ("gatekeeper-tests", &["gatekeeper-common"]),
    ("xtask", &[]),
];
const SOURCE: &str = "gatekeeper/src/";

/// Checks every manifest of a member: opted into the workspace's lints, and depending only on who it may.
pub(super) fn manifests(files: &[SourceFile]) -> Vec<Finding> {
    let manifests = files.iter().filter(|file| file.path.ends_with("/Cargo.toml"));
    manifests
        .flat_map(|file| {
            let Ok(manifest) = file.text.parse::<toml::Table>() else {
                return vec![file.finding(0, "not valid TOML", "cargo says more")];
            };
            // Fuzz targets are a workspace of their own: they need another toolchain.
            if manifest.contains_key("workspace") {
                return Vec::new();
            }
            let mut findings = Vec::new();
            let lints = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
            if lints != Some(true) {
                findings.push(file.finding(
                    0,
                    "the crate does not take the workspace's lints",
                    "add `[lints]` with `workspace = true`",
                ));
            }
            let name = manifest.get("package").and_then(|package| package.get("name")).and_then(toml::Value::as_str);
            let Some((name, allowed)) = PACKAGE_ARROWS.iter().find(|(package, _)| Some(*package) == name) else {
                findings.push(file.finding(
                    0,
                    format!("the package {} has no place among the arrows", name.unwrap_or("without a name")),
                    "add it to PACKAGE_ARROWS in xtask/src/check/tidy/arrows.rs",
                ));
                return findings;
            };
            for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
                let dependencies = manifest.get(section).and_then(toml::Value::as_table);
                for dependency in dependencies.into_iter().flatten().map(|(dependency, _)| dependency.as_str()) {
                    let ours = PACKAGE_ARROWS.iter().any(|(package, _)| *package == dependency);
                    if ours && !allowed.contains(&dependency) {
                        let line = file
                            .lines()
                            .find(|(_, line)| line.trim_start().starts_with(dependency))
                            .map_or(0, |(number, _)| number);
                        findings.push(file.finding(
                            line,
                            format!("{name} depends on {dependency}, against the direction of the arrows"),
                            "run it as a program, or move what both need to gatekeeper-common",
                        ));
                    }
                }
            }
            findings
        })
        .collect()
}

/// Checks one source file of the daemon.
pub(super) fn modules(file: &SourceFile) -> Vec<Finding> {
    let Some(inner) = file.path.strip_prefix(SOURCE).filter(|_| file.is_rust()) else { return Vec::new() };
    let module = inner.split(['/', '.']).next().unwrap_or_default();
    let Some(layer) = layer_of(module) else {
        return vec![file.finding(
            0,
            format!("the module {module} has no place among the layers"),
            "add it to LAYERS in xtask/src/check/tidy/arrows.rs",
        )];
    };
    let mut findings = Vec::new();
    for (number, line) in file.code() {
        for used in used_modules(line, depth(inner)) {
            if layer_of(used).is_some_and(|other| other > layer) {
                findings.push(file.finding(
                    number,
                    format!("{module} uses {used}, which is built on top of it"),
                    "pass in what is needed, or move the shared type down",
                ));
            }
        }
        if module != "kernel" && ["aya::", "aya_log::", "aya_obj::"].iter().any(|word| has_path(line, word)) {
            findings.push(file.finding(
                number,
                format!("{module} uses aya, and only kernel may"),
                "give kernel a function that does it, in the daemon's own words",
            ));
        } else if PURE.contains(&module)
            && let Some(word) = IMPURE_WORDS.iter().find(|word| has_path(line, word))
        {
            findings.push(file.finding(
                number,
                format!("{module} uses {}, and it has to do without IO and clock", word.trim_end_matches(':')),
                "take it as an argument, or return an effect for the caller to carry out",
            ));
        }
    }
    findings
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// How many `super` lead from a file to the root of the crate: one for `broker/mod.rs` and `text.rs`.
fn depth(inner: &str) -> usize {
    let folders = inner.matches('/').count();
    if inner.ends_with("/mod.rs") { folders } else { folders + 1 }
}

/// The modules of the crate's root that a line names, by `crate::` or enough `super::`.
fn used_modules(line: &str, depth: usize) -> Vec<&str> {
    let up = "super::".repeat(depth);
    ["crate::", up.as_str()]
        .into_iter()
        .flat_map(|prefix| line.match_indices(prefix).map(move |(at, _)| &line[at + prefix.len()..]))
        .flat_map(|rest| match rest.strip_prefix('{') {
            // `use crate::{request::Request, text}`: each first word in the braces.
            Some(list) => list.split([',', '}']).map(str::trim).map(first_word).collect(),
            None => vec![first_word(rest)],
        })
        .filter(|word| !word.is_empty())
        .collect()
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Whether the line has the path, and not as the end of a longer name.
fn has_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::broken;

    fn only(files: &[(&str, &str)]) -> String {
        let broken = broken(files);
        assert_eq!(broken.len(), 1, "{broken:?}");
        broken.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn a_crate_takes_the_workspaces_lints() {
        let found = only(&[("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n")]);
        assert!(found.starts_with("xtask/Cargo.toml: the crate does not take"), "{found}");
    }

    #[test]
    fn packages_depend_in_one_direction() {
        let manifest = "[package]\nname = \"gatekeeper-common\"\n[lints]\nworkspace = true\n[dependencies]\n\
            gatekeeper.workspace = true\n";
        let found = only(&[("gatekeeper-common/Cargo.toml", manifest)]);
        assert!(found.starts_with("gatekeeper-common/Cargo.toml:6: "), "{found}");
    }

    #[test]
    fn a_new_package_needs_a_place() {
        let manifest = "[package]\nname = \"surprise\"\n[lints]\nworkspace = true\n";
        assert!(only(&[("surprise/Cargo.toml", manifest)]).contains("no place among the arrows"));
    }

    #[test]
    fn modules_use_lower_layers_only() {
        let found = only(&[("gatekeeper/src/broker/mod.rs", "//! Doc.\nuse crate::control::Frame;\n")]);
        assert!(found.starts_with("gatekeeper/src/broker/mod.rs:2: broker uses control"), "{found}");
        assert!(only(&[("gatekeeper/src/text.rs", "use super::daemon::Event;\n")]).contains("text uses daemon"));
        assert!(only(&[("gatekeeper/src/policy/a.rs", "x(super::super::cli::y)\n")]).contains("policy uses cli"));
        assert!(only(&[("gatekeeper/src/kernel/a.rs", "use crate::{request::R, daemon};\n")]).contains("uses daemon"));
    }

    #[test]
    fn a_new_module_needs_a_place() {
        assert!(only(&[("gatekeeper/src/helper.rs", "")]).contains("no place among the layers"));
    }

    #[test]
    fn only_kernel_uses_aya() {
        let found = only(&[("gatekeeper/src/daemon/mod.rs", "\nlet x = aya::maps::Map;\n")]);
        assert!(found.starts_with("gatekeeper/src/daemon/mod.rs:2: daemon uses aya"), "{found}");
    }

    #[test]
    fn pure_modules_touch_nothing() {
        for word in ["std::fs::read(x)", "std::time::Instant::now()", "SystemTime::now()", "tokio::spawn(x)"] {
            let found = only(&[("gatekeeper/src/policy/mod.rs", word)]);
            assert!(found.contains("has to do without IO and clock"), "{found}");
        }
        assert_eq!(broken(&[("gatekeeper/src/policy/mod.rs", "use std::time::Instant;\n")]), [""; 0]);
        assert_eq!(broken(&[("gatekeeper/src/context/mod.rs", "std::fs::read(x)\n")]), [""; 0]);
    }
}
