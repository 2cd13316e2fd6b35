//! An app whose own parts talk over events: one part emits, another follows durably, and nothing is lost between two runs.
//!
//! ```text
//! cargo run --example in_process -- /var/tmp/orders-data
//! ```

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::time::Duration;

use redeliver_server::{Delivery, NewEvent, Server};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, Serialize)]
struct Order {
    id: u64,
    crates_of_tea: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "redeliver-data".to_owned());
    let server = Server::builder().data_dir(path).open().await?;

    // An order and its line in the books: both are stored, or neither is.
    let order = Order { id: 7, crates_of_tea: 3 };
    let created = NewEvent::to("orders", "created")?.json(&order)?;
    let booked = NewEvent::to("ledger", "booked")?.json(&order)?;
    server.emit_all([created, booked]).await?;

    // A durable subscription goes on after what it acknowledged in an earlier run.
    let mut orders = server.subscribe("orders").durable("kitchen").await?;
    while let Some(delivery) = orders.next().await {
        match delivery {
            Delivery::Event(event) => {
                let order: Order = event.json()?;
                println!("order {}: {} crates of tea", order.id, order.crates_of_tea);
                event.ack();
            }
            Delivery::Gap(gap) => {
                println!("{gap:?}");
                gap.ack();
            }
            // An app that goes on serving stays in the loop.
            Delivery::CaughtUp { .. } => break,
            Delivery::Volatile(_) | Delivery::Resumed { .. } | _ => {}
        }
    }
    orders.close().await;
    server.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
