//! Prints what the subscriptions hand over, and acknowledges it.
//!
//! Invariant: an event is acknowledged only after its line was flushed to stdout, and stdout is flushed before anything
//! is waited for. The work for an event does not grow with the number of topics.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Result, anyhow};
use futures_util::future::FutureExt;
use futures_util::stream::{SelectAll, Stream, StreamExt};
use redeliver_client::{Delivery, Seq, Start, Subscription, SubscriptionEnd};

use crate::args::ListenArgs;
use crate::output::{self, EventLine, GapLine, Layout};
use crate::stdout::ReaderGone;
use crate::stop::Stop;

/// Why listening has ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// `--count` or `--until-caught-up` is fulfilled.
    Complete,
    /// A signal came.
    Asked,
    /// Nobody reads our stdout any more.
    StdoutClosed,
    /// A subscription has ended by itself.
    ByItself(SubscriptionEnd),
}

pub(super) struct Printer<W: Write> {
    /// Each in its turn, so that no topic starves another. Holds the subscriptions until their acks are confirmed.
    followed: SelectAll<Numbered>,
    /// How many subscriptions have not come to where their topic ended at the start.
    behind: usize,
    /// By subscription, what was written last and is not acknowledged yet.
    written: BTreeMap<usize, Delivery>,
    out: BufWriter<W>,
    layout: Layout,
    unacked: u64,
    left: Option<u64>,
    /// Up to this seq nothing is printed: the server starts at its end if `--start` names a seq that is still to come.
    not_through: Option<Seq>,
    until_caught_up: bool,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(subscriptions: Vec<Subscription>, args: &ListenArgs, layout: Layout, out: W) -> Printer<W> {
        Printer {
            behind: subscriptions.len(),
            followed: subscriptions.into_iter().enumerate().map(Numbered::new).collect(),
            written: BTreeMap::new(),
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            layout,
            unacked: 0,
            left: args.count,
            not_through: not_through(args),
            until_caught_up: args.until_caught_up,
        }
    }

    pub(super) async fn listen(&mut self, stop: &mut Stop, gone: &mut ReaderGone) -> Result<Ended> {
        match self.print(stop, gone).await {
            Ok(ended) => Ok(ended),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Ended::StdoutClosed),
            Err(error) => Err(anyhow!(error).context("stdout cannot be written")),
        }
    }

    /// Writes block the caller's thread, which runs nothing else: a reader that is slow makes us slow, and so the
    /// server's window close.
    async fn print(&mut self, stop: &mut Stop, gone: &mut ReaderGone) -> io::Result<Ended> {
        loop {
            let next = match self.followed.next().now_or_never() {
                Some(next) if !stop.was_asked() => next,
                Some(_) => {
                    self.flush_and_ack()?;
                    return Ok(Ended::Asked);
                }
                None => {
                    self.flush_and_ack()?;
                    tokio::select! {
                        biased;
                        _ = stop.asked() => return Ok(Ended::Asked),
                        () = gone.wait() => return Ok(Ended::StdoutClosed),
                        next = self.followed.next() => next,
                    }
                }
            };
            let ended = match next {
                Some((number, Ok(delivery))) => self.take(number, delivery)?,
                Some((_, Err(end))) => Some(Ended::ByItself(end)),
                None => Some(Ended::ByItself(SubscriptionEnd::ClientEnded)),
            };
            if ended.is_some() || self.unacked >= UNACKED_MAX {
                self.flush_and_ack()?;
            }
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
    }

    /// Writes a delivery; says whether that was all.
    fn take(&mut self, number: usize, delivery: Delivery) -> io::Result<Option<Ended>> {
        match &delivery {
            Delivery::Event(event) if self.not_through.is_some_and(|through| event.seq() <= through) => {
                self.unacked += 1;
                self.written.insert(number, delivery);
            }
            Delivery::Event(event) => {
                let line = EventLine {
                    seq: event.seq().0,
                    nth: event.nth.0,
                    topic: event.topic.as_str(),
                    name: event.name.as_str(),
                    time: event.time,
                    kind: event.kind,
                    payload: &event.payload,
                    redelivered: event.redelivered,
                };
                output::write_event(&mut self.out, self.layout, &line)?;
                self.unacked += 1;
                self.left = self.left.map(|left| left - 1);
                self.written.insert(number, delivery);
            }
            Delivery::Gap(gap) => {
                let line = GapLine {
                    topic: gap.topic.as_str(),
                    after: gap.after.seq.0,
                    through: gap.through.seq.0,
                    count: gap.count,
                    exact: gap.count_is_exact,
                    cause: gap.cause,
                };
                output::write_gap(&mut self.out, &mut io::stderr(), self.layout, &line)?;
                self.unacked += 1;
                self.written.insert(number, delivery);
            }
            Delivery::Volatile(event) => {
                output::write_volatile(&mut self.out, self.layout, event)?;
                // It is flushed like the others, and that is all.
                self.unacked += 1;
                self.left = self.left.map(|left| left - 1);
            }
            // Told once for each subscription.
            Delivery::CaughtUp { .. } => self.behind = self.behind.saturating_sub(1),
            // The state of the connection is told elsewhere.
            Delivery::Resumed { .. } | _ => {}
        }
        let complete = self.left == Some(0) || (self.until_caught_up && self.behind == 0);
        Ok(complete.then_some(Ended::Complete))
    }

    fn flush_and_ack(&mut self) -> io::Result<()> {
        if self.unacked == 0 {
            return Ok(());
        }
        self.out.flush()?;
        self.unacked = 0;
        for (_, written) in std::mem::take(&mut self.written) {
            if let Delivery::Event(event) = &written {
                event.ack();
            } else if let Delivery::Gap(gap) = &written {
                gap.ack();
            }
        }
        Ok(())
    }
}

/// A log that ends before the seq of `--start SEQ` or `--rewind SEQ` is read from its end. A durable name that the server
/// knows goes on where it is, which may be before any `--start`.
fn not_through(args: &ListenArgs) -> Option<Seq> {
    let start = if args.subscriber.is_some() { &args.rewind } else { &args.start };
    match start {
        Some(Start::AfterSeq(seq)) => Some(*seq),
        _ => None,
    }
}

impl<W: Write> std::fmt::Debug for Printer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printer").field("topics", &self.followed.len()).finish_non_exhaustive()
    }
}

/// A subscription that says which one it is, and why it has ended.
struct Numbered {
    number: usize,
    subscription: Subscription,
    has_ended: bool,
}

impl Numbered {
    fn new((number, subscription): (usize, Subscription)) -> Numbered {
        Numbered { number, subscription, has_ended: false }
    }
}

impl Stream for Numbered {
    type Item = (usize, Result<Delivery, SubscriptionEnd>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let number = self.number;
        Pin::new(&mut self.subscription).poll_next(cx).map(|next| {
            Some((
                number,
                next.ok_or_else(|| {
                    self.has_ended = true;
                    self.subscription.end().cloned().unwrap_or(SubscriptionEnd::ClientEnded)
                }),
            ))
        })
    }
}

const BUFFER_BYTES: usize = 64 * 1024;

/// Most events between two flushes. A quarter of a window, so that the server is never waiting for us.
const UNACKED_MAX: u64 = 256;
