//! Points in time as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// The two largest units: `45s`, `3m 20s`, `2h 5m`, `3d 4h`.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (large, small) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3_600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    match small.0 {
        0 => format!("{}{}", large.0, large.1),
        _ => format!("{}{} {}{}", large.0, large.1, small.0, small.1),
    }
}

/// How long ago something was.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    short(Duration::from_millis(now_ms.saturating_sub(then_ms)))
}

/// How long until something is; `over` when it was.
pub fn left(then_ms: u64, now_ms: u64) -> String {
    if then_ms <= now_ms { "over".to_owned() } else { short(Duration::from_millis(then_ms - now_ms)) }
}

/// A point in time as RFC 3339 writes it, in UTC, to the second.
pub fn rfc3339(at_ms: u64) -> String {
    let seconds = at_ms / 1_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar repeats every 400 years of 146,097 days; years are counted from 1 March, so that a leap day
    // ends one.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        let shown = |seconds| short(Duration::from_secs(seconds));
        let cases = [(0, "0s"), (59, "59s"), (60, "1m"), (200, "3m 20s"), (7_500, "2h 5m"), (273_600, "3d 4h")];
        for (seconds, expected) in cases {
            assert_eq!(shown(seconds), expected);
        }
        assert_eq!(left(5_000, 5_000), "over");
        assert_eq!(left(5_000, 3_000), "2s");
        assert_eq!(age(5_000, 3_000), "0s", "a clock that was set back");
    }

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000), expected);
        }
    }
}
