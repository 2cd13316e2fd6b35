//! Clients that reach a server by TLS: the library and the binary, whom they trust, and what they say when they do not.

#![allow(clippy::unwrap_used, reason = "what cannot be unwrapped fails its test")]

use std::net::SocketAddr;
use std::time::Duration;

use redeliver_client::{Cause, Client, ConnectError, Delivery, Start, TlsConfig, TlsError};
use redeliver_testing::TestServer;
use redeliver_tests::process::{ServerProcess, redeliver, run};
use redeliver_tests::tls_front::{Authority, TlsFront};
use redeliver_tests::waiting::within;
use tokio::net::TcpListener;

/// A test server behind TLS.
struct Site {
    authority: Authority,
    front: TlsFront,
    _server: TestServer,
}

impl Site {
    async fn open(names: &[&str], clients: Option<&Authority>) -> Site {
        let authority = Authority::new().unwrap();
        let server = TestServer::start().await.unwrap();
        let front = TlsFront::of(address(&server.url()), &authority.server(names).unwrap(), clients).await.unwrap();
        Site { authority, front, _server: server }
    }

    fn url(&self) -> String {
        format!("wss://localhost:{}", self.front.port())
    }

    fn trusting(&self) -> TlsConfig {
        TlsConfig::new().native_roots(false).ca_pem(self.authority.pem())
    }
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("ws://").trim_end_matches('/').parse().unwrap()
}

async fn connect(url: &str, tls: TlsConfig) -> Result<Client, ConnectError> {
    within(Client::builder(url).tls(tls).connect_within(Duration::from_secs(20)).connect()).await.unwrap()
}

/// What is said of a server that cannot be reached, with the first try.
async fn why_not(url: &str, tls: TlsConfig) -> String {
    let builder = Client::builder(url).tls(tls).backoff(Duration::from_secs(60), Duration::from_secs(60));
    match within(builder.connect_within(Duration::from_secs(3)).connect()).await.unwrap() {
        Err(error @ ConnectError::Unreachable { .. }) => Cause::new(error).in_full(),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it is connected"),
    }
}

