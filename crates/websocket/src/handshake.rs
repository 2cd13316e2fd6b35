//! The handshake: whether an HTTP request asks for a WebSocket, and the answer to one that does. Decides nothing about
//! who may connect. Takes no part in HTTP's upgrade, which is the HTTP server's.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A handshake that is valid.
#[derive(Clone, Debug)]
#[must_use]
pub struct Handshake {
    accept: HeaderValue,
}

/// Why a request is no valid WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The request is not a GET of HTTP/1.1.
    #[error("a WebSocket handshake is a GET of HTTP/1.1")]
    NotGet,
    /// The request does not ask for a WebSocket.
    #[error("this is not a WebSocket handshake")]
    NotWebSocket,
    /// The client speaks another version of the WebSocket protocol than 13.
    #[error("only version 13 of WebSocket is spoken here")]
    WrongVersion,
    /// The `Sec-WebSocket-Key` is missing or has the wrong length.
    #[error("the handshake has no valid key")]
    InvalidKey,
}

impl HandshakeError {
    /// Returns the status of an answer to such a request: 400, or 426 for another version. An answer with 426 must name
    /// version 13 in `Sec-WebSocket-Version`.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            HandshakeError::WrongVersion => StatusCode::UPGRADE_REQUIRED,
            HandshakeError::NotGet | HandshakeError::NotWebSocket | HandshakeError::InvalidKey => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

impl Handshake {
    /// Checks a request's method, version and headers.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`]: the first rule that the request breaks.
    pub fn check<B>(request: &Request<B>) -> Result<Handshake, HandshakeError> {
        let headers = request.headers();
        if request.method() != Method::GET || request.version() != Version::HTTP_11 {
            return Err(HandshakeError::NotGet);
        }
        if !lists(headers, &header::CONNECTION, "upgrade") || !lists(headers, &header::UPGRADE, "websocket") {
            return Err(HandshakeError::NotWebSocket);
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(HandshakeError::WrongVersion);
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_BYTES);
        let accept = key.and_then(|key| HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok());
        accept.map(|accept| Handshake { accept }).ok_or(HandshakeError::InvalidKey)
    }

    /// Returns the answer that switches to the WebSocket protocol, without a body. `subprotocol` must be one that the
    /// client offered.
    #[must_use]
    pub fn response<B: Default>(self, subprotocol: Option<&'static str>) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Some(subprotocol) = subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        response
    }
}

/// Whether a header's comma-separated list has this item, in any case.
#[must_use]
pub fn lists(headers: &HeaderMap, header: &HeaderName, item: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(item))
}

/// Copies headers into memory of their own. Those of a request are slices of all that was read for it, which a copy must
/// not keep alive for as long as a connection lives.
#[must_use]
pub fn own_headers(headers: &HeaderMap) -> HeaderMap {
    let mut own = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let copied = (HeaderName::from_bytes(name.as_str().as_bytes()), HeaderValue::from_bytes(value.as_bytes()));
        // What is valid stays so.
        if let (Ok(name), Ok(mut copied)) = copied {
            copied.set_sensitive(value.is_sensitive());
            own.append(name, copied);
        }
    }
    own
}

/// Copies a URI into memory of its own, for the reason of [`own_headers`].
#[must_use]
pub fn own_uri(uri: &Uri) -> Uri {
    Uri::try_from(uri.to_string()).unwrap_or_default()
}

/// The length of a key: 16 bytes in base64.
const KEY_BYTES: usize = 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> http::request::Builder {
        Request::get("/")
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    #[test]
    fn a_valid_handshake_is_answered_with_the_key_of_the_rfc() {
        let handshake = Handshake::check(&request().body(()).unwrap()).unwrap();
        let response: Response<()> = handshake.response(Some("chat"));
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    }

    #[test]
    fn each_rule_that_a_request_breaks_is_named() {
        let without = |name: &str| {
            let mut request = request().body(()).unwrap();
            request.headers_mut().remove(name);
            Handshake::check(&request).unwrap_err()
        };
        assert_eq!(without("connection"), HandshakeError::NotWebSocket);
        assert_eq!(without("upgrade"), HandshakeError::NotWebSocket);
        assert_eq!(without("sec-websocket-version"), HandshakeError::WrongVersion);
        assert_eq!(without("sec-websocket-key"), HandshakeError::InvalidKey);
        let post = request().method("POST").body(()).unwrap();
        assert_eq!(Handshake::check(&post).unwrap_err(), HandshakeError::NotGet);
        let old = request().version(Version::HTTP_10).body(()).unwrap();
        assert_eq!(Handshake::check(&old).unwrap_err(), HandshakeError::NotGet);
        let mut short = request().body(()).unwrap();
        short.headers_mut().insert("sec-websocket-key", HeaderValue::from_static("c2hvcnQ="));
        assert_eq!(Handshake::check(&short).unwrap_err(), HandshakeError::InvalidKey);
    }

    #[test]
    fn what_is_copied_of_a_request_is_what_it_said() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", "a:1"), ("cookie", "x=1"), ("cookie", "y=2"), ("x-of-their-own", "\u{e9}")] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        }
        assert_eq!(own_headers(&headers), headers);
        for uri in ["/", "/?token=a%20b&c", "/a/b?", "http://host:80/x", "*"] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(own_uri(&uri), uri);
        }
    }
}
