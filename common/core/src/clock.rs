//! Times as texts.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time as `2026-11-21T23:44:32Z`.
pub fn now() -> String {
    utc(unix_seconds(SystemTime::now()))
}

/// Seconds since 1970; 0 for earlier times.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Formats seconds since 1970. The date is computed as in Hinnant's "chrono-compatible low-level date
/// algorithms".
pub fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let dates = [0, 951_782_400, 1_763_768_672].map(utc);
        assert_eq!(dates, ["1970-01-01T00:00:00Z", "2000-02-29T00:00:00Z", "2025-11-21T23:44:32Z"]);
    }
}
