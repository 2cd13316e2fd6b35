//! The connection as the driver sees it: made in the background, whole messages in and out, many frames to one flush.
//! Generic over the byte stream. Knows no frame but the close that says goodbye.

use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{Sink, SinkExt, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use redeliver_protocol::cause::Cause;
use redeliver_protocol::codec;
use redeliver_protocol::error::{Close, CloseCode, RetryAdvice};
use redeliver_protocol::frame::SUBPROTOCOL;
use redeliver_protocol::limits::FRAME_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use crate::auth::{self, Provider};
use crate::connector::Connector;
use crate::endpoint::Endpoint;

/// What happened on the transport.
#[derive(Debug)]
pub(crate) enum Happened {
    /// With the credentials that were asked for, if they are.
    Connected(Option<Bytes>),
    Message(Bytes),
    /// The connection could not be made or has ended. The transport is idle.
    Lost(Cause),
    /// The server will never take this client. The transport is idle.
    Rejected(Close),
}

/// At most one connection, or one in the making.
pub(crate) struct Transport<C: Connector> {
    connector: Arc<C>,
    endpoint: Endpoint,
    credentials: Option<Provider>,
    state: State<C::Io>,
    goodbye: Option<JoinHandle<()>>,
}

enum State<Io> {
    Idle,
    Connecting(Pin<Box<dyn Future<Output = Result<Made<Io>, Failure>> + Send>>),
    Open(Box<Connection<Io>>),
}

/// A connection, and the credentials that were asked for.
type Made<Io> = (WebSocketStream<Io>, Option<Bytes>);

enum Failure {
    Lost(Cause),
    Rejected(Close),
}

impl<C: Connector> Transport<C> {
    pub(crate) fn new(connector: C, endpoint: Endpoint, credentials: Option<Provider>) -> Transport<C> {
        Transport { connector: Arc::new(connector), endpoint, credentials, state: State::Idle, goodbye: None }
    }

    /// Begins to connect; what was there before is dropped.
    pub(crate) fn connect(&mut self) {
        let (connector, endpoint) = (Arc::clone(&self.connector), self.endpoint.clone());
        let provider = self.credentials.clone();
        self.state = State::Connecting(Box::pin(async move {
            let credentials = match provider {
                Some(provider) => Some(auth::ask(provider).await.map_err(|error| Failure::Lost(error.into()))?),
                None => None,
            };
            let io = connector.connect(&endpoint).await.map_err(|error| Failure::Lost(error.into()))?;
            Ok((handshake(io, &endpoint).await?, credentials))
        }));
    }

    /// Takes a message to write. It is written by [`next`](Transport::next), together with others.
    pub(crate) fn send(&mut self, message: Bytes) {
        if let State::Open(connection) = &mut self.state {
            connection.outgoing.push_back(message);
        }
    }

    /// Whether so much waits to be written that what may be lost should be.
    pub(crate) fn is_behind(&self) -> bool {
        match &self.state {
            State::Open(connection) => connection.outgoing.len() >= BEHIND,
            State::Idle | State::Connecting(_) => true,
        }
    }

    /// Ends the connection: writes what waits and this close, in the background.
    pub(crate) fn close(&mut self, close: &Close) {
        if let State::Open(mut connection) = std::mem::replace(&mut self.state, State::Idle) {
            connection.outgoing.push_back(codec::encode_close(close));
            self.goodbye = Some(tokio::spawn(async move {
                // A peer that does not listen any more loses nothing by not hearing it.
                let _ = tokio::time::timeout(GOODBYE_TIMEOUT, connection.say_goodbye()).await;
            }));
        }
    }

    /// Waits until the last close is written, or the peer has had its time.
    pub(crate) async fn closed(&mut self) {
        if let Some(goodbye) = self.goodbye.take() {
            let _ = goodbye.await;
        }
    }

    /// Writes what waits and resolves when something has happened. Cancel safe.
    pub(crate) async fn next(&mut self) -> Happened {
        let happened = match &mut self.state {
            State::Idle => pending().await,
            State::Connecting(connecting) => match connecting.await {
                Ok((ws, credentials)) => {
                    self.state = State::Open(Box::new(Connection::new(ws)));
                    return Happened::Connected(credentials);
                }
                Err(Failure::Lost(cause)) => Happened::Lost(cause),
                Err(Failure::Rejected(close)) => Happened::Rejected(close),
            },
            State::Open(connection) => match connection.next().await {
                Ok(message) => return Happened::Message(message),
                Err(cause) => Happened::Lost(cause),
            },
        };
        self.state = State::Idle;
        happened
    }
}

/// A WebSocket and the messages that wait to be written to it.
///
/// Reading never waits for writing, nor the other way round: two peers that did would wait for each other for ever.
/// What waits is bounded by the outbox, the subscriptions, and `OUTGOING_MAX`, which only a peer reaches that asks and
/// asks without reading the answers.
struct Connection<Io> {
    ws: WebSocketStream<Io>,
    outgoing: VecDeque<Bytes>,
    is_flushed: bool,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Connection<Io> {
    fn new(ws: WebSocketStream<Io>) -> Connection<Io> {
        Connection { ws, outgoing: VecDeque::new(), is_flushed: true }
    }

    async fn next(&mut self) -> Result<Bytes, Cause> {
        if self.outgoing.len() > OUTGOING_MAX {
            return Err(Cause::of_words("the server takes nothing, and asks for more and more"));
        }
        poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(cause_of(error)));
            }
            self.poll_read(cx)
        })
        .await
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        while !self.outgoing.is_empty() {
            std::task::ready!(Pin::new(&mut self.ws).poll_ready(cx))?;
            if let Some(message) = self.outgoing.pop_front() {
                self.is_flushed = false;
                Pin::new(&mut self.ws).start_send(Message::Binary(message))?;
            }
        }
        if !self.is_flushed {
            std::task::ready!(Pin::new(&mut self.ws).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Cause>> {
        loop {
            return Poll::Ready(match std::task::ready!(Pin::new(&mut self.ws).poll_next(cx)) {
                Some(Ok(Message::Binary(message))) => Ok(message),
                // tungstenite answers pings itself, and ends the stream after a close.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Text(_))) => {
                    Err(Cause::of_words("the server sent text, which has no place in this protocol"))
                }
                Some(Err(error)) => Err(cause_of(error)),
                None => Err(Cause::of_words("the server closed the connection")),
            });
        }
    }

    /// Writes everything and the WebSocket's own close, then reads until the peer is done: a socket that is dropped with
    /// unread bytes would take back what was just written.
    async fn say_goodbye(mut self: Box<Self>) -> Result<(), WsError> {
        poll_fn(|cx| self.poll_write(cx)).await?;
        self.ws.send(Message::Close(None)).await?;
        while self.ws.next().await.is_some_and(|message| message.is_ok()) {}
        Ok(())
    }
}

