//! The server that a test holds: started, cut and restarted at will. Knows nothing of clients.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redeliver_server::{MemoryStore, OpenStream, Server, ServerBuilder};
use tokio::io::DuplexStream;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::line::Line;

/// A server in memory on a free port of 127.0.0.1. Clones are handles to the same one; it ends with the last.
#[derive(Clone, Debug)]
pub struct TestServer {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    line: Arc<Line>,
    store: MemoryStore,
    configure: Box<dyn Fn(ServerBuilder) -> ServerBuilder + Send + Sync>,
    running: Mutex<Running>,
    /// Held during a restart: one at a time.
    restarting: tokio::sync::Mutex<()>,
    accepting: JoinHandle<()>,
}

/// One life of the server, between two restarts.
struct Running {
    server: Server,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server with the defaults of [`ServerBuilder`]. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An IO error if no port can be had.
    pub async fn start() -> io::Result<TestServer> {
        TestServer::start_with(|builder| builder).await
    }

    /// Starts a server with settings of its own, such as an access hook or a handler of requests. `configure` is called
    /// again at each restart; a log that it chooses is not used after all of them: the store in memory is.
    ///
    /// # Errors
    ///
    /// An IO error if no port can be had, or if the server cannot be opened.
    pub async fn start_with<F>(configure: F) -> io::Result<TestServer>
    where
        F: Fn(ServerBuilder) -> ServerBuilder + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(ANY_PORT).await?;
        let address = listener.local_addr()?;
        let store = MemoryStore::default();
        let running = Running::begin(&configure, &store).await?;
        let line = Arc::new(Line::default());
        line.join(Some((running.address, running.server.clone())));
        let accepting = tokio::spawn(Arc::clone(&line).accept(listener));
        let inner = Inner {
            address,
            line,
            store,
            configure: Box::new(configure),
            running: Mutex::new(running),
            restarting: tokio::sync::Mutex::default(),
            accepting,
        };
        Ok(TestServer { inner: Arc::new(inner) })
    }

    /// Returns the URL for clients, `ws://127.0.0.1:PORT`. It stays the same over restarts.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.inner.address)
    }

    /// Returns the server itself, to emit and subscribe without a client. After a restart this is another one; a handle from
    /// before refuses emits.
    #[must_use]
    pub fn server(&self) -> Server {
        self.inner.running.lock().server.clone()
    }

    /// Ends every connection at once, without a close, as a network that fails does. Clients come back by themselves.
    /// Returns when each connection has ended. In-process subscriptions of the server itself go on.
    ///
    /// # Cancel safety
    ///
    /// The connections end all the same if the future is dropped after its first poll.
    pub async fn cut_connections(&self) {
        self.inner.line.cut().await;
    }

    /// Ends the server and starts another over the same store, on the same port, with a new epoch. Connections are cut
    /// first, and whoever connects meanwhile is cut too. Subscriptions and handles of the server itself end.
    ///
    /// # Errors
    ///
    /// An IO error if the old server does not end within 10 s, or if no new one can be opened. Connections are cut from
    /// then on.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server may stay away until the next restart.
    pub async fn restart(&self) -> io::Result<()> {
        let inner = &self.inner;
        let _alone = inner.restarting.lock().await;
        inner.line.join(None);
        inner.line.cut().await;
        self.server().shutdown(SHUTDOWN_WITHIN).await.map_err(io::Error::other)?;
        let running = Running::begin(&inner.configure, &inner.store).await?;
        inner.line.join(Some((running.address, running.server.clone())));
        *inner.running.lock() = running;
        Ok(())
    }
}

impl OpenStream for TestServer {
    type Stream = DuplexStream;

    /// Opens a connection from within the process that can be cut as the others, and that finds the new server after a
    /// restart. Must be called within a tokio runtime.
    fn open_stream(&self) -> DuplexStream {
        self.inner.line.open()
    }
}

impl Running {
    async fn begin(
        configure: &(impl Fn(ServerBuilder) -> ServerBuilder + ?Sized),
        store: &MemoryStore,
    ) -> io::Result<Running> {
        let builder = configure(Server::builder()).memory_store(store).commits_inline();
        let server = builder.open().await.map_err(io::Error::other)?;
        let listener = TcpListener::bind(ANY_PORT).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(server.serve(listener));
        Ok(Running { server, address, serving })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It holds a handle: without this the server would go on.
        self.serving.abort();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.accepting.abort();
        self.line.join(None);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("address", &self.address).finish_non_exhaustive()
    }
}

const ANY_PORT: (&str, u16) = ("127.0.0.1", 0);

const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
