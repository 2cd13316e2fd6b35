//! Many topics with one event each: what the server's memory is, and whether emits and resumes cost more when there are more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redeliver_protocol::codec::encode_client;
use redeliver_protocol::frame::{ClientFrame, ServerFrame};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::SubscriptionId;

use super::readers::{Readers, filled, join_emitter_of};
use super::{PATIENCE, Run};
use crate::fleet::{Fleet, Handler};
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::wire::{Progress, Shape, decode, hello, put_message, scattered, subscribe_as, subscription_of};

/// Memory with a thousand, 100,000 and a million topics, and the cost of an emit and of a resume with each. A quick run that
/// has come late leaves the million out.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn flatness(run: &Run) -> Result<Vec<Row>> {
    let counts: &[u64] = if run.has_time_for(MILLION_TAKES) { &COUNTS } else { &COUNTS[..2] };
    let mut rows: Vec<Row> = Vec::new();
    let mut fewest: Option<(f64, f64)> = None;
    for &topics in counts {
        let measured = measure(run, topics)?;
        let (emit, resume) = *fewest.get_or_insert((measured.emit_us, measured.resume_us));
        let named = |workload: &str, value, unit| {
            Row::new(workload, format!("{topics} topics, one event each"), value, unit)
                .server(measured.cpu_s, measured.rss_peak_bytes)
        };
        let memory = named("topics: server memory", measured.rss_bytes as f64 / 1e6, "MB");
        rows.push(if topics >= 1_000_000 { memory.wanted(Wanted::AtMost(600.0)) } else { memory });
        let emit = named("topics: emit", measured.emit_us, "CPU-µs/event").limit_of_cost(emit);
        let resume = named("topics: resume", measured.resume_us, "CPU-µs/reader").limit_of_cost(resume);
        for row in [emit, resume] {
            rows.push(if topics == counts[0] {
                row
            } else {
                row.wanted(Wanted::Ratio(FLAT)).note(format!("limit: the same with {} topics", counts[0]))
            });
        }
    }
    Ok(rows)
}

struct Measured {
    rss_bytes: u64,
    rss_peak_bytes: u64,
    cpu_s: f64,
    emit_us: f64,
    resume_us: f64,
}

fn measure(run: &Run, topics: u64) -> Result<Measured> {
    let data = run.data()?;
    let server = filled(run, data.path(), topics, topics)?;
    let rss_bytes = server.settle()?.rss_bytes;
    let resume_us = resume(&server, topics)?;
    let emit_us = emit_again(&server, topics)?;
    let used = server.usage()?;
    Ok(Measured { rss_bytes, rss_peak_bytes: used.rss_peak_bytes, cpu_s: used.cpu_s, emit_us, resume_us })
}

/// CPU microseconds of the server, folding included, for each event that goes to a topic which has one already, spread over
/// all of them.
fn emit_again(server: &Process, topics: u64) -> Result<f64> {
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    let mut template = join_emitter_of(&mut fleet, &mut readers, server.address(), Shape::topics(topics))?;
    template.scatter();
    let before = server.settle()?;
    while readers.acked < EMITS {
        while template.sent() < EMITS && template.sent() < readers.acked + 8192 {
            template.put(fleet.out(0), 512.min(EMITS - template.sent()), |_| 0);
        }
        fleet.flush(0)?;
        let acked = readers.acked;
        fleet.until(PATIENCE, &mut readers, |readers| readers.acked > acked)?;
    }
    Ok(server.settle()?.since(before).cpu_s * 1e6 / EMITS as f64)
}

/// CPU microseconds of the server for each reader that comes back to a topic and gets its event.
fn resume(server: &Process, topics: u64) -> Result<f64> {
    let mut returned = Returned { topics: Vec::new(), arrived: 0 };
    let mut fleet = Fleet::new()?;
    let before = server.usage()?;
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut messages = vec![hello(false)];
        let mut followed = Vec::new();
        for _ in 0..SUBSCRIPTIONS {
            let number = followed.len() as u64 + returned.topics.len() as u64 * SUBSCRIPTIONS;
            let topic = scattered(number, topics);
            let id = SubscriptionId(u32::try_from(followed.len())?);
            messages.push(subscribe_as(id, topic, &Start::Earliest)?);
            followed.push((topic, Progress::of(topic)));
        }
        returned.topics.push(followed);
        let messages: Vec<&[u8]> = messages.iter().map(AsRef::as_ref).collect();
        fleet.connect(server.address(), &messages)?;
    }
    let wanted = CONNECTIONS * SUBSCRIPTIONS;
    fleet.until(PATIENCE, &mut returned, |returned| returned.arrived >= wanted)?;
    ensure!(returned.arrived == wanted, "{} events arrived of {wanted} in {:?}", returned.arrived, begun.elapsed());
    Ok(server.usage()?.since(before).cpu_s * 1e6 / wanted as f64)
}

/// Connections that follow many topics each.
struct Returned {
    topics: Vec<Vec<(u64, Progress)>>,
    arrived: u64,
}

impl Handler for Returned {
    fn message(&mut self, connection: usize, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if let Some(id) = subscription_of(message) {
            let followed = self.topics.get_mut(connection).context("a reader of ours")?;
            let followed = usize::try_from(id.0).ok().and_then(|id| followed.get_mut(id));
            let (topic, progress) = followed.context("an event of a topic that nobody follows")?;
            let (mut wrong, topic) = (None, *topic);
            progress.take(message, |stamp| {
                if stamp.source != 0 || stamp.index != topic {
                    wrong = Some(stamp);
                }
            })?;
            ensure!(wrong.is_none(), "event {wrong:?} is not of topic {topic}");
            self.arrived += 1;
            return Ok(());
        }
        let frame = decode(message)?;
        if let ServerFrame::Ping { token } = frame {
            put_message(out, &encode_client(&ClientFrame::Pong { token }));
        } else if matches!(frame, ServerFrame::Gap { .. } | ServerFrame::SubscribeRefused { .. }) {
            bail!("a reader was sent {frame:?}");
        }
        Ok(())
    }
}

const COUNTS: [u64; 3] = [1000, 100_000, 1_000_000];

/// What a million topics take, with some reserve.
const MILLION_TAKES: Duration = Duration::from_secs(55);

const EMITS: u64 = 100_000;
const CONNECTIONS: u64 = 20;
const SUBSCRIPTIONS: u64 = 1000;

/// A ratio from which on a cost counts as flat: CPU times of a second scatter by a tenth or two.
const FLAT: f64 = 0.7;
