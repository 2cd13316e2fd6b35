//! `redeliver listen`: prints events as they come, and acknowledges what is printed.
//!
//! Invariant: an event is acknowledged only after its line was flushed to stdout, and stdout is flushed before anything
//! is waited for.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::future::{FutureExt, try_join_all};
use futures_util::stream::Stream;
use indicatif::ProgressBar;
use redeliver_client::{
    Client, Delivery, ShutdownError, Start, SubscribeError, Subscription, SubscriptionEnd, TopicName,
};

use crate::args::ListenArgs;
use crate::exit::{Exit, Problem};
use crate::output::{self, EventLine, Format, GapLine};
use crate::remote;
use crate::stop::Stop;

/// Listens until it is asked to end, has what it wants, or cannot go on.
pub(crate) async fn run(args: ListenArgs, mut stop: Stop) -> Result<Exit> {
    if args.subscriber.is_none() && matches!(args.start, Some(Start::Resume { .. })) {
        let problem = Problem::new("only a durable name has a place to resume from");
        return Err(problem.hint("give it a name: --as SUBSCRIBER").exit(Exit::Usage).into());
    }
    let mut builder = remote::builder(&args.remote).name("redeliver listen");
    if let Some(subscriber) = &args.subscriber {
        builder = builder.subscriber(subscriber);
    }
    let client = remote::connect(builder, &args.remote.url, &ProgressBar::hidden())?;
    let subscriptions = tokio::select! {
        subscriptions = subscribe(&client, &args) => match subscriptions {
            Ok(subscriptions) => subscriptions,
            Err(error) => return Err(cannot_subscribe(error, &client, &args).await),
        },
        _ = stop.asked() => return Ok(Exit::Success),
    };
    let mut listener = Listener::new(subscriptions, &args, io::stdout());
    let ended = listener.listen(&mut stop).await?;
    // Its subscriptions must live until their acks are confirmed.
    let taken_over = matches!(ended, Ended::ByItself(SubscriptionEnd::TakenOver));
    let confirmed = confirm(&client, &ended, args.subscriber.is_some(), &mut stop).await;
    match ended {
        Ended::ByItself(_) if taken_over => Err(taken_over_by_another(&args)),
        Ended::ByItself(SubscriptionEnd::Refused(code, reason)) => {
            Err(Problem::new(format!("the server ended the subscription: {code}: {}", reason.escape_debug())).into())
        }
        Ended::ByItself(_) => Err(remote::why_ended(remote::close_of(&client).await.as_ref()).into()),
        Ended::Complete | Ended::Asked | Ended::StdoutClosed => confirmed.map(|()| Exit::Success),
    }
}

/// Why listening has ended.
#[derive(Debug)]
enum Ended {
    /// `--count` or `--until-caught-up` is fulfilled.
    Complete,
    /// A signal came.
    Asked,
    /// Nobody reads our stdout any more.
    StdoutClosed,
    /// A subscription has ended by itself.
    ByItself(SubscriptionEnd),
}

struct Listener<W: Write> {
    followed: Vec<Followed>,
    /// Where the next look for a delivery begins, so that no topic starves another.
    turn: usize,
    out: BufWriter<W>,
    format: Format,
    unacked: u64,
    left: Option<u64>,
    until_caught_up: bool,
}

/// A topic that is followed.
struct Followed {
    subscription: Subscription,
    caught_up: bool,
    /// What was written last and is not acknowledged yet.
    written: Option<Delivery>,
}

impl<W: Write> Listener<W> {
    fn new(subscriptions: Vec<Subscription>, args: &ListenArgs, out: W) -> Listener<W> {
        let follow = |subscription| Followed { subscription, caught_up: false, written: None };
        Listener {
            followed: subscriptions.into_iter().map(follow).collect(),
            turn: 0,
            out: BufWriter::with_capacity(BUFFER_BYTES, out),
            format: args.format,
            unacked: 0,
            left: args.count,
            until_caught_up: args.until_caught_up,
        }
    }

