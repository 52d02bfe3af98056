//! Making text fit: escaped first, then bounded, so that no escape can make a message too long or be cut in half.

/// How one channel writes a character that means something to it, such as `&amp;`. `None`: as it is.
pub type Escape = fn(char) -> Option<&'static str>;

/// A text that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// Escaped, and not longer than was asked for.
    pub text: String,
    /// Whether something had to be left out. The text says so by itself.
    pub shortened: bool,
}

/// Stands where the rest of a text was left out.
const MARK: &str = "… (shortened)";

/// Escapes a text and cuts what goes beyond `limit` bytes of the result.
pub fn fit(text: &str, limit: usize, escape: Escape) -> Fitted {
    let mut written = String::with_capacity(text.len().min(limit));
    // Where to cut if the rest does not fit.
    let mut cut = 0;
    for c in text.chars() {
        match escape(c) {
            Some(escaped) => written.push_str(escaped),
            None => written.push(c),
        }
        if written.len() > limit {
            written.truncate(cut);
            if MARK.len() <= limit {
                written.push_str(MARK);
            }
            return Fitted { text: written, shortened: true };
        }
        if written.len() + MARK.len() <= limit {
            cut = written.len();
        }
    }
    Fitted { text: written, shortened: false }
}

/// Puts lines into as few parts of at most `limit` bytes as possible, cutting only lines that are longer than that.
pub fn parts(lines: &[String], limit: usize, escape: Escape) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in lines {
        let mut rest = line.as_str();
        loop {
            let (piece, later) = piece(rest, limit, escape);
            match parts.last_mut() {
                Some(last) if last.is_empty() => last.push_str(&piece),
                Some(last) if last.len() + 1 + piece.len() <= limit => {
                    last.push('\n');
                    last.push_str(&piece);
                }
                _ => parts.push(piece),
            }
            if later.is_empty() {
                break;
            }
            rest = later;
        }
    }
    parts
}

/// As much from the start as fits, escaped, and the rest. At least one character, whatever the limit.
fn piece(text: &str, limit: usize, escape: Escape) -> (String, &str) {
    let mut written = String::new();
    for (at, c) in text.char_indices() {
        let mut buffer = [0; 4];
        let escaped = escape(c).unwrap_or_else(|| c.encode_utf8(&mut buffer));
        if at > 0 && written.len() + escaped.len() > limit {
            return (written, &text[at..]);
        }
        written.push_str(escaped);
    }
    (written, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn html(c: char) -> Option<&'static str> {
        match c {
            '&' => Some("&amp;"),
            '<' => Some("&lt;"),
            _ => None,
        }
    }

    #[test]
    fn what_fits_is_whole_and_what_does_not_says_so() {
        assert_eq!(fit("a&b", 7, html), Fitted { text: "a&amp;b".to_owned(), shortened: false });
        let cut = fit(&"<".repeat(100), 40, html);
        assert_eq!(cut.text, format!("{}{MARK}", "&lt;".repeat(6)));
        assert!(cut.shortened);
    }

    #[test]
    fn long_lines_go_on_in_the_next_part() {
        let lines = ["one".to_owned(), "two".to_owned(), "x".repeat(12)];
        assert_eq!(parts(&lines, 8, html), ["one\ntwo", "xxxxxxxx", "xxxx"]);
        assert_eq!(parts(&[], 8, html), [""]);
    }

    proptest! {
        #[test]
        fn nothing_is_longer_than_its_limit(text: String, limit in 0_usize..80) {
            let fitted = fit(&text, limit, html);
            prop_assert!(fitted.text.len() <= limit);
            prop_assert_eq!(fitted.shortened, text.chars().map(|c| html(c).map_or(c.len_utf8(), str::len)).sum::<usize>() > limit);
        }

        #[test]
        fn parts_lose_nothing(lines: Vec<String>, limit in 8_usize..80) {
            let parts = parts(&lines, limit, html);
            prop_assert!(parts.iter().all(|part| part.len() <= limit));
            let escaped = |text: &str| text.chars().map(|c| html(c).map_or(c.to_string(), str::to_owned)).collect::<String>();
            let whole: String = lines.iter().map(|line| escaped(line)).collect();
            prop_assert_eq!(parts.concat().replace('\n', ""), whole.replace('\n', ""));
        }
    }
}
