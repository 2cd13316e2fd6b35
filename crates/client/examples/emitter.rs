//! Emits orders, many at once, and waits until each of them is durable.
//!
//! ```text
//! cargo run --example emitter -- ws://127.0.0.1:7400 100
//! ```

use std::error::Error;
use std::time::Duration;

use redeliver_client::{Client, NewEvent};
use serde::Serialize;

#[derive(Serialize)]
struct Order {
    id: u64,
    crates_of_tea: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:7400".to_owned());
    let orders: u64 = args.next().map_or(Ok(10), |count| count.parse())?;

    let client = Client::builder(url).name("emitter").connect_within(Duration::from_secs(10)).connect().await?;
    let mut receipts = Vec::new();
    for id in 1..=orders {
        let event = NewEvent::to("orders", "created")?.json(&Order { id, crates_of_tea: id % 7 })?.also_to("audit")?;
        // Waits only for room in the outbox. Events are stored in the order in which they are queued.
        receipts.push(client.queue(event).await?);
    }
    for receipt in receipts {
        let receipt = receipt.await?;
        tracing::debug!(position = ?receipt.position, "durable");
    }
    client.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
