//! `redeliver emit`: sends one event, or a line each, and ends when all of them are durable.
//!
//! Lines are read, sent and acknowledged at the same time; what is under way is bounded by the client's outbox. Never
//! says that an event is stored without its receipt.

mod volatile;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use redeliver_client::{
    Client, Close, EVENT_BYTES_MAX, EmitError, NewEvent, Notice, Notices, PendingReceipt, RefusalCode,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::args::EmitArgs;
use crate::exit::{Exit, Problem};
use crate::lines::{self, Input, Line};
use crate::payload;
use crate::remote;
use crate::stop::Stop;
use crate::tally::{Fate, Tally};

/// Emits, and says on stdout how far it came, whatever happened.
pub(crate) async fn run(args: EmitArgs, mut stop: Stop) -> Result<Exit> {
    if args.looks_exchanged() {
        return Err(exchanged(&args).into());
    }
    let (input, bar) = open(&args)?;
    if args.volatile {
        return volatile::run(&args, input, stop).await;
    }
    let publisher = args.publisher.unwrap_or_else(Uuid::new_v4);
    let builder = remote::builder(&args.remote)?.replay_as(publisher).name("redeliver emit");
    let client = remote::connect(builder, &args.remote, &bar)?;
    let watching = tokio::spawn(watch(client.notices(), bar.clone()));

    let mut under_way = UnderWay::new(args.timeout, bar.clone());
    let ended = under_way.send_all(&client, input, &args, &mut stop).await;
    let grace = if matches!(ended, Ended::TimedOut(_)) { Duration::ZERO } else { END_GRACE };
    if matches!(ended, Ended::Done) && args.publisher.is_none() {
        // Nobody repeats this with `--publisher`: the server need not remember it.
        client.retire_publisher();
    }
    // Whatever has no answer by then is reported to its pending receipt. Done means that nothing is left.
    let _ = client.shutdown(grace).await;
    let close = remote::close_of(&client).await;
    under_way.take_the_rest().await;
    bar.finish_and_clear();

    let tally = under_way.tally;
    writeln!(std::io::stdout(), "{tally}").context("stdout cannot be written")?;
    // Ends with the client.
    let lost = watching.await.unwrap_or_default();
    if lost > 0 {
        let words =
            format!("{lost} acknowledged events are gone: the server's log was wiped, restored or has gone back");
        return Err(Problem::new(words).hint("emit the same input again, under a new --publisher").into());
    }
    verdict(ended, &tally, close.as_ref(), &args, publisher)
}

/// The topic comes first. Without this, the payload would become a topic that nobody follows, and status 0 would say that
/// all is well.
fn exchanged(args: &EmitArgs) -> Problem {
    let data = args.data.as_deref().unwrap_or_default();
    Problem::new(format!("the topic comes before the payload, and `{}` does not look like a topic", args.topic))
        .hint(format!(
            "redeliver emit {data} '{}'; for a topic of that name, give the payload on stdin: redeliver emit '{}' -",
            args.topic, args.topic
        ))
        .exit(Exit::Usage)
}

/// What was sent and has no receipt yet, and what became of the rest.
struct UnderWay {
    tally: Tally,
    timeout: Option<Duration>,
    bar: ProgressBar,
    /// In the order of the input. Bounded by the client's outbox.
    sent: mpsc::UnboundedReceiver<Sent>,
    sender: Option<mpsc::UnboundedSender<Sent>>,
    oldest: Option<Sent>,
}

#[derive(Debug)]
struct Sent {
    receipt: PendingReceipt,
    number: u64,
    offset_end: u64,
    /// Payload, name and topics.
    bytes: usize,
}

/// How it ended.
enum Ended {
    /// Everything that could be sent has its answer.
    Done,
    /// So has everything before this part of the input, which cannot be sent.
    BadInput(Problem),
    /// An event was not stored, or may not have been.
    Failed { number: u64, bytes: usize, error: EmitError },
    /// The server has acknowledged nothing for too long.
    TimedOut(Duration),
    /// A signal came.
    Stopped(Exit),
}

impl UnderWay {
    fn new(timeout: Option<Duration>, bar: ProgressBar) -> UnderWay {
        let (sender, sent) = mpsc::unbounded_channel();
        UnderWay { tally: Tally::default(), timeout, bar, sent, sender: Some(sender), oldest: None }
    }