#[tokio::test]
async fn a_client_that_trusts_the_ca_emits_and_follows_by_tls() {
    let site = Site::open(&["localhost", "127.0.0.1"], None).await;
    for url in [site.url(), format!("wss://127.0.0.1:{}", site.front.port())] {
        let client = connect(&url, site.trusting()).await.unwrap();
        let large = "tea ".repeat(50_000);
        within(client.emit(&url, "created", large.as_str())).await.unwrap().unwrap();
        let mut orders = within(client.subscribe(&url).start(Start::Earliest).into_future()).await.unwrap().unwrap();
        loop {
            match within(orders.next()).await.unwrap().expect("it goes on") {
                Delivery::Event(event) => break assert_eq!(event.text().unwrap(), large),
                Delivery::Gap(gap) => panic!("{gap}"),
                Delivery::Resumed { .. } | Delivery::CaughtUp { .. } | Delivery::Volatile(_) | _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusted_has_signed_is_refused_in_words() {
    let site = Site::open(&["localhost"], None).await;
    let stranger = TlsConfig::new().native_roots(false).ca_pem(Authority::new().unwrap().pem());
    let why = why_not(&site.url(), stranger).await;
    assert!(why.contains("the certificate of localhost is signed by nobody whom this client trusts"), "{why}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_both_names() {
    let site = Site::open(&["events.example"], None).await;
    let why = why_not(&site.url(), site.trusting()).await;
    assert!(why.contains("the server's certificate is not for localhost, but for events.example"), "{why}");
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart_from_one_that_is_not_there() {
    let (site, plain) = (Site::open(&["localhost"], None).await, TestServer::start().await.unwrap());
    let why = why_not(&plain.url().replace("ws://", "wss://"), site.trusting()).await;
    assert!(why.contains("no TLS on this port"), "{why}");
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_the_clients_or_its_lack_is_said() {
    let clients = Authority::new().unwrap();
    let site = Site::open(&["localhost"], Some(&clients)).await;
    let why = why_not(&site.url(), site.trusting()).await;
    assert!(why.contains("does not take this client's certificate, or needs one"), "{why}");

    let own = clients.client().unwrap();
    let client = connect(&site.url(), site.trusting().client_certificate(&own.certificate, &own.key)).await.unwrap();
    within(client.emit("orders", "created", "tea")).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handshake_that_never_ends_counts_against_the_time_to_connect() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://localhost:{}", silent.local_addr().unwrap().port());
    let tls = TlsConfig::new().native_roots(false).ca_pem(Authority::new().unwrap().pem());
    let builder = Client::builder(&url).tls(tls).connect_timeout(Duration::from_millis(200));
    let builder = builder.backoff(Duration::from_secs(60), Duration::from_secs(60));
    let error = within(builder.connect_within(Duration::from_secs(3)).connect()).await.unwrap().unwrap_err();
    let why = Cause::new(error).in_full();
    assert!(why.contains("did not answer in time"), "{why}");
}

#[tokio::test]
async fn what_is_no_certificate_or_key_is_refused_before_anything_is_tried() {
    let authority = Authority::new().unwrap();
    let (own, other) = (authority.client().unwrap(), authority.client().unwrap());
    let trusting = || TlsConfig::new().native_roots(false).ca_pem(authority.pem());
    let lazily = |tls| match Client::builder("wss://localhost:1").tls(tls).connect_lazy() {
        Err(ConnectError::Tls(error)) => error,
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it was taken"),
    };
    assert!(matches!(lazily(trusting().ca_pem("no PEM")), TlsError::Ca { .. }));
    assert!(matches!(lazily(TlsConfig::new().native_roots(false)), TlsError::NobodyTrusted { .. }));
    assert!(matches!(lazily(trusting().client_certificate("", &own.key)), TlsError::ClientCertificate { .. }));
    assert!(matches!(lazily(trusting().client_certificate(&own.certificate, "")), TlsError::ClientKey { .. }));
    let exchanged = trusting().client_certificate(&own.certificate, &other.key);
    assert!(matches!(lazily(exchanged), TlsError::ClientKey { .. }));
    // A key is never shown.
    let shown = format!("{:?}", trusting().client_certificate(&own.certificate, &own.key));
    assert!(!shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_trusts_the_ca_that_it_is_given_and_says_what_it_does_not() {
    let server = ServerProcess::start().unwrap();
    let (authority, clients) = (Authority::new().unwrap(), Authority::new().unwrap());
    let pem = authority.server(&["localhost"]).unwrap();
    let front = TlsFront::of(address(&server.url()), &pem, Some(&clients)).await.unwrap();
    let file = |name: &str, text: &str| {
        let path = server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let own = clients.client().unwrap();
    let (ca, cert, key) =
        (file("ca.pem", &authority.pem()), file("cert.pem", &own.certificate), file("key.pem", &own.key));
    let url = format!("wss://localhost:{}", front.port());
    let emit = |more: &[&str]| {
        let args = ["emit", "orders", "tea", "--url", &url, "--timeout", "3s"];
        let command = redeliver(args.iter().chain(more)).unwrap();
        async move { tokio::task::spawn_blocking(move || run(command).unwrap()).await.unwrap() }
    };

    let done = emit(&["--ca", &ca, "--cert", &cert, "--key", &key]).await.succeeded().unwrap();
    assert!(done.stdout.contains("emitted 1 event"), "{}", done.stdout);

    let refused = emit(&["--cert", &cert, "--key", &key]).await;
    assert_eq!(refused.code(), Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("signed by nobody whom this client trusts"), "{}", refused.stderr);

    let missing = emit(&["--ca", "/no/such.pem"]).await;
    assert_eq!(missing.code(), Some(1), "{}", missing.stderr);
    assert!(missing.stderr.contains("/no/such.pem cannot be read"), "{}", missing.stderr);
}
