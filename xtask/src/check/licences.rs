//! Licences, banned crates and sources of all dependencies, by what `deny.toml` says.
//!
//! `deny.toml` is written for cargo-deny, which takes longer to build than all of gatekeeper; this reads the part of it
//! that the project uses, so that both agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::checkout::Checkout;
use crate::command;

const FILE: &str = "deny.toml";

/// What the project allows.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    licences: BTreeSet<String>,
    /// Names of banned crates, and why.
    banned: BTreeMap<String, String>,
    registries: BTreeSet<String>,
}

/// One dependency.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// None for the project's own.
    source: Option<String>,
}

/// Checks all dependencies; says how many there are.
///
/// # Errors
/// A dependency breaks a rule, or `deny.toml` cannot be understood.
pub(crate) fn check(checkout: &Checkout) -> Result<String> {
    let path = checkout.root().join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let rules = Rules::parse(&text).with_context(|| FILE.to_owned())?;
    let mut cargo = command::cargo(checkout);
    cargo.args(["metadata", "--format-version", "1", "--all-features", "--locked"]);
    let packages = parse_packages(&command::capture(&mut cargo)?)?;
    let problems: Vec<String> = packages.iter().flat_map(|package| rules.problems(package)).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    Ok(format!("{} packages", packages.len()))
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let file: toml::Table = text.parse().context("not valid TOML")?;
        let strings = |table: &str, key: &str| -> Result<BTreeSet<String>> {
            let list = file.get(table).and_then(|table| table.get(key)).and_then(toml::Value::as_array);
            let list = list.ok_or_else(|| anyhow!("[{table}] needs a list `{key}`"))?;
            let string = |item: &toml::Value| item.as_str().map(str::to_owned);
            list.iter()
                .map(|item| string(item).ok_or_else(|| anyhow!("[{table}] `{key}` holds a non-string")))
                .collect()
        };
        let mut banned = BTreeMap::new();
        let list = file.get("bans").and_then(|bans| bans.get("deny")).and_then(toml::Value::as_array);
        for entry in list.ok_or_else(|| anyhow!("[bans] needs a list `deny`"))? {
            let field = |name| entry.get(name).and_then(toml::Value::as_str).map(str::to_owned);
            let (Some(name), Some(reason)) = (field("crate"), field("reason")) else {
                bail!("each entry of [bans] `deny` needs `crate` and `reason`");
            };
            banned.insert(name, reason);
        }
        Ok(Self { licences: strings("licenses", "allow")?, banned, registries: strings("sources", "allow-registry")? })
    }

    fn problems(&self, package: &Package) -> Vec<String> {
        let Package { name, version, .. } = package;
        let mut problems = Vec::new();
        match &package.licence {
            None => problems.push(format!("{name} {version}: declares no licence; choose another crate")),
            Some(licence) => match is_allowed(licence, &|word| self.licences.contains(word)) {
                Ok(true) => {}
                Ok(false) => problems.push(format!(
                    "{name} {version}: its licence is {licence}, which [licenses] of {FILE} does not allow; \
                     choose another crate, or allow it there after reading it"
                )),
                Err(error) => {
                    problems.push(format!("{name} {version}: cannot read its licence \"{licence}\": {error}"))
                }
            },
        }
        if let Some(reason) = self.banned.get(name) {
            problems.push(format!("{name} {version}: banned by [bans] of {FILE}: {reason}"));
        }
        if let Some(source) = &package.source
            && !self.registries.iter().any(|registry| source.strip_prefix("registry+") == Some(registry))
        {
            problems.push(format!("{name} {version}: comes from {source}, which [sources] of {FILE} does not allow"));
        }
        problems
    }
}

fn parse_packages(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cannot understand `cargo metadata`")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let package = |package: &Value| {
        Some(Package {
            name: text(&package["name"])?,
            version: text(&package["version"])?,
            licence: text(&package["license"]),
            source: text(&package["source"]),
        })
    };
    packages.iter().map(|entry| package(entry).context("`cargo metadata` lists a package without a name")).collect()
}

