//! The listener for operators: health and readiness, where no stranger of the public listener can stand in the way. Its
//! connections are few and short, and count among no others. Never answers clients.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::http::answer_operator;
use crate::shared::Shared;

/// Serves operators until the server's shutdown is over.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(OPERATORS_MAX));
    let mut stopped = shared.stopped();
    loop {
        let accepting = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepting => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (shared, helping) = (Arc::clone(&shared), shared.help());
                tokio::spawn(async move {
                    if tokio::time::timeout(ANSWER_TIMEOUT, exchange(&shared, stream)).await.is_err() {
                        debug!(%peer, "an operator's request took too long");
                    }
                    drop((shared, helping, place));
                });
            }
            Err(error) => {
                warn!(%error, "a connection of an operator could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn exchange(shared: &Shared, stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer_operator(shared, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let exchanging = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ANSWER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = exchanging.await {
        debug!(%error, "an operator's HTTP exchange failed");
    }
}

/// Connections of operators at once. Each is over within moments.
const OPERATORS_MAX: usize = 16;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const HEADER_BYTES_MAX: usize = 16 * 1024;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
