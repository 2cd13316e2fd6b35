//! From HTTP requests to sessions: what is asked for, whether it may be, and the answers. Reads bodies up to a limit
//! and never beyond.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::upgrade::OnUpgrade;
use redeliver_server::Stranger;
use redeliver_websocket::handshake::{Handshake, own_headers, own_uri};
use tokio::sync::oneshot;

use super::connection::{Carrier, EngineConnection};
use super::packet::Message;
use super::reply::{RequestRefusal, TEXT, answer, turn_away};
use super::session::EngineSession;
use super::sessions::{Inbox, Post, SessionLookup, SessionRequest, Sid};
use super::strangers::{STRANGER_MESSAGE_BYTES_MAX, Standing};
use super::{Engine, HandshakeRequest};

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
        let is_of_page = origin.is_some() || request.headers().contains_key("sec-fetch-site");
        if is_of_page && !(self.0.config.admits)(request.headers()) {
            let origin = origin.as_ref().and_then(|origin| origin.to_str().ok()).unwrap_or_default();
            let remedy = "if the page is yours, name its origin in `allowed_origins`";
            self.0.refusals.refused("a page of another origin was refused", peer, &origin, remedy);
            return RequestRefusal::Forbidden.response();
        }
        let takes_credentials = (self.0.config.takes_credentials)(request.headers());
        let mut response = if request.method() == Method::OPTIONS {
            preflight(request.headers())
        } else {
            self.dispatch(request, peer).await.unwrap_or_else(RequestRefusal::response)
        };
        let headers = response.headers_mut();
        match origin {
            Some(origin) if takes_credentials => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Some(_) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            None => {}
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        response
    }

    async fn dispatch<B>(
        &self,
        mut request: Request<B>,
        peer: Option<SocketAddr>,
    ) -> Result<Response<Full<Bytes>>, RequestRefusal>
    where
        B: Body,
        B::Data: Buf,
    {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let stranger = request.extensions_mut().remove::<Stranger>();
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let accept = match query.transport {
            Some("polling") if !request.headers().contains_key(header::UPGRADE) => None,
            Some("websocket") => Some(accept_websocket(&request, upgrade)),
            Some("polling") => return Err(RequestRefusal::BadRequest),
            Some(_) | None => return Err(RequestRefusal::UnknownTransport),
        };
        let Some(sid) = query.sid else {
            if request.method() != Method::GET {
                return Err(RequestRefusal::BadMethod);
            }
            if query.version != Some("4") {
                let remedy = "it needs socket.io-client 3 or newer, and 4.6 or newer to get what it missed";
                self.0.refusals.refused(
                    "a client speaks an old Engine.IO",
                    peer,
                    &query.version.unwrap_or("none"),
                    remedy,
                );
                return Err(RequestRefusal::UnsupportedVersion);
            }
            return self.shake_hands(request, peer, accept.transpose()?, stranger);
        };
        let sid = Sid::parse(sid).ok_or(RequestRefusal::UnknownSid)?;
        let is_get = request.method() == Method::GET;
        let inbox = match self.0.sessions.find(sid, is_get && accept.is_none()) {
            SessionLookup::Open(inbox) => inbox,
            SessionLookup::Ended(body) => return Ok(answer(StatusCode::OK, TEXT, body)),
            SessionLookup::Unknown => return Err(RequestRefusal::UnknownSid),
        };
        if inbox.is_known()
            && let Some(stranger) = &stranger
        {
            // Who speaks for a known session is known. If there are too many, the connection stays among the strangers.
            let _is_known = stranger.admit();
        }
        match (accept, request.method()) {
            (Some(accept), _) => Ok(self.probe(&inbox, accept?, stranger)),
            (None, &Method::GET) => poll(&inbox).await,
            (None, &Method::POST) => self.post(&inbox, request).await,
            (None, _) => Err(RequestRefusal::BadRequest),
        }
    }

    /// Opens a session.
    fn shake_hands<B>(
        &self,
        request: Request<B>,
        peer: Option<SocketAddr>,
        accept: Option<Accept>,
        stranger: Option<Stranger>,
    ) -> Result<Response<Full<Bytes>>, RequestRefusal> {
        let config = &self.0.config;
        let standing = match &config.strangers {
            Some(gateway) => {
                // A WebSocket is its connection, which has its place. A session over polling needs one of its own.
                let of_connection = stranger.filter(|_| accept.is_some());
                Standing::of_stranger(gateway, peer, of_connection).ok_or(RequestRefusal::NoRoom)?
            }
            None => Standing::known(),
        };
        let entry = self.0.sessions.enter().ok_or(RequestRefusal::NoRoom)?;
        let (parts, _) = request.into_parts();
        let opening = config.opening(&entry.sid.to_string(), accept.is_none());
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
        let connection = EngineConnection::new(self.clone(), entry, request, session, carrier, standing);
        tokio::spawn((self.0.on_connection)(connection));
        Ok(response)
    }

    /// A WebSocket for a session that polls. One that cannot have it closes it: it is too late for another answer.
    fn probe(&self, inbox: &Inbox, accept: Accept, stranger: Option<Stranger>) -> Response<Full<Bytes>> {
        let request = SessionRequest::WebSocket(accept.upgrade, stranger);
        if let Err(SessionRequest::WebSocket(upgrade, _)) = inbox.push(request) {
            turn_away(upgrade, self.0.config.upgrade_timeout);
        }
        accept.handshake.response(None)
    }

    async fn post<B>(&self, inbox: &Inbox, request: Request<B>) -> Result<Response<Full<Bytes>>, RequestRefusal>
    where
        B: Body,
        B::Data: Buf,
    {
        let (body_sender, body) = oneshot::channel();
        let (reply, answered) = oneshot::channel();
        inbox.push(SessionRequest::Post(Post { body, reply })).map_err(|_| RequestRefusal::UnknownSid)?;
        let config = &self.0.config;
        let bytes_max = config.payload_bytes_max;
        let bytes_max = if inbox.is_known() { bytes_max } else { bytes_max.min(STRANGER_MESSAGE_BYTES_MAX) };
        let reading = read(request, bytes_max);
        let body = tokio::time::timeout(config.body_timeout, reading).await.unwrap_or(Err(RequestRefusal::BadRequest));
        let outcome = body.as_ref().map(drop).map_err(|refusal| *refusal);
        // If the session is gone, so is its answer.
        let _ = body_sender.send(body);
        outcome?;
        let body = answered.await.unwrap_or(Err(RequestRefusal::UnknownSid))?;
        let mut response = answer(StatusCode::OK, "text/html", body);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Ok(response)
    }
}

