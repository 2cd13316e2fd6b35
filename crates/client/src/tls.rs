//! TLS: whom a client trusts, what it shows of itself, and what a failed handshake means. Never trusts a certificate that
//! it has not verified, and never shows a key.

use std::fmt;
use std::io;
use std::sync::Arc;

use redeliver_protocol::cause::Cause;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How a client speaks TLS with a server whose URL begins with `wss://`: whose certificates it trusts, and which one of its
/// own it shows. Unless told otherwise it trusts what this machine trusts, and shows none.
///
/// TLS 1.2 and 1.3. The server's certificate is always verified, against the host of the URL.
#[derive(Clone)]
pub struct TlsConfig {
    has_native_roots: bool,
    ca_pem: Vec<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Default for TlsConfig {
    fn default() -> TlsConfig {
        TlsConfig { has_native_roots: true, ca_pem: Vec::new(), identity: None }
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("TlsConfig")
            .field("native_roots", &self.has_native_roots)
            .field("ca_pem", &self.ca_pem.len())
            .field("client_certificate", &self.identity.is_some())
            .finish()
    }
}

impl TlsConfig {
    /// Returns a configuration that trusts the CAs of this machine.
    #[must_use]
    pub fn new() -> TlsConfig {
        TlsConfig::default()
    }

    /// Whether the CAs that this machine trusts are trusted: on unless set. Where they lie is the system's matter;
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded.
    #[must_use]
    pub fn native_roots(mut self, are_trusted: bool) -> TlsConfig {
        self.has_native_roots = are_trusted;
        self
    }

    /// Trusts these CAs too: one or more certificates in PEM. Needed for a server whose certificate is signed by a CA of
    /// one's own, or by itself.
    #[must_use]
    pub fn ca_pem(mut self, certificates: impl AsRef<[u8]>) -> TlsConfig {
        self.ca_pem.push(certificates.as_ref().to_vec());
        self
    }

    /// Shows this certificate to a server that asks for one: its chain (its own certificate first) and its private key
    /// (PKCS #8, PKCS #1 or SEC1), in PEM.
    #[must_use]
    pub fn client_certificate(mut self, chain_pem: impl AsRef<[u8]>, key_pem: impl AsRef<[u8]>) -> TlsConfig {
        self.identity = Some((chain_pem.as_ref().to_vec(), key_pem.as_ref().to_vec()));
        self
    }

    /// Reads the certificates. Blocks for as long as the machine's CAs take to be read.
    pub(crate) fn load(&self) -> Result<Arc<rustls::ClientConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable { source: error.into() })?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(|source| TlsError::ClientCertificate { source })?;
                let key = PrivateKeyDer::from_pem_slice(key);
                let key = key.map_err(|error| TlsError::ClientKey { source: error.into() })?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| TlsError::ClientKey { source: error.into() })?
            }
        };
        // A WebSocket of today begins with HTTP/1.1; a proxy that is not told might choose HTTP/2.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for pem in &self.ca_pem {
            for certificate in certificates(pem).map_err(|source| TlsError::Ca { source })? {
                roots.add(certificate).map_err(|error| TlsError::Ca { source: error.into() })?;
            }
        }
        if self.has_native_roots {
            let found = rustls_native_certs::load_native_certs();
            // Machines hold a few that nobody can read; the others count.
            roots.add_parsable_certificates(found.certs);
            if let (true, Some(error)) = (roots.is_empty(), found.errors.into_iter().next()) {
                return Err(TlsError::NobodyTrusted { source: error.into() });
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NobodyTrusted { source: Cause::of_words("there is not one CA") });
        }
        Ok(roots)
    }
}

/// Why TLS cannot be spoken as configured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// There is no CA to trust.
    #[error("no CA is trusted, so no server could be: install the system's CA certificates, or give a CA of your own")]
    #[non_exhaustive]
    NobodyTrusted {
        /// Why none could be had.
        source: Cause,
    },
    /// A CA that is to be trusted is no certificate in PEM.
    #[error("the CA to be trusted is no certificate in PEM")]
    #[non_exhaustive]
    Ca {
        /// What is wrong with it.
        source: Cause,
    },
    /// The client's own certificate is none in PEM.
    #[error("the client's own certificate is no certificate in PEM")]
    #[non_exhaustive]
    ClientCertificate {
        /// What is wrong with it.
        source: Cause,
    },
    /// The private key of the client's certificate is none in PEM, or belongs to another certificate.
    #[error("the key is no private key in PEM, or does not belong to the client's certificate")]
    #[non_exhaustive]
    ClientKey {
        /// What is wrong with it.
        source: Cause,
    },
    /// TLS cannot be used at all.
    #[error("TLS cannot be used")]
    #[non_exhaustive]
    Unusable {
        /// Why.
        source: Cause,
    },
}

/// A handshake that failed, in words that say what to do.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
pub(crate) struct HandshakeError {
    words: String,
    source: io::Error,
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    if found.is_empty() { Err(Cause::of_words("there is no certificate in it")) } else { Ok(found) }
}

/// Speaks TLS over a connection. Cancel safe: dropped, the connection is.
pub(crate) async fn handshake(
    config: Arc<rustls::ClientConfig>,
    tcp: TcpStream,
    host: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|error| explained(error, host))
}

/// Returns the error of a handshake behind words that say what it means here, if they are known.
pub(crate) fn explained(error: io::Error, host: &str) -> io::Error {
    match words(&error, host) {
        Some(words) => io::Error::new(error.kind(), HandshakeError { words, source: error }),
        None => error,
    }
}

/// Returns the error of an encrypted connection that stood behind such words: a server of TLS 1.3 may judge the client's
/// certificate only after the client has begun to speak.
pub(crate) fn explained_later(error: io::Error, host: &str) -> io::Error {
    let is_of_tls = error.get_ref().is_some_and(|error| error.is::<rustls::Error>());
    if is_of_tls { explained(error, host) } else { error }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of its own here is told as it is")]
fn words(error: &io::Error, host: &str) -> Option<String> {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Some("the server ended the TLS handshake: perhaps it speaks no TLS on this port (then ws://)".into());
    }
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(why) => certificate_words(why, host),
        rustls::Error::InvalidMessage(_) => {
            "the server speaks no TLS on this port: use ws://, or the port of its TLS".to_owned()
        }
        rustls::Error::AlertReceived(alert) if is_about_us(*alert) => {
            "the server does not take this client's certificate, or needs one: give the certificate and its key"
                .to_owned()
        }
        _ => format!("the TLS handshake with {host} failed: {error}"),
    })
}

#[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of its own here is told as it is")]
fn certificate_words(why: &CertificateError, host: &str) -> String {
    match why {
        // A bad signature: a trusted CA bears the name of the one that signed it, but has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {host} is signed by nobody whom this client trusts: if that is right, trust its CA too"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // rustls shows them as `DnsName("a.example")`.
            let names: Vec<&str> =
                presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name.as_str())).collect();
            format!("the server's certificate is not for {host}, but for {}", names.join(", "))
        }
        CertificateError::NotValidForName => format!("the server's certificate is not for {host}"),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired (or this machine's clock is wrong)")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet (or this machine's clock is wrong)")
        }
        _ => format!("the certificate of {host} is not valid: {why}"),
    }
}

fn is_about_us(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::HandshakeFailure
    )
}
