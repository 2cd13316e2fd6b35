//! What the server answers to HTTP: the WebSocket handshake, health, readiness. Reads no body and keeps no connection.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;
use redeliver_protocol::frame::SUBPROTOCOL;
use redeliver_websocket::handshake::{Handshake, HandshakeError, lists, own_headers, own_uri};
use tokio::io::DuplexStream;
use tracing::{Instrument, Span, debug, info_span};

use crate::access::AnyAccess;
use crate::connection::Serving;
use crate::guarded::Guarded;
use crate::session_driver::{Origin, SessionDriver};
use crate::shared::{Phase, Presence, Shared};
use crate::strangers::Stranger;
use crate::transport::Transport;

/// What becomes of a handshake once its answer is written: it carries on with the connection in a task of its own.
pub(crate) type Upgrading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// From anywhere: it is a stranger until it is authenticated.
    Outside,
    /// From within the process.
    Inside,
}

/// The answer to any request, and what is to be awaited behind it.
pub(crate) fn respond<B>(
    shared: &Arc<Shared>,
    request: Request<B>,
    peer: Option<SocketAddr>,
) -> (Response<Full<Bytes>>, Option<Upgrading>) {
    let is_upgrade = request.method() == Method::GET && request.headers().contains_key(header::UPGRADE);
    if is_upgrade && request.uri().path() == "/" {
        return begin_upgrade(shared, Arc::clone(&shared.native_access), request, peer, Door::Outside);
    }
    (answer(shared, &request), None)
}

fn answer<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    // hyper leaves the body of an answer to HEAD away.
    let is_get = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/" if is_get => text(StatusCode::OK, FRONT_PAGE),
        "/healthz" if is_get => text(StatusCode::OK, "ok\n"),
        "/readyz" if is_get => match &*shared.phase().borrow() {
            // Readers are served, and emitters are told to wait: no other server could take their events.
            Phase::Ready if shared.storage.is_full() => {
                text(StatusCode::OK, "ready, but the disk is full: emits wait\n")
            }
            Phase::Ready => text(StatusCode::OK, "ready\n"),
            Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            // The reason may name paths: it is in the log.
            Phase::Failed(_) => text(StatusCode::SERVICE_UNAVAILABLE, "the log has failed\n"),
        },
        "/" | "/healthz" | "/readyz" => {
            let mut response = if request.method() == Method::OPTIONS {
                text(StatusCode::NO_CONTENT, "")
            } else {
                text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n")
            };
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
    }
}

/// The answer to an operator.
pub(crate) fn answer_operator<B>(shared: &Shared, request: &Request<B>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/healthz" | "/readyz" => answer(shared, request),
        _ => text(StatusCode::NOT_FOUND, "there are /healthz and /readyz here; clients have a port of their own\n"),
    }
}