    async fn listen(&mut self, stop: &mut Stop) -> Result<Ended> {
        match self.print(stop).await {
            Ok(ended) => Ok(ended),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Ended::StdoutClosed),
            Err(error) => Err(anyhow!(error).context("stdout cannot be written")),
        }
    }

    /// Writes block the caller's thread, which runs nothing else: a reader that is slow makes us slow, and so the
    /// server's window close.
    async fn print(&mut self, stop: &mut Stop) -> io::Result<Ended> {
        loop {
            let ready = self.next().now_or_never();
            let next = match ready {
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
                        next = self.next() => next,
                    }
                }
            };
            let ended = match next {
                (turn, Some(delivery)) => self.take(turn, delivery)?,
                (turn, None) => {
                    let end = self.followed[turn].subscription.end().cloned();
                    Some(Ended::ByItself(end.unwrap_or(SubscriptionEnd::ClientEnded)))
                }
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
    fn take(&mut self, turn: usize, delivery: Delivery) -> io::Result<Option<Ended>> {
        let followed = &mut self.followed[turn];
        match &delivery {
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
                output::write_event(&mut self.out, self.format, &line)?;
                self.unacked += 1;
                self.left = self.left.map(|left| left - 1);
                followed.written = Some(delivery);
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
                output::write_gap(&mut self.out, &mut io::stderr(), self.format, &line)?;
                self.unacked += 1;
                followed.written = Some(delivery);
            }
            Delivery::Volatile(event) => {
                output::write_volatile(&mut self.out, self.format, event)?;
                // It is flushed like the others, and that is all.
                self.unacked += 1;
                self.left = self.left.map(|left| left - 1);
            }
            Delivery::CaughtUp { .. } => followed.caught_up = true,
            // The state of the connection is told elsewhere.
            Delivery::Resumed { .. } | _ => {}
        }
        let complete =
            self.left == Some(0) || (self.until_caught_up && self.followed.iter().all(|followed| followed.caught_up));
        Ok(complete.then_some(Ended::Complete))
    }

    fn flush_and_ack(&mut self) -> io::Result<()> {
        if self.unacked == 0 {
            return Ok(());
        }
        self.out.flush()?;
        self.unacked = 0;
        for followed in &mut self.followed {
            match followed.written.take() {
                Some(Delivery::Event(event)) => event.ack(),
                Some(Delivery::Gap(gap)) => gap.ack(),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next delivery of any topic, each in its turn. Cancel safe.
    async fn next(&mut self) -> (usize, Option<Delivery>) {
        poll_fn(|cx| {
            for i in 0..self.followed.len() {
                let turn = (self.turn + i) % self.followed.len();
                if let Poll::Ready(delivery) = Pin::new(&mut self.followed[turn].subscription).poll_next(cx) {
                    self.turn = turn + 1;
                    return Poll::Ready((turn, delivery));
                }
            }
            Poll::Pending
        })
        .await
    }
}

impl<W: Write> std::fmt::Debug for Listener<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("topics", &self.followed.len()).finish_non_exhaustive()
    }
}

/// Asks for all topics in one round trip.
async fn subscribe(client: &Client, args: &ListenArgs) -> Result<Vec<Subscription>, SubscribeError> {
    let mut known = BTreeSet::new();
    let topics = args.topics.iter().filter(|topic| known.insert(TopicName::clone(topic)));
    let builders: Vec<_> = match args.merged {
        true => vec![client.subscribe_merged(topics)],
        false => topics.map(|topic| client.subscribe(topic)).collect(),
    };
    try_join_all(builders.into_iter().map(|mut builder| {
        if let Some(start) = &args.start {
            builder = builder.start(start.clone());
        }
        if args.subscriber.is_some() {
            builder = builder.durable();
        }
        if let Some(count) = args.count {
            // More than that would be handed over for nothing, and marked as redelivered the next time.
            builder = builder.window(u32::try_from(count).unwrap_or(u32::MAX).min(WINDOW_EVENTS), WINDOW_BYTES);
        }
        builder.into_future()
    }))
    .await
}

async fn cannot_subscribe(error: SubscribeError, client: &Client, args: &ListenArgs) -> anyhow::Error {
    if error == SubscribeError::TakenOver {
        taken_over_by_another(args)
    } else if error == SubscribeError::ClientEnded {
        remote::why_ended(remote::close_of(client).await.as_ref()).into()
    } else {
        anyhow!(error)
    }
}

fn taken_over_by_another(args: &ListenArgs) -> anyhow::Error {
    let name = args.subscriber.as_ref().map(ToString::to_string).unwrap_or_default();
    Problem::new(format!("another listener has taken `{name}` over"))
        .hint("one listener has a name at a time; what was not confirmed here is printed there")
        .exit(Exit::TakenOver)
        .into()
}

/// Waits until what was printed is confirmed as acknowledged. Without a durable name there is nothing to confirm.
async fn confirm(client: &Client, ended: &Ended, durable: bool, stop: &mut Stop) -> Result<()> {
    let limit = match ended {
        Ended::Complete if durable => FOR_EVER,
        Ended::Asked | Ended::StdoutClosed if durable => CONFIRM_AT_END,
        Ended::Complete | Ended::Asked | Ended::StdoutClosed | Ended::ByItself(_) => GOODBYE,
    };
    let result = if limit == FOR_EVER {
        tokio::select! {
            result = client.shutdown(limit) => result,
            _ = stop.asked() => client.shutdown(CONFIRM_AT_END).await,
        }
    } else {
        client.shutdown(limit).await
    };
    match result {
        Err(ShutdownError::TimedOut { .. }) if durable => {
            let problem = Problem::new("the server has not confirmed all of what was printed");
            Err(problem
                .hint("what it does not know to be printed is printed again the next time, marked as redelivered")
                .into())
        }
        Err(error @ ShutdownError::Refused(_)) if durable => {
            Err(error).context("not all of what was printed is confirmed")
        }
        _ => Ok(()),
    }
}

const BUFFER_BYTES: usize = 64 * 1024;

/// Most events between two flushes. A quarter of a window, so that the server is never waiting for us.
const UNACKED_MAX: u64 = 256;

const WINDOW_EVENTS: u32 = 1024;
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How long confirmations are waited for when somebody wants us to end and the server is away.
const CONFIRM_AT_END: Duration = Duration::from_secs(10);

/// How long a goodbye may take that nobody depends on.
const GOODBYE: Duration = Duration::from_secs(1);

const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
