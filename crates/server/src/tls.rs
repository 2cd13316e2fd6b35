//! TLS of the server's own listener: a certificate and its key from files, which can be read again while connections live.
//! Never logs a key, and never goes on with half of a new certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The files that TLS needs, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFiles {
    /// The server's certificate, and behind it those that lead to an authority.
    pub cert: PathBuf,
    /// Its private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
    /// Authorities of which clients must have a certificate. Without it, clients need none.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// A certificate and its key. Clients need none of their own.
    #[must_use]
    pub fn new(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsFiles {
        TlsFiles { cert: cert.into(), key: key.into(), client_ca: None }
    }
}

/// TLS 1.2 and 1.3 for [`Server::serve_tls`](crate::Server::serve_tls). Clones are the same.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

/// Why TLS cannot be had with these files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
#[non_exhaustive]
pub struct TlsError {
    /// The file that is at fault.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`]: which file is missing, is no PEM, or does not fit the others.
    pub fn from_files(files: TlsFiles) -> Result<Tls, TlsError> {
        let config = RwLock::new(Arc::new(read(&files)?));
        Ok(Tls(Arc::new(Inner { files, config })))
    }

    /// Reads the files again, for connections that come from now on. Those that there are stay.
    ///
    /// # Errors
    ///
    /// As [`Tls::from_files`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.0.files)?);
        *self.0.config.write() = config;
        Ok(())
    }

    /// Returns the files that it is made of.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.0.files
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&*self.0.config.read()))
    }
}

/// Whether a connection that begins with this byte may be TLS: a handshake record.
pub(crate) fn is_tls(first: u8) -> bool {
    first == 0x16
}

/// The answer to somebody who speaks HTTP without TLS, as a whole.
pub(crate) const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Connection: close\r\nContent-Length: 48\r\n\r\nthis port speaks TLS: ask it with wss or https.\n";

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fault = |path: &Path, reason: String| TlsError { path: path.to_owned(), reason };
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| fault(&files.key, format!("no private key can be read from it: {error}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(&files.cert, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| fault(path, format!("it is no authority: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| fault(path, error.to_string()))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| fault(&files.cert, format!("it does not fit the key {}: {error}", files.key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |reason: String| TlsError { path: path.to_owned(), reason };
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| fault(format!("no certificate can be read from it: {error}")))?;
    if all.is_empty() {
        return Err(fault("there is no certificate in it: it must be PEM".to_owned()));
    }
    Ok(all)
}