/// The answer to a WebSocket handshake, which it also carries on with in a task of its own.
pub(crate) fn upgrade<B>(shared: &Arc<Shared>, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>> {
    let (response, upgrading) = begin_upgrade(shared, Arc::clone(&shared.native_access), request, peer, Door::Outside);
    if let Some(upgrading) = upgrading {
        tokio::spawn(upgrading);
    }
    response
}

/// The answer to a WebSocket handshake whose client `access` judges, and what is to be awaited behind it.
pub(crate) fn begin_upgrade<B>(
    shared: &Arc<Shared>,
    access: Arc<dyn AnyAccess>,
    request: Request<B>,
    peer: Option<SocketAddr>,
    door: Door,
) -> (Response<Full<Bytes>>, Option<Upgrading>) {
    let Admission { handshake, subprotocol, presence } = match Admission::check(shared, &request) {
        Ok(admission) => admission,
        Err(response) => return (*response, None),
    };
    let (mut parts, _) = request.into_parts();
    // A connection of the server's own listener has its place and its guard. Others come from an HTTP server of the app's.
    let mut stranger = parts.extensions.remove::<Stranger>();
    let mut guard = None;
    if stranger.is_none() && door == Door::Outside {
        let Some(newcomer) = shared.strangers.enter_session(peer) else { return (no_room(), None) };
        (stranger, guard) = (Some(newcomer.clone()), Some(newcomer));
    }
    let origin = Origin { peer, uri: own_uri(&parts.uri), headers: own_headers(&parts.headers), stranger };
    (parts.uri, parts.headers) = (Uri::default(), HeaderMap::new());
    let upgrade = hyper::upgrade::on(Request::from_parts(parts, ()));
    // Made before the answer goes out, so that the connection counts from here on.
    let driver = SessionDriver::new(shared, access, origin);
    let span = info_span!("connection", id = %driver.connection(), peer = peer.map(tracing::field::display), identity = tracing::field::Empty);
    let shared = Arc::clone(shared);
    let connection_span = span.clone();
    let upgrading = async move {
        match tokio::time::timeout(shared.config.hello_timeout, upgrade).await {
            Ok(Ok(io)) => carry_on(&shared, driver, io, guard, presence, connection_span),
            Ok(Err(error)) => debug!(%error, "the handshake did not end in a connection"),
            Err(_) => debug!("the handshake took too long"),
        }
    };
    (handshake.response(subprotocol), Some(Box::pin(upgrading.instrument(span))))
}

/// Serves a connection whose handshake is done, in a task that has no more to carry than the connection: without what
/// hyper wraps around its stream. `guard`: the stranger over whom the stream has no guard yet.
fn carry_on(
    shared: &Shared,
    driver: SessionDriver,
    io: Upgraded,
    guard: Option<Stranger>,
    presence: Presence,
    span: Span,
) {
    let io = match io.downcast::<TokioIo<Guarded<Transport>>>() {
        Ok(Parts { io, read_buf, .. }) => {
            let io = io.into_inner().without_bounded_writes();
            tokio::spawn(Serving::new(driver, io, &read_buf, shared, presence).instrument(span));
            return;
        }
        Err(io) => io,
    };
    if let Some(stranger) = guard {
        let io = Guarded::new(TokioIo::new(io), stranger, None);
        tokio::spawn(Serving::new(driver, io, &[], shared, presence).instrument(span));
        return;
    }
    match io.downcast::<TokioIo<DuplexStream>>() {
        Ok(Parts { io, read_buf, .. }) => {
            tokio::spawn(Serving::new(driver, io.into_inner(), &read_buf, shared, presence).instrument(span));
        }
        Err(io) => {
            tokio::spawn(Serving::new(driver, TokioIo::new(io), &[], shared, presence).instrument(span));
        }
    }
}

/// A handshake that is valid and for which there is room.
struct Admission {
    handshake: Handshake,
    /// Whether the client offered the subprotocol, so that the answer must name it.
    subprotocol: Option<&'static str>,
    presence: Presence,
}

impl Admission {
    fn check<B>(shared: &Shared, request: &Request<B>) -> Result<Admission, Box<Response<Full<Bytes>>>> {
        let headers = request.headers();
        let refuse = |status, words: &str| Err(Box::new(text(status, words)));
        let handshake = match Handshake::check(request) {
            Ok(handshake) => handshake,
            Err(error) => {
                let mut response = text(error.status(), &format!("{error}\n"));
                if error == HandshakeError::WrongVersion {
                    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                }
                return Err(Box::new(response));
            }
        };
        if !origin_is_allowed(shared, headers) {
            return refuse(StatusCode::FORBIDDEN, "pages of this origin may not connect\n");
        }
        let offers = headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
        let subprotocol = lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL).then_some(SUBPROTOCOL);
        if offers && subprotocol.is_none() {
            return refuse(StatusCode::BAD_REQUEST, "this server speaks the subprotocol redeliver.v1 and no other\n");
        }
        if request.extensions().get::<hyper::upgrade::OnUpgrade>().is_none() {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "this connection cannot be upgraded\n");
        }
        if !shared.is_ready() || !shared.has_room() {
            return Err(Box::new(no_room()));
        }
        let presence = shared.enter();
        Ok(Admission { handshake, subprotocol, presence })
    }
}

/// The answer to somebody for whom there is no place.
pub(crate) fn no_room() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "no connection is taken now\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Browsers name the page's origin; whoever does not is no browser, or asks in a way in which no page can read the answer.
/// Without this check any page in the world could use its visitors' access.
pub(crate) fn origin_is_allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    // A page of no origin (a file, a sandboxed frame) may be anybody's: it must be listed itself.
    let is_any = |page: &str| page != "null" && shared.allowed_origins.iter().any(|allowed| allowed == "*");
    match page_of(headers) {
        Page::None => true,
        Page::Of(page) => is_any(page) || is_listed(shared, headers, page),
        Page::OfThisHost => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            let listed = |scheme: &str| is_listed(shared, headers, &format!("{scheme}://{host}"));
            is_any(host) || listed("http") || listed("https")
        }
        Page::Hidden => false,
    }
}

/// Whether the page's origin is allowed by its name.
pub(crate) fn origin_is_listed(shared: &Shared, headers: &HeaderMap) -> bool {
    matches!(page_of(headers), Page::Of(page) if is_listed(shared, headers, page))
}

fn is_listed(shared: &Shared, headers: &HeaderMap, origin: &str) -> bool {
    if shared.allowed_origins.iter().any(|allowed| allowed != "*" && allowed.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let page = origin.split_once("://").map(|(_, authority)| authority);
    page.zip(host).is_some_and(|(page, host)| page.eq_ignore_ascii_case(host) && cannot_be_rebound(host))
}

/// Which page a request comes from, if any.
enum Page<'a> {
    None,
    /// One of this origin.
    Of(&'a str),
    /// One of the host that is asked, without an `Origin`, as browsers leave it away with GET.
    OfThisHost,
    /// One of another site that does not say which: an image, a frame.
    Hidden,
}

fn page_of(headers: &HeaderMap) -> Page<'_> {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(origin), None) => return Page::Of(origin.to_str().unwrap_or_default()),
        (Some(_), Some(_)) => return Page::Hidden,
        (None, _) => {}
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        // What a person has typed, or no browser.
        None | Some(b"none") => Page::None,
        Some(b"same-origin") => Page::OfThisHost,
        Some(_) => Page::Hidden,
    }
}

/// Whether a Host header names this machine in a way that no foreign name server can: by its address, or as localhost. A
/// page of any other name might have had that name pointed at us after it was loaded, and must be allowed by the operator.
fn cannot_be_rebound(host: &str) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

fn text(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(words.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

const FRONT_PAGE: &str = "This is a redeliver server. Connect to it with a WebSocket, subprotocol redeliver.v1.\n";
