//! Times such as `90s`, `5m` or `1h30m`.

use std::time::Duration;

use crate::{policy::Fault, request};

const LONGEST: Duration = Duration::from_secs(30 * 86_400);

/// Reads a time: whole numbers, each with its unit, from a second to thirty days in all.
pub(super) fn parse(text: &str) -> Result<Duration, Fault> {
    let bad = || {
        Fault::new(format!("{text:?} is no time"), "write a number with its unit: \"90s\", \"5m\", \"2h\" or \"1d\"")
    };
    // What does not fit is longer than the longest, which the check below says.
    let seconds = request::seconds(text).ok_or_else(bad)?;
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
