//! How a server is reached: byte streams, over TCP and with the feature `tls` over TLS. Knows no message.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::endpoint::Endpoint;
use crate::error::ConnectError;

/// Makes byte streams to a server. The WebSocket runs on top of them.
pub trait Connector: Send + Sync + 'static {
    /// The byte stream.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects, and encrypts if the endpoint asks for TLS. May be dropped at any point; the session gives it a time limit.
    fn connect(&self, endpoint: &Endpoint) -> impl Future<Output = io::Result<Self::Io>> + Send;

    /// Whether its streams are encrypted when the URL asks for it.
    fn offers_tls(&self) -> bool {
        false
    }

    /// Judges the settings, once, when the client is made: what is wrong with them will not get better by trying.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; as provided, [`ConnectError::TlsUnsupported`] if the URL asks for TLS and there is none.
    fn check(&self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        if endpoint.tls() && !self.offers_tls() { Err(ConnectError::TlsUnsupported) } else { Ok(()) }
    }

    /// Whether others on the way can read what is sent. `false` as provided: only the connector knows.
    fn is_readable_by_others(&self, endpoint: &Endpoint) -> bool {
        let _ = endpoint;
        false
    }
}

/// TCP, without delay for small writes; with the feature `tls`, TLS over it for `wss://` URLs.
#[derive(Clone, Debug, Default)]
pub struct TcpConnector {
    #[cfg(feature = "tls")]
    tls: crate::tls::TlsConfig,
    /// What was made of `tls` when the client was made.
    #[cfg(feature = "tls")]
    loaded: std::sync::Arc<std::sync::OnceLock<std::sync::Arc<rustls::ClientConfig>>>,
}

#[cfg(feature = "tls")]
impl TcpConnector {
    /// Returns a connector that speaks TLS like this.
    #[must_use]
    pub fn with_tls(tls: crate::tls::TlsConfig) -> TcpConnector {
        TcpConnector { tls, loaded: std::sync::Arc::default() }
    }

    fn load(&self) -> Result<std::sync::Arc<rustls::ClientConfig>, crate::tls::TlsError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(std::sync::Arc::clone(loaded));
        }
        let loaded = self.tls.load()?;
        Ok(std::sync::Arc::clone(self.loaded.get_or_init(|| loaded)))
    }
}

impl Connector for TcpConnector {
    type Io = NetStream;

    async fn connect(&self, endpoint: &Endpoint) -> io::Result<NetStream> {
        let tcp = TcpStream::connect((endpoint.host(), endpoint.port())).await?;
        tcp.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        if endpoint.tls() {
            let config = self.load().map_err(io::Error::other)?;
            let tls = crate::tls::handshake(config, tcp, endpoint.host()).await?;
            return Ok(NetStream(Kind::Tls(Box::new(tls), endpoint.host().to_owned())));
        }
        Ok(NetStream(Kind::Plain(tcp)))
    }

    fn offers_tls(&self) -> bool {
        cfg!(feature = "tls")
    }

    #[cfg(feature = "tls")]
    fn check(&self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        if endpoint.tls() { Ok(self.load().map(|_| ())?) } else { Ok(()) }
    }

    fn is_readable_by_others(&self, endpoint: &Endpoint) -> bool {
        !endpoint.tls() && !is_loopback(endpoint.host())
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// A connection that a [`TcpConnector`] has made.
#[derive(Debug)]
pub struct NetStream(Kind);

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    /// With the host: a server may refuse a client's certificate only when it is spoken to, and words need a name.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>, String),
}

macro_rules! over_either {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().0 {
            Kind::Plain($stream) => $call,
            #[cfg(feature = "tls")]
            Kind::Tls($stream, _) => $call,
        }
    };
}

impl AsyncRead for NetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(feature = "tls")]
            Kind::Tls(stream, host) => {
                Pin::new(stream).poll_read(cx, buf).map_err(|error| crate::tls::explained_later(error, host))
            }
        }
    }
}

impl AsyncWrite for NetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        over_either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        over_either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        over_either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        over_either!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Kind::Plain(stream) => stream.is_write_vectored(),
            #[cfg(feature = "tls")]
            Kind::Tls(stream, _) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_unencrypted_can_be_read_by_others() {
        let is_readable = |url| TcpConnector::default().is_readable_by_others(&Endpoint::parse(url).expect(url));
        for url in ["ws://events.example", "ws://10.0.0.1:7400", "ws://[2001:db8::1]:7400", "ws://localhost.example"] {
            assert!(is_readable(url), "{url}");
        }
        for url in
            ["wss://events.example", "ws://LOCALHOST:7400", "ws://127.0.0.2", "ws://[::1]:7400", "ws://a.localhost"]
        {
            assert!(!is_readable(url), "{url}");
        }
    }
}
