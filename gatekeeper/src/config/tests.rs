//! Loads: good files, and a table of bad ones with the exact messages.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;

/// The users of these tests.
fn users(name: &str) -> Option<u32> {
    match name {
        "root" => Some(0),
        "www-data" => Some(33),
        _ => None,
    }
}

/// Each `cases/NAME.toml` gives exactly the messages of `cases/NAME.err`; `UPDATE_EXPECT=1` rewrites those.
#[test]
fn bad_files_give_their_message() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/cases");
    let mut cases: Vec<_> = fs::read_dir(&directory)
        .expect("cases")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut differences = String::new();
    for path in cases {
        let name = path.file_name().expect("name").to_str().expect("UTF-8");
        let text = fs::read_to_string(&path).expect("case");
        // A case that begins with `# rule file` is read as one, beside a main file with one agent.
        let loaded = if text.starts_with("# rule file") {
            let main = Source { path: "gatekeeper.toml".into(), text: "[[agent]]\nname = \"coder\"\n".to_owned() };
            let rules = Source { path: name.into(), text };
            load(main, &users, Vec::new(), |_, _, _| Ok(vec![rules]))
        } else {
            Config::from_text(Path::new(name), &text, &users)
        };
        let shown = match loaded {
            Ok((_, warnings)) => {
                let warnings: Vec<_> = warnings.iter().map(|warning| format!("warning: {warning}")).collect();
                format!("{}\n", warnings.join("\n\n"))
            }
            Err(errors) => format!("{errors}\n"),
        };
        let expected_path = path.with_extension("err");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(&expected_path, &shown).expect("write");
            continue;
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            differences += &format!("--- {name}, expected:\n{expected}--- but got:\n{shown}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}(UPDATE_EXPECT=1 rewrites the expectations)");
}

fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = directory.join(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(path, text).expect("write");
}

/// What a load says, with the directory's own name taken out.
fn told(directory: &Path) -> String {
    let told = match Config::load(&directory.join("gatekeeper.toml"), &users) {
        Ok((_, warnings)) => {
            warnings.iter().map(|warning| format!("warning: {warning}")).collect::<Vec<_>>().join("\n\n")
        }
        Err(errors) => errors.to_string(),
    };
    told.replace(directory.to_str().expect("UTF-8"), "DIR")
}

const AGENT: &str = "[[agent]]\nname = \"coder\"\n";

fn rule(name: &str, extra: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\naction = \"exec\"\npath = \"/{name}\"\nverdict = \"ask\"\n{extra}\n")
}

#[test]
fn the_examples_load_without_a_warning() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/gatekeeper.toml");
    let (config, warnings) = Config::load(&path, &users).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["coder", "assistant"]);
    assert_eq!(config.policy.rules().len(), 9);
    assert_eq!(config.control.group.as_deref(), Some("adm"));
}

/// Every TOML block of the documentation is a whole file that loads.
#[test]
fn the_documentation_shows_files_that_load() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (name, least) in [("rules.md", 5), ("configuration.md", 2)] {
        let text = fs::read_to_string(docs.join(name)).expect(name);
        let blocks: Vec<&str> = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(blocks.len() >= least, "{name} has {} blocks", blocks.len());
        for block in blocks {
            let agents = if block.contains("[[agent]]") {
                ""
            } else {
                "[[agent]]\nname = \"coder\"\n[[agent]]\nname = \"builder\"\n"
            };
            let file = format!("{block}\n{agents}");
            Config::from_text(Path::new(name), &file, &users).unwrap_or_else(|errors| panic!("{errors}\n\n{file}"));
        }
    }
}

#[test]
fn an_empty_file_gives_the_documented_defaults() {
    let (config, _) = Config::from_text(Path::new("x.toml"), "", &users).expect("good");
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.paths.state, Path::new("/var/lib/gatekeeper"));
    assert_eq!(config.paths.runtime, Path::new("/run/gatekeeper"));
    assert_eq!(config.paths.bpf, Path::new("/sys/fs/bpf/gatekeeper"));
    assert_eq!(config.paths.cgroup, None);
    let expected = Limits {
        holds: 16_384,
        ring_bytes: 8 << 20,
        prefixes: 65_536,
        ports: 65_536,
        agents: 1024,
        reruns_per_second: 2000,
    };
    assert_eq!(config.limits, expected);
}

#[test]
fn rule_files_follow_the_main_file_sorted_by_name() {
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    write(directory, "gatekeeper.toml", format!("{AGENT}{}", rule("main", "")));
    for name in ["20-b", "10-a", "9-c"] {
        write(directory, &format!("rules.d/{name}.toml"), rule(name, ""));
    }
    write(directory, "rules.d/.hidden.toml", "no TOML");
    write(directory, "rules.d/README", "no TOML");
    let (config, warnings) = Config::load(&directory.join("gatekeeper.toml"), &users).expect("good");
    assert_eq!(warnings, []);
    let names: Vec<_> = config.policy.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["main", "10-a", "20-b", "9-c"]);
}

