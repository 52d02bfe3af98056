//! What is wrong with something an operator wrote.

use std::fmt;

/// What is wrong with something an operator wrote, and the way out. Where it stands is for the reader of the file to add.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// What is wrong: lower case, no final stop.
    pub reason: String,
    /// What to do instead.
    pub way_out: String,
}

impl Fault {
    /// A fault with its way out.
    pub fn new(reason: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { reason: reason.into(), way_out: way_out.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.way_out)
    }
}

/// The way out of a word that is not one of `known`: the nearest of them, or all of them.
pub fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known.iter().map(|candidate| (distance(word, candidate), *candidate)).min();
    match nearest {
        // One slip in three characters still reads as that word; more is a guess that misleads.
        Some((distance, candidate)) if distance * 3 <= candidate.len().max(3) => format!("did you mean `{candidate}`?"),
        _ if known.len() == 1 => format!("use `{}`", known[0]),
        _ => format!("use one of: {}", known.join(", ")),
    }
}

/// How many edits (a character more, less or other, or two neighbours swapped) lead from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    // Nothing that is worth suggesting is far longer than the longest known word.
    let from: Vec<char> = from.chars().take(64).map(|c| c.to_ascii_lowercase()).collect();
    let to: Vec<char> = to.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for (line, c) in from.iter().enumerate() {
        let above = &rows[line];
        let mut row = vec![line + 1];
        for (column, other) in to.iter().enumerate() {
            let mut least = (above[column] + usize::from(c != other)).min(above[column + 1] + 1).min(row[column] + 1);
            if line > 0 && column > 0 && from[line - 1] == *other && *c == to[column - 1] {
                least = least.min(rows[line - 1][column - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested_and_far_ones_are_not() {
        assert_eq!(suggest("exce", ["exec", "write"]), "did you mean `exec`?");
        assert_eq!(suggest("Verdict", ["verdict", "name"]), "did you mean `verdict`?");
        assert_eq!(suggest("banana", ["exec", "write"]), "use one of: exec, write");
    }
}
