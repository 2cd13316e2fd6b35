//! The listener: takes connections, bounds their handshakes, and hands each to hyper. While the server drains
//! it still answers, so that a load balancer sees it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::http::respond;
use crate::shared::Shared;

/// Serves a listener until the server's shutdown is over.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut stopped = shared.stopped();
    loop {
        // Beyond the bound, newcomers wait in the kernel's backlog. The semaphore is never closed.
        let accepting = async {
            let permit = Arc::clone(&handshakes).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            accepted = accepting => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let helping = shared.help();
                let handshake = handshake(Arc::clone(&shared), stream, peer);
                tokio::spawn(async move {
                    handshake.await;
                    drop((permit, helping));
                });
            }
            Err(error) => {
                // Most likely too many open files: give others the time to close some.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One HTTP exchange. A WebSocket goes on in a task of its own.
async fn handshake(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    // Without this, small frames wait for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "nodelay cannot be set");
    }
    if let Err(error) = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES) {
        debug!(%error, %peer, "the send buffer cannot be bounded");
    }
    let service = service_fn(|request| {
        let response = respond(&shared, request, Some(peer));
        async move { Ok::<_, Infallible>(response) }
    });
    let exchange = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match tokio::time::timeout(2 * HANDSHAKE_TIMEOUT, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, %peer, "the HTTP exchange failed"),
        Err(_) => debug!(%peer, "the HTTP exchange took too long"),
    }
}

/// Handshakes under way at once. Beyond, newcomers wait until one ends or times out.
const HANDSHAKES_MAX: usize = 1024;

/// How long a peer may take for its request's headers.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest request head, in bytes: room for cookies and tokens, no more.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// What the kernel may hold for one slow reader, in bytes (it doubles this for its own bookkeeping). Enough for 2 MB/s at
/// a round trip of 100 ms.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