    async fn send_all(&mut self, client: &Client, input: Input, args: &EmitArgs, stop: &mut Stop) -> Ended {
        let Some(sender) = self.sender.take() else { return Ended::Done };
        let mut feeding = std::pin::pin!(feed(client, input, args, sender));
        let mut settling = std::pin::pin!(self.settle());
        let mut fed = None;
        loop {
            tokio::select! {
                end = &mut feeding, if fed.is_none() => fed = Some(end),
                // Ends without an error only after `feeding` has dropped its sender, that is after it has ended.
                settled = &mut settling => return match (settled, fed) {
                    (Err(ended), _) | (Ok(()), Some(Err(ended))) => ended,
                    (Ok(()), Some(Ok(())) | None) => Ended::Done,
                },
                how = stop.asked() => return Ended::Stopped(how),
            }
        }
    }

    /// Takes the receipts in order, until all are there, one says no, or none comes for too long.
    async fn settle(&mut self) -> Result<(), Ended> {
        loop {
            if self.oldest.is_none() {
                self.oldest = self.sent.recv().await;
            }
            let Some(oldest) = &mut self.oldest else { return Ok(()) };
            let receipt = match self.timeout {
                None => (&mut oldest.receipt).await,
                Some(timeout) => match tokio::time::timeout(timeout, &mut oldest.receipt).await {
                    Ok(receipt) => receipt,
                    Err(_) => return Err(Ended::TimedOut(timeout)),
                },
            };
            let Sent { number, offset_end, bytes, .. } = *oldest;
            self.oldest = None;
            self.tally.count(Fate::of(&receipt));
            if let Err(error) = receipt {
                return Err(Ended::Failed { number, bytes, error });
            }
            self.bar.set_position(offset_end);
        }
    }

