//! Globs over the bytes of paths and arguments.
//!
//! A pattern is read once into alternatives (braces multiplied out), checked for what could never match, and turned
//! into one regular expression, so that matching takes time linear in what an agent chose. The literal beginning of
//! each alternative is what the kernel side's tables hold.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

use super::fault::Fault;

/// Longest pattern, in bytes: nothing longer than a path is useful, and it bounds the work of reading one.
const PATTERN_BYTES: usize = 4096;
/// Most alternatives that the braces of one pattern may multiply out to.
const ALTERNATIVES: usize = 256;
/// Deepest nesting of braces.
const NESTING: usize = 8;
/// Most memory that one pattern's regular expression may take, in bytes.
const COMPILED_BYTES: usize = 1 << 20;

/// What a pattern is matched against, which decides what its characters mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternOf {
    /// An absolute path: `*` and `?` stay within a component, `**` stands for any number of components.
    Path,
    /// One argument or abstract socket name: `*` and `?` match any byte.
    Word,
    /// A control group's path: as a path, without `**`, and a backslash stands for itself because systemd puts
    /// backslashes into unit names.
    Cgroup,
}

/// A glob, ready to match bytes.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    alternatives: Vec<Vec<Token>>,
    prefixes: Vec<Vec<u8>>,
    regex: Regex,
}

/// One step of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    /// `?`
    Any,
    /// `*`
    Star,
    /// `**`
    DoubleStar,
    /// `[…]`
    Class {
        negated: bool,
        ranges: Vec<(u8, u8)>,
    },
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it: bad syntax, or a form that no path could ever match.
    pub fn new(source: &str, of: PatternOf) -> Result<Self, Fault> {
        if source.len() > PATTERN_BYTES {
            return Err(Fault::new(
                format!("a pattern of {} bytes is too long", source.len()),
                format!("use at most {PATTERN_BYTES} bytes, in several patterns if need be"),
            ));
        }
        let mut reader = Reader { rest: source.as_bytes(), of };
        let alternatives = reader.sequence(0)?;
        for alternative in &alternatives {
            match of {
                PatternOf::Word => {}
                PatternOf::Path | PatternOf::Cgroup => check_path(alternative, source, of)?,
            }
        }
        let mut prefixes: Vec<Vec<u8>> = alternatives.iter().map(|tokens| literal_start(tokens)).collect();
        prefixes.sort();
        prefixes.dedup();
        let regex = compile(&alternatives, of)?;
        Ok(Self { source: source.to_owned(), alternatives, prefixes, regex })
    }

    /// The pattern as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether all of `bytes` match.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| bytes.starts_with(prefix)) && self.regex.is_match(bytes)
    }

    /// Beginnings of which everything that matches has one.
    pub fn prefixes(&self) -> &[Vec<u8>] {
        &self.prefixes
    }

    /// Whether it stands for one string only.
    pub fn is_literal(&self) -> bool {
        matches!(self.alternatives.as_slice(), [only] if only.iter().all(|token| matches!(token, Token::Byte(_))))
    }

    /// For each alternative, its number of slashes.
    pub(crate) fn slashes(&self) -> impl Iterator<Item = usize> {
        self.alternatives.iter().map(|tokens| tokens.iter().filter(|token| **token == Token::Byte(b'/')).count())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.regex.as_str() == other.regex.as_str()
    }
}

