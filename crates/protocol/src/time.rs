//! Time as plain numbers. The core is told the time; it never asks.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::seq::ParseError;

/// A monotonic moment: microseconds since an origin that the shell chooses once per process (or simulation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ORIGIN: Instant = Instant(0);

    /// The moment `elapsed` after the origin.
    #[must_use]
    pub fn from_origin(elapsed: Duration) -> Instant {
        Instant(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
    }

    /// How long after the origin this is.
    #[must_use]
    pub fn since_origin(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Wall-clock time of an event: milliseconds since 1970-01-01T00:00:00Z, by the server's clock when it stored the event. Goes
/// back only where that clock was set back by more than a few seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `age` before this one, stopping at 1970.
    #[must_use]
    pub fn before(self, age: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The time `later` after this one.
    #[must_use]
    pub fn after(self, later: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, millis) = (self.0 / DAY_MS, self.0 % DAY_MS);
        let (year, month, day) = civil_from_days(days);
        let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
        let (seconds, millis) = (millis / 1000 % 60, millis % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
    }
}

impl FromStr for Timestamp {
    type Err = ParseError;

    /// Reads what `Display` writes: `2026-11-28T02:30:00.000Z`, with or without the fraction.
    fn from_str(text: &str) -> Result<Timestamp, ParseError> {
        parse(text).ok_or_else(|| ParseError::new("a time (2026-11-28T02:30:00.000Z)", text))
    }
}

#[expect(clippy::disallowed_types, reason = "a conversion reads no clock")]
impl From<std::time::SystemTime> for Timestamp {
    /// What lies before 1970 counts as 1970.
    fn from(time: std::time::SystemTime) -> Timestamp {
        let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

#[expect(clippy::disallowed_types, reason = "a conversion reads no clock")]
impl TryFrom<Timestamp> for std::time::SystemTime {
    type Error = TimeOutOfRange;

    /// Fails for what this system cannot express: years far beyond anybody's clock.
    fn try_from(time: Timestamp) -> Result<std::time::SystemTime, TimeOutOfRange> {
        std::time::SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(time.0)).ok_or(TimeOutOfRange(time))
    }
}

/// A time lies beyond what this system's clock can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time {0} is beyond what this system can express")]
pub struct TimeOutOfRange(Timestamp);

fn parse(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let number = |digits: &str, max: u64| {
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|number| is_plain && *number <= max)
    };
    let mut date = date.splitn(3, '-');
    let (year, month) = (number(date.next()?, YEAR_MAX)?, number(date.next()?, 12)?);
    let day = number(date.next()?, 31)?;
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (number(time.next()?, 23)?, number(time.next()?, 59)?);
    let seconds = number(time.next()?, 59)?;
    // Digits of nanoseconds at most, of which those of milliseconds count.
    let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let millis = number(format!("{fraction:0<3}").get(..3).filter(|_| is_fraction)?, 999)?;
    let days = days_from_civil(year, month, day).filter(|days| civil_from_days(*days) == (year, month, day))?;
    let of_day = hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + millis;
    days.checked_mul(DAY_MS)?.checked_add(of_day).map(Timestamp)
}

/// Days since 1970-01-01 as year, month and day. Years of 400 years repeat; they are counted from March, so that the leap
/// day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day.checked_sub(1)?;
    let year_of_era = year % 400;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (year / 400 * DAYS_OF_ERA + day_of_era).checked_sub(DAYS_BEFORE_1970)
}

const DAY_MS: u64 = 86_400_000;

const DAYS_OF_ERA: u64 = 146_097;

/// From 0000-03-01 to 1970-01-01.
const DAYS_BEFORE_1970: u64 = 719_468;

/// The year in which the milliseconds of 64 bits end.
const YEAR_MAX: u64 = 584_556_019;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_that_is_not_of_digits_is_refused() {
        for fraction in ["", "1é", "12é4", "é", "1234567890", "1x", "+12", "12345678é"] {
            assert!(format!("2026-11-28T02:30:00.{fraction}Z").parse::<Timestamp>().is_err(), "{fraction:?}");
        }
        assert_eq!("2026-11-28T02:30:00.1239Z".parse(), Ok(Timestamp(1_795_833_000_123)));
    }

    #[test]
    fn a_time_is_written_for_people_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_833_000_123, "2026-11-28T02:30:00.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp(ms).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(ms)));
        }
        assert_eq!("2026-11-28T02:30:00Z".parse(), Ok(Timestamp(1_795_833_000_000)));
        assert_eq!(Timestamp(u64::MAX).to_string().parse(), Ok(Timestamp(u64::MAX)));
        for text in ["", "2026-11-28", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "+026-01-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_types, reason = "a conversion reads no clock")]
    fn a_time_becomes_the_systems_and_comes_back() {
        let time = Timestamp(1_795_833_000_123);
        assert_eq!(Timestamp::from(std::time::SystemTime::try_from(time).unwrap()), time);
    }
}
