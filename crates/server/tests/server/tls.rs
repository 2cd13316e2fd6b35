//! TLS on the server's own listener: both protocols' way in, a new certificate without a cut, and peers that misuse it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redeliver_protocol::history::Start;
use redeliver_server::{Server, StrangerLimits, Tls, TlsFiles};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::peer::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs itself")
}

/// Writes a certificate of this authority and its key into a folder.
fn write_certificate(authority: &Authority, folder: &Path) -> TlsFiles {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let cert = params.signed_by(&key, authority).expect("signs");
    let files = TlsFiles::new(folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&files.cert, cert.pem()).expect("writes");
    std::fs::write(&files.key, key.serialize_pem()).expect("writes");
    files
}

async fn serve_tls(files: TlsFiles, limits: StrangerLimits) -> (Server, String, Tls) {
    let server = Server::builder().in_memory().strangers(limits).open().await.expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let tls = Tls::from_files(files).expect("usable files");
    tokio::spawn(server.serve_tls(listener, tls.clone()));
    (server, address, tls)
}

fn trusting(authority: &Authority) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("versions").with_root_certificates(roots)
}

async fn connect(address: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn answer(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> String {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("asks");
    let mut answer = Vec::new();
    // Not every end is announced.
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_probes_come_over_tls_and_a_new_certificate_cuts_nobody() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), authority());
    let files = write_certificate(&authority, folder.path());
    let (server, address, tls) = serve_tls(files.clone(), StrangerLimits::default()).await;
    let trusting_one = || trusting(&authority).with_no_client_auth();
    let mut probe = connect(&address, trusting_one()).await.expect("trusted");
    assert!(answer(&mut probe).await.starts_with("HTTP/1.1 200"));

    let stream = connect(&address, trusting_one()).await.expect("trusted");
    let (socket, _) = tokio_tungstenite::client_async("wss://localhost/", stream).await.expect("upgrades");
    let mut peer = Peer { socket };
    peer.hello(hello()).await;
    peer.subscribe(subscribe("t", Start::Latest)).await;

    let other = self::authority();
    write_certificate(&other, folder.path());
    tls.reload().expect("usable files");
    connect(&address, trusting_one()).await.expect_err("the old authority is not asked any more");
    connect(&address, trusting(&other).with_no_client_auth()).await.expect("the new one is");
    std::fs::write(&files.key, "no key").expect("writes");
    let error = tls.reload().expect_err("half of a certificate");
    assert!(error.to_string().contains("key.pem"), "{error}");
    connect(&address, trusting(&other).with_no_client_auth()).await.expect("everything stays as it was");

    let large = vec![7; 200_000];
    server.emit_event(event("t", large.clone())).await.expect("stored");
    assert_eq!(within(peer.events(1)).await[0].payload.as_ref(), &large[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_a_certificate_and_has_none_is_not_let_in() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), authority());
    let mut files = write_certificate(&authority, folder.path());
    let clients = folder.path().join("clients.pem");
    std::fs::write(&clients, authority.pem()).expect("writes");
    files.client_ca = Some(clients);
    let (cert, key) = (files.cert.clone(), files.key.clone());
    let (_server, address, _tls) = serve_tls(files, StrangerLimits::default()).await;
    // With TLS 1.3, a client hears of it only when it reads.
    if let Ok(mut stream) = connect(&address, trusting(&authority).with_no_client_auth()).await {
        let mut rest = Vec::new();
        let read = within(stream.read_to_end(&mut rest)).await;
        assert!(read.is_err() && rest.is_empty(), "{read:?}");
    }
    let chain = CertificateDer::pem_file_iter(&cert).expect("a file").collect::<Result<Vec<_>, _>>().expect("PEM");
    let key = PrivateKeyDer::from_pem_file(&key).expect("a key");
    let config = trusting(&authority).with_client_auth_cert(chain, key).expect("they fit");
    let mut known = connect(&address, config).await.expect("let in");
    assert!(answer(&mut known).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_no_tls_is_told_and_who_says_nothing_is_closed_in_time() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), authority());
    let files = write_certificate(&authority, folder.path());
    let mut limits = StrangerLimits::default();
    limits.deadline = Duration::from_millis(500);
    let (_server, address, _tls) = serve_tls(files, limits).await;
    let mut plain = TcpStream::connect(&address).await.expect("connects");
    let told = answer(&mut plain).await;
    assert!(told.starts_with("HTTP/1.1 400") && told.contains("TLS"), "{told}");
    // The beginning of a handshake, and nothing.
    for first in [&b"\x16\x03\x01"[..], b"\x00\x00", b""] {
        let mut stream = TcpStream::connect(&address).await.expect("connects");
        stream.write_all(first).await.expect("sends");
        let mut rest = Vec::new();
        // An end or a reset: either way it is over.
        let _ = within(stream.read_to_end(&mut rest)).await;
    }
}
