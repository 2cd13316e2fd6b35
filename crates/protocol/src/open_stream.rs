//! How a client in the server's own process reaches it: server and client never import each other, so what joins them
//! stands here. Names no kind of stream.

/// Opens connections to a server of the same process. The server implements it, and a client takes it in place of a URL.
pub trait OpenStream: Send + Sync + 'static {
    /// A byte stream to the server. The WebSocket handshake comes first on it, as over any other.
    type Stream;

    /// Opens a connection. Its client is trusted: nobody is asked who it is or what it may do. A server that accepts no
    /// more connections answers the handshake with status 503.
    fn open_stream(&self) -> Self::Stream;
}
