//! Connections from within the process: a pipe instead of a socket, and a trusted peer at its other end. Everything else
//! is what a remote client gets.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use redeliver_protocol::open_stream::OpenStream;
use tokio::io::DuplexStream;
use tracing::debug;

use crate::access::{Access, Action, ConnectRequest, Denied, Identity};
use crate::http::{Door, begin_upgrade};
use crate::server::Server;
use crate::shared::Shared;

/// Lets the process itself in, and allows it everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InProcess;

impl Access for InProcess {
    async fn authenticate(&self, _request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::new(IDENTITY))
    }

    fn allow(&self, _identity: &Identity, _action: Action<'_>) -> bool {
        true
    }
}

impl OpenStream for Server {
    type Stream = DuplexStream;

    /// Opens a connection. Must be called within a tokio runtime.
    fn open_stream(&self) -> DuplexStream {
        let (theirs, ours) = tokio::io::duplex(PIPE_BYTES);
        let shared = Arc::clone(&self.handle.shared);
        let helping = shared.help();
        tokio::spawn(async move {
            serve(shared, ours).await;
            drop(helping);
        });
        theirs
    }
}

async fn serve(shared: Arc<Shared>, stream: DuplexStream) {
    let upgrading = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let (response, then) = begin_upgrade(&shared, Arc::new(InProcess), request, None, Door::Inside);
        *upgrading.lock() = then;
        async move { Ok::<Response<Full<Bytes>>, Infallible>(response) }
    });
    let exchange = http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut stopped = shared.stopped();
    tokio::select! {
        ended = exchange => {
            if let Err(error) = ended {
                debug!(%error, "a connection of the process ended before its handshake");
            }
        }
        // Nobody is answered any more.
        _ = stopped.wait_for(|stopped| *stopped) => return,
    }
    let then = upgrading.lock().take();
    if let Some(then) = then {
        then.await;
    }
}

/// The identity of whoever connects from within the process.
pub(crate) const IDENTITY: &str = "in-process";

/// What a pipe holds in one direction, in bytes: as much as a slow reader's socket.
const PIPE_BYTES: usize = 256 * 1024;
