//! Running other programs: one way to run, one to capture, and errors that quote the command line.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::checkout::Checkout;

/// Runs to the end, with this program's standard streams.
///
/// # Errors
/// The program is missing or failed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", display(command));
    }
    Ok(())
}

/// Runs to the end and returns standard output.
///
/// # Errors
/// The program is missing or failed; its standard error is in the message.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", display(command), output.status, errors.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end and returns what came of it, success or not.
///
/// # Errors
/// The program is missing.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", display(command)))
}

/// Runs a cargo build command and passes its messages on, all but the closing line of a build with nothing to do.
///
/// # Errors
/// The build failed.
pub(crate) fn run_build(command: &mut Command) -> Result<()> {
    if std::io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let line = display(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    if let Some(messages) = child.stderr.take() {
        for message in BufReader::new(messages).split(b'\n') {
            let message = message.with_context(|| format!("cannot read what `{line}` writes"))?;
            let message = String::from_utf8_lossy(&message);
            let words = strip_colours(&message);
            if !["Finished ", "Generated "].iter().any(|closing| words.trim_start().starts_with(closing)) {
                eprintln!("{message}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// cargo, as it runs this program, in the checkout.
pub(crate) fn cargo(checkout: &Checkout) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout.root()).env("GATEKEEPER_BPF_OBJECT", checkout.bpf_object());
    // What `cargo run` set for this very program would be mistaken for the state of the packages built next.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO_BIN_NAME" {
            command.env_remove(&name);
        }
    }
    command
}

/// The command as one would type it; arguments with spaces are quoted.
pub(crate) fn display(command: &Command) -> String {
    let program = Path::new(command.get_program());
    // Where a toolchain keeps its cargo tells nobody anything.
    let program = if program.ends_with("cargo") { OsStr::new("cargo") } else { program.as_os_str() };
    let words = std::iter::once(program).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into_owned() } else { format!("'{word}'") }
}

/// The first program of that name in PATH or in the directories for administration, which PATH may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(name)).find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The text without terminal escape sequences of the form `ESC [ … letter`.
pub(crate) fn strip_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            characters.find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("echo");
        command.args(["a b", "--x=1", ""]);
        assert_eq!(display(&command), "echo 'a b' --x=1 ''");
    }

    #[test]
    fn colours_are_stripped() {
        assert_eq!(strip_colours("\x1b[1m\x1b[92m    Finished\x1b[0m x"), "    Finished x");
    }

    #[test]
    fn a_failure_quotes_command_and_message() {
        let error = capture(Command::new("sh").args(["-c", "echo oops >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("oops") && error.contains("exit status: 3"), "{error}");
    }
}
