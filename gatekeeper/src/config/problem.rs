//! What is wrong in a configuration file: one message with the place, the line, the reason and the way out.

use std::{
    fmt,
    ops::Range,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::{policy::Fault, text::Text};

/// Longest part of a line that a message quotes, in characters.
const QUOTED: usize = 160;
/// How much of a quoted line stands before the fault when the line is cut.
const BEFORE: usize = 60;

/// A file with its text, so that a message can quote it.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Where in it; none if the file as a whole is meant.
    pub place: Option<Box<Place>>,
    /// What is wrong.
    pub fault: Fault,
}

/// A place in a file, with the line for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, or the part of it around the place, with control characters escaped.
    quoted: String,
    /// How many columns of `quoted` stand before the place.
    indent: usize,
    /// How many columns the place takes, at least 1.
    width: usize,
}

impl Source {
    /// A fault that stands at these bytes of the text.
    pub(super) fn problem(&self, span: Range<usize>, fault: Fault) -> Problem {
        Problem { file: self.path.clone(), place: Some(Box::new(Place::new(&self.text, span))), fault }
    }
}

impl Problem {
    /// A fault of the file as a whole.
    pub(super) fn of_file(file: &Path, fault: Fault) -> Self {
        Self { file: file.to_owned(), place: None, fault }
    }
}

impl Place {
    fn new(text: &str, span: Range<usize>) -> Self {
        let boundary = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let mut start = boundary(span.start);
        // A fault at the end of a file that ends in a line feed is shown at the end of the last line that has text.
        if start == text.len() {
            start = text.trim_end_matches(['\n', '\r']).len().min(start);
        }
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = boundary(span.end).clamp(start, line_end);
        let line = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;

        let skipped =
            if text[line_start..line_end].chars().count() > QUOTED { column.saturating_sub(BEFORE) } else { 0 };
        let show =
            |part: &str, skip: usize, most: usize| part.chars().skip(skip).take(most).map(shown).collect::<String>();
        let before = show(&text[line_start..start], skipped, QUOTED);
        let inside = show(&text[start..end], 0, QUOTED);
        let behind = show(text[end..line_end].trim_end(), 0, QUOTED.saturating_sub(BEFORE));
        Self {
            line,
            column,
            indent: before.chars().count(),
            width: inside.chars().count().max(1),
            quoted: before + &inside + &behind,
        }
    }
}

/// A character as a terminal may see it. A backslash stands for itself: this is the operator's own file, quoted.
fn shown(c: char) -> String {
    match c {
        '\\' => "\\".to_owned(),
        '\t' => "    ".to_owned(),
        c => Text::from(c.encode_utf8(&mut [0; 4]) as &str).to_string(),
    }
}

/// A path as a terminal may see it.
pub(super) fn shown_path(path: &Path) -> Text {
    Text::from(path.as_os_str().as_bytes())
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = shown_path(&self.file);
        // Both may quote the file.
        let [reason, way_out] =
            [&self.fault.reason, &self.fault.way_out].map(|text| text.chars().map(shown).collect::<String>());
        let Some(Place { line, column, quoted, indent, width }) = self.place.as_deref() else {
            return write!(f, "{file}: {reason}\n  = {way_out}");
        };
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{file}:{line}:{column}: {reason}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {quoted}")?;
        writeln!(f, "{margin} | {:indent$}{:^<width$}", "", "")?;
        write!(f, "{margin} = {way_out}")
    }
}

/// Everything that is wrong with the configuration, in the order in which it was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// Something in the configuration that works, but hardly as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Problem);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str, span: Range<usize>) -> String {
        let source = Source { path: "x.toml".into(), text: text.to_owned() };
        source.problem(span, Fault::new("it is wrong", "put it right")).to_string()
    }

    #[test]
    fn the_caret_stands_under_the_fault() {
        let expected = "x.toml:2:5: it is wrong\n  |\n2 | b = \"ü\" # c\n  |     ^^^\n  = put it right";
        assert_eq!(problem("a = 1\nb = \"ü\" # c\n", 10..14), expected);
    }

    #[test]
    fn hostile_and_endless_lines_stay_readable() {
        let shown = problem("a\t\x1b[2J\r\n", 1..3);
        assert!(shown.contains("1 | a    \\x1b[2J\n  |  ^^^^^^^^\n"), "{shown}");
        let long = format!("k = \"{}\" x\n", "y".repeat(100_000));
        let at = long.len() - 2;
        let shown = problem(&long, at..at + 1);
        assert!(shown.len() < 600 && shown.contains("\" x\n") && shown.contains(":1:100008:"), "{shown}");
    }

    #[test]
    fn any_span_gives_a_place() {
        for span in [0..0, 5..9, 100..200, 2..3] {
            let _ = problem("ä\nß\n", span.clone());
            let _ = problem("", span);
        }
    }
}