/// What a session keeps of its handshake: a copy, since the parts are slices of the whole buffer that they were read
/// into.
fn keep(parts: &http::request::Parts, peer: Option<SocketAddr>) -> HandshakeRequest {
    HandshakeRequest { uri: own_uri(&parts.uri), headers: own_headers(&parts.headers), peer }
}

async fn poll(inbox: &Arc<Inbox>) -> Result<Response<Full<Bytes>>, RequestRefusal> {
    let (reply, answered) = oneshot::channel();
    inbox.push(SessionRequest::Get(reply)).map_err(|_| RequestRefusal::UnknownSid)?;
    let body = answered.await.unwrap_or(Err(RequestRefusal::UnknownSid))?;
    Ok(answer(StatusCode::OK, TEXT, body))
}

/// Reads a body that is small enough.
async fn read<B>(request: Request<B>, bytes_max: usize) -> Result<Bytes, RequestRefusal>
where
    B: Body,
    B::Data: Buf,
{
    let announced = request.body().size_hint().lower();
    if announced > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(RequestRefusal::TooLarge);
    }
    let mut body = std::pin::pin!(request.into_body());
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(|_| RequestRefusal::BadRequest)?.into_data() else { continue };
        if read.len() + data.remaining() > bytes_max {
            return Err(RequestRefusal::TooLarge);
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

fn accept_websocket<B>(request: &Request<B>, upgrade: Option<OnUpgrade>) -> Result<Accept, RequestRefusal> {
    let (handshake, upgrade) = Handshake::check(request).ok().zip(upgrade).ok_or(RequestRefusal::BadRequest)?;
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
