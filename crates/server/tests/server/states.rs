//! States: what a gateway keeps, durably, about its clients.

use bytes::Bytes;
use redeliver_server::{STATE_BYTES_MAX, STATE_KEY_BYTES_MAX, Server, StateError};

#[tokio::test]
async fn states_that_are_saved_at_once_share_a_few_commits_and_survive() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = async || Server::builder().data_dir(dir.path()).open().await.expect("opens");
    let server = open().await;
    let commits = server.stats().commits;
    let saves: Vec<_> = (0..1000)
        .map(|number| {
            let server = server.clone();
            let key = Bytes::from(format!("pid{number:04}"));
            tokio::spawn(async move { server.gateway().save_state(key.clone(), Some(key)).await })
        })
        .collect();
    for save in saves {
        save.await.expect("runs").expect("saved");
    }
    assert!(server.stats().commits - commits < 100, "{} commits", server.stats().commits - commits);
    server.gateway().save_state("pid0007".into(), None).await.expect("deleted");
    server.shutdown(std::time::Duration::from_secs(60)).await.expect("ends in time");
    drop(server);
    let server = open().await;
    assert_eq!(server.gateway().state(b"pid0999").await, Ok(Some("pid0999".into())));
    assert_eq!(server.gateway().state(b"pid0007").await, Ok(None));
    let swept = server.gateway().states(b"pid", Some(b"pid0005"), 3).await.expect("read");
    let keys: Vec<_> = swept.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["pid0006", "pid0008", "pid0009"]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_so_is_everything_once_the_server_ends() {
    let server = Server::builder().in_memory().open().await.expect("opens");
    let save = async |key: usize, state: usize| {
        server.gateway().save_state(vec![b'k'; key].into(), Some(vec![b's'; state].into())).await
    };
    assert_eq!(save(STATE_KEY_BYTES_MAX, STATE_BYTES_MAX).await, Ok(()));
    for (key, state) in [(0, 1), (STATE_KEY_BYTES_MAX + 1, 1), (1, STATE_BYTES_MAX + 1)] {
        let refused = save(key, state).await;
        assert!(matches!(refused, Err(StateError::Invalid(_))), "{refused:?}");
    }
    server.shutdown(std::time::Duration::from_secs(60)).await.expect("ends in time");
    let refused = save(1, 1).await.expect_err("it is over");
    assert!(refused.is_retryable(), "{refused}");
}
