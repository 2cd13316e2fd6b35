//! A server that answers what its clients ask.
//!
//! ```text
//! cargo run --example requests -- 127.0.0.1:7402
//! ```
//!
//! Then ask it with the client's example: `cargo run --example request -- ws://127.0.0.1:7402 status thermostat`.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::time::Duration;

use redeliver_server::{ClientRequest, Identity, Payload, Refusal, Response, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7402".to_owned());
    let server = Server::builder().in_memory().on_request(answer).open().await?;
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    tokio::spawn(server.serve(listener));
    tokio::signal::ctrl_c().await?;
    server.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn answer(identity: Identity, request: ClientRequest) -> Result<Response, Refusal> {
    match request.name.as_str() {
        "status" => {
            let device = String::from_utf8_lossy(&request.payload);
            let answer = format!("{device} is well, {}", identity.name());
            Ok(Payload::from(answer).into())
        }
        // Said by the app: the client is told that its request was not handled.
        other => Err(Refusal::declined(format!("{other} is not known here"))),
    }
}
