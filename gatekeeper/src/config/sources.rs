//! Finds and reads the configuration's files.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use toml::Spanned;

use super::{
    DEFAULT_RULES,
    checked::Checker,
    file::Items,
    problem::{Problem, Source, Warning},
};
use crate::policy::{Fault, Pattern, PatternOf};

/// Largest file, in bytes. Thousands of rules stay far below it.
const FILE_BYTES: u64 = 4 << 20;

/// Reads one file.
pub(super) fn read(path: &Path, warnings: &mut Vec<Warning>) -> Result<Source, Problem> {
    let fail = |reason: String, way_out: &str| Problem::of_file(path, Fault::new(reason, way_out));
    let unreadable = |error: io::Error| {
        let way_out = match error.kind() {
            io::ErrorKind::NotFound => "create it, or name another file",
            io::ErrorKind::PermissionDenied => "run gatekeeper as root, or make the file readable",
            _ => "make the file readable",
        };
        fail(format!("the file cannot be read: {error}"), way_out)
    };
    // Looked at before it is opened: opening a FIFO or a device could block or do something.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "no regular file" };
        return Err(fail(format!("this is {what}"), "name a file"));
    }
    if metadata.len() > FILE_BYTES {
        return Err(fail(format!("the file has {} bytes", metadata.len()), "keep it below 4 MiB, in several files"));
    }
    if metadata.permissions().mode() & 0o002 != 0 {
        warnings.push(Warning(fail(
            "everybody on this host may write to this file, agents included".to_owned(),
            "run `chmod o-w` on it",
        )));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })?;
    Ok(Source { path: path.to_owned(), text })
}

/// Reads the rule files that `rules` of the main file names, in its order; those of one pattern sorted by name.
pub(super) fn rule_files(
    main: &Source,
    rules: Option<&Spanned<Items>>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Source>, Vec<Problem>> {
    let mut checker = Checker::new(main);
    let mut sources = Vec::new();
    let patterns: Vec<_> = match rules {
        None => vec![(None, DEFAULT_RULES.to_owned())],
        Some(rules) => {
            let empty = "name a rule file, or leave `rules` out for \"rules.d/*.toml\"";
            let texts = checker.each(rules, empty, |text| Ok(text.to_owned())).unwrap_or_default();
            texts.into_iter().map(|text| (Some(rules.span()), text)).collect()
        }
    };
    for (span, pattern) in patterns {
        match expand(main, &pattern) {
            Ok(Found::Files(paths)) => {
                for path in paths {
                    match read(&path, warnings) {
                        Ok(source) => sources.push(source),
                        Err(problem) => checker.problems.push(problem),
                    }
                }
            }
            Ok(Found::NoDirectory(error)) => {
                if let Some(span) = span {
                    checker.fail(
                        span,
                        format!("the directory of {pattern:?} cannot be read: {error}"),
                        "create it, or name another; paths are relative to this file",
                    );
                } else if error.kind() != io::ErrorKind::NotFound {
                    let fault = Fault::new(
                        format!("the directory of {pattern:?} beside this file cannot be read: {error}"),
                        "make it a readable directory",
                    );
                    checker.problems.push(Problem::of_file(&main.path, fault));
                }
            }
            Err(fault) => {
                checker.take::<()>(span.unwrap_or_default(), Err(fault));
            }
        }
    }
    if checker.problems.is_empty() { Ok(sources) } else { Err(checker.problems) }
}

enum Found {
    Files(Vec<std::path::PathBuf>),
    NoDirectory(io::Error),
}

fn expand(main: &Source, pattern: &str) -> Result<Found, Fault> {
    let relative = Path::new(pattern);
    let (Some(name), Some(directory)) = (relative.file_name().and_then(|name| name.to_str()), relative.parent()) else {
        return Err(Fault::new(format!("{pattern:?} names no file"), "write such as \"rules.d/*.toml\""));
    };
    if pattern.ends_with('/') {
        return Err(Fault::new(format!("{pattern:?} is a directory"), format!("write \"{pattern}*.toml\"")));
    }
    if directory.as_os_str().as_bytes().iter().any(|byte| b"*?[{".contains(byte)) {
        return Err(Fault::new(
            format!("{pattern:?} has a glob in a directory's name"),
            "use globs only in the file's name, such as \"rules.d/*.toml\"",
        ));
    }
    let directory = main.path.parent().unwrap_or(Path::new("")).join(directory);
    let name_pattern = Pattern::new(name, PatternOf::Word)?;
    if name_pattern.is_literal() {
        return Ok(Found::Files(vec![directory.join(name)]));
    }
    let listed = if directory.as_os_str().is_empty() { Path::new(".") } else { &directory };
    let entries = fs::read_dir(listed).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<OsString>>>()
    });
    let mut names = match entries {
        Ok(names) => names,
        Err(error) => return Ok(Found::NoDirectory(error)),
    };
    // Editors leave hidden files behind; as in a shell, only a pattern that says so takes them.
    names.retain(|entry| {
        name_pattern.matches(entry.as_bytes()) && (name.starts_with('.') || !entry.as_bytes().starts_with(b"."))
    });
    names.sort();
    Ok(Found::Files(names.into_iter().map(|name| directory.join(name)).collect()))
}
