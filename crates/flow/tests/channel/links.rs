//! Connections: how they end, how their end is found, what calls feel of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use h2::Reason;
use setpoint_base::Stop;
use setpoint_flow::Channel;
use setpoint_flow::channel::{CallOptions, ChannelError, ChannelOptions, ChannelState};
use setpoint_proto::etcdserverpb::RangeRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::peer::{Net, Peer, PeerOptions, answering, channel, counted, handler, range, until};

const A: &str = "static:127.0.0.1:1";
const AB: &str = "static:127.0.0.1:1,127.0.0.1:2";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn start(net: &Net, port: u16, count: i64, delay: Duration) -> Peer {
    let address = format!("127.0.0.1:{port}");
    Peer::start(net, &address, PeerOptions::default(), answering(count, delay))
}

#[tokio::test(start_paused = true)]
async fn draining_connections_under_load_lose_no_call() {
    let net = Net::default();
    let peer = start(&net, 1, 1, ms(30));
    let channel = channel(&net, A, ChannelOptions::default());
    let workers = (0..50).map(|_| async {
        for _ in 0..40 {
            assert_eq!(range(&channel).await.unwrap(), 1);
        }
    });
    let drains = async {
        for _ in 0..10 {
            sleep(ms(100)).await;
            peer.drain();
        }
    };
    tokio::join!(join_all(workers), drains);
    assert!(peer.accepted() >= 10, "{}", peer.accepted());
    let snapshot = channel.snapshot();
    assert!(snapshot.goaways >= 3, "{snapshot:?}");
    until(|| peer.open() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_the_peer_refused_are_made_again_unseen() {
    let net = Net::default();
    let handler = handler(|mut exchange| async move {
        if exchange.number < 3 {
            exchange.reset(Reason::REFUSED_STREAM);
        } else {
            let _ = exchange.body().await;
            exchange.answer(counted(5));
        }
    });
    let _peer = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), handler);
    let channel = channel(&net, A, ChannelOptions::default());
    assert_eq!(range(&channel).await.unwrap(), 5);
    assert_eq!(channel.snapshot().transparent_retries, 3);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_refuses_for_ever_is_answered_for() {
    let net = Net::default();
    let refuse = handler(|exchange| async move { exchange.reset(Reason::REFUSED_STREAM) });
    let peer = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), refuse);
    let channel = channel(&net, A, ChannelOptions::default());
    let status = range(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(!ChannelError::of(&status).unwrap().may_have_happened());
    assert_eq!(peer.calls(), 9);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_found_within_13_s_and_calls_move_to_the_other() {
    let net = Net::default();
    let (frozen, other) = (start(&net, 1, 1, ms(5)), start(&net, 2, 2, ms(5)));
    let channel = channel(&net, AB, ChannelOptions::default());
    for _ in 0..50 {
        range(&channel).await.unwrap();
    }
    assert!(
        frozen.calls() > 5 && other.calls() > 5,
        "{} {}",
        frozen.calls(),
        other.calls()
    );
    frozen.freeze();
    let began = Instant::now();
    let (mut failed, mut stuck) = (0, Duration::ZERO);
    while began.elapsed() < Duration::from_secs(20) {
        let call = Instant::now();
        failed += usize::from(range(&channel).await.is_err());
        stuck = stuck.max(call.elapsed());
    }
    // A call or two find out, the connection is given up, and nothing goes there any more.
    assert!(failed <= 2, "{failed}");
    assert!(stuck <= Duration::from_secs(13), "{stuck:?}");
    assert_eq!(channel.snapshot().keepalive_failures, 1);
    for _ in 0..50 {
        assert_eq!(range(&channel).await.unwrap(), 2);
    }
    // It comes back when it is well.
    frozen.thaw();
    until(|| channel.snapshot().connections == 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_to_a_frozen_peer_is_found_too() {
    let net = Net::default();
    let peer = start(&net, 1, 1, ms(1));
    let channel = channel(&net, A, ChannelOptions::default());
    range(&channel).await.unwrap();
    peer.freeze();
    let began = Instant::now();
    until(|| channel.snapshot().connections == 0).await;
    assert!(began.elapsed() <= ms(13_100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_finds_pings_a_nuisance_gets_fewer() {
    let net = Net::default();
    let peer = start(&net, 1, 1, ms(1));
    let options = ChannelOptions::default();
    let channel = channel(&net, A, options);
    range(&channel).await.unwrap();
    // An idle connection lives on pings that are answered.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(peer.accepted(), 1);
    peer.drain_with(Reason::ENHANCE_YOUR_CALM);
    until(|| peer.accepted() == 2).await;
    peer.freeze();
    // No pings while nothing is in flight: nobody notices.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(channel.snapshot().connections, 1);
    // A call is in flight: it is noticed.
    let began = Instant::now();
    assert_eq!(range(&channel).await.unwrap_err().code(), Code::Unavailable);
    assert!(
        began.elapsed() <= Duration::from_secs(14),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_peer_calls_fail_fast_with_the_cause_or_wait_if_told_to() {
    let net = Net::default();
    let channel = channel(&net, A, ChannelOptions::default());
    let began = Instant::now();
    let status = range(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("refused"), "{status:?}");
    assert!(!ChannelError::of(&status).unwrap().may_have_happened());
    assert!(began.elapsed() < ms(10), "{:?}", began.elapsed());

    let mut client = KvClient::new(channel.clone());
    let patient = || {
        let mut request = tonic::Request::new(RangeRequest::default());
        request
            .extensions_mut()
            .insert(CallOptions::new().wait_for_ready(true));
        request
    };
    let status = client.range(patient()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("refused"), "{status:?}");
    let mut client = KvClient::new(channel.clone());
    let waiting = client.range(patient());
    let come = async {
        sleep(Duration::from_secs(2)).await;
        start(&net, 1, 9, ms(1))
    };
    let (answer, _peer) = tokio::join!(waiting, come);
    assert_eq!(answer.unwrap().into_inner().count, 9);
}

#[tokio::test(start_paused = true)]
async fn attempts_to_connect_back_off_and_begin_anew_after_a_success() {
    let net = Net::default();
    let channel = channel(&net, A, ChannelOptions::default());
    sleep(Duration::from_secs(600)).await;
    let failed = channel.snapshot().connect_failed;
    assert!((10..=20).contains(&failed), "{failed}");
    let peer = start(&net, 1, 1, ms(1));
    sleep(Duration::from_secs(150)).await;
    // Once it was of use, a lost connection is replaced at once.
    range(&channel).await.unwrap();
    peer.cut();
    let began = Instant::now();
    until(|| peer.accepted() == 2).await;
    assert!(began.elapsed() < ms(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_up_at_once_is_not_hammered() {
    let net = Net::default();
    let peer = start(&net, 1, 1, ms(1));
    let channel = channel(&net, A, ChannelOptions::default());
    for _ in 0..2_000 {
        sleep(ms(10)).await;
        peer.cut();
    }
    assert!(peer.accepted() < 15, "{}", peer.accepted());
    drop(channel);
}

#[tokio::test(start_paused = true)]
async fn a_listener_behind_which_nobody_serves_is_no_connection() {
    let net = Net::default();
    let silent = start(&net, 1, 1, ms(1));
    silent.freeze();
    let channel = channel(&net, A, ChannelOptions::default());
    let began = Instant::now();
    let status = range(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("not answered in time"), "{status:?}");
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_peers_limit_wait_for_their_turn() {
    let net = Net::default();
    let at_once = Arc::new(AtomicUsize::new(0));
    let (most, busy) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&at_once));
    let most_too = Arc::clone(&most);
    let handler = handler(move |mut exchange| {
        let (most, busy) = (Arc::clone(&most_too), Arc::clone(&busy));
        async move {
            let _ = exchange.body().await;
            most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(ms(20)).await;
            busy.fetch_sub(1, Ordering::SeqCst);
            exchange.answer(counted(1));
        }
    });
    let limited = PeerOptions {
        streams_max: Some(10),
    };
    let peer = Peer::start(&net, "127.0.0.1:1", limited, handler);
    let channel = channel(&net, A, ChannelOptions::default());
    let answers = join_all((0..400).map(|_| range(&channel))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // More connections were made for it, up to the bound.
    assert_eq!(peer.accepted(), 4);
    let most = most.load(Ordering::SeqCst);
    assert!((11..=40).contains(&most), "{most}");
    // Those that nobody needs are closed again.
    sleep(Duration::from_secs(300)).await;
    assert_eq!(peer.open(), 1);
    assert_eq!(range(&channel).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_or_in_too_long_a_queue_is_answered() {
    let net = Net::default();
    for streams_max in [0, 1] {
        let stuck = handler(|exchange| async move {
            let _held = exchange;
            sleep(Duration::from_secs(3_600)).await;
        });
        let limited = PeerOptions {
            streams_max: Some(streams_max),
        };
        let _peer = Peer::start(&net, "127.0.0.1:1", limited, stuck);
        let options = ChannelOptions {
            connections_max: 1,
            queue_max: 10,
            ..ChannelOptions::default()
        };
        let channel = channel(&net, A, options);
        until(|| channel.snapshot().connections == 1).await;
        let began = Instant::now();
        let answers = join_all((0..20).map(|_| async {
            let status = range(&channel).await.unwrap_err();
            (status, began.elapsed())
        }))
        .await;
        let refused = |seconds: u64| {
            let then = |(status, at): &&(tonic::Status, Duration)| {
                status.code() == Code::ResourceExhausted && at.as_secs() == seconds
            };
            answers.iter().filter(then).count()
        };
        let held = streams_max as usize;
        assert_eq!((refused(0), refused(5)), (10 - held, 10), "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_says_whether_the_call_may_have_been_done() {
    let net = Net::default();
    let peer = start(&net, 1, 1, Duration::from_secs(10));
    let channel = channel(&net, A, ChannelOptions::default());
    let cut = async {
        until(|| peer.calls() == 1).await;
        peer.cut();
    };
    let (answer, ()) = tokio::join!(range(&channel), cut);
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(ChannelError::of(&status).unwrap().may_have_happened());
    assert_eq!(peer.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_closes_everything() {
    let net = Net::default();
    let peer = start(&net, 1, 1, ms(500));
    let channel = channel(&net, A, ChannelOptions::default());
    range(&channel).await.unwrap();
    let other = channel.clone();
    drop(channel);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(peer.open(), 1);
    let call = tokio::time::timeout(ms(100), range(&other)).await;
    assert!(call.is_err());
    drop(other);
    until(|| peer.open() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn closing_lets_calls_in_flight_end_and_refuses_new_ones() {
    let net = Net::default();
    let stop = Stop::new();
    for how in 0..3 {
        let peer = start(&net, 1, 1, Duration::from_secs(2));
        let channel = Channel::to(A).dialer(net.clone()).stop(&stop).build().unwrap();
        let close = async {
            until(|| peer.calls() == 1).await;
            let left = match how {
                0 => channel.close(Duration::from_secs(10)).await,
                1 => channel.close(Duration::from_secs(1)).await,
                _ => {
                    stop.cancel();
                    channel.close(Duration::ZERO).await
                }
            };
            assert_eq!(left, 0);
            assert_eq!(range(&channel).await.unwrap_err().code(), Code::Unavailable);
        };
        let (answer, ()) = tokio::join!(range(&channel), close);
        assert_eq!(answer.is_ok(), how == 0, "{answer:?}");
        until(|| peer.open() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lazy_channel_connects_for_calls_and_for_nothing_else() {
    let net = Net::default();
    let options = ChannelOptions {
        eager: false,
        ..ChannelOptions::default()
    };
    let channel = channel(&net, A, options);
    sleep(Duration::from_secs(60)).await;
    let state = |channel: &Channel| channel.snapshot().state;
    assert_eq!(
        (state(&channel), channel.snapshot().connect_failed),
        (ChannelState::Idle, 0)
    );
    // Nobody is there: the call says so, and only calls try again.
    for failed in 1..=2 {
        let status = range(&channel).await.unwrap_err();
        assert!(status.message().contains("refused"), "{status:?}");
        assert_eq!(state(&channel), ChannelState::Failing);
        sleep(Duration::from_secs(200)).await;
        assert_eq!(
            (state(&channel), channel.snapshot().connect_failed),
            (ChannelState::Idle, failed)
        );
    }
    let peer = start(&net, 1, 1, ms(1));
    for made in 1..=3 {
        assert_eq!(range(&channel).await.unwrap(), 1);
        assert_eq!((peer.accepted(), state(&channel)), (made, ChannelState::Ready));
        // It stays as long as it lasts.
        sleep(Duration::from_secs(60)).await;
        assert_eq!(peer.open(), 1);
        if made == 2 {
            peer.drain();
        } else {
            peer.cut();
        }
        sleep(Duration::from_secs(200)).await;
        assert_eq!((peer.open(), state(&channel)), (0, ChannelState::Idle));
    }
}
