//! The relay of an outbox: rows that a database transaction has left are emitted under their own numbers, so that a row
//! which is read twice is one event.
//!
//! The outbox is a file here, one row a line. The relay notes in another file how far it has come, after the event is
//! durable. It may be killed in between: the next run emits that row again, and the server knows its number.
//!
//! ```text
//! cargo run --example publisher -- /var/tmp/relay-data outbox.txt done.txt
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::fs;
use std::time::Duration;

use redeliver_server::{NewEvent, Server};
use uuid::Uuid;

/// Always the same: the server remembers this publisher's numbers.
const RELAY: Uuid = Uuid::from_u128(0x6f1d_2c3b_8a47_4f0e_9b51_0d2e_7c66_a1f4);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let data = args.next().unwrap_or_else(|| "redeliver-data".to_owned());
    let outbox = args.next().unwrap_or_else(|| "outbox.txt".to_owned());
    let done_path = args.next().unwrap_or_else(|| "done.txt".to_owned());

    let server = Server::builder().data_dir(data).open().await?;
    // Rows are numbered from 1. All up to this one are known to be stored.
    let done: u64 = fs::read_to_string(&done_path).map_or(Ok(0), |text| text.trim().parse())?;
    let publisher = server.publisher(RELAY).after(done).claim()?;
    for (number, row) in (1_u64..).zip(fs::read_to_string(outbox)?.lines()) {
        if number <= done {
            continue;
        }
        let event = NewEvent::to("orders", "created")?.payload(row);
        let receipt = publisher.emit(number, event).await?;
        let what = if receipt.duplicate { "was stored before" } else { "is stored" };
        println!("row {number} {what}");
        fs::write(&done_path, number.to_string())?;
    }
    drop(publisher);
    server.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
