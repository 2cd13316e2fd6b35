//! The client behind `emit` and `listen`: how it is made, what people are told of its connection, and why it ended.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use redeliver_client::{
    Cause, Client, ClientBuilder, Close, CloseCode, ConnectError, ConnectionState, ConnectionWatch, Connector,
    Endpoint, TcpConnector, TlsConfig,
};

use crate::args::Remote;
use crate::escape;
use crate::exit::Problem;

/// A client that may still be given a name, a publisher, a subscriber.
///
/// # Errors
///
/// If a certificate or key cannot be read.
pub(crate) fn builder(remote: &Remote) -> Result<ClientBuilder> {
    let builder = Client::builder(&remote.url).backoff(BACKOFF_FIRST, BACKOFF_MAX).tls(tls(remote)?);
    Ok(match remote.token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => builder.auth(token),
        None => builder,
    })
}

fn tls(remote: &Remote) -> Result<TlsConfig> {
    let pem = |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
    let mut tls = TlsConfig::new();
    if let Some(ca) = &remote.ca {
        tls = tls.native_roots(false).ca_pem(pem(ca)?);
    }
    if let (Some(cert), Some(key)) = (&remote.cert, &remote.key) {
        tls = tls.client_certificate(pem(cert)?, pem(key)?);
    }
    Ok(tls)
}

/// Why a client could not be made, with what people can do about it.
pub(crate) fn why_not_made(error: ConnectError) -> Problem {
    let (is_url, is_retryable) = (matches!(error, ConnectError::InvalidUrl { .. }), error.is_retryable());
    let problem = Problem::new(Cause::new(error).in_full());
    if is_url {
        problem.hint("give --url or REDELIVER_URL as in ws://127.0.0.1:7400 or wss://events.example")
    } else if is_retryable {
        problem.hint("is it running? `redeliver serve` starts a server")
    } else {
        problem
    }
}

/// Makes it; it connects in the background, and people are told when that takes effort.
pub(crate) fn connect(builder: ClientBuilder, remote: &Remote, bar: &ProgressBar) -> Result<Client> {
    let client = builder.connect_lazy().map_err(why_not_made)?;
    if let Some(host) = reads_along(remote) {
        note(bar, &format!("redeliver: warning: the token goes unencrypted to {host}: use wss:// beyond this machine"));
    }
    tokio::spawn(tell_of_connection(client.state(), remote.url.clone(), bar.clone()));
    Ok(client)
}

/// The host to which a token would be sent in clear, over a net on which others may read it.
fn reads_along(remote: &Remote) -> Option<String> {
    remote.token.as_ref().filter(|token| !token.is_empty())?;
    let endpoint = Endpoint::parse(&remote.url).ok()?;
    TcpConnector::default().is_readable_by_others(&endpoint).then(|| endpoint.host().to_owned())
}

/// Says something on stderr, without breaking the progress bar.
pub(crate) fn note(bar: &ProgressBar, words: &str) {
    bar.suspend(|| {
        // Nothing can be done about an stderr that is closed.
        let _ = writeln!(std::io::stderr(), "{words}");
    });
}

/// How the server ended a client for good, if it did. For a client that has ended or is about to: its receipts and
/// subscriptions are told a moment before its state is.
pub(crate) async fn close_of(client: &Client) -> Option<Close> {
    let mut state = client.state();
    let has_ended = |state: &ConnectionState| matches!(state, ConnectionState::Ended { .. });
    let ended = tokio::time::timeout(MOMENT, state.wait_for(has_ended)).await.ok()??;
    match ended {
        ConnectionState::Ended { close } => close,
        ConnectionState::Connecting | ConnectionState::Connected { .. } | ConnectionState::Waiting { .. } | _ => None,
    }
}

/// Why a client has ended that nobody shut down.
pub(crate) fn why_ended(close: Option<&Close>) -> Problem {
    let Some(close) = close else { return Problem::new("the client has ended") };
    let mut words = format!("the server ended the conversation: {}", close.code);
    if !close.reason.is_empty() {
        words = format!("{words}: {}", escape::controls(&close.reason));
    }
    let problem = Problem::new(words);
    match close.code {
        CloseCode::UNAUTHENTICATED | CloseCode::EXPIRED => {
            problem.hint("give a valid token with --token or REDELIVER_TOKEN")
        }
        CloseCode::VERSION_MISMATCH => problem.hint("use the same version of redeliver on both sides"),
        CloseCode::PUBLISHER_FENCED => {
            problem.hint("another emitter runs under the same --publisher: let one finish before the next")
        }
        _ => problem,
    }
}

/// Speaks once when the connection goes and once when it comes back, however many tries lie between.
async fn tell_of_connection(mut states: ConnectionWatch, url: String, bar: ProgressBar) {
    let mut was_connected = false;
    let mut in_trouble = false;
    let mut state = states.current();
    loop {
        match state {
            ConnectionState::Waiting { reason, .. } if !in_trouble => {
                in_trouble = true;
                let reason = reason.in_full();
                let reason = escape::controls(&reason);
                if was_connected {
                    note(&bar, &format!("redeliver: the connection is lost ({reason}); reconnecting"));
                } else {
                    note(&bar, &format!("redeliver: {url} cannot be reached ({reason}); trying again until it can"));
                }
            }
            ConnectionState::Connected { .. } => {
                if std::mem::take(&mut in_trouble) {
                    note(&bar, "redeliver: connected");
                }
                was_connected = true;
            }
            ConnectionState::Ended { .. } => return,
            ConnectionState::Waiting { .. } | ConnectionState::Connecting | _ => {}
        }
        let Some(next) = states.changed().await else { return };
        state = next;
    }
}

/// Somebody is watching, and there are few of us: shorter pauses than a crowd of services should make.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

const MOMENT: Duration = Duration::from_secs(1);
