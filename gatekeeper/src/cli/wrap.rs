//! Long lines on narrow terminals: wrapped, never cut.

/// How many columns a text may take. Terminals disagree on the width of characters beyond ASCII, so each of those
/// counts as the widest there is: a line may end early, but never runs over the edge.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

fn char_columns(c: char) -> usize {
    if c.is_ascii() { 1 } else { 2 }
}

/// Cuts a text into pieces of at most `width` columns, after a space where there is one in the second half. Nothing is
/// added or dropped: the pieces together are the text. A width below 2 counts as 2, the widest character.
pub(super) fn wrap(text: &str, width: usize) -> Vec<&str> {
    let width = width.max(2);
    let mut pieces = Vec::new();
    let mut rest = text;
    // One pass over the text: an agent can make it long, and it is wrapped for every key that is pressed.
    loop {
        let mut used = 0;
        let mut after_space = None;
        let mut too_far = None;
        for (at, c) in rest.char_indices() {
            used += char_columns(c);
            if used > width {
                too_far = Some(at);
                break;
            }
            if c == ' ' && used > width / 2 {
                after_space = Some(at + 1);
            }
        }
        let Some(too_far) = too_far else {
            pieces.push(rest);
            return pieces;
        };
        let (piece, later) = rest.split_at(after_space.unwrap_or(too_far));
        pieces.push(piece);
        rest = later;
    }
}

/// As many characters from the start as fit.
pub(super) fn beginning(text: &str, width: usize) -> &str {
    let mut used = 0;
    let too_far = text.char_indices().find(|(_, c)| {
        used += char_columns(*c);
        used > width
    });
    too_far.map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_break_after_spaces_where_that_wastes_little() {
        assert_eq!(wrap("one two three", 8), ["one two ", "three"]);
        assert_eq!(wrap("a bcdefghijk", 8), ["a bcdefg", "hijk"]);
        assert_eq!(wrap("", 8), [""]);
        assert_eq!(wrap("木木木", 4), ["木木", "木"]);
        assert_eq!(wrap("木", 0), ["木"]);
        assert_eq!(beginning("a木b", 3), "a木");
        assert_eq!(beginning("a木b", 2), "a");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_runs_over(text: String, width in 2_usize..40) {
            let pieces = wrap(&text, width);
            prop_assert!(pieces.iter().all(|piece| columns(piece) <= width));
            prop_assert_eq!(pieces.concat(), &*text);
        }
    }
}
