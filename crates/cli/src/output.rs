//! What `listen` writes: a line per event on stdout, and gaps where they belong.
//!
//! Writes into a buffer; when that is flushed, and so what may be acknowledged, is `listen`'s business.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use redeliver_client::{GapCause, PayloadKind, Timestamp, VolatileEvent};
use serde::Serialize;

use crate::escape;
use crate::payload::PayloadJson;

/// `listen --format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The payload and a line end; gaps are warnings on stderr
    #[default]
    Lines,
    /// An object with seq, nth, topic, name, time, payload and redelivered; gaps as {"gap":{…}}
    Json,
}

/// How lines are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    /// Whether control characters are escaped, as a terminal needs it.
    pub(crate) escapes: bool,
}

/// An event, as it is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventLine<'a> {
    pub(crate) seq: u64,
    pub(crate) nth: u64,
    pub(crate) topic: &'a str,
    pub(crate) name: &'a str,
    pub(crate) time: Timestamp,
    pub(crate) kind: PayloadKind,
    pub(crate) payload: &'a [u8],
    pub(crate) redelivered: bool,
}

/// A gap, as it is shown.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct GapLine<'a> {
    pub(crate) topic: &'a str,
    pub(crate) after: u64,
    pub(crate) through: u64,
    pub(crate) count: u64,
    pub(crate) exact: bool,
    #[serde(serialize_with = "cause_name")]
    pub(crate) cause: GapCause,
}

/// Writes an event as one line.
pub(crate) fn write_event(out: &mut impl Write, layout: Layout, event: &EventLine<'_>) -> io::Result<()> {
    match layout.format {
        Format::Lines => write_payload(out, layout, event.payload),
        Format::Json => write_json(
            out,
            layout,
            &EventJson {
                seq: event.seq,
                nth: event.nth,
                topic: event.topic,
                name: event.name,
                time: rfc3339(event.time),
                payload: PayloadJson { kind: event.kind, bytes: event.payload },
                redelivered: event.redelivered,
            },
        ),
    }
}

/// Writes an event that is not stored: it has no numbers.
pub(crate) fn write_volatile(out: &mut impl Write, layout: Layout, event: &VolatileEvent) -> io::Result<()> {
    match layout.format {
        Format::Lines => write_payload(out, layout, &event.payload),
        Format::Json => write_json(
            out,
            layout,
            &VolatileJson {
                volatile: true,
                topic: event.topic.as_str(),
                name: event.name.as_str(),
                time: rfc3339(event.time),
                payload: PayloadJson { kind: event.kind, bytes: &event.payload },
            },
        ),
    }
}

fn write_payload(out: &mut impl Write, layout: Layout, payload: &[u8]) -> io::Result<()> {
    match layout.escapes {
        true => out.write_all(escape::payload(payload).as_bytes())?,
        false => out.write_all(payload)?,
    }
    out.write_all(b"\n")
}

fn write_json(out: &mut impl Write, layout: Layout, value: &impl Serialize) -> io::Result<()> {
    match layout.escapes {
        true => out.write_all(escape::json(&serde_json::to_string(value)?).as_bytes())?,
        false => serde_json::to_writer(&mut *out, value)?,
    }
    out.write_all(b"\n")
}

/// Writes a gap: as a line among the events, or as a warning beside them.
pub(crate) fn write_gap(
    out: &mut impl Write,
    warnings: &mut impl Write,
    layout: Layout,
    gap: &GapLine<'_>,
) -> io::Result<()> {
    match layout.format {
        Format::Lines => {
            let about = if gap.exact { "" } else { "at most " };
            let events = if gap.count == 1 { "event is" } else { "events are" };
            let GapLine { topic, after, through, count, cause, .. } = gap;
            let words = format!(
                "warning: {}: {about}{count} {events} missing, after seq {after} through {through}: {}",
                escape::controls(topic),
                cause.description()
            );
            // A warning that cannot be shown must not keep the events from being shown.
            let _ = writeln!(warnings, "{words}");
            Ok(())
        }
        Format::Json => write_json(out, layout, &GapJson { gap }),
    }
}

