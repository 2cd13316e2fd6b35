//! Merged reading: one reader of many topics in the order of the log, of which all but one are empty. It should cost about
//! what its events cost, however many topics have none.

use std::time::Instant;

use anyhow::Result;
use redeliver_protocol::codec::encode_client;
use redeliver_protocol::frame::{ClientFrame, SubscribeMerged};
use redeliver_protocol::history::Start;
use redeliver_protocol::seq::SubscriptionId;

use super::readers::{Readers, filled};
use super::{PATIENCE, Run};
use crate::fleet::Fleet;
use crate::process::Process;
use crate::report::{Row, Wanted};
use crate::turns::Figures;
use crate::wire::{Progress, SUBSCRIPTION, hello, subscribe_request};

/// The time in which a reader of 1, 100, 1,000 and 10,000 topics gets the events of the one that has any, from the connect
/// on. The limit is the time with one topic.
///
/// # Errors
///
/// If anything did not arrive as it was sent.
pub fn mostly_empty(run: &Run) -> Result<Vec<Row>> {
    let data = run.data()?;
    let server = filled(run, data.path(), EVENTS, 1)?;
    let mut limit = None;
    COUNTS
        .iter()
        .map(|&topics| {
            let before = server.usage()?.cpu_s;
            let mut figures = Figures::default();
            for _ in 0..run.repeats() {
                figures.push(read(&server, topics)?);
            }
            let used = server.usage()?;
            let limit = *limit.get_or_insert(figures.median());
            let row =
                Row::new("merged reading", format!("{topics} topics, one with {EVENTS} events"), figures.median(), "s")
                    .limit_of_cost(limit)
                    .server(used.cpu_s - before, used.rss_peak_bytes)
                    .note(format!("limit: one topic; {figures}"));
            // What ten thousand subscriptions take by themselves is more than so few events.
            Ok(if topics <= 1_000 { row.wanted(Wanted::Ratio(0.33)) } else { row })
        })
        .collect()
}

fn read(server: &Process, topics: u32) -> Result<f64> {
    const GROUP: u32 = 1;
    let mut messages = vec![hello(false)];
    for topic in 0..topics {
        let request = subscribe_request(SubscriptionId(SUBSCRIPTION.0 + topic), u64::from(topic), &Start::Earliest)?;
        messages.push(encode_client(&ClientFrame::SubscribeMerged(SubscribeMerged { group: GROUP, request })));
    }
    messages.push(encode_client(&ClientFrame::BeginMerged { group: GROUP }));
    let messages: Vec<&[u8]> = messages.iter().map(AsRef::as_ref).collect();
    let (mut fleet, mut readers) = (Fleet::new()?, Readers::new()?);
    readers.progress.push(Progress::default());
    let begun = Instant::now();
    fleet.connect(server.address(), &messages)?;
    fleet.until(PATIENCE, &mut readers, |readers| readers.arrived >= EVENTS)?;
    Ok(begun.elapsed().as_secs_f64())
}

const COUNTS: [u32; 4] = [1, 100, 1_000, 10_000];

/// Enough for a time that can be measured.
const EVENTS: u64 = 100_000;
