//! An app that keeps its books in SQLite: one effect for each event, and its place, in one transaction.
//!
//! `exactly-once-app MODE URL DIR`: the database is `DIR/books`, a cursor file (mode `file`) `DIR/cursors`. The condition on
//! which it writes is the statement of docs/guarantees.md, word for word. It says a line for each thing that it has done
//! and ends with status 3 if another process goes on with its books. Never acknowledges before the transaction is done.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use redeliver_client::{
    Client, CursorStoreError, Delivery, FileCursorStore, Place, PlaceStep, Start, SubscribeError, Subscription,
};
use redeliver_tests::books::{Books, Written};
use redeliver_tests::waiting::PATIENCE;
use redeliver_tests::writer::program::say;

fn main() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("{what} is missing"));
    let (mode, url, dir) = (next("MODE")?, next("URL")?, PathBuf::from(next("DIR")?));
    let mut books = Books::open(&dir.join("books"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let subscribed = subscribe(&mode, &url, &dir, books.place()?).await;
        if let Some(SubscribeError::TakenOver) = subscribed.as_ref().err().and_then(|error| error.downcast_ref()) {
            say("ended: taken over before it began")?;
            return Ok(ExitCode::from(OVERTAKEN));
        }
        let mut orders = subscribed?;
        say("ready")?;
        while let Some(delivery) = orders.next().await {
            if !handle(&delivery, &mut books)? {
                say("overtaken")?;
                return Ok(ExitCode::from(OVERTAKEN));
            }
        }
        say(&format!("ended: {:?}", orders.end()))?;
        Ok(ExitCode::from(OVERTAKEN))
    })
}

async fn subscribe(mode: &str, url: &str, dir: &Path, place: Place) -> Result<Subscription> {
    let builder = Client::builder(url).backoff(Duration::from_millis(5), Duration::from_millis(50));
    // The table's place counts, whatever a cursor says: a database that was restored lies behind it.
    let start = Start::After(place);
    Ok(match mode {
        "durable" => {
            let client = builder.subscriber("billing").connect_lazy()?;
            client.subscribe("orders").durable().rewind(start).await?
        }
        "file" => {
            let client = builder.cursor_store(open_when_free(&dir.join("cursors"))?).connect_lazy()?;
            client.subscribe("orders").stored().rewind(start).await?
        }
        "table" => builder.connect_lazy()?.subscribe("orders").start(start).await?,
        "merged" => builder.connect_lazy()?.subscribe_merged(["orders", "returns", "notes"]).start(start).await?,
        _ => bail!("no mode: {mode}"),
    })
}

/// Returns whether it was written: false if another process goes on with these books.
fn handle(delivery: &Delivery, books: &mut Books) -> Result<bool> {
    let written = match delivery {
        Delivery::Event(event) => {
            let PlaceStep { before, after, .. } = event.place();
            let text = event.text()?;
            let written = books.write(&before, &after, &Written::Effect(text))?;
            if written {
                event.ack();
                say(&format!("effect {text}"))?;
            }
            written
        }
        Delivery::Gap(gap) => {
            let PlaceStep { before, after, .. } = gap.place();
            let written = books.write(&before, &after, &Written::Gap(gap.cause.as_str()))?;
            if written {
                gap.ack();
                say(&format!("gap {}", gap.cause.as_str()))?;
            }
            written
        }
        Delivery::CaughtUp { .. } | Delivery::Resumed { .. } | _ => true,
    };
    if !written && let Delivery::Event(_) | Delivery::Gap(_) = delivery {
        say(&format!("stands at {}, has in hand {delivery:?}", books.place()?))?;
    }
    Ok(written)
}

/// The process before this one may still have the file.
fn open_when_free(path: &Path) -> Result<FileCursorStore> {
    let begun = Instant::now();
    loop {
        match FileCursorStore::open(path) {
            Err(CursorStoreError::InUse { .. }) if begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            opened => return Ok(opened?),
        }
    }
}

/// The status of a process that found another one at work.
const OVERTAKEN: u8 = 3;
