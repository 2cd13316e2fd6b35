//! Asks the server's app and answers its requests in turn.
//!
//! ```text
//! cargo run --example request -- ws://127.0.0.1:7400 status thermostat
//! ```

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use redeliver_client::{Client, Payload, Refusal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "ws://127.0.0.1:7400".to_owned());
    let name = args.next().unwrap_or_else(|| "status".to_owned());
    let payload = args.next().unwrap_or_default();

    let client = Client::builder(url)
        .on_request(|request| async move {
            match request.name.as_str() {
                "ping" => Ok(Payload::from("pong").into()),
                other => Err(Refusal::declined(format!("{other} is not known here"))),
            }
        })
        .connect_within(Duration::from_secs(10))
        .connect()
        .await?;
    let mut out = std::io::stdout();
    match client.request(&name, payload, Duration::from_secs(10)).await {
        Ok(response) => writeln!(out, "{}", response.text()?)?,
        // Whether to ask again depends on what the request does.
        Err(error) if error.may_have_been_handled() => writeln!(out, "{error}; it may have been handled")?,
        Err(error) => writeln!(out, "{error}")?,
    }
    client.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
