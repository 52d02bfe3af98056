//! The text that a reviewer signs: one decision about one request, as it was seen, at one time.
//!
//! It has one form only, so that who signs it can read it and nobody can give it a second meaning. What signatures prove
//! is for [`super::signature`]; whether a statement was used before is for who takes it in.

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use crate::{request::RequestId, text::Text};

/// The first line: what is signed is nothing else, and in no other form.
const TITLE: &str = "gatekeeper decision v1";
/// Labels of the other lines, in their order.
const LABELS: [&str; 8] = ["request", "host", "boot", "card", "verb", "reason", "at", "nonce"];
/// How far the signer's clock and this host's may differ, either way.
pub const SKEW: Duration = Duration::from_secs(5 * 60);
/// Longest reason, in bytes: it is shown on cards and kept in the log.
pub const MAX_REASON_BYTES: usize = 1_000;
/// Longest name of a host, and longest name of a boot, in bytes.
const MAX_HOST_BYTES: usize = 255;
const MAX_BOOT_BYTES: usize = 64;
/// Characters of a nonce: long enough not to be met by chance, short enough to remember.
const NONCE_CHARS: RangeInclusive<usize> = 16..=64;
/// Longest statement, in bytes: all lines at their longest, with room.
pub const MAX_BYTES: usize = 2_048;

/// Where a request waits. Ids of requests repeat on other hosts and after other boots; with this a statement is about one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the host.
    pub host: String,
    /// Names the boot: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl Place {
    /// What can be odd about a host's name is escaped.
    pub fn new(host: &str, boot: &str) -> Self {
        Self { host: Text::from(host).to_string(), boot: boot.to_owned() }
    }
}

/// What a reviewer signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Which request.
    pub request: RequestId,
    /// Where it waits.
    pub place: Place,
    /// Digest of the card that was seen, hexadecimal.
    pub card: String,
    /// What is to be done, as it is typed: `approve`.
    pub verb: String,
    /// Why: one line, empty for none.
    pub reason: String,
    /// When it was signed, by the signer's clock, in milliseconds since the epoch; whole seconds.
    pub at_ms: u64,
    /// Chosen at random by the signer. Two statements never share it.
    pub nonce: String,
}

/// Why a text is no statement that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadStatement {
    /// Not in the one form.
    #[error("the statement is not in the form of `{TITLE}`: {0}")]
    Form(&'static str),
    /// Signed too long ago, or by a clock that is ahead.
    #[error(
        "the statement was signed {seconds} s {direction} by this host's clock, more than the {} s that are taken: \
         sign it anew, and compare the clocks",
        SKEW.as_secs()
    )]
    Time {
        /// By how much.
        seconds: u64,
        /// Before or after this host's time.
        direction: &'static str,
    },
}

impl Statement {
    /// The text to sign.
    pub fn text(&self) -> String {
        let Self { request, place: Place { host, boot }, card, verb, reason, at_ms, nonce } = self;
        let at = write_time(*at_ms);
        format!(
            "{TITLE}\nrequest: {request}\nhost: {host}\nboot: {boot}\ncard: {card}\nverb: {verb}\nreason: {reason}\nat: {at}\n\
             nonce: {nonce}\n"
        )
    }

