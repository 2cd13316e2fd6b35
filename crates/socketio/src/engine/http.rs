//! From HTTP requests to sessions: what is asked for, whether it may be, and the answers. Reads bodies up to a limit and
//! never beyond.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::upgrade::OnUpgrade;
use redeliver_websocket::handshake::{Handshake, own_headers, own_uri};
use tokio::sync::oneshot;

use super::connection::{Carrier, EngineConnection, turn_away};
use super::door::{Door, Found, Post, Sid, Visit};
use super::packet::Message;
use super::session::EngineSession;
use super::{Engine, HandshakeRequest};

/// Why a request gets no good answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    NoRoom,
}

impl Refusal {
    fn response(self) -> Response<Full<Bytes>> {
        let (status, code, words) = match self {
            Refusal::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Refusal::UnknownSid => (StatusCode::BAD_REQUEST, 1, "EngineSession ID unknown"),
            Refusal::BadMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Refusal::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Refusal::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden"),
            Refusal::UnsupportedVersion => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            Refusal::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, 3, "No session is taken now"),
        };
        let mut response = answer(status, "application/json", format!(r#"{{"code":{code},"message":"{words}"}}"#));
        if matches!(self, Refusal::TooLarge) {
            // Its body is not read: the connection is of no more use.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Engine {
    /// Answers a request. Polls wait for their answer as long as the session has nothing for them.
    ///
    /// # Cancel safety
    ///
    /// A dropped call ends the session it was for, as a request that its client gave up does.
    pub async fn respond<B>(&self, request: Request<B>, peer: Option<SocketAddr>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Data: Buf,
    {
        let origin = request.headers().get(header::ORIGIN).cloned();
        if origin.is_some() && !(self.0.config.admits)(request.headers()) {
            return Refusal::Forbidden.response();
        }
        let mut response = if request.method() == Method::OPTIONS {
            preflight(request.headers())
        } else {
            self.dispatch(request, peer).await.unwrap_or_else(Refusal::response)
        };
        let headers = response.headers_mut();
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        response
    }

    async fn dispatch<B>(
        &self,
        mut request: Request<B>,
        peer: Option<SocketAddr>,
    ) -> Result<Response<Full<Bytes>>, Refusal>
    where
        B: Body,
        B::Data: Buf,
    {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let accept = match query.transport {
            Some("polling") if !request.headers().contains_key(header::UPGRADE) => None,
            Some("websocket") => Some(accept_websocket(&request, upgrade)),
            Some("polling") => return Err(Refusal::BadRequest),
            Some(_) | None => return Err(Refusal::UnknownTransport),
        };
        let Some(sid) = query.sid else {
            if request.method() != Method::GET {
                return Err(Refusal::BadMethod);
            }
            if query.version != Some("4") {
                return Err(Refusal::UnsupportedVersion);
            }
            return self.shake_hands(request, peer, accept.transpose()?);
        };
        let sid = Sid::parse(sid).ok_or(Refusal::UnknownSid)?;
        let is_get = request.method() == Method::GET;
        let door = match self.0.sessions.find(sid, is_get && accept.is_none()) {
            Found::Door(door) => door,
            Found::Farewell(body) => return Ok(answer(StatusCode::OK, TEXT, body)),
            Found::Nobody => return Err(Refusal::UnknownSid),
        };
        match (accept, request.method()) {
            (Some(accept), _) => Ok(self.probe(&door, accept?)),
            (None, &Method::GET) => poll(&door).await,
            (None, &Method::POST) => self.post(&door, request).await,
            (None, _) => Err(Refusal::BadRequest),
        }
    }

    /// Opens a session.
    fn shake_hands<B>(
        &self,
        request: Request<B>,
        peer: Option<SocketAddr>,
        accept: Option<Accept>,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let place = self.0.sessions.enter().ok_or(Refusal::NoRoom)?;
        let config = &self.0.config;
        let (parts, _) = request.into_parts();
        let opening = config.opening(&place.sid.to_string(), accept.is_none());
        let (now, terms) = (self.now(), config.terms());
        let (session, carrier, response) = match accept {
            None => (EngineSession::over_polling(terms, now), Carrier::None, answer(StatusCode::OK, TEXT, opening)),
            Some(Accept { handshake, upgrade }) => {
                let waiting = [Message::Packet(Bytes::from(opening))].into();
                let carrier = Carrier::Opening { upgrade, waiting };
                (EngineSession::over_websocket(terms, now), carrier, handshake.response(None))
            }
        };
        let request = keep(&parts, peer);
        let connection = EngineConnection::new(self.clone(), place, request, session, carrier);
        tokio::spawn((self.0.on_connection)(connection));
        Ok(response)
    }

    /// A WebSocket for a session that polls. One that cannot have it closes it: it is too late for another answer.
    fn probe(&self, door: &Door, accept: Accept) -> Response<Full<Bytes>> {
        if let Err(Visit::WebSocket(upgrade)) = door.visit(Visit::WebSocket(accept.upgrade)) {
            turn_away(upgrade, self.0.config.upgrade_timeout);
        }
        accept.handshake.response(None)
    }

    async fn post<B>(&self, door: &Door, request: Request<B>) -> Result<Response<Full<Bytes>>, Refusal>
    where
        B: Body,
        B::Data: Buf,
    {
        let (body_sender, body) = oneshot::channel();
        let (reply, answered) = oneshot::channel();
        door.visit(Visit::Post(Post { body, reply })).map_err(|_| Refusal::UnknownSid)?;
        let config = &self.0.config;
        let reading = read(request, config.payload_bytes_max);
        let body = tokio::time::timeout(config.body_timeout, reading).await.unwrap_or(Err(Refusal::BadRequest));
        let outcome = body.as_ref().map(drop).map_err(|refusal| *refusal);
        // If the session is gone, so is its answer.
        let _ = body_sender.send(body);
        outcome?;
        let body = answered.await.unwrap_or(Err(Refusal::UnknownSid))?;
        let mut response = answer(StatusCode::OK, "text/html", body);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }
}

/// What a session keeps of its handshake: a copy, since the parts are slices of the whole buffer that they were read into.
fn keep(parts: &http::request::Parts, peer: Option<SocketAddr>) -> HandshakeRequest {
    HandshakeRequest { uri: own_uri(&parts.uri), headers: own_headers(&parts.headers), peer }
}

async fn poll(door: &Arc<Door>) -> Result<Response<Full<Bytes>>, Refusal> {
    let (reply, answered) = oneshot::channel();
    door.visit(Visit::Get(reply)).map_err(|_| Refusal::UnknownSid)?;
    let body = answered.await.unwrap_or(Err(Refusal::UnknownSid))?;
    Ok(answer(StatusCode::OK, TEXT, body))
}

/// Reads a body that is small enough.
async fn read<B>(request: Request<B>, bytes_max: usize) -> Result<Bytes, Refusal>
where
    B: Body,
    B::Data: Buf,
{
    let announced = request.body().size_hint().lower();
    if announced > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(Refusal::TooLarge);
    }
    let mut body = std::pin::pin!(request.into_body());
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(|_| Refusal::BadRequest)?.into_data() else { continue };
        if read.len() + data.remaining() > bytes_max {
            return Err(Refusal::TooLarge);
        }
        if read.is_empty() && announced == u64::try_from(data.remaining()).unwrap_or(u64::MAX) {
            return Ok(data.copy_to_bytes(data.remaining()));
        }
        read.reserve(data.remaining());
        while data.has_remaining() {
            let chunk = data.chunk();
            read.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
    Ok(read.freeze())
}

/// What a request's query asks for.
struct Query<'a> {
    version: Option<&'a str>,
    transport: Option<&'a str>,
    sid: Option<&'a str>,
}

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Query<'a> {
        let find = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        Query { version: find("EIO"), transport: find("transport"), sid: find("sid") }
    }
}

/// A WebSocket handshake that was found good.
struct Accept {
    handshake: Handshake,
    upgrade: OnUpgrade,
}

fn accept_websocket<B>(request: &Request<B>, upgrade: Option<OnUpgrade>) -> Result<Accept, Refusal> {
    let (handshake, upgrade) = Handshake::check(request).ok().zip(upgrade).ok_or(Refusal::BadRequest)?;
    Ok(Accept { handshake, upgrade })
}

/// What a page of another origin may send.
fn preflight(asked: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    let allowed = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let allowed = allowed.unwrap_or(HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const TEXT: &str = "text/plain; charset=UTF-8";
