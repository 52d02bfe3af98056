//! How long an approval holds for the same action again, where a rule offers more than once.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest time of a grant: what is right for longer is a rule, not a decision.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// How long a grant holds. Ordered: the shorter is the smaller. Every grant ends with the agent's run, so a time is shorter
/// than [`GrantLength::Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GrantLength {
    /// For this long; whole seconds.
    For(Duration),
    /// For as long as the agent's run.
    Run,
}

/// Text that is no length of a grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of a grant: write a time such as 10m or 1h, or run")]
pub struct BadGrantLength(String);

impl GrantLength {
    /// In words that follow "approved": `for 1 hour 30 minutes`, `for this agent run`.
    pub fn in_words(self) -> String {
        let Self::For(time) = self else { return "for this agent run".to_owned() };
        let words = units(time).map(|(count, _, name)| format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        format!("for {}", words.collect::<Vec<_>>().join(" "))
    }
}

/// A time in units, without those of which there are none.
fn units(time: Duration) -> impl Iterator<Item = (u64, char, &'static str)> {
    let seconds = time.as_secs();
    let parts = [
        (seconds / 86_400, 'd', "day"),
        (seconds / 3_600 % 24, 'h', "hour"),
        (seconds / 60 % 60, 'm', "minute"),
        (seconds % 60, 's', "second"),
    ];
    parts.into_iter().filter(|(count, ..)| *count > 0)
}

/// Seconds in a time such as `90s` or `1h30m`: whole numbers, each with its unit. What does not fit is as long as can be.
pub fn seconds(text: &str) -> Option<u64> {
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let scale = match behind.chars().next()? {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        seconds = seconds.saturating_add(number.saturating_mul(scale));
        rest = behind.get(1..)?.trim_start();
    }
    Some(seconds)
}

impl fmt::Display for GrantLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::For(time) => units(*time).try_for_each(|(count, unit, _)| write!(f, "{count}{unit}")),
            Self::Run => f.write_str("run"),
        }
    }
}

impl FromStr for GrantLength {
    type Err = BadGrantLength;

    fn from_str(text: &str) -> Result<Self, BadGrantLength> {
        if text == "run" {
            return Ok(Self::Run);
        }
        let bad = || BadGrantLength(text.chars().take(40).collect());
        let time = seconds(text).map(Duration::from_secs).filter(|time| !time.is_zero() && *time <= LONGEST);
        time.map(Self::For).ok_or_else(bad)
    }
}

impl Serialize for GrantLength {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GrantLength {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Several lengths, for a message: `10m, 1h or run`.
pub fn lengths(offered: &[GrantLength]) -> String {
    let words: Vec<_> = offered.iter().map(ToString::to_string).collect();
    match words.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, first)) => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_shown_and_ordered() {
        let length = |text: &str| text.parse::<GrantLength>().unwrap();
        assert_eq!(length("90s").to_string(), "1m30s");
        assert_eq!(length("90m").in_words(), "for 1 hour 30 minutes");
        assert_eq!(length("run").in_words(), "for this agent run");
        assert!(length("10m") < length("1h") && length("30d") < length("run"));
        assert_eq!(lengths(&[length("10m"), length("1h"), length("run")]), "10m, 1h or run");
        for bad in ["", "0s", "31d", "10", "ever", "10 m", "Run"] {
            assert!(bad.parse::<GrantLength>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn shown_lengths_read_back(seconds in 1_u64..=30 * 86_400) {
            let length = GrantLength::For(Duration::from_secs(seconds));
            prop_assert_eq!(length.to_string().parse(), Ok(length));
        }
    }
}
