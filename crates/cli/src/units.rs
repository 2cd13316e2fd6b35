//! Numbers as people write them in flags and in the configuration file: `10 GiB`, `30d`, `5M`.

use std::time::Duration;

/// A number of bytes: a plain number, or a number with a unit (`64 KiB`, `1.5GB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteCount(pub(crate) u64);

/// A number of things: a plain number, or one with `k`, `M` or `G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u64);

/// A time with its unit: `500ms`, `15s`, `1h 30m`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl std::str::FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<ByteCount, String> {
        let units: [(&str, u64); 10] = [
            ("", 1),
            ("b", 1),
            ("kb", 1_000),
            ("mb", 1_000_000),
            ("gb", 1_000_000_000),
            ("tb", 1_000_000_000_000),
            ("kib", 1 << 10),
            ("mib", 1 << 20),
            ("gib", 1 << 30),
            ("tib", 1 << 40),
        ];
        scaled(text, &units)
            .map(ByteCount)
            .ok_or_else(|| format!("`{text}` is not a size: write bytes, or a number with KiB, MiB, GiB, KB, MB or GB"))
    }
}

impl std::str::FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        scaled(text, &[("", 1), ("k", 1_000), ("m", 1_000_000), ("g", 1_000_000_000)])
            .map(Count)
            .ok_or_else(|| format!("`{text}` is not a count: write a number, or one with k, M or G"))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        humantime::parse_duration(text).map(Span).map_err(|_| {
            format!("`{text}` is not a time: write a number with its unit, as in 500ms, 15s, 10m, 1h or 30d")
        })
    }
}

/// Digits (with `_` and at most one point), then one of the units, whatever its case.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '_' || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)?;
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && (fraction.is_empty() || factor == 1)) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    let divisor = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / u128::from(divisor);
    whole.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1_000", 1_000),
            ("64 KiB", 65_536),
            ("64kib", 65_536),
            ("10GB", 10_000_000_000),
            ("1.5 MiB", 1_572_864),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_in_words() {
        for text in ["", "KiB", "-1", "1.5", "1..5 MiB", "1. MiB", "10 parsecs", "99999999999999999999", "20000000 TiB"]
        {
            let error = text.parse::<ByteCount>().unwrap_err();
            assert!(error.contains("is not a size"), "{text}: {error}");
        }
    }

    #[test]
    fn counts_and_times_are_read_as_people_write_them() {
        assert_eq!("5M".parse(), Ok(Count(5_000_000)));
        assert_eq!("1.5k".parse(), Ok(Count(1_500)));
        assert!("5 apples".parse::<Count>().is_err());
        assert_eq!("1h 30m".parse(), Ok(Span(Duration::from_secs(5_400))));
        assert_eq!("30d".parse(), Ok(Span(Duration::from_secs(30 * 86_400))));
        assert!("30".parse::<Span>().unwrap_err().contains("unit"));
    }
}
