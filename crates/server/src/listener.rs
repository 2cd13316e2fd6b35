//! The listener: takes connections, bounds their handshakes, and hands each to hyper. While the server drains
//! it still answers, so that a load balancer sees it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use crate::guarded::Guarded;
use crate::http::{no_room, respond};
use crate::routes::Routes;
use crate::shared::{Phase, Presence, Shared};
use crate::strangers::{Room, SocketPermit, Stranger, Watch as StrangerWatch};
use crate::tls::{NOT_TLS, Tls, is_tls};
use crate::transport::Transport;

/// Serves a listener until the server's shutdown is over.
pub(crate) async fn serve<R: Routes>(shared: Arc<Shared>, listener: TcpListener, routes: R, tls: Option<Tls>) {
    let mut stopped = shared.stopped();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&shared, &listener) => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (permit, stranger) = shared.strangers.enter(peer);
                let helping = shared.help();
                let accepted = Accepted { stream, peer, permit, stranger };
                tokio::spawn(exchanges(Arc::clone(&shared), routes.clone(), tls.clone(), accepted, helping));
            }
            Err(error) => {
                // Most likely too many open files: give others the time to close some.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts a connection once there is room for it. Until then, newcomers wait in the kernel's backlog. Cancel safe.
async fn accept(shared: &Shared, listener: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    loop {
        match shared.strangers.make_room() {
            Room::Now => return listener.accept().await,
            Room::Later(at) => tokio::select! {
                () = shared.strangers.changed() => {}
                () = tokio::time::sleep_until(at) => {}
            },
        }
    }
}

/// A connection of which nothing is known.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    permit: SocketPermit,
    stranger: Stranger,
}

/// One connection's HTTP exchanges. Nothing is set up for a peer before it has sent something: who was cut off comes back
/// with many others, and most of what an exchange takes is given back in the same turn then.
async fn exchanges<R: Routes>(
    shared: Arc<Shared>,
    routes: R,
    tls: Option<Tls>,
    accepted: Accepted,
    _helping: Presence,
) {
    let Accepted { stream, peer, permit, stranger } = accepted;
    prepare(&stream, peer);
    let (mut stopped, mut first) = (shared.stopped(), [0]);
    let mut watch = StrangerWatch::over(stranger.clone());
    tokio::select! {
        biased;
        // What is wrong with it, an exchange will find. (That it is readable is at first only supposed.)
        _ = stream.peek(&mut first) => stranger.has_spoken(),
        farewell = std::future::poll_fn(|cx| watch.poll_farewell(cx)) => return debug!(%peer, %farewell, "nothing came"),
        _ = stopped.wait_for(|stopped| *stopped) => return,
    }
    let secured = tokio::select! {
        secured = Box::pin(secure(tls, stream, first[0])) => secured,
        farewell = std::future::poll_fn(|cx| watch.poll_farewell(cx)) => return debug!(%peer, %farewell, "TLS took too long"),
        _ = stopped.wait_for(|stopped| *stopped) => return,
    };
    let transport = match secured {
        Ok(transport) => transport,
        Err(error) => return debug!(%peer, %error, "TLS was not agreed on"),
    };
    let stream = Guarded::new(transport, stranger.clone(), Some(permit)).bounding_writes(shared.config.write_timeout);
    Box::pin(exchange(shared, routes, stream, peer, stranger, watch)).await;
}

/// Shakes hands over TLS if that is asked for here. Who speaks plain HTTP instead is told so.
async fn secure(tls: Option<Tls>, mut stream: TcpStream, first: u8) -> std::io::Result<Transport> {
    let Some(tls) = tls else { return Ok(Transport::Plain(stream)) };
    if first.is_ascii_alphabetic() && !is_tls(first) {
        stream.write_all(NOT_TLS).await?;
        // What it has sent is read first: else the end might reach it before the answer.
        let _ = stream.try_read(&mut [0; HEADER_BYTES_MAX]);
        stream.shutdown().await?;
        return Err(std::io::Error::other("it speaks HTTP without TLS"));
    }
    Ok(Transport::Secure(Box::new(tls.acceptor().accept(stream).await?)))
}

fn prepare(stream: &TcpStream, peer: SocketAddr) {
    // Without this, small frames wait for 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, %peer, "nodelay cannot be set");
    }
    if let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES) {
        debug!(%error, %peer, "the send buffer cannot be bounded");
    }
}

/// A single exchange, or as many as the routes are asked for. A WebSocket goes on in a task of its own.
async fn exchange<R: Routes>(
    shared: Arc<Shared>,
    routes: R,
    stream: Guarded<Transport>,
    peer: SocketAddr,
    stranger: Stranger,
    mut watch: StrangerWatch,
) {
    let (upgrading, is_routed, asked) = (Mutex::new(None), AtomicBool::new(false), AtomicUsize::new(0));
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(stranger.clone());
        let is_for_routes = !is_own(&request) && routes.owns(request.uri().path());
        let answering = if is_for_routes && (routes.judges_peers() || stranger.keep()) {
            is_routed.store(true, Relaxed);
            Ok((routes.clone(), request))
        } else if is_for_routes {
            Err(no_room())
        } else {
            let (response, then) = respond(&shared, request, Some(peer));
            *upgrading.lock() = then;
            Err(response)
        };
        let (asked, stranger) = (asked.fetch_add(1, Relaxed) + 1, &stranger);
        async move {
            let mut response = match answering {
                // Boxed: every exchange has room for one, and few are of the routes.
                Ok((routes, request)) => Box::pin(async move { routes.respond(request, Some(peer)).await }).await,
                Err(response) => response.map(BoxBody::new),
            };
            if asked >= STRANGER_REQUESTS_MAX && stranger.is_stranger() && !is_switching(&response) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let exchanging = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(exchanging);
    let (mut phase, mut stopped) = (shared.phase(), shared.stopped());
    let (mut is_ready, mut is_stopped) = (true, false);
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
            farewell = std::future::poll_fn(|cx| watch.poll_farewell(cx)) => {
                return debug!(%peer, %farewell, "a stranger is closed");
            }
            _ = phase.wait_for(|phase| *phase != Phase::Ready), if is_ready => {
                is_ready = false;
                if is_routed.load(Relaxed) {
                    exchanging.as_mut().graceful_shutdown();
                }
            }
            _ = stopped.wait_for(|stopped| *stopped), if !is_stopped => {
                if !is_routed.load(Relaxed) {
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

fn is_switching<B>(response: &Response<B>) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// Requests of one connection while its peer is a stranger. Then it is closed behind the answer: a page, its parts and a
/// handshake take fewer.
const STRANGER_REQUESTS_MAX: usize = 16;

/// How long a peer may take for a request's head, and be silent between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest request head, in bytes: room for cookies and tokens, no more.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// What the kernel may hold for one slow reader, in bytes (it doubles this for its own bookkeeping). Enough for 2 MB/s at
/// a round trip of 100 ms.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
