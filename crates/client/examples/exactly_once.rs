//! Adds up orders so that each counts exactly once, through crashes, restores and two processes at once.
//!
//! The sum and the place are one file, which is replaced as a whole under a lock: that stands here for a database
//! transaction. The place is compared before it is set. A process that was overtaken by another one finds a place that it
//! did not write, and stops. In SQL:
//!
//! ```sql
//! BEGIN;
//! UPDATE places SET place = :after WHERE topic = 'orders' AND place = :before;  -- 0 rows: somebody else goes on; stop
//! UPDATE sums SET crates = crates + :crates;
//! COMMIT;
//! ```
//!
//! ```text
//! cargo run --example exactly_once -- ws://127.0.0.1:7400 /var/tmp/sum.json
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use redeliver_client::{Client, Delivery, Place, PlaceStep, Start};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Books {
    /// Where the sum stands in the topic. At first: before everything.
    place: Place,
    crates_of_tea: u64,
}

#[derive(Deserialize)]
struct Order {
    crates_of_tea: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:7400".to_owned());
    let path = args.next().unwrap_or_else(|| "sum.json".to_owned());
    let path = Path::new(&path);

    let begun = read(path)?;
    let start = if begun.place == Place::default() { Start::Earliest } else { Start::After(begun.place.clone()) };
    let client = Client::builder(url).connect_within(Duration::from_secs(10)).connect().await?;
    let mut orders = client.subscribe("orders").start(start).await?;
    let mut is_first = begun.place == Place::default();
    while let Some(delivery) = orders.next().await {
        match delivery {
            Delivery::Event(event) => {
                let crates = event.json::<Order>()?.crates_of_tea;
                add(path, event.place(), std::mem::take(&mut is_first), crates)?;
                event.ack();
            }
            Delivery::Gap(gap) => {
                add(path, gap.place(), std::mem::take(&mut is_first), 0)?;
                gap.ack();
            }
            Delivery::CaughtUp { .. } => break,
            Delivery::Volatile(_) | Delivery::Resumed { .. } | _ => {}
        }
    }
    client.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The transaction: nobody else reads or writes the books between the comparison and the new place.
fn add(path: &Path, step: PlaceStep, is_first: bool, crates: u64) -> Result<(), Box<dyn Error>> {
    let lock = File::create(path.with_extension("lock"))?;
    lock.lock()?;
    let mut books = read(path)?;
    // Books that nobody has begun hold the empty place.
    let before = if is_first { Place::default() } else { step.before };
    if books.place != before {
        return Err("another process goes on with these books".into());
    }
    books.place = step.after;
    books.crates_of_tea += crates;
    write(path, &books)
}

fn read(path: &Path) -> Result<Books, Box<dyn Error>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Books::default()),
        Err(error) => Err(error.into()),
    }
}

/// Replaces the file as a whole.
fn write(path: &Path, books: &Books) -> Result<(), Box<dyn Error>> {
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    serde_json::to_writer(&file, books)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    Ok(())
}