#[test]
fn rules_take_the_defaults_of_the_main_file() {
    let text = format!(
        "[defaults]\ndeadline = \"90s\"\nerrno = \"EACCES\"\n{AGENT}{}{}",
        rule("ask", "user = [\"www-data\", 1000]"),
        rule("own", "deadline = \"1h\"\ndanger_allow_on_timeout = true\nrisk = \"low\"")
    );
    let (config, _) = Config::from_text(Path::new("x.toml"), &text, &users).expect("good");
    let seconds = |number: usize| match config.policy.rules()[number].verdict {
        crate::policy::RuleVerdict::Ask { deadline, danger_allow_on_timeout, .. } => {
            (deadline.as_secs(), danger_allow_on_timeout)
        }
        _ => panic!("no ask"),
    };
    assert_eq!((seconds(0), seconds(1)), ((90, false), (3600, true)));
    assert_eq!(config.policy.rules()[0].users, Some([33, 1000].into()));
}

#[test]
fn faults_of_all_files_are_told_at_once() {
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    write(directory, "gatekeeper.toml", format!("mode = \"off\"\n{AGENT}"));
    write(directory, "rules.d/a.toml", rule("same", "risk = \"huge\""));
    write(directory, "rules.d/b.toml", "[[rule]\n");
    write(directory, "rules.d/c.toml", rule("same", ""));
    let told = told(directory);
    let places: Vec<_> = told.lines().filter(|line| line.starts_with("DIR")).collect();
    let expected = [
        "DIR/gatekeeper.toml:1:8: \"off\" is no mode",
        "DIR/rules.d/a.toml:6:8: \"huge\" is no risk",
        "DIR/rules.d/b.toml:1:8: unclosed array table, expected `]`",
        "DIR/rules.d/c.toml:2:8: there is already a rule named \"same\", at DIR/rules.d/a.toml:2",
    ];
    assert_eq!(places, expected, "{told}");
}

#[test]
fn unreadable_files_give_their_message() {
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    assert_eq!(
        told(directory),
        "DIR/gatekeeper.toml: the file cannot be read: No such file or directory (os error 2)\n  \
         = create it, or name another file"
    );
    let check = |rules: &str, expected: &str| {
        write(directory, "gatekeeper.toml", format!("rules = {rules}\n{AGENT}"));
        let told = told(directory);
        assert!(told.contains(expected), "{rules} gave:\n{told}");
    };
    write(directory, "latin.toml", b"# a\n# \xfc\n");
    fs::create_dir_all(directory.join("folder.toml")).expect("directory");
    rustix::fs::mkfifoat(rustix::fs::CWD, directory.join("fifo.toml"), rustix::fs::Mode::RUSR).expect("fifo");
    check("\"absent.toml\"", "DIR/absent.toml: the file cannot be read: No such file");
    check("\"latin.toml\"", "DIR/latin.toml: line 2 is not UTF-8\n  = save the file as UTF-8");
    check("\"folder.toml\"", "DIR/folder.toml: this is a directory\n  = name a file");
    check("\"fifo.toml\"", "DIR/fifo.toml: this is no regular file\n  = name a file");
    check("\"/dev/zero\"", "/dev/zero: this is no regular file");
    check("\"absent/*.toml\"", ":1:9: the directory of \"absent/*.toml\" cannot be read: No such file");
    check("\"*/x.toml\"", ":1:9: \"*/x.toml\" has a glob in a directory's name\n");
    check("\"rules.d/\"", ":1:9: \"rules.d/\" is a directory\n");
    check("\"..\"", ":1:9: \"..\" names no file\n");
    check("\"[x.toml\"", ":1:9: `[` is never closed\n");
    check("[]", ":1:9: the list is empty\n");
    check("[\"folder.toml\", 5]", ":1:25: the number 5 stands where text belongs\n");
}

#[test]
fn files_that_everybody_may_write_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("directory");
    let directory = directory.path();
    write(directory, "gatekeeper.toml", format!("{AGENT}{}", rule("main", "")));
    let path = directory.join("gatekeeper.toml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
    let expected = "warning: DIR/gatekeeper.toml: everybody on this host may write to this file, agents included\n  \
                    = run `chmod o-w` on it";
    assert_eq!(told(directory), expected);
}

proptest! {
    /// Whatever an editor or a cut-off copy leaves behind: a load gives a configuration or messages that show a place.
    #[test]
    fn no_damage_to_a_file_breaks_the_load(
        at in 0..3000usize,
        removed in 0..40usize,
        inserted in "[\\[\\]{}\"'=,*\\\\\n a-z0-9/\u{0}-\u{ff}]{0,6}",
    ) {
        let examples = [
            include_str!("../../../docs/examples/gatekeeper.toml"),
            include_str!("../../../docs/examples/rules.d/10-guard-host.toml"),
        ];
        let mut text: Vec<char> = examples.concat().chars().collect();
        let from = at.min(text.len());
        let to = (from + removed).min(text.len());
        text.splice(from..to, inserted.chars());
        let text: String = text.into_iter().collect();
        match Config::from_text(Path::new("x.toml"), &text, &users) {
            Ok((config, _)) => prop_assert_eq!(config.policy.digest().len(), 64),
            Err(errors) => {
                for problem in &errors.0 {
                    prop_assert!(problem.place.is_some(), "{}", problem);
                    let shown = problem.to_string();
                    prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", shown);
                }
            }
        }
    }
}
