//! How much of a card goes into a JSON message that must not be longer than a server takes.

use super::{card::Line, fit::fit};

/// Where less than this is left, in bytes, a text is left out rather than cut to nothing.
const LEAST: usize = 64;

/// Bytes that are left for texts. What does not fit is shortened, and so is everything after it.
#[derive(Debug)]
pub struct Budget {
    left: usize,
    shortened: bool,
}

impl Budget {
    /// For so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { left: bytes, shortened: false }
    }

    /// As much of a text as fits, which says so itself if that is not all. `around` is how many bytes the message needs
    /// besides the text. `None`: nothing fits any more.
    pub fn text(&mut self, text: &str, around: usize) -> Option<String> {
        let limit = self.left.saturating_sub(around);
        let fitted = fit(text, limit, escape);
        if self.left < around || (fitted.shortened && limit < LEAST) {
            self.left = 0;
            self.shortened = true;
            return None;
        }
        self.left = if fitted.shortened { 0 } else { limit - fitted.text.len() };
        self.shortened |= fitted.shortened;
        // What was cut between two escapes is still JSON.
        Some(serde_json::from_str(&format!("\"{}\"", fitted.text)).unwrap_or(fitted.text))
    }

    /// Whether anything did not fit.
    pub fn is_shortened(&self) -> bool {
        self.shortened
    }
}

/// The share of one label's lines, where not all lines fit: long arguments must not push out which rule asks and who.
const SHARE: usize = 8;

/// As much of a card's lines as fits into so many bytes, with `around` bytes around each text, and whether that is not
/// all.
pub fn lines(lines: &[Line], bytes: usize, around: usize) -> (Vec<Line>, bool) {
    let mut whole = Budget::new(bytes);
    let fitted = take(&mut whole, lines, around);
    if !whole.is_shortened() {
        return (fitted, false);
    }
    let mut fitted = Vec::new();
    let mut left = bytes;
    // A line without a label belongs to the one above.
    for group in lines.chunk_by(|_, next| next.label.is_empty()) {
        let share = left.min(bytes / SHARE);
        let mut budget = Budget::new(share);
        fitted.extend(take(&mut budget, group, around));
        left -= share - budget.left;
    }
    (fitted, true)
}

fn take(budget: &mut Budget, lines: &[Line], around: usize) -> Vec<Line> {
    lines.iter().map_while(|Line { label, text }| Some(Line { label, text: budget.text(text, around)? })).collect()
}

/// How JSON writes what cannot stand for itself in a string. Cards have no control characters; if they had, they would
/// show as such.
pub fn escape(c: char) -> Option<&'static str> {
    match c {
        '"' => Some("\\\""),
        '\\' => Some("\\\\"),
        c if c.is_control() => Some("\\ufffd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_follows_a_shortened_text_is_left_out() {
        let mut budget = Budget::new(200);
        assert_eq!(budget.text("a\\b", 10).as_deref(), Some("a\\b"));
        assert!(!budget.is_shortened());
        let cut = budget.text(&"\\".repeat(500), 10).unwrap();
        assert!(cut.ends_with("\\… (shortened)"), "{cut}");
        assert!(budget.is_shortened());
        assert_eq!(budget.text("more", 0), None);
    }

    #[test]
    fn a_long_line_pushes_out_no_other() {
        let line = |label, text: &str| Line { label, text: text.to_owned() };
        let long = "x".repeat(5_000);
        let all = [line("first", &long), line("", &long), line("last", "short")];
        assert_eq!(lines(&all[2..], 1_000, 10), (vec![all[2].clone()], false));
        let (fitted, shortened) = lines(&all, 1_000, 10);
        assert!(shortened);
        assert_eq!(fitted.len(), 2);
        assert!(fitted[0].text.ends_with("… (shortened)") && fitted[0].text.len() <= 115, "{}", fitted[0].text);
        assert_eq!(fitted[1], all[2]);
        let many = vec![line("each", &long); 100];
        assert!(lines(&many, 1_000, 10).0.iter().map(|line| line.text.len() + 10).sum::<usize>() <= 1_000);
    }

    proptest! {
        #[test]
        fn json_is_never_longer_than_the_budget(texts: Vec<String>, bytes in 0_usize..300) {
            let mut budget = Budget::new(bytes);
            let shown: Vec<_> = texts.iter().map_while(|text| budget.text(text, 3)).collect();
            // Two quotes and a comma around each, and two brackets around all.
            prop_assert!(serde_json::to_string(&shown).unwrap().len() <= bytes + 2);
        }
    }
}