#[derive(Serialize)]
struct EventJson<'a> {
    seq: u64,
    nth: u64,
    topic: &'a str,
    name: &'a str,
    time: String,
    payload: PayloadJson<'a>,
    redelivered: bool,
}

#[derive(Serialize)]
struct VolatileJson<'a> {
    volatile: bool,
    topic: &'a str,
    name: &'a str,
    time: String,
    payload: PayloadJson<'a>,
}

#[derive(Serialize)]
struct GapJson<'a> {
    gap: &'a GapLine<'a>,
}

/// `2026-11-22T19:40:00.123Z`; the end of the year 9999 for anything later.
fn rfc3339(time: Timestamp) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(time.0.min(LAST_WRITABLE_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

// serde gives a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn cause_name<S: serde::Serializer>(cause: &GapCause, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cause.as_str())
}

/// 9999-12-31T23:59:59.999Z, the last time that RFC 3339 can write.
const LAST_WRITABLE_MS: u64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: EventLine<'_> = EventLine {
        seq: 12,
        nth: 3,
        topic: "orders",
        name: "created",
        time: Timestamp(1_700_000_000_123),
        kind: PayloadKind::Json,
        payload: br#"{"id": 7}"#,
        redelivered: true,
    };

    const GAP: GapLine<'_> =
        GapLine { topic: "orders", after: 2, through: 9, count: 5, exact: true, cause: GapCause::RetentionAge };

    fn event(format: Format, event: &EventLine<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        write_event(&mut out, Layout { format, escapes: false }, event).unwrap();
        out
    }

    fn gap(format: Format, gap: &GapLine<'_>) -> (String, String) {
        let (mut out, mut warnings) = (Vec::new(), Vec::new());
        write_gap(&mut out, &mut warnings, Layout { format, escapes: false }, gap).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(warnings).unwrap())
    }

    #[test]
    fn a_json_line_carries_all_that_is_known_of_an_event() {
        let line = event(Format::Json, &EVENT);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "{\"seq\":12,\"nth\":3,\"topic\":\"orders\",\"name\":\"created\",\"time\":\"2023-11-14T22:13:20.123Z\",\
             \"payload\":{\"id\": 7},\"redelivered\":true}\n"
        );
    }

    #[test]
    fn a_plain_line_is_the_payload_byte_for_byte() {
        assert_eq!(event(Format::Lines, &EventLine { payload: b"\xff\tx", ..EVENT }), b"\xff\tx\n");
    }

    #[test]
    fn a_line_for_a_terminal_is_one_line_without_controls() {
        let shown = |format, payload| {
            let mut out = Vec::new();
            let line = EventLine { payload, kind: PayloadKind::Text, ..EVENT };
            write_event(&mut out, Layout { format, escapes: true }, &line).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Format::Lines, b"\x1b[2Jtwo\nlines"), "\\u{1b}[2Jtwo\\nlines\n");
        let json = shown(Format::Json, "\u{9b}2J\u{7f}".as_bytes());
        assert!(json.contains("\"payload\":\"\\u009b2J\\u007f\"") && json.ends_with("}\n"), "{json}");
    }

    #[test]
    fn a_time_that_cannot_be_written_does_not_stop_the_listener() {
        let line = event(Format::Json, &EventLine { time: Timestamp(u64::MAX), ..EVENT });
        assert!(String::from_utf8(line).unwrap().contains("9999-12-31T23:59:59.999Z"));
    }

    #[test]
    fn a_gap_is_a_json_line_among_json_lines() {
        let (out, warnings) = gap(Format::Json, &GAP);
        let wanted = "{\"gap\":{\"topic\":\"orders\",\"after\":2,\"through\":9,\"count\":5,\"exact\":true,\"cause\":\"retention_age\"}}\n";
        assert_eq!((out.as_str(), warnings.as_str()), (wanted, ""));
    }

    #[test]
    fn a_gap_is_a_warning_beside_plain_lines_and_cannot_forge_one() {
        let (out, warnings) = gap(Format::Lines, &GapLine { topic: "a\nb", exact: false, count: 1, ..GAP });
        assert_eq!(out, "");
        assert!(
            warnings.starts_with("warning: a\\nb: at most 1 event is missing, after seq 2 through 9: "),
            "{warnings}"
        );
    }
}
