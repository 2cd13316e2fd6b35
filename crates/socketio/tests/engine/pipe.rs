//! A connection to an engine without a network.

use std::convert::Infallible;

use hyper::Request;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use redeliver_socketio::engine::Engine;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

/// The client's end of a connection that the engine serves, and the task that serves it.
pub(crate) fn served_pipe(engine: &Engine) -> (DuplexStream, JoinHandle<()>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let engine = engine.clone();
    let serving = tokio::spawn(async move {
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let engine = engine.clone();
            async move { Ok::<_, Infallible>(engine.respond(request, None).await) }
        });
        let http = hyper::server::conn::http1::Builder::new();
        // A client that breaks off ends only its own connection.
        let _ = http.serve_connection(TokioIo::new(far), service).with_upgrades().await;
    });
    (near, serving)
}

/// The client's end of a connection that the engine serves.
#[allow(dead_code, reason = "one of the two test programs that have this file needs the task as well")]
pub(crate) fn pipe(engine: &Engine) -> DuplexStream {
    served_pipe(engine).0
}
