//! Paths of the server's own listener that somebody else answers: a gateway, an app's pages. The server keeps the
//! connections' limits and its own few paths.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;

/// The body of a request, as it comes in: hyper 1's, which is an `http_body::Body`.
pub type RequestBody = hyper::body::Incoming;

/// The body of an answer: any body that cannot fail, boxed. `http-body-util`'s `BodyExt::boxed` makes one.
pub type ResponseBody = BoxBody<Bytes, Infallible>;

/// Answers requests for paths of its own on the server's listener. Give it to
/// [`Server::serve_with`](crate::Server::serve_with).
///
/// Requests and answers are those of the crate `http` 1, bodies and upgrades those of `hyper` 1: the crates that axum, tower
/// and tonic use too.
///
/// `/healthz`, `/readyz` and WebSocket handshakes at `/` stay the server's, whatever is owned here. HTTP/1.1 upgrades work:
/// `hyper::upgrade::on(request)`, and an answer with status 101.
///
/// A connection that has asked for an owned path is kept alive between requests, for as long as the next request's head
/// comes within a few seconds, and is no longer bounded in time as a whole: bounding bodies, in bytes and in time, is the
/// routes' business, unless they judge peers by themselves ([`Routes::judges_peers`]). A peer that takes nothing of an
/// answer for as long as the session's `write_timeout` is closed.
pub trait Routes: Clone + Send + Sync + 'static {
    /// Whether requests for this path (of the URI, without its query) are answered here.
    fn owns(&self, path: &str) -> bool;

    /// Whether a peer that asks for an owned path stays a [`Stranger`](crate::Stranger), to be found among the request's
    /// extensions, until the routes call [`Stranger::admit`](crate::Stranger::admit): such a connection is closed after the
    /// strangers' deadline, and sooner if others need its place. False unless it is overridden.
    fn judges_peers(&self) -> bool {
        false
    }

    /// Answers a request for an owned path. Dropped when its peer goes.
    fn respond(
        &self,
        request: Request<RequestBody>,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = Response<ResponseBody>> + Send;
}

/// Owns nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoRoutes;

impl Routes for NoRoutes {
    fn owns(&self, _path: &str) -> bool {
        false
    }

    async fn respond(&self, _request: Request<RequestBody>, _peer: Option<SocketAddr>) -> Response<ResponseBody> {
        Response::new(BoxBody::default())
    }
}
