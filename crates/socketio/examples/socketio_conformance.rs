//! The server that Socket.IO's public protocol suite expects: run the suite beside `cargo run -p redeliver-socketio
//! --example socketio_conformance`. Listens on `PORT`, 3000 unless set. Nothing is durable here, and nobody is asked
//! for credentials.

#![allow(clippy::print_stderr, reason = "an example speaks to whoever started it")]

use std::time::Duration;

use redeliver_server::Server;
use redeliver_socketio::{Recovery, Socket, SocketIo};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000_u16);
    let server = Server::builder().in_memory().open().await?;
    let io = SocketIo::builder(server.clone())
        .recovery(Recovery::Off)
        .ping(Duration::from_millis(300), Duration::from_millis(200))
        .payload_bytes_max(1_000_000)
        .connect_timeout(Duration::from_millis(1000))
        .build();
    for name in ["/", "/custom"] {
        io.of(name)?.on_connection(greet);
    }
    // The suite says localhost, which may be either of these.
    let also = tokio::net::TcpListener::bind(("::1", port)).await.ok();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    if let Some(also) = also {
        tokio::spawn(server.serve_with(also, io.clone()));
    }
    server.serve_with(listener, io).await;
    Ok(())
}

async fn greet(socket: Socket) {
    socket.on("message", |incoming| async move {
        answer_or_complain(incoming.socket.emit("message-back", incoming.args).await);
    });
    socket.on("message-with-ack", |incoming| async move {
        let args = incoming.args.clone();
        if let Err(error) = incoming.answer(args) {
            eprintln!("{error}");
        }
    });
    // The suite awaits one message after the other, and never sees one that is read together with the one before: on a
    // busy machine, the CONNECT's answer and this one.
    tokio::time::sleep(BETWEEN_MESSAGES).await;
    answer_or_complain(socket.emit("auth", socket.handshake().auth.clone()).await);
}

fn answer_or_complain<T, E: std::fmt::Display>(result: Result<T, E>) {
    if let Err(error) = result {
        eprintln!("{error}");
    }
}

/// Longer than a busy client takes to read a message, and far shorter than the pings' interval.
const BETWEEN_MESSAGES: Duration = Duration::from_millis(20);
