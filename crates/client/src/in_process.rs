//! A client in the server's own process: the conversation is the same, over a pipe in memory. Server and client do not know
//! each other; what joins them is the protocol's [`OpenStream`].

use std::io;

use redeliver_protocol::open_stream::OpenStream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::builder::ClientBuilder;
use crate::client::Client;
use crate::connector::Connector;
use crate::endpoint::Endpoint;

/// Reaches a server of the same process. Made by [`Client::in_process`].
#[derive(Clone, Copy, Debug)]
pub struct InProcess<S>(S);

impl<S> Connector for InProcess<S>
where
    S: OpenStream<Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
{
    type Io = S::Stream;

    async fn connect(&self, _: &Endpoint) -> io::Result<S::Stream> {
        Ok(self.0.open_stream())
    }
}

impl Client {
    /// Starts to build a client of a server in this process, so that an app speaks the same API inside and outside. The
    /// client is trusted: nobody is asked who it is or what it may do.
    ///
    /// The client holds the handle `server`. It should be shut down before the server is.
    pub fn in_process<S>(server: &S) -> ClientBuilder<InProcess<S>>
    where
        S: OpenStream<Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static> + Clone,
    {
        Client::builder(IN_PROCESS_URL).connector(InProcess(server.clone()))
    }
}

/// Nobody resolves it: it stands in the handshake.
const IN_PROCESS_URL: &str = "ws://in-process";
