//! redeliver within an axum app: the app answers its own routes, emits, and hands the WebSocket handshakes on `/events` to
//! the server. Run it, then `redeliver listen --url ws://127.0.0.1:7401/events orders` beside it and
//! `curl -X POST http://127.0.0.1:7401/orders/book`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to its reader")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use redeliver_server::Server;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Use `data_dir` for a log that survives.
    let server = Server::builder().in_memory().open().await?;
    let app = Router::new()
        .route("/events", get(events))
        .route("/orders/{what}", post(order))
        .with_state(server.clone())
        .into_make_service_with_connect_info::<SocketAddr>();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:7401").await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(interrupted()).await?;
    server.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// The WebSocket endpoint.
async fn events(
    State(server): State<Server>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    server.handle_upgrade(request, Some(peer)).into_response()
}

/// Emits, and answers when the event is durable.
async fn order(State(server): State<Server>, Path(what): Path<String>) -> Response {
    match server.emit_json("orders", "created", &what).await {
        Ok(receipt) => format!("stored as number {}\n", receipt.seq().unwrap_or_default()).into_response(),
        Err(error) if error.is_retryable() => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("cannot wait for an interrupt: {error}");
        std::future::pending::<()>().await;
    }
}
