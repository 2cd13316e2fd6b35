//! Responses to HTTP requests: refusals with the protocol's codes, and the end of WebSockets that no session has. Knows
//! no session.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use redeliver_websocket::{WebSocket, close_code};
use tokio::sync::oneshot;

/// A WebSocket of an HTTP server.
pub(super) type Socket = WebSocket<TokioIo<Upgraded>>;

/// Answers a request with a body. Dropped, it refuses: the session is gone.
pub(super) type Reply = oneshot::Sender<Result<Bytes, RequestRefusal>>;

/// Why a request gets no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestRefusal {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    NoRoom,
}

impl RequestRefusal {
    /// The response that says so, with the protocol's code.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let (status, code, message) = match self {
            RequestRefusal::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            RequestRefusal::UnknownSid => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            RequestRefusal::BadMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            RequestRefusal::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            RequestRefusal::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden"),
            RequestRefusal::UnsupportedVersion => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            RequestRefusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            RequestRefusal::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, 3, "No session is taken now"),
        };
        let mut response = answer(status, "application/json", format!(r#"{{"code":{code},"message":"{message}"}}"#));
        if matches!(self, RequestRefusal::TooLarge) {
            // Its body is not read: the connection is of no more use.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// A response with a body.
pub(super) fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The content type of polls.
pub(super) const TEXT: &str = "text/plain; charset=UTF-8";

/// Refuses a request.
pub(super) fn refuse(reply: Reply) {
    // Whoever asked may have gone.
    let _ = reply.send(Err(RequestRefusal::BadRequest));
}

/// Closes a WebSocket that no session will have.
pub(super) fn turn_away(upgrade: OnUpgrade, patience: Duration) {
    spawn(async move {
        if let Ok(Ok(io)) = tokio::time::timeout(patience, upgrade).await {
            let socket: Socket = WebSocket::new(TokioIo::new(io), CLOSING_BYTES_MAX, CLOSING_BYTES_MAX);
            socket.finish(Some(close_code::NORMAL), LINGER).await;
        }
    });
}

/// Writes what waits, and the close.
pub(super) fn finish(socket: Box<Socket>, code: u16) {
    spawn(async move { socket.finish(Some(code), LINGER).await });
}

/// What outlives its session. Without a runtime there is nobody to write to either.
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(work);
    }
}

/// How long an ended connection may take to write its close and be read by the peer.
const LINGER: Duration = Duration::from_secs(2);

/// Largest message of a WebSocket that is only closed, in bytes.
const CLOSING_BYTES_MAX: usize = 1024;