/// Whether an SPDX expression can be satisfied by allowed licences. `A/B` is the old way to write `A OR B`.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let result = parser.alternatives()?;
    if !parser.words.is_empty() {
        bail!("unexpected {:?}", parser.words[0]);
    }
    Ok(result)
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a dyn Fn(&str) -> bool,
}

impl<'a> Parser<'a> {
    fn alternatives(&mut self) -> Result<bool> {
        let mut result = self.conjunction()?;
        while self.accept("OR") {
            result |= self.conjunction()?;
        }
        Ok(result)
    }

    fn conjunction(&mut self) -> Result<bool> {
        let mut result = self.licence()?;
        while self.accept("AND") {
            result &= self.licence()?;
        }
        Ok(result)
    }

    fn licence(&mut self) -> Result<bool> {
        if self.accept("(") {
            let result = self.alternatives()?;
            if !self.accept(")") {
                bail!("a parenthesis is not closed");
            }
            return Ok(result);
        }
        let name = self.next()?;
        if ["AND", "OR", "WITH", ")"].contains(&name) {
            bail!("unexpected {name:?}");
        }
        if self.accept("WITH") {
            let exception = self.next()?;
            return Ok((self.allowed)(&format!("{name} WITH {exception}")));
        }
        Ok((self.allowed)(name))
    }

    fn accept(&mut self, word: &str) -> bool {
        let accepted = self.words.first() == Some(&word);
        if accepted {
            self.words = &self.words[1..];
        }
        accepted
    }

    fn next(&mut self) -> Result<&'a str> {
        let (word, rest) = self.words.split_first().ok_or_else(|| anyhow!("it ends too early"))?;
        self.words = rest;
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(expression: &str) -> Result<bool> {
        is_allowed(expression, &|word| ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].contains(&word))
    }

    #[test]
    fn expressions_are_weighed() {
        for fine in [
            "MIT",
            "Apache-2.0 OR MIT",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(allowed(fine).unwrap(), "{fine}");
        }
        for bad in ["Apache-2.0", "MIT AND GPL-3.0-only", "GPL-3.0-only OR (MIT AND Apache-2.0)", "MIT WITH x"] {
            assert!(!allowed(bad).unwrap(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for broken in ["", "MIT OR", "(MIT", "MIT MIT", "AND MIT", "MIT WITH", ")"] {
            assert!(allowed(broken).is_err(), "{broken:?}");
        }
    }

    fn rules() -> Rules {
        Rules::parse(
            "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"bad\", reason = \"it is\" }]\n\
             [sources]\nallow-registry = [\"https://r\"]\n",
        )
        .unwrap()
    }

    fn problems(name: &str, licence: Option<&str>, source: Option<&str>) -> String {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let package =
            Package { name: name.into(), version: "1.0.0".into(), licence: owned(licence), source: owned(source) };
        rules().problems(&package).join("\n")
    }

    #[test]
    fn each_rule_is_enforced() {
        assert_eq!(problems("good", Some("MIT"), Some("registry+https://r")), "");
        assert_eq!(problems("own", Some("MIT"), None), "");
        assert!(problems("good", Some("GPL-3.0-only"), None).contains("does not allow"));
        assert!(problems("good", None, None).contains("no licence"));
        assert!(problems("bad", Some("MIT"), None).contains("it is"));
        assert!(problems("good", Some("MIT"), Some("git+https://r")).contains("comes from git+https://r"));
    }

    #[test]
    fn incomplete_rules_are_refused() {
        for text in ["", "[licenses]\nallow = 1", "[licenses]\nallow = [\"MIT\"]\n[bans]\ndeny = [{ crate = \"x\" }]"] {
            assert!(Rules::parse(text).is_err(), "{text}");
        }
    }
}
