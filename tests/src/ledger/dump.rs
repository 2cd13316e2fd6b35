//! What is in the log now, read by a client of its own, and held against everything that is known to be in it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redeliver_client::{Client, Delivery, Seq, Start};

use super::Ledger;
use crate::emission::Load;
use crate::waiting::PATIENCE;

/// The log's content from some seq on, or from the oldest that is retained.
#[derive(Debug)]
pub struct Dump {
    topics: Vec<TopicDump>,
    /// The highest seq that was known when it began.
    known: u64,
}

#[derive(Debug)]
struct TopicDump {
    topic: u64,
    /// It shows what lies behind this, up to and including `through`.
    after: u64,
    through: u64,
    seqs: BTreeSet<u64>,
}

impl Dump {
    /// Reads all topics, after this seq or from the oldest event on.
    ///
    /// # Errors
    ///
    /// If the server does not let itself be read.
    pub fn take(url: &str, ledger: &Ledger, after: Option<u64>) -> Result<Dump> {
        let known = ledger.book().facts.last_key_value().map_or(0, |(seq, _)| *seq);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reading = async {
            let client = Client::builder(url).connect().await?;
            let mut topics = Vec::new();
            for topic in 0..ledger.load.topics {
                topics.push(TopicDump::take(&client, ledger, topic, after).await?);
            }
            client.shutdown(Duration::from_secs(10)).await.context("the dump's client")?;
            anyhow::Ok(topics)
        };
        let topics = runtime.block_on(async { tokio::time::timeout(PATIENCE, reading).await })??;
        Ok(Dump { topics, known })
    }

    #[cfg(test)]
    pub(super) fn new(topics: Vec<(u64, u64, u64, BTreeSet<u64>)>, known: u64) -> Dump {
        let topic = |(topic, after, through, seqs)| TopicDump { topic, after, through, seqs };
        Dump { topics: topics.into_iter().map(topic).collect(), known }
    }

    /// Holds it against the ledger. With retention by so many bytes, not much less than that may be there.
    pub fn check(&self, ledger: &Ledger, retention_bytes: Option<u64>) {
        let mut book = ledger.book();
        for dump in &self.topics {
            let TopicDump { topic, after, through, seqs } = dump;
            if *through < self.known {
                book.violation(format!("{} was in the log, which now ends at {through}", self.known));
            }
            let mut missing = Vec::new();
            for (seq, fact) in book.facts.range(after + 1..).take_while(|(seq, _)| *seq <= through) {
                if ledger.load.topics_of(fact.origin).contains(topic) && !seqs.contains(seq) {
                    missing.push(format!("LOST: {} at {seq} is not in topic {topic} any more", fact.origin));
                }
            }
            missing.into_iter().for_each(|what| book.violation(what));
        }
        let floor = self.topics.iter().map(|dump| dump.after).max().unwrap_or(0);
        let through = self.through();
        for seq in floor + 1..=through {
            if !self.topics.iter().any(|dump| dump.seqs.contains(&seq)) {
                book.violation(format!("a hole in the log at {seq}, between {floor} and {through}"));
            }
        }
        if let Some(bytes) = retention_bytes.filter(|_| floor > 0) {
            let retained: u64 = book.facts.range(floor + 1..).map(|(_, fact)| ledger.load.bytes_of(fact.origin)).sum();
            if retained < bytes / 2 {
                book.violation(format!("LOST: only {retained} bytes are retained above {floor}, not {bytes}"));
            }
            book.figures.floor = book.figures.floor.max(floor);
        }
        book.figures.dumps += 1;
        book.figures.dumped += self.topics.iter().map(|dump| dump.seqs.len() as u64).sum::<u64>();
    }

    /// It shows all topics up to this seq.
    #[must_use]
    pub fn through(&self) -> u64 {
        self.topics.iter().map(|dump| dump.through).min().unwrap_or(0)
    }
}

impl TopicDump {
    async fn take(client: &Client, ledger: &Ledger, topic: u64, after: Option<u64>) -> Result<TopicDump> {
        let start = after.map_or(Start::Earliest, |after| Start::AfterSeq(Seq(after)));
        let subscription = client.subscribe(Load::topic(topic)?).start(start).window((4_096, 8 * 1024 * 1024));
        let mut subscription = subscription.auto_ack().await?;
        let (mut begin, mut nth) = (subscription.position().seq.0, subscription.nth().0);
        if after.is_some_and(|after| after != begin) {
            ledger.violation(format!("topic {topic} was to be read after {after:?} and is after {begin}"));
        }
        let mut seqs = BTreeSet::new();
        loop {
            match subscription.next().await {
                Some(Delivery::Event(event)) => {
                    ledger.deliver("dump", topic, event.position, &event.name, &event.payload);
                    if event.nth.0 != nth + 1 || seqs.last().is_some_and(|last| *last >= event.seq().0) {
                        let at = event.position;
                        ledger.violation(format!("dump of topic {topic}: {} at {at} after {nth}", event.nth));
                    }
                    nth = event.nth.0;
                    seqs.insert(event.seq().0);
                }
                // The floor rises while it is read.
                Some(Delivery::Gap(gap)) => {
                    if gap.count != gap.nth_through.0 - nth || !gap.count_is_exact {
                        ledger.violation(format!("dump of topic {topic}: a gap after {nth} is wrong: {:?}", gap));
                    }
                    (begin, nth) = (gap.through.seq.0, gap.nth_through.0);
                    seqs.clear();
                }
                Some(Delivery::CaughtUp { seq, .. }) => {
                    return Ok(TopicDump { topic, after: begin, through: seq.0, seqs });
                }
                Some(_) => {}
                None => bail!("the dump of topic {topic} ended: {:?}", subscription.end()),
            }
        }
    }
}
