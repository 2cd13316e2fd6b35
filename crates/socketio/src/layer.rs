//! Ways to the gateway: as routes of the server's own listener, and as a tower layer around an app.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use redeliver_server::{ResponseBody, Routes};
use tower_layer::Layer;
use tower_service::Service;

use crate::assets;
use crate::io::{SocketIo, asset_answer};

impl SocketIo {
    /// The gateway as a tower layer: requests for its paths are its own, the others go to the service inside. For axum
    /// and any other server on hyper 1.
    #[must_use]
    pub fn layer(&self) -> SocketIoLayer {
        SocketIoLayer { io: self.clone() }
    }

    /// The gateway with the demo page under `/`, as routes for
    /// [`Server::serve_with`](redeliver_server::Server::serve_with).
    #[must_use]
    pub fn with_page(&self) -> WithPage {
        WithPage { io: self.clone() }
    }
}

impl Routes for SocketIo {
    fn owns(&self, path: &str) -> bool {
        SocketIo::owns(self, path)
    }

    fn judges_peers(&self) -> bool {
        true
    }

    async fn respond(&self, request: Request<Incoming>, peer: Option<SocketAddr>) -> Response<ResponseBody> {
        SocketIo::respond(self, request, peer).await.map(BodyExt::boxed)
    }
}

/// See [`SocketIo::with_page`].
#[derive(Clone, Debug)]
pub struct WithPage {
    io: SocketIo,
}

impl Routes for WithPage {
    fn owns(&self, path: &str) -> bool {
        self.io.owns(path) || assets::page(path).is_some()
    }

    fn judges_peers(&self) -> bool {
        true
    }

    async fn respond(&self, request: Request<Incoming>, peer: Option<SocketAddr>) -> Response<ResponseBody> {
        let response = match assets::page(request.uri().path()) {
            Some(asset) => asset_answer(asset, &request),
            None => SocketIo::respond(&self.io, request, peer).await,
        };
        response.map(BodyExt::boxed)
    }
}

/// The gateway around an app. Made by [`SocketIo::layer`].
#[derive(Clone, Debug)]
pub struct SocketIoLayer {
    io: SocketIo,
}

impl<S> Layer<S> for SocketIoLayer {
    type Service = SocketIoService<S>;

    fn layer(&self, inner: S) -> SocketIoService<S> {
        SocketIoService { io: self.io.clone(), inner }
    }
}

/// An app with the gateway around it. Made by [`SocketIoLayer`].
#[derive(Clone, Debug)]
pub struct SocketIoService<S> {
    io: SocketIo,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for SocketIoService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Buf + Send,
    R: Body<Data = Bytes> + 'static,
{
    type Response = Response<Either<Full<Bytes>, R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.io.owns(request.uri().path()) {
            let io = self.io.clone();
            // A server that knows its peers puts them here; axum has a type of its own for them.
            let peer = request.extensions().get::<SocketAddr>().copied();
            return Box::pin(async move { Ok(io.respond(request, peer).await.map(Either::Left)) });
        }
        let inner = self.inner.call(request);
        Box::pin(async move { Ok(inner.await?.map(Either::Right)) })
    }
}