async fn handshake<Io>(io: Io, endpoint: &Endpoint) -> Result<WebSocketStream<Io>, Failure>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = endpoint.uri().into_client_request().map_err(|error| Failure::Lost(cause_of(error)))?;
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    match tokio_tungstenite::client_async_with_config(request, io, Some(config)).await {
        Ok((ws, _)) => Ok(ws),
        Err(error) => Err(refusal(&error).map_or_else(|| Failure::Lost(cause_of(error)), Failure::Rejected)),
    }
}

/// Whether a failed handshake is a final answer: only a redeliver server's own. Whatever a proxy, a firewall or a
/// starting server may say in passing is not.
fn refusal(error: &WsError) -> Option<Close> {
    let never = |code, reason| Some(Close::new(code, reason, RetryAdvice::Never));
    if let WsError::Http(response) = error
        && is_of_a_server(response)
    {
        return never(CloseCode::MALFORMED, answer_of(response));
    }
    if let WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) = error {
        let reason = format!("the server is a WebSocket server, but does not speak {SUBPROTOCOL}");
        return never(CloseCode::VERSION_MISMATCH, reason);
    }
    None
}

/// Whether a redeliver server said that it will never take such a client. It names its subprotocol then.
fn is_of_a_server(response: &Response<Option<Vec<u8>>>) -> bool {
    response.status() == StatusCode::BAD_REQUEST && body_of(response).contains(SUBPROTOCOL)
}

/// What went wrong, and for a handshake what to do about it.
#[allow(clippy::wildcard_enum_match_arm, reason = "all others are their own cause")]
fn cause_of(error: WsError) -> Cause {
    match error {
        WsError::Http(response) => Cause::of_words(failure(&response)),
        // The WebSocket has nothing to add.
        WsError::Io(error) => error.into(),
        _ => error.into(),
    }
}

fn failure(response: &Response<Option<Vec<u8>>>) -> String {
    let hint = match response.status() {
        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::UPGRADE_REQUIRED => {
            "check the host, the port and the path, and that a proxy in front passes the upgrade on"
        }
        status if status.is_redirection() => {
            let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("elsewhere");
            return format!("{}; use the address that it points to ({to})", answer_of(response));
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            "this looks like a proxy or a firewall in front of the server: let it pass WebSockets of this client"
        }
        _ => return answer_of(response),
    };
    format!("{}; {hint}", answer_of(response))
}

fn answer_of(response: &Response<Option<Vec<u8>>>) -> String {
    let body: String = body_of(response).chars().filter(|c| !c.is_control()).take(REASON_CHARS_MAX).collect();
    format!("HTTP {}{}{body}", response.status(), if body.is_empty() { "" } else { ": " })
}

fn body_of(response: &Response<Option<Vec<u8>>>) -> String {
    response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().trim().to_owned()
}

/// How much is read from the socket at once, in bytes. tungstenite clears it before each read, so that a large one makes
/// small reads slow; this takes half a batch of the server's.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// Most messages that wait to be written. An outbox full of single emits and a subscription and an ack for each of 10,000
/// topics stay well below.
const OUTGOING_MAX: usize = 128 * 1024;

/// From how many messages on that wait to be written the server counts as slow.
const BEHIND: usize = 256;

/// How long the peer of a closed connection may take to hear it.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of a refusing HTTP response is shown, in characters.
const REASON_CHARS_MAX: usize = 200;
