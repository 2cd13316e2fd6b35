//! `redeliver listen`: prints events as they come, and acknowledges what is printed.
//!
//! Never acknowledges what nobody can have seen.

mod printer;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::future::try_join_all;
use indicatif::ProgressBar;
use redeliver_client::{Client, ShutdownError, Start, SubscribeError, Subscription, SubscriptionEnd, TopicName};

use self::printer::{Ended, Printer};
use crate::args::ListenArgs;
use crate::escape;
use crate::exit::{Exit, Problem};
use crate::output::Layout;
use crate::remote;
use crate::stdout::{self, ReaderGone};
use crate::stop::Stop;

/// Listens until it is asked to end, has what it wants, or cannot go on.
pub(crate) async fn run(args: ListenArgs, mut stop: Stop) -> Result<Exit> {
    if args.subscriber.is_none() && matches!(args.start, Some(Start::Resume { .. })) {
        let problem = Problem::new("only a durable name has a place to resume from");
        return Err(problem.hint("give it a name: --as SUBSCRIBER").exit(Exit::Usage).into());
    }
    if args.subscriber.is_some() && stdout::was_closed() {
        let problem = Problem::new("stdout is closed, so nobody would see what is acknowledged");
        return Err(problem.hint("give it a reader or a file; `> /dev/null` drops the events on purpose").into());
    }
    let mut builder = remote::builder(&args.remote)?.name("redeliver listen");
    if let Some(subscriber) = &args.subscriber {
        builder = builder.subscriber(subscriber);
    }
    let client = remote::connect(builder, &args.remote, &ProgressBar::hidden())?;
    let subscriptions = tokio::select! {
        subscriptions = subscribe(&client, &args) => match subscriptions {
            Ok(subscriptions) => subscriptions,
            Err(error) => return Err(cannot_subscribe(error, &client, &args).await),
        },
        _ = stop.asked() => return Ok(Exit::Success),
    };
    let layout = Layout { format: args.format, escapes: io::stdout().is_terminal() && !args.raw };
    let mut printer = Printer::new(subscriptions, &args, layout, io::stdout());
    let ended = printer.listen(&mut stop, &mut ReaderGone::watch()).await?;
    // Its subscriptions must live until their acks are confirmed.
    let taken_over = matches!(ended, Ended::ByItself(SubscriptionEnd::TakenOver));
    let confirmed = confirm(&client, &ended, args.subscriber.is_some(), &mut stop).await;
    match ended {
        Ended::ByItself(_) if taken_over => Err(taken_over_by_another(&args)),
        Ended::ByItself(SubscriptionEnd::Refused(code, reason)) => {
            Err(Problem::new(format!("the server ended the subscription: {code}: {}", escape::controls(&reason)))
                .into())
        }
        Ended::ByItself(_) => Err(remote::why_ended(remote::close_of(&client).await.as_ref()).into()),
        Ended::Complete | Ended::Asked | Ended::StdoutClosed => confirmed.map(|()| Exit::Success),
    }
}

/// Asks for all topics in one round trip. A name that the server knows is moved by `--rewind` alone: with `--start` in a
/// script, it would read everything again each time.
async fn subscribe(client: &Client, args: &ListenArgs) -> Result<Vec<Subscription>, SubscribeError> {
    let mut known = BTreeSet::new();
    let topics = args.topics.iter().filter(|topic| known.insert(TopicName::clone(topic)));
    let builders: Vec<_> = match args.merged {
        true => vec![client.subscribe_merged(topics)],
        false => topics.map(|topic| client.subscribe(topic)).collect(),
    };
    try_join_all(builders.into_iter().map(|mut builder| {
        if let Some(start) = &args.rewind {
            builder = builder.rewind(start.clone());
        } else if let Some(start) = &args.start {
            builder = builder.start(start.clone());
        }
        if args.subscriber.is_some() {
            builder = builder.durable();
        }
        if let Some(count) = args.count {
            // More than that would be handed over for nothing, and marked as redelivered the next time.
            builder = builder.window((u32::try_from(count).unwrap_or(u32::MAX).min(WINDOW_EVENTS), WINDOW_BYTES));
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

const WINDOW_EVENTS: u32 = 1024;
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How long confirmations are waited for when somebody wants us to end and the server is away.
const CONFIRM_AT_END: Duration = Duration::from_secs(10);

/// How long a goodbye may take that nobody depends on.
const GOODBYE: Duration = Duration::from_secs(1);

const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);