    /// Once the client has ended, every receipt has its answer.
    async fn take_the_rest(&mut self) {
        self.sent.close();
        while let Some(mut sent) = self.oldest.take().or_else(|| self.sent.try_recv().ok()) {
            self.tally.count(Fate::of(&(&mut sent.receipt).await));
        }
    }
}

/// Sends the whole input, as fast as there is room in the outbox.
async fn feed(
    client: &Client,
    mut input: Input,
    args: &EmitArgs,
    sent: mpsc::UnboundedSender<Sent>,
) -> Result<(), Ended> {
    while let Some(chunk) = input.recv().await {
        for line in chunk.map_err(|error| Ended::BadInput(Problem::new(error.to_string())))? {
            let (number, offset_end) = (line.number, line.offset_end);
            let bytes = line.bytes.len() + args.name.as_str().len() + args.topic.as_str().len();
            let event = event(line, args)?;
            let receipt = client.queue(event).await.map_err(|error| Ended::Failed { number, bytes, error })?;
            if sent.send(Sent { receipt, number, offset_end, bytes }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn event(line: Line, args: &EmitArgs) -> Result<NewEvent, Ended> {
    let kind = payload::kind_of(&line.bytes, args.payload_type)
        .map_err(|why| Ended::BadInput(Problem::new(format!("{}: {why}", what(line.number, args)))))?;
    Ok(NewEvent::new(args.topic.clone(), args.name.clone(), kind, line.bytes).with_except(args.except.clone()))
}

/// What an event is called when something is wrong with it.
fn what(number: u64, args: &EmitArgs) -> String {
    if args.lines.is_some() { format!("line {number}") } else { "the event".to_owned() }
}

/// Opens the input, and a progress bar if somebody may watch.
fn open(args: &EmitArgs) -> Result<(Input, ProgressBar)> {
    let hidden = ProgressBar::hidden();
    match (&args.lines, &args.data) {
        (Some(path), _) if path == Path::new("-") => {
            Ok((lines::read(std::io::stdin(), EVENT_BYTES_MAX), progress_bar(None)))
        }
        (Some(path), _) => {
            let metadata = std::fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let bytes = metadata.is_file().then_some(metadata.len());
            Ok((lines::read_file(path.clone(), EVENT_BYTES_MAX), progress_bar(bytes)))
        }
        (None, Some(data)) if data == "-" => Ok((lines::read_whole(std::io::stdin(), EVENT_BYTES_MAX), hidden)),
        (None, data) => {
            let data = data.clone().unwrap_or_default().into_bytes();
            Ok((lines::read_whole(std::io::Cursor::new(data), EVENT_BYTES_MAX), hidden))
        }
    }
}

fn progress_bar(bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match bytes {
        Some(bytes) => {
            (ProgressBar::new(bytes), "{bar:30} {bytes}/{total_bytes} acknowledged, {bytes_per_sec}, {eta} left")
        }
        None => (ProgressBar::no_length(), "{spinner} {bytes} acknowledged, {bytes_per_sec}"),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Tells people why nothing moves, and returns how many events had a receipt and are no longer in the log. Ends with the
/// client.
async fn watch(mut notices: Notices, bar: ProgressBar) -> u64 {
    let mut lost = 0;
    let mut is_waiting = false;
    while let Some(notice) = notices.next().await {
        match notice {
            Notice::EmitsLost { from, through } => lost += through.0 - from.0 + 1,
            // A server that restarts is told of as a lost connection.
            Notice::EmitsWaiting { code } if code != RefusalCode::DRAINING => {
                is_waiting = true;
                remote::note(&bar, &format!("redeliver: {}; waiting until it takes events again", code.description()));
            }
            Notice::EmitsResumed if std::mem::take(&mut is_waiting) => {
                remote::note(&bar, "redeliver: the server takes events again");
            }
            Notice::EmitsWaiting { .. }
            | Notice::EmitsResumed
            | Notice::CursorsNotSaved { .. }
            | Notice::Missed(_)
            | _ => {}
        }
    }
    lost
}

/// What is to be said, and the exit code.
fn verdict(ended: Ended, tally: &Tally, close: Option<&Close>, args: &EmitArgs, publisher: Uuid) -> Result<Exit> {
    let again =
        format!("the same input again with --publisher {publisher} goes on where this ended, and stores nothing twice");
    let problem = match ended {
        Ended::Done => return Ok(Exit::Success),
        Ended::BadInput(problem) => problem,
        Ended::Failed { .. } if close.is_some() => {
            let problem = remote::why_ended(close);
            if tally.is_empty() { problem } else { problem.and(&tally.in_full()) }
        }
        Ended::Failed { number, bytes, error: EmitError::Refused { code, .. } } => {
            refused(&what(number, args), bytes, code, publisher)
        }
        Ended::Failed { number, error: EmitError::Unknown, .. } => {
            let words = format!(
                "{}: the server no longer knows this publisher, so nobody can tell whether it was stored",
                what(number, args)
            );
            Problem::new(words).hint("listen to the topic to see, then emit the rest under a new --publisher")
        }
        Ended::Failed { number, error, .. } => Problem::new(format!("{}: {error}", what(number, args))),
        Ended::TimedOut(timeout) => {
            let timeout = humantime::format_duration(timeout);
            let words = format!("the server has acknowledged nothing for {timeout}: {}", tally.in_full());
            Problem::new(words).hint(again).exit(Exit::TimedOut)
        }
        Ended::Stopped(how) => Problem::new(format!("interrupted: {}", tally.in_full())).hint(again).exit(how),
    };
    Err(problem.into())
}

/// What is to be said of an event that the server refused. What depends on its settings or on permission is decided anew
/// when the number comes again, so that repeating the command ends.
fn refused(what: &str, bytes: usize, code: RefusalCode, publisher: Uuid) -> Problem {
    let problem = Problem::new(format!("{what}: the server refused it: {code}"));
    let again = format!("then the same input with --publisher {publisher} goes on");
    match code {
        RefusalCode::NUMBER_REUSED => {
            problem.hint("the input differs from what this --publisher has sent: use a new one")
        }
        RefusalCode::TOO_LARGE => problem
            .and(&format!("payload, name and topics have {bytes} bytes"))
            .hint(format!("the server's operator may raise `limits.event_bytes`; {again}")),
        RefusalCode::UNSUPPORTED => problem.hint("the server does not know --except: update it"),
        RefusalCode::FORBIDDEN => problem.hint(format!("ask for a token that may emit to this topic; {again}")),
        _ => problem,
    }
}

/// How long what was sent may still be acknowledged when it must end early.
const END_GRACE: Duration = Duration::from_secs(1);