impl Eq for Pattern {}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    of: PatternOf,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Reads up to the end, or inside braces up to the comma or brace that ends a branch.
    fn sequence(&mut self, depth: usize) -> Result<Vec<Vec<Token>>, Fault> {
        let mut all = vec![Vec::new()];
        loop {
            let token = match self.rest.first() {
                None if depth > 0 => {
                    return Err(Fault::new("`{` is never closed", "close it with `}`, or write `\\{`"));
                }
                None => return Ok(all),
                Some(b'}' | b',') if depth > 0 => return Ok(all),
                Some(b'}') => return Err(Fault::new("`}` closes nothing", "open it with `{`, or write `\\}`")),
                Some(b'{') => {
                    self.next();
                    all = self.braces(all, depth + 1)?;
                    continue;
                }
                Some(_) => self.token()?,
            };
            all.iter_mut().for_each(|tokens| tokens.push(token.clone()));
        }
    }

    /// Reads the branches of braces and puts each behind each of `before`.
    fn braces(&mut self, before: Vec<Vec<Token>>, depth: usize) -> Result<Vec<Vec<Token>>, Fault> {
        if depth > NESTING {
            return Err(Fault::new(
                format!("braces are nested more than {NESTING} deep"),
                "write several patterns in a list instead",
            ));
        }
        let mut branches = Vec::new();
        loop {
            branches.extend(self.sequence(depth)?);
            if branches.len() * before.len() > ALTERNATIVES {
                return Err(Fault::new(
                    format!("the braces multiply out to more than {ALTERNATIVES} patterns"),
                    "write several patterns in a list, or use `*`",
                ));
            }
            if self.next() == Some(b'}') {
                break;
            }
        }
        Ok(before.iter().flat_map(|start| branches.iter().map(|end| [start.as_slice(), end].concat())).collect())
    }

    fn token(&mut self) -> Result<Token, Fault> {
        match self.next() {
            Some(b'?') => Ok(Token::Any),
            Some(b'*') => self.star(),
            Some(b'[') => self.class(),
            Some(b'\\') if self.of != PatternOf::Cgroup => self.escape().map(Token::Byte),
            Some(byte) => Ok(Token::Byte(byte)),
            None => Err(Fault::new("the pattern ends too early", "complete it")),
        }
    }

    fn star(&mut self) -> Result<Token, Fault> {
        let more = self.rest.iter().take_while(|byte| **byte == b'*').count();
        self.rest = &self.rest[more..];
        match (more, self.of) {
            (0, _) => Ok(Token::Star),
            (1, PatternOf::Path) => Ok(Token::DoubleStar),
            (_, PatternOf::Path) => {
                Err(Fault::new("more than two `*` in a row", "`*` matches within a component, `**` whole components"))
            }
            (_, PatternOf::Word) => Err(Fault::new("`**` means nothing here", "`*` already matches every byte")),
            (_, PatternOf::Cgroup) => Err(Fault::new(
                "`**` cannot name a control group",
                "name the topmost one: everything below it belongs to the agent",
            )),
        }
    }

    /// Reads what follows a backslash: a special character, or one of the forms in which gatekeeper shows odd bytes.
    fn escape(&mut self) -> Result<u8, Fault> {
        let bad = || {
            Fault::new(
                "a backslash stands before a special character (`\\*`) or writes a byte (`\\xff`, `\\n`, `\\t`, `\\r`)",
                "write `\\\\` for a backslash",
            )
        };
        match self.next().ok_or_else(bad)? {
            b'n' => Ok(b'\n'),
            b't' => Ok(b'\t'),
            b'r' => Ok(b'\r'),
            b'x' => {
                let digits = self.rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(bad)?;
                let byte = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
                self.rest = &self.rest[2..];
                Ok(byte)
            }
            special @ (b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b',' | b'\\' | b'!' | b'-' | b'^') => Ok(special),
            _ => Err(bad()),
        }
    }

    fn class(&mut self) -> Result<Token, Fault> {
        let unclosed = || Fault::new("`[` is never closed", "close it with `]`, or write `\\[`");
        let negated = matches!(self.rest.first(), Some(b'!' | b'^'));
        if negated {
            self.next();
        }
        let mut ranges = Vec::new();
        loop {
            let first = match self.next().ok_or_else(unclosed)? {
                b']' if !ranges.is_empty() => break,
                b']' => return Err(Fault::new("`[]` matches nothing", "name the characters, or write `\\]` for `]`")),
                byte => self.class_byte(byte)?,
            };
            let is_range = self.rest.first() == Some(&b'-') && self.rest.get(1).is_some_and(|byte| *byte != b']');
            let last = if is_range {
                self.next();
                let byte = self.next().ok_or_else(unclosed)?;
                self.class_byte(byte)?
            } else {
                first
            };
            if first > last {
                let (from, to) = (char::from(first), char::from(last));
                return Err(Fault::new(
                    format!("the range `{from}-{to}` is reversed"),
                    format!("write `{to}-{from}`, or `\\-` for the character `-`"),
                ));
            }
            if self.of != PatternOf::Word && (first..=last).contains(&b'/') {
                return Err(Fault::new("`[…]` never matches a `/`", "write the `/` outside of the brackets"));
            }
            ranges.push((first, last));
        }
        Ok(Token::Class { negated, ranges })
    }

    fn class_byte(&mut self, byte: u8) -> Result<u8, Fault> {
        match byte {
            b'\\' if self.of != PatternOf::Cgroup => self.escape(),
            0x80.. => Err(Fault::new(
                "`[…]` holds single bytes, and this character is more than one",
                "write the characters as `{ä,ö}`",
            )),
            byte => Ok(byte),
        }
    }
}

