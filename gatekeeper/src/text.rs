//! Bytes that an agent chose: paths, arguments, environment, names.
//!
//! They are kept as they are, because rules must match the very bytes. Whatever shows them (terminal, log, JSON, chat)
//! gets one escaped form: printable UTF-8 stands for itself, everything else, and the backslash, is written so that
//! nothing can move a cursor, forge a line, reverse the reading order or hide. The form can be read back without loss.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes that an agent chose. `Display` and serde use the escaped form.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// The bytes as they are.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the escaped form back. `None` if it is not one.
    pub fn unescape(escaped: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(escaped.len());
        let mut rest = escaped.chars();
        while let Some(c) = rest.next() {
            if c != '\\' {
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            match rest.next()? {
                '\\' => bytes.push(b'\\'),
                'n' => bytes.push(b'\n'),
                't' => bytes.push(b'\t'),
                'r' => bytes.push(b'\r'),
                'x' => {
                    let digits: String = [rest.next()?, rest.next()?].iter().collect();
                    bytes.push(u8::from_str_radix(&digits, 16).ok()?);
                }
                'u' => {
                    if rest.next()? != '{' {
                        return None;
                    }
                    let digits: String = rest.by_ref().take_while(|c| *c != '}').collect();
                    let c = char::from_u32(u32::from_str_radix(&digits, 16).ok()?)?;
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return None,
            }
        }
        Some(Self(bytes))
    }
}

/// Whether a character shows itself, where it stands and nothing else.
fn is_plain(c: char) -> bool {
    let invisible_or_reordering = matches!(c,
        '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffc}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}');
    c == ' ' || (!c.is_control() && !c.is_whitespace() && !invisible_or_reordering)
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '\n' => f.write_str("\\n")?,
                    '\t' => f.write_str("\\t")?,
                    '\r' => f.write_str("\\r")?,
                    c if is_plain(c) => f.write_char(c)?,
                    c if c.is_ascii() => write!(f, "\\x{:02x}", u32::from(c))?,
                    c => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Nearly all text is plain; the log is written on a path that has to be quick.
        match std::str::from_utf8(&self.0) {
            Ok(plain) if self.0.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\') => {
                serializer.serialize_str(plain)
            }
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let escaped = String::deserialize(deserializer)?;
        Self::unescape(&escaped).ok_or_else(|| de::Error::custom("not in the escaped form of agent text"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_text_shows_itself() {
        let shown = |bytes: &[u8]| Text::from(bytes).to_string();
        assert_eq!(shown(b"/bin/ls"), "/bin/ls");
        assert_eq!(shown(b"a\nb\x1b[2J\x7f"), "a\\nb\\x1b[2J\\x7f");
        assert_eq!(shown("x\u{202e}y\u{200b}z".as_bytes()), "x\\u{202e}y\\u{200b}z");
        assert_eq!(shown(b"\xff\\"), "\\xff\\\\");
        assert_eq!(shown("grün 木 \u{00a0}|".as_bytes()), "grün 木 \\u{a0}|");
        assert_eq!(shown("\u{85}".as_bytes()), "\\u{85}");
    }

    proptest! {
        #[test]
        fn the_escaped_form_reads_back(bytes: Vec<u8>) {
            let text = Text(bytes);
            let escaped = text.to_string();
            prop_assert!(escaped.chars().all(is_plain));
            prop_assert_eq!(Text::unescape(&escaped), Some(text));
        }
    }
}
