//! Times such as `90s`, `5m` or `1h30m`.

use std::time::Duration;

use crate::policy::Fault;

const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Reads a time: whole numbers, each with its unit, from a second to thirty days in all.
pub(super) fn parse(text: &str) -> Result<Duration, Fault> {
    let bad = || {
        Fault::new(format!("{text:?} is no time"), "write a number with its unit: \"90s\", \"5m\", \"2h\" or \"1d\"")
    };
    let mut seconds: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let (number, behind) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let unit = behind.chars().next().ok_or_else(bad)?;
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        // What does not fit is longer than the longest, which the check below says.
        seconds = seconds.saturating_add(number.saturating_mul(scale));
        rest = behind[1..].trim_start();
    }
    match Duration::from_secs(seconds) {
        Duration::ZERO => Err(Fault::new("the time is zero", "write at least \"1s\"")),
        duration if duration > LONGEST => Err(Fault::new(format!("{text:?} is too long"), "write at most \"30d\"")),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_are_spoken() {
        for (text, seconds) in
            [("1s", 1), ("90s", 90), ("5m", 300), ("2h", 7200), ("1h30m", 5400), ("1h 5s", 3605), ("30d", 2_592_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            " ",
            "5",
            "m",
            "5 m",
            "-5m",
            "1.5h",
            "5ms",
            "5m3",
            "0s",
            "0h0m",
            "31d",
            "99999999999999999999s",
            "18446744073709551615d",
            "5ü",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
