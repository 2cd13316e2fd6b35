//! Credentials that the app is asked for at each connection. Never keeps them, and never shows them.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use redeliver_protocol::cause::Cause;
use tokio::task::JoinSet;

/// Any error of the app's, as `?` makes it.
type BoxError = Box<dyn Error + Send + Sync>;

type Asking = Pin<Box<dyn Future<Output = Result<Bytes, BoxError>> + Send>>;

/// Asks the app for credentials.
pub(crate) type Provider = Arc<dyn Fn() -> Asking + Send + Sync>;

/// Why a connection had to do without: the app has no credentials for it. The client tries again, with the usual pauses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The app's function failed.
    #[error("the app could not provide credentials")]
    #[non_exhaustive]
    Failed {
        /// Why.
        source: Cause,
    },
    /// The app's function panicked.
    #[error("the app's function for credentials panicked")]
    Panicked,
}

/// A provider of any shape as one.
pub(crate) fn provider<F, A, T>(provider: F) -> Provider
where
    F: Fn() -> A + Send + Sync + 'static,
    A: Future<Output = Result<T, BoxError>> + Send + 'static,
    T: AsRef<[u8]>,
{
    Arc::new(move || {
        let asking = provider();
        Box::pin(async move { asking.await.map(|credentials| Bytes::copy_from_slice(credentials.as_ref())) })
    })
}

/// Asks once. Cancel safe: dropped, the app's future is.
pub(crate) async fn ask(provider: Provider) -> Result<Bytes, CredentialsError> {
    let mut asking = JoinSet::new();
    // The function is called within the task: what panics in there ends nothing else.
    asking.spawn(async move { provider().await });
    match asking.join_next().await {
        Some(Ok(Ok(credentials))) => Ok(credentials),
        Some(Ok(Err(error))) => Err(CredentialsError::Failed { source: Cause::boxed(error) }),
        Some(Err(_)) | None => Err(CredentialsError::Panicked),
    }
}
