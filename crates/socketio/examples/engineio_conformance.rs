//! The server that the public test suite of the Engine.IO protocol expects: every message is echoed. PORT (default
//! 3000) says where. Never a model for apps: its heartbeat is too short, and it takes every page's requests.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use redeliver_socketio::engine::{Engine, EngineConfig, EngineConnection, EngineEvent};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000_u16);
    let mut config = EngineConfig::default();
    config.path = "/engine.io/".to_owned();
    config.ping_interval = Duration::from_millis(300);
    config.ping_timeout = Duration::from_millis(200);
    config.payload_bytes_max = 1_000_000;
    config.admits = Arc::new(|_| true);
    let engine = Engine::new(config, echo);
    // `localhost` may name either; not every machine has the second.
    if let Ok(listener) = TcpListener::bind(("::1", port)).await {
        tokio::spawn(serve(engine.clone(), listener));
    }
    serve(engine, TcpListener::bind(("127.0.0.1", port)).await?).await;
    Ok(())
}

async fn echo(mut connection: EngineConnection) {
    loop {
        match connection.next().await {
            EngineEvent::Text(text) => connection.send_text(text.into()),
            EngineEvent::Binary(bytes) => connection.send_binary(bytes),
            EngineEvent::Pinged(_) | EngineEvent::Pong(_) | EngineEvent::Drained => {}
            EngineEvent::Closed(_) => return,
        }
    }
}

async fn serve(engine: Engine, listener: TcpListener) {
    while let Ok((stream, peer)) = listener.accept().await {
        let engine = engine.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let engine = engine.clone();
                async move {
                    if engine.owns(request.uri().path()) {
                        return Ok::<_, Infallible>(engine.respond(request, Some(peer)).await);
                    }
                    let mut response = hyper::Response::new(http_body_util::Full::default());
                    *response.status_mut() = hyper::StatusCode::NOT_FOUND;
                    Ok(response)
                }
            });
            let _ = stream.set_nodelay(true);
            let exchange =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
            // A client that breaks off ends only its own exchange.
            let _ = exchange.with_upgrades().await;
        });
    }
}
