//! Who makes room for whom.

use super::*;

fn pool(strangers_max: usize, per_address_max: usize) -> Strangers {
    let limits = StrangerLimits { strangers_max, per_address_max, ..StrangerLimits::default() };
    Strangers::new(Budget { sockets_max: 100, strangers_max, connections_max: 50 }, limits)
}

fn from(address: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, address], 1000))
}

fn is_evicted(stranger: &Stranger) -> bool {
    matches!(*stranger.standing.phase.lock(), StandingPhase::Evicted)
}

#[tokio::test(start_paused = true)]
async fn a_full_pool_takes_newcomers_once_its_oldest_have_had_a_moment() {
    let pool = pool(2, 2);
    let (first, second) = (pool.enter(from(1)), pool.enter(from(2)));
    let Room::Later(at) = pool.make_room() else { panic!("there is no room yet") };
    assert!(at <= Instant::now() + SILENT_MOMENT);
    tokio::time::sleep_until(at).await;
    assert_eq!(pool.make_room(), Room::Now);
    assert!(is_evicted(&first.1) && !is_evicted(&second.1));
    assert!(!first.1.admit(), "it came too late");
}

#[tokio::test(start_paused = true)]
async fn who_has_spoken_is_given_more_time_than_who_is_silent() {
    let pool = pool(2, 2);
    let (speaker, silent) = (pool.enter(from(1)), pool.enter(from(2)));
    speaker.1.has_spoken();
    tokio::time::advance(SILENT_MOMENT).await;
    assert_eq!(pool.make_room(), Room::Now);
    assert!(!is_evicted(&speaker.1) && is_evicted(&silent.1));
}

#[tokio::test(start_paused = true)]
async fn whoever_has_the_most_makes_room_before_an_older_one_of_another_address() {
    let pool = pool(4, 10);
    let lone = pool.enter(from(1));
    let crowd: Vec<_> = (0..3).map(|_| pool.enter(from(2))).collect();
    tokio::time::advance(SILENT_MOMENT).await;
    assert_eq!(pool.make_room(), Room::Now);
    assert!(!is_evicted(&lone.1) && is_evicted(&crowd[0].1));
}

#[tokio::test(start_paused = true)]
async fn one_address_has_so_many_and_its_oldest_goes_at_once_but_not_behind_a_proxy_of_this_machine() {
    let pool = pool(20, 3);
    let other = pool.enter(from(9));
    let all: Vec<_> = (0..5).map(|_| pool.enter(from(1))).collect();
    let evicted: Vec<_> = all.iter().map(|(_, stranger)| is_evicted(stranger)).collect();
    assert_eq!(evicted, [true, true, false, false, false]);
    assert!(!is_evicted(&other.1));
    let local: Vec<_> = (0..5).map(|_| pool.enter(SocketAddr::from(([127, 0, 0, 1], 1)))).collect();
    assert!(local.iter().all(|(_, stranger)| !is_evicted(stranger)));
}

#[tokio::test(start_paused = true)]
async fn known_peers_leave_the_pool_and_never_the_count_of_sockets() {
    let pool = pool(2, 2);
    let known: Vec<_> = (0..97)
        .map(|_| {
            let (permit, stranger) = pool.enter(from(1));
            assert!(stranger.admit() && stranger.admit(), "asked twice it is the same");
            permit
        })
        .collect();
    assert_eq!(pool.make_room(), Room::Now);
    let last = pool.enter(from(2));
    assert!(last.1.admit());
    let stranger = pool.enter(from(3));
    assert!(!stranger.1.admit(), "the rest is for strangers");
    assert!(stranger.1.is_stranger());
    drop(known);
    assert!(stranger.1.admit());
}

#[tokio::test(start_paused = true)]
async fn sessions_are_bounded_by_themselves_and_leave_when_nobody_holds_them() {
    let pool = pool(2, 20);
    let socket = pool.enter(from(1));
    let first = pool.enter_session(Some(from(1))).unwrap();
    let held = first.clone();
    let second = pool.enter_session(None).unwrap();
    assert!(pool.enter_session(None).is_none(), "the others have only just come");
    drop(first);
    assert!(pool.enter_session(None).is_none(), "a clone is the same");
    drop(held);
    let third = pool.enter_session(None).unwrap();
    tokio::time::advance(SILENT_MOMENT).await;
    let fourth = pool.enter_session(None).unwrap();
    assert!(is_evicted(&second) && !is_evicted(&third) && !is_evicted(&fourth) && !is_evicted(&socket.1));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_must_go_is_told_why_and_one_that_is_known_never() {
    let pool = pool(1, 1);
    let mut late = Watch::over(pool.enter_session(None).unwrap());
    let farewell = std::future::poll_fn(|cx| late.poll_farewell(cx)).await;
    assert_eq!(farewell, Farewell::Late);
    drop(late);
    let stranger = pool.enter_session(None).unwrap();
    let mut evicted = Watch::over(stranger);
    let waiting = tokio::spawn(async move { std::future::poll_fn(|cx| evicted.poll_farewell(cx)).await });
    tokio::task::yield_now().await;
    tokio::time::advance(SILENT_MOMENT).await;
    let known = pool.enter_session(None).unwrap();
    assert_eq!(waiting.await.unwrap(), Farewell::Evicted);
    assert!(known.admit());
    let mut watch = Watch::over(known);
    let never = std::future::poll_fn(|cx| watch.poll_farewell(cx));
    assert!(tokio::time::timeout(Duration::from_secs(3600), never).await.is_err());
}
