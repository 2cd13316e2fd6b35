//! Values as people write them: in the example, in the documentation and in refusals. What is written here is read by
//! [`crate::units`].

use std::time::Duration;

use redeliver_socketio::Recovery;

/// `256 KiB` if nothing is lost by that, else bytes.
pub(super) fn size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    for (unit, factor) in [("GB", 1_000_000_000), ("MB", 1_000_000)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{} {unit}", bytes / factor);
        }
    }
    format!("{} byte{}", grouped(bytes, ','), if bytes == 1 { "" } else { "s" })
}

/// `65,536`.
pub(super) fn count(number: u64) -> String {
    grouped(number, ',')
}

/// `15s`, `30d`.
pub(super) fn time(time: Duration) -> String {
    let days = time.as_secs() / SECONDS_PER_DAY;
    if days > 0 && time == Duration::from_secs(days * SECONDS_PER_DAY) {
        // Instead of months of 30.44 days.
        return format!("{days}d");
    }
    humantime::format_duration(time).to_string()
}

/// `10_000`, as TOML takes it.
pub(super) fn toml_count(number: u64) -> String {
    grouped(number, '_')
}

pub(super) fn recovery(recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::Auto => "auto",
        Recovery::On => "on",
        Recovery::Off => "off",
    }
}

pub(super) fn recovery_of(word: &str) -> Option<Recovery> {
    [Recovery::Auto, Recovery::On, Recovery::Off].into_iter().find(|value| recovery(*value) == word)
}

fn grouped(number: u64, separator: char) -> String {
    let digits = number.to_string();
    if digits.len() < 5 && separator == '_' {
        return digits;
    }
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

const SECONDS_PER_DAY: u64 = 86_400;
