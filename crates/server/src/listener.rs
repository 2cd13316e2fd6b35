//! The listener: takes connections, bounds their handshakes, and hands each to hyper. While the server drains
//! it still answers, so that a load balancer sees it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

use crate::http::{no_room, respond};
use crate::routes::Routes;
use crate::shared::{Phase, Presence, Shared};

/// Serves a listener until the server's shutdown is over.
pub(crate) async fn serve<R: Routes>(shared: Arc<Shared>, listener: TcpListener, routes: R) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let kept = Arc::new(Semaphore::new(shared.connections_max.min(Semaphore::MAX_PERMITS)));
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
                let place = ConnectionSlot {
                    handshake: Mutex::new(permit.ok()),
                    kept: Mutex::new(None),
                    room: Arc::clone(&kept),
                };
                let shared = Arc::clone(&shared);
                tokio::spawn(exchanges(shared, routes.clone(), stream, peer, place, helping));
            }
            Err(error) => {
                // Most likely too many open files: give others the time to close some.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What a connection takes of the listener's bounds: a handshake, until it asks for a path of the routes.
struct ConnectionSlot {
    handshake: Mutex<Option<OwnedSemaphorePermit>>,
    kept: Mutex<Option<OwnedSemaphorePermit>>,
    room: Arc<Semaphore>,
}

impl ConnectionSlot {
    /// Keeps the connection beyond its handshake, if there is room for one more.
    fn keep(&self) -> bool {
        let mut kept = self.kept.lock();
        if kept.is_none() {
            *kept = Arc::clone(&self.room).try_acquire_owned().ok();
            if kept.is_some() {
                drop(self.handshake.lock().take());
            }
        }
        kept.is_some()
    }

    fn is_kept(&self) -> bool {
        self.kept.lock().is_some()
    }
}

/// One connection's HTTP exchanges. Nothing is set up for a peer before it has sent something: who was cut off comes back
/// with many others, and most of what an exchange takes is given back in the same turn then.
async fn exchanges<R: Routes>(
    shared: Arc<Shared>,
    routes: R,
    stream: TcpStream,
    peer: SocketAddr,
    place: ConnectionSlot,
    _helping: Presence,
) {
    // Without this, small frames wait for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "nodelay cannot be set");
    }
    if let Err(error) = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES) {
        debug!(%error, %peer, "the send buffer cannot be bounded");
    }
    let (mut stopped, mut first) = (shared.stopped(), [0]);
    tokio::select! {
        biased;
        // What is wrong with it, an exchange will find. (That it is readable is at first only supposed.)
        _ = stream.peek(&mut first) => {}
        () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => return debug!(%peer, "nothing came"),
        _ = stopped.wait_for(|stopped| *stopped) => return,
    }
    Box::pin(exchange(shared, routes, stream, peer, place)).await;
}

/// A single exchange, or as many as the routes are asked for. A WebSocket goes on in a task of its own.
async fn exchange<R: Routes>(
    shared: Arc<Shared>,
    routes: R,
    stream: TcpStream,
    peer: SocketAddr,
    place: ConnectionSlot,
) {
    let upgrading = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let is_routed = !is_own(&request) && routes.owns(request.uri().path());
        let answering = match (is_routed, is_routed && place.keep()) {
            (true, true) => Ok((routes.clone(), request)),
            (true, false) => Err(no_room()),
            (false, _) => {
                let (response, then) = respond(&shared, request, Some(peer));
                *upgrading.lock() = then;
                Err(response)
            }
        };
        async move {
            Ok::<_, Infallible>(match answering {
                // Boxed: every exchange has room for one, and few are of the routes.
                Ok((routes, request)) => Box::pin(async move { routes.respond(request, Some(peer)).await }).await,
                Err(response) => response.map(BoxBody::new),
            })
        }
    });
    let exchanging = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(exchanging);
    let (mut phase, mut stopped) = (shared.phase(), shared.stopped());
    let handshake_over = tokio::time::sleep(2 * HANDSHAKE_TIMEOUT);
    tokio::pin!(handshake_over);
    let (mut is_timed, mut is_ready, mut is_stopped) = (true, true, false);
    loop {
        tokio::select! {
            // First, since it mostly ends at once.
            biased;
            ended = exchanging.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, %peer, "the HTTP exchange failed");
                }
                break;
            }
            () = handshake_over.as_mut(), if is_timed => {
                if !place.is_kept() {
                    return debug!(%peer, "the HTTP exchange took too long");
                }
                is_timed = false;
            }
            _ = phase.wait_for(|phase| *phase != Phase::Ready), if is_ready => {
                is_ready = false;
                if place.is_kept() {
                    exchanging.as_mut().graceful_shutdown();
                }
            }
            _ = stopped.wait_for(|stopped| *stopped), if !is_stopped => {
                if !place.is_kept() {
                    return;
                }
                // An answer under way is still given: how long a shutdown waits for it is its caller's patience.
                is_stopped = true;
                exchanging.as_mut().graceful_shutdown();
            }
        }
    }
    // Here, and not in a task beside this one: what the exchange has read into is to be given back soon.
    let then = upgrading.lock().take();
    if let Some(then) = then {
        then.await;
    }
}

/// Whether a request is the server's own, whatever the routes say.
fn is_own<B>(request: &Request<B>) -> bool {
    match request.uri().path() {
        "/healthz" | "/readyz" => true,
        "/" => request.headers().contains_key(http::header::UPGRADE),
        _ => false,
    }
}

/// Handshakes under way at once. Beyond, newcomers wait until one ends or times out. Connections that the routes keep are
/// not among them: there are as many of those as there may be connections.
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
