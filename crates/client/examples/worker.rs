//! Handles each order and acknowledges it, under a name: stopped and started again, it goes on where it was. Two of them
//! under one name: the second one waits until the first one has gone.
//!
//! ```text
//! cargo run --example worker -- ws://127.0.0.1:7400 billing
//! ```

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use redeliver_client::{Client, Delivery};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:7400".to_owned());
    let name = args.next().unwrap_or_else(|| "billing".to_owned());

    let client = Client::builder(url).subscriber(name).connect().await?;
    // The first time it begins with the oldest order that there is; later, behind what it has acknowledged.
    let mut orders = client.subscribe("orders").durable().standby().await?;
    let mut out = std::io::stdout();
    loop {
        let delivery = tokio::select! {
            delivery = orders.next() => delivery,
            _ = tokio::signal::ctrl_c() => break,
        };
        match delivery {
            Some(Delivery::Event(event)) => {
                let again = if event.redelivered { " (perhaps again)" } else { "" };
                writeln!(out, "{}: {}{again}", event.seq(), event.text()?)?;
                event.ack();
            }
            Some(Delivery::Gap(gap)) => {
                // A worker that must not miss anything stops here instead.
                writeln!(out, "{gap}")?;
                gap.ack();
            }
            Some(_) => {}
            None => break,
        }
    }
    // What was acknowledged is confirmed before the process ends.
    orders.close().await?;
    client.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
