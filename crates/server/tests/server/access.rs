//! The app's hook: who may connect, and what they may do.

use redeliver_protocol::error::{CloseCode, RefusalCode, RetryAdvice};
use redeliver_protocol::frame::{ClientFrame, Hello, ServerFrame};
use redeliver_protocol::history::{EmitFate, Start};
use redeliver_server::{Access, Action, ConnectRequest, Denied, Identity, NewEvent, Server, TopicName};

use crate::peer::*;

/// Tokens are names. Everybody may read what begins with `public/` or with their own name, and emit to the latter.
pub(crate) struct Names;

impl Access for Names {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        assert!(request.peer.is_some());
        match request.auth.as_deref() {
            Some(b"nobody") | None => Err(Denied::new("who are you?")),
            Some(b"later") => Err(Denied::for_now("the directory is away")),
            Some(b"never") => std::future::pending().await,
            Some(name) => Ok(Identity::new(String::from_utf8_lossy(name)).with(name.len())),
        }
    }

    fn allow(&self, identity: &Identity, action: Action<'_>) -> bool {
        assert_eq!(identity.extension::<usize>(), Some(&identity.name().len()));
        match action {
            Action::Emit { topic } => topic.as_str().starts_with(identity.name()),
            Action::Subscribe { topic } => {
                topic.as_str().starts_with("public/") || topic.as_str().starts_with(identity.name())
            }
            Action::UseSubscriber { subscriber } => subscriber.as_str() == identity.name(),
            Action::UsePublisher { .. } => identity.name() != "reader",
            _ => false,
        }
    }
}

async fn serve_names() -> (Server, String) {
    let server = Server::builder().in_memory().access(Names).open().await.expect("opens");
    let address = listen(&server).await;
    (server, address)
}

fn named(name: &'static str, hello: Hello) -> Hello {
    Hello { auth: Some(name.as_bytes().into()), ..hello }
}

#[tokio::test]
async fn who_is_not_known_is_told_so_and_whether_to_try_again() {
    let (_server, address) = serve_names().await;
    let closed = async |hello: Hello| {
        let mut peer = Peer::connect(&address).await;
        peer.send_bytes(redeliver_protocol::codec::encode_hello(&hello)).await;
        peer.closed().await
    };
    let close = closed(named("nobody", hello())).await;
    assert_eq!(
        (close.code, close.reason.as_str(), close.retry),
        (CloseCode::UNAUTHENTICATED, "who are you?", RetryAdvice::Never)
    );
    let close = closed(named("later", hello())).await;
    assert!(matches!(close.retry, RetryAdvice::After(_)), "{close:?}");
    let close = closed(named("ali", hello_subscriber("bob"))).await;
    assert_eq!((close.code, close.retry), (CloseCode::UNAUTHENTICATED, RetryAdvice::Never));
    Peer::welcomed(&address, named("ali", hello_subscriber("ali"))).await;
}

#[tokio::test]
async fn a_forbidden_event_is_refused_in_its_place_and_the_others_are_stored() {
    let (server, address) = serve_names().await;
    let mut ali = Peer::welcomed(&address, named("ali", hello_publisher())).await;
    let mut both = event("ali/a", "4");
    both.topics.push(TopicName::new("bob/a").expect("a topic"));
    let events: Vec<NewEvent> = vec![event("ali/a", "1"), event("bob/a", "2"), event("ali/b", "3"), both];
    let mut runs = ali.emit(1, events).await;
    while runs.last().expect("never empty").last().0 < 4 {
        let ServerFrame::Emitted { runs: more } = ali.frame().await else { panic!("expected Emitted") };
        runs.extend(more);
    }
    let fates: Vec<_> = runs.iter().map(|run| (run.first.0, run.count, run.fate.is_stored())).collect();
    assert_eq!(fates, [(1, 1, true), (2, 1, false), (3, 1, true), (4, 1, false)]);
    assert_eq!(runs[1].fate, EmitFate::Refused(RefusalCode::FORBIDDEN));
    assert_eq!(server.head().seq.0, 2);
}

#[tokio::test]
async fn a_forbidden_topic_cannot_be_followed() {
    let (_server, address) = serve_names().await;
    let mut ali = Peer::welcomed(&address, named("ali", hello())).await;
    ali.send(ClientFrame::Subscribe(subscribe("bob/a", Start::Earliest))).await;
    let ServerFrame::SubscribeRefused { code, .. } = ali.frame().await else { panic!("expected a refusal") };
    assert_eq!(code, RefusalCode::FORBIDDEN);
    ali.subscribe(subscribe("public/a", Start::Earliest)).await;
}

#[tokio::test]
async fn the_process_itself_is_let_in_and_may_do_everything() {
    let (server, _) = serve_names().await;
    let mut here = Peer::in_process(&server).await;
    here.hello(hello_publisher()).await;
    assert_eq!(server.connections()[0].identity.name(), "in-process");
    let runs = here.emit(1, vec![event("bob/a", "1")]).await;
    assert!(runs[0].fate.is_stored(), "{runs:?}");
    here.subscribe(subscribe("bob/a", Start::Earliest)).await;
    assert_eq!(payloads(&here.events(1).await), ["1"]);
    let shutdown = tokio::spawn(async move { server.shutdown(std::time::Duration::from_secs(60)).await });
    assert_eq!(here.closed().await.code, CloseCode::DRAINING);
    drop(here);
    shutdown.await.expect("no panic").expect("ends in time");
}

#[tokio::test]
async fn another_identity_with_a_publishers_id_is_sent_away_and_fences_nobody() {
    let (server, address) = serve_names().await;
    let victim = named("ali", hello_publisher());
    let mut ali = Peer::welcomed(&address, victim.clone()).await;
    let closed = async |hello: Hello| {
        let mut peer = Peer::connect(&address).await;
        peer.send_bytes(redeliver_protocol::codec::encode_hello(&hello)).await;
        peer.closed().await
    };
    // Before anything is stored, and after it, whatever it claims to have settled.
    for number in 1..=2 {
        let settled = redeliver_protocol::seq::EmitNumber(1_000_000_000);
        let close = closed(named("bob", Hello { settled, ..victim.clone() })).await;
        assert_eq!((close.code, close.retry), (CloseCode::NOT_YOUR_PUBLISHER, RetryAdvice::Never));
        assert!(ali.emit(number, vec![event("ali/a", "x")]).await[0].fate.is_stored(), "the victim's connection stays");
    }
    drop(ali);
    let close = closed(named("bob", victim.clone())).await;
    assert_eq!(close.code, CloseCode::NOT_YOUR_PUBLISHER, "also while its owner is away");
    let mut ali = Peer::welcomed(&address, victim).await;
    assert!(ali.emit(3, vec![event("ali/a", "x")]).await[0].fate.is_stored());
    assert_eq!(server.head().seq.0, 3);
}

#[tokio::test]
async fn who_may_not_emit_fences_nobody() {
    let (server, address) = serve_names().await;
    let victim = named("ali", hello_publisher());
    let mut ali = Peer::welcomed(&address, victim.clone()).await;
    let mut reader = Peer::welcomed(&address, named("reader", victim)).await;
    let runs = reader.emit(1, vec![event("reader/a", "x")]).await;
    assert_eq!(runs[0].fate, EmitFate::Refused(RefusalCode::FORBIDDEN));
    assert!(ali.emit(1, vec![event("ali/a", "x")]).await[0].fate.is_stored());
    assert_eq!(server.head().seq.0, 1);
}
