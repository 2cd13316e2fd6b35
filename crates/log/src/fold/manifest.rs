//! The manifest of a run: what it spans, and every key that it wrote, so that trimming a run is deleting exactly these.
//!
//! ```text
//! first:u64 | last:u64 | last_time:u64 | spans:u16 × { last:u64 | stored:u64 | event_bytes:u64 }
//! keys:u32 × { length:u8 | prefix | pieces:u16 }       (pieces 0: a key as it is)
//! ```

use bytes::BufMut;
use redeliver_protocol::seq::Seq;
use redeliver_protocol::time::Timestamp;

use crate::layout::Damaged;
use crate::layout::reader::ByteReader;
use crate::state::{FloorStep, Run};

/// Most spans of a run: retention by age and bytes passes a run in so many steps. Held in memory for all runs.
pub(crate) const SPANS_MAX: usize = 16;

/// A key that a run wrote, and in how many pieces; zero for a small value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunKey {
    pub(crate) prefix: Vec<u8>,
    pub(crate) pieces: u16,
}

/// The manifest's value.
pub(crate) fn encode(run: &Run, keys: &[RunKey]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + run.spans.len() * 24 + keys.len() * 20);
    out.put_u64_le(run.first.0);
    out.put_u64_le(run.last.0);
    out.put_u64_le(run.last_time.0);
    out.put_u16_le(u16::try_from(run.spans.len()).unwrap_or(u16::MAX));
    for span in &run.spans {
        out.put_u64_le(span.last.0);
        out.put_u64_le(span.stored.0);
        out.put_u64_le(span.event_bytes);
    }
    out.put_u32_le(u32::try_from(keys.len()).unwrap_or(u32::MAX));
    for key in keys {
        out.put_u8(u8::try_from(key.prefix.len()).unwrap_or(u8::MAX));
        out.put_slice(&key.prefix);
        out.put_u16_le(key.pieces);
    }
    out
}

/// The run that a manifest begins with.
pub(crate) fn read_run(bytes: &[u8]) -> Result<Run, Damaged> {
    read_head(&mut ByteReader::new(bytes))
}

/// The keys that a whole manifest names.
pub(crate) fn read_keys(bytes: &[u8]) -> Result<Vec<RunKey>, Damaged> {
    let mut reader = ByteReader::new(bytes);
    read_head(&mut reader)?;
    let count = reader.u32()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let length = usize::from(reader.u8()?);
        keys.push(RunKey { prefix: reader.take(length)?.to_vec(), pieces: reader.u16()? });
    }
    Ok(keys)
}

fn read_head(reader: &mut ByteReader<'_>) -> Result<Run, Damaged> {
    let (first, last, last_time) = (Seq(reader.u64()?), Seq(reader.u64()?), Timestamp(reader.u64()?));
    let count = reader.u16()?;
    let mut spans = Vec::with_capacity(usize::from(count).min(SPANS_MAX));
    for _ in 0..count {
        spans.push(FloorStep {
            last: Seq(reader.u64()?),
            stored: Timestamp(reader.u64()?),
            event_bytes: reader.u64()?,
        });
    }
    Ok(Run { first, last, last_time, spans: spans.into_boxed_slice() })
}

/// A run of which only the key can be read. Its end is found by [`close_unknown_runs`].
pub(crate) fn unknown_run(first: Seq) -> Run {
    Run { first, last: Seq::ZERO, last_time: Timestamp::default(), spans: Box::default() }
}

/// Gives runs that could not be read the end and times that their neighbours leave them: rather too late a time, so that
/// nobody who looks for a time passes over them.
pub(crate) fn close_unknown_runs(runs: &mut [Run], fold_point: Seq) {
    let mut next: Option<(Seq, Timestamp, Timestamp)> = None;
    let newest = runs.iter().map(|run| run.last_time).max().unwrap_or_default();
    for run in runs.iter_mut().rev() {
        let (next_first, next_time, next_stored) =
            next.unwrap_or((fold_point.saturating_add(1), newest, Timestamp(u64::MAX)));
        if run.last == Seq::ZERO {
            run.last = Seq(next_first.0.saturating_sub(1)).max(run.first);
            run.last_time = next_time;
            run.spans = Box::new([FloorStep { last: run.last, stored: next_stored, event_bytes: 0 }]);
        }
        let stored = run.spans.first().map_or(next_stored, |span| span.stored);
        next = Some((run.first, run.last_time, stored));
    }
}