    /// Reads what [`Self::text`] writes, and nothing else.
    ///
    /// # Errors
    /// It is anything else.
    pub fn parse(text: &[u8]) -> Result<Self, BadStatement> {
        let text = str::from_utf8(text).map_err(|_| BadStatement::Form("not UTF-8"))?;
        if text.len() > MAX_BYTES {
            return Err(BadStatement::Form("too long"));
        }
        let text = text.strip_suffix('\n').ok_or(BadStatement::Form("the last line has no end"))?;
        let mut lines = text.split('\n');
        if lines.next() != Some(TITLE) {
            return Err(BadStatement::Form("its first line is another"));
        }
        let mut values = LABELS.iter().map(|label| {
            lines.next().and_then(|line| line.strip_prefix(label)).and_then(|rest| rest.strip_prefix(": "))
        });
        let mut value = || values.next().flatten().ok_or(BadStatement::Form("a line is missing or out of its place"));
        let (request, host, boot, card) = (value()?, value()?, value()?, value()?);
        let (verb, reason, at, nonce) = (value()?, value()?, value()?, value()?);
        if lines.next().is_some() {
            return Err(BadStatement::Form("there are more lines"));
        }
        let statement = Self {
            request: request.parse().map_err(|_| BadStatement::Form("no request id"))?,
            place: Place { host: host.to_owned(), boot: boot.to_owned() },
            card: card.to_owned(),
            verb: verb.to_owned(),
            reason: reason.to_owned(),
            at_ms: read_time(at).ok_or(BadStatement::Form("no time such as 2026-01-31T08:00:00Z"))?,
            nonce: nonce.to_owned(),
        };
        if host.is_empty() || host.len() > MAX_HOST_BYTES || host.chars().any(char::is_control) {
            return Err(BadStatement::Form("no host's name"));
        }
        let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if boot.is_empty() || boot.len() > MAX_BOOT_BYTES || !boot.bytes().all(hexadecimal) {
            return Err(BadStatement::Form("no boot such as /proc/sys/kernel/random/boot_id names"));
        }
        if card.len() != 64 || !card.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(BadStatement::Form("the card is no digest of 64 lower-case hexadecimal digits"));
        }
        if verb.is_empty() || !verb.bytes().all(|byte| byte.is_ascii_lowercase()) {
            return Err(BadStatement::Form("no verb such as approve"));
        }
        if reason.len() > MAX_REASON_BYTES || reason.chars().any(char::is_control) {
            return Err(BadStatement::Form("the reason is too long or not one line of plain text"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !NONCE_CHARS.contains(&nonce.len()) || !nonce.bytes().all(plain) {
            return Err(BadStatement::Form("the nonce is not 16 to 64 letters, digits, - and _"));
        }
        // Ids can be typed in several ways; signed is one.
        if statement.text().strip_suffix('\n') != Some(text) {
            return Err(BadStatement::Form("request or time are not written as gatekeeper writes them"));
        }
        Ok(statement)
    }

    /// Whether it was signed at about this time.
    ///
    /// # Errors
    /// The times differ by more than [`SKEW`].
    pub fn check_time(&self, now_ms: u64) -> Result<(), BadStatement> {
        if u128::from(self.at_ms.abs_diff(now_ms)) <= SKEW.as_millis() {
            return Ok(());
        }
        let direction = if self.at_ms < now_ms { "ago" } else { "ahead" };
        Err(BadStatement::Time { seconds: self.at_ms.abs_diff(now_ms) / 1_000, direction })
    }
}

/// A point in time as RFC 3339 writes it, in UTC, to the second.
fn write_time(at_ms: u64) -> String {
    let seconds = at_ms / 1_000;
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    let mut text = format!("{year:04}-{month:02}-{:02}T", days + 1);
    // Writing to a string cannot fail.
    let _ = write!(text, "{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60);
    text
}

/// Reads what [`write_time`] writes, up to the year 9999.
fn read_time(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00Z";
    let fits = |(byte, expected): (&u8, &u8)| if *expected == b'0' { byte.is_ascii_digit() } else { byte == expected };
    if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let in_range = year >= 1970 && (1..=12).contains(&month) && day >= 1 && day <= days_of_month(year, month);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days: u64 = (1970..year).map(days_of_year).sum::<u64>()
        + (1..month).map(|month| days_of_month(year, month)).sum::<u64>()
        + day
        - 1;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u64::from(is_leap(year)),
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Statement {
        Statement {
            request: RequestId::new(7, 42),
            place: Place::new("web-1", "00112233-4455-6677-8899-aabbccddeeff"),
            card: "ab".repeat(32),
            verb: "approve".to_owned(),
            reason: "looked at it: fine".to_owned(),
            at_ms: 1_700_000_000_000,
            nonce: "0123456789abcdef".to_owned(),
        }
    }

    #[test]
    fn a_statement_has_one_form() {
        let text = sample().text();
        let id = sample().request;
        assert_eq!(
            text,
            format!(
                "gatekeeper decision v1\nrequest: {id}\nhost: web-1\nboot: 00112233-4455-6677-8899-aabbccddeeff\ncard: {}\n\
                 verb: approve\nreason: looked at it: fine\n\
                 at: 2023-11-14T22:13:20Z\nnonce: 0123456789abcdef\n",
                "ab".repeat(32)
            )
        );
        assert_eq!(Statement::parse(text.as_bytes()), Ok(sample()));
        let lower = text.replace(&id.to_string(), &id.to_string().to_lowercase().replace('-', ""));
        for other in [
            "",
            "gatekeeper decision v1\n",
            text.trim_end(),
            &format!("{text}\n"),
            &format!("{text}verb: approve\n"),
            &text.replace('\n', "\r\n"),
            &text.replace("v1", "v2"),
            &text.replace("verb: approve\n", ""),
            &text.replace("host: web-1\n", ""),
            &text.replace("web-1", ""),
            &text.replace("web-1", "web\x1b1"),
            &text.replace("00112233", "0011223G"),
            &text.replace("00112233-4455-6677-8899-aabbccddeeff", ""),
            &text.replace("verb: approve", "verb: Approve"),
            &text.replace("verb: approve", "verb:approve"),
            &text.replace("verb: approve", "verb: "),
            &text.replace("fine", "fi\u{7f}ne"),
            &text.replace("fine", &"x".repeat(MAX_REASON_BYTES)),
            &text.replace("fine", &"x".repeat(MAX_BYTES)),
            &text.replace("20Z", "20+00:00"),
            &text.replace("11-14", "13-14"),
            &text.replace("0123456789abcdef", "short"),
            &text.replace("0123456789abcdef", "0123456789 abcdef"),
            &text.replace("abab", "ABab"),
            &lower,
        ] {
            assert!(matches!(Statement::parse(other.as_bytes()), Err(BadStatement::Form(_))), "{other:?}");
        }
        assert_eq!(Statement::parse(b"\xff\n"), Err(BadStatement::Form("not UTF-8")));
    }

    #[test]
    fn a_reason_may_be_missing() {
        let statement = Statement { reason: String::new(), ..sample() };
        assert_eq!(Statement::parse(statement.text().as_bytes()), Ok(statement));
    }

    #[test]
    fn clocks_may_differ_by_five_minutes_either_way() {
        let at = sample().at_ms;
        for (now, good) in [(at, true), (at + 300_000, true), (at - 300_000, true), (at + 300_001, false), (0, false)] {
            assert_eq!(sample().check_time(now).is_ok(), good, "{now}");
        }
        let error = sample().check_time(at - 301_000).unwrap_err().to_string();
        assert!(error.starts_with("the statement was signed 301 s ahead"), "{error}");
    }

    #[test]
    fn times_follow_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(write_time(seconds * 1_000), expected);
        }
        for bad in ["2023-02-29T00:00:00Z", "2023-00-01T00:00:00Z", "2023-01-01T24:00:00Z", "1969-12-31T23:59:59Z"] {
            assert_eq!(read_time(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn times_read_back(seconds in 0_u64..253_402_300_800) {
            prop_assert_eq!(read_time(&write_time(seconds * 1_000)), Some(seconds * 1_000));
        }

        #[test]
        fn what_anybody_sends_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Statement::parse(&bytes);
        }
    }
}