/// Refuses what no resolved absolute path can match: such a rule would silently guard nothing.
fn check_path(tokens: &[Token], source: &str, of: PatternOf) -> Result<(), Fault> {
    if tokens.first() != Some(&Token::Byte(b'/')) {
        if of == PatternOf::Cgroup {
            return Err(Fault::new(
                format!("{source:?} does not begin at the cgroup root"),
                "begin with `/`, as /proc/PID/cgroup shows it",
            ));
        }
        return Err(Fault::new(
            format!("{source:?} is no absolute path"),
            "begin with `/`; `/**/NAME` matches NAME in every directory",
        ));
    }
    if tokens.contains(&Token::Byte(0)) {
        return Err(Fault::new("a path never holds a NUL byte", "remove it"));
    }
    if tokens.len() == 1 {
        return Ok(());
    }
    for component in tokens[1..].split(|token| *token == Token::Byte(b'/')) {
        match component {
            [] => {
                return Err(Fault::new(
                    format!("{source:?} has an empty component, which no resolved path has"),
                    "write single slashes and none at the end; `/etc/**` is everything below /etc",
                ));
            }
            [Token::Byte(b'.')] | [Token::Byte(b'.'), Token::Byte(b'.')] => {
                return Err(Fault::new(
                    format!("{source:?} has a `.` or `..`, which no resolved path has"),
                    "write the path as `realpath` prints it",
                ));
            }
            [Token::DoubleStar] => {}
            component if component.contains(&Token::DoubleStar) => {
                return Err(Fault::new(
                    "`**` must stand alone between slashes",
                    "write `/**/` or a final `/**`; within a component use `*`",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn literal_start(tokens: &[Token]) -> Vec<u8> {
    tokens
        .iter()
        .map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        })
        .collect()
}

fn compile(alternatives: &[Vec<Token>], of: PatternOf) -> Result<Regex, Fault> {
    use std::fmt::Write as _;
    let any = if of == PatternOf::Word { "." } else { "[^/]" };
    let mut regex = String::from(r"\A(?:");
    for (number, tokens) in alternatives.iter().enumerate() {
        if number > 0 {
            regex.push('|');
        }
        let mut rest = tokens.as_slice();
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            // Writing to a string cannot fail.
            let _ = match token {
                Token::Byte(byte) => write!(regex, r"\x{byte:02x}"),
                Token::Any => write!(regex, "{any}"),
                Token::Star => write!(regex, "{any}*"),
                Token::DoubleStar => match rest.split_first() {
                    // `/**/x` matches `/x` too: the slash behind belongs to the components that may be absent.
                    Some((Token::Byte(b'/'), after)) => {
                        rest = after;
                        write!(regex, "(?:.+/)?")
                    }
                    _ => write!(regex, ".+"),
                },
                Token::Class { negated, ranges } => {
                    regex.push_str(if *negated { "[^" } else { "[" });
                    for (first, last) in ranges {
                        let _ = write!(regex, r"\x{first:02x}-\x{last:02x}");
                    }
                    if *negated && of != PatternOf::Word {
                        regex.push('/');
                    }
                    write!(regex, "]")
                }
            };
        }
    }
    regex.push_str(r")\z");
    RegexBuilder::new(&regex)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(COMPILED_BYTES)
        .build()
        .map_err(|_| Fault::new("the pattern is too large to compile", "split it into several patterns in a list"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(source: &str) -> Pattern {
        Pattern::new(source, PatternOf::Path).unwrap_or_else(|fault| panic!("{source}: {fault}"))
    }

    #[test]
    fn path_patterns_match_as_the_reference_says() {
        // Pattern, what matches, what does not.
        let table: &[(&str, &[&str], &[&str])] = &[
            ("/etc/passwd", &["/etc/passwd"], &["/etc/passwd-", "/etc/passw", "/x/etc/passwd", "/ETC/passwd"]),
            ("/", &["/"], &["", "/a"]),
            ("/etc/*", &["/etc/a", "/etc/.hidden"], &["/etc", "/etc/a/b"]),
            ("/etc/**", &["/etc/a", "/etc/a/b"], &["/etc", "/etcx/a"]),
            ("/**", &["/a", "/a/b"], &["/"]),
            ("/**/.ssh/**", &["/.ssh/id", "/home/x/.ssh/id", "/a/b/c/.ssh/d/e"], &["/home/.ssh", "/home/x.ssh/id"]),
            ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b"], &["/a/xb", "/ab", "/a/b/c"]),
            ("/a/**/**/b", &["/a/b", "/a/x/b"], &["/ab"]),
            ("/dev/sd?", &["/dev/sda"], &["/dev/sd", "/dev/sdaa", "/dev/sd/"]),
            ("/dev/sd[a-c]", &["/dev/sda", "/dev/sdc"], &["/dev/sdd"]),
            ("/dev/sd[!a-c]", &["/dev/sdd"], &["/dev/sda", "/dev/sd/"]),
            ("/dev/sd[^a]x", &["/dev/sdbx"], &["/dev/sdax"]),
            ("/a[-x]", &["/a-", "/ax"], &["/ay"]),
            ("/a[\\]]", &["/a]"], &["/a\\"]),
            ("/{etc,usr/lib}/x", &["/etc/x", "/usr/lib/x"], &["/usr/x", "/lib/x"]),
            ("/{,usr/}bin/x", &["/bin/x", "/usr/bin/x"], &["/usr/x"]),
            ("/{a,{b,c}d}", &["/a", "/bd", "/cd"], &["/b", "/d"]),
            ("/x{/**,}", &["/x", "/x/a/b"], &["/xa"]),
            ("/a,b", &["/a,b"], &["/a", "/b"]),
            (r"/\*\{\}\[\]\?\\", &[r"/*{}[]?\"], &["/x"]),
            ("/ü*", &["/ü", "/üx"], &["/u"]),
            ("/.+(x)|$^", &["/.+(x)|$^"], &["/aax"]),
            ("/a\nb*", &["/a\nb\nc"], &["/ab"]),
        ];
        for (pattern, good, bad) in table {
            let compiled = path(pattern);
            good.iter().for_each(|text| assert!(compiled.matches(text.as_bytes()), "{pattern} must match {text}"));
            bad.iter().for_each(|text| assert!(!compiled.matches(text.as_bytes()), "{pattern} must not match {text}"));
        }
    }

    #[test]
    fn odd_bytes_are_matched_as_gatekeeper_shows_them() {
        assert!(path(r"/a\xff\n").matches(b"/a\xff\n"));
        assert!(path("/a?b").matches(b"/a\xffb"));
        assert!(path("/a*").matches(b"/a\xff\xfe\n"));
    }

    #[test]
    fn word_patterns_cross_slashes() {
        let word = Pattern::new("--out=*.conf", PatternOf::Word).expect("good");
        assert!(word.matches(b"--out=/etc/x.conf"));
        assert!(!word.matches(b"--out=x.txt"));
        assert!(Pattern::new("", PatternOf::Word).expect("good").matches(b""));
        assert!(Pattern::new("[!a]", PatternOf::Word).expect("good").matches(b"/"));
    }

    #[test]
    fn prefixes_are_as_long_as_the_literal_beginning() {
        let prefixes = |source| {
            path(source).prefixes().iter().map(|p| String::from_utf8_lossy(p).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(prefixes("/etc/**"), ["/etc/"]);
        assert_eq!(prefixes("/{etc,usr/lib}/x*"), ["/etc/x", "/usr/lib/x"]);
        assert_eq!(prefixes("/**/.ssh"), ["/"]);
        assert_eq!(prefixes(r"/a\*b?c"), ["/a*b"]);
    }

    /// What a sequence of tokens matches, in the plainest way.
    fn naive(tokens: &[Token], bytes: &[u8]) -> bool {
        let byte_in = |token: &Token, byte: u8| match token {
            Token::Byte(expected) => *expected == byte,
            Token::Any | Token::Star => byte != b'/',
            Token::DoubleStar => true,
            Token::Class { negated, ranges } => {
                byte != b'/' && ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte)) != *negated
            }
        };
        match tokens {
            [] => bytes.is_empty(),
            // No component at all.
            [Token::DoubleStar, Token::Byte(b'/'), rest @ ..] if naive(rest, bytes) => true,
            [Token::DoubleStar, rest @ ..] => (1..=bytes.len()).any(|taken| naive(rest, &bytes[taken..])),
            [Token::Star, rest @ ..] => {
                let most = bytes.iter().take_while(|byte| byte_in(&Token::Star, **byte)).count();
                (0..=most).any(|taken| naive(rest, &bytes[taken..]))
            }
            [token, rest @ ..] => {
                bytes.split_first().is_some_and(|(byte, behind)| byte_in(token, *byte) && naive(rest, behind))
            }
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_what_its_tokens_say(
            source in "(/(a|b|[ab]?[*]|[?]|\\[ab\\]|\\[!a\\]|[*]{2}|\\{a,b\\}|\\{a,b/a\\}|\\{[*]{2},a\\})){1,4}",
            text in "(/[abc]{1,2}){0,5}",
        ) {
            let pattern = path(&source);
            let expected = pattern.alternatives.iter().any(|tokens| naive(tokens, text.as_bytes()));
            prop_assert_eq!(pattern.regex.is_match(text.as_bytes()), expected);
            // The prefixes that the kernel side gets lose nothing.
            prop_assert_eq!(pattern.matches(text.as_bytes()), expected);
        }

        #[test]
        fn no_text_breaks_the_reader(source in "[/a*?\\[\\]{},\\\\!x-]{0,24}", bytes: Vec<u8>) {
            for of in [PatternOf::Path, PatternOf::Word, PatternOf::Cgroup] {
                if let Ok(pattern) = Pattern::new(&source, of) {
                    pattern.matches(&bytes);
                }
            }
        }
    }
}
