//! How much of a card goes into a JSON message that must not be longer than a server takes.

use super::fit::fit;

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
