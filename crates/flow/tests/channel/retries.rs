//! Attempts: one after the other, side by side, and what keeps them from becoming a flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use setpoint_flow::channel::{ChannelOptions, MethodPolicy};
use setpoint_flow::core::retry::{Attempts, Hedge, Retry};
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::{PutRequest, RangeRequest};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::peer::{Net, Peer, PeerOptions, answering, channel, counted, handler, range, until};

const A: &str = "static:127.0.0.1:1";
const AB: &str = "static:127.0.0.1:1,127.0.0.1:2";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Options with what is done about reads that fail.
fn reads(attempts: Attempts) -> ChannelOptions {
    ChannelOptions {
        methods: vec![MethodPolicy {
            methods: vec!["/etcdserverpb.KV/Range".to_owned()],
            attempts,
            ..MethodPolicy::default()
        }],
        outlier: None,
        ..ChannelOptions::default()
    }
}

fn retry(idempotent: bool) -> ChannelOptions {
    reads(Attempts::Retry(Retry {
        idempotent,
        ..Retry::default()
    }))
}

/// Refuses the first calls, with these headers.
fn refusing(net: &Net, first: usize, headers: &'static [(&'static str, &'static str)]) -> Peer {
    let refuse = handler(move |mut exchange| async move {
        let body = exchange.body().await.unwrap();
        let previous = exchange.request.headers().get("grpc-previous-rpc-attempts");
        let previous: usize = previous.map_or(0, |value| value.to_str().unwrap().parse().unwrap());
        assert_eq!(previous, exchange.number.min(first));
        if exchange.number < first {
            exchange.refuse(Code::Unavailable, headers);
        } else {
            exchange.answer(counted(body.len() as i64));
        }
    });
    Peer::start(net, "127.0.0.1:1", PeerOptions::default(), refuse)
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_made_again_with_its_whole_body() {
    let net = Net::default();
    let peer = refusing(&net, 2, &[]);
    let channel = channel(&net, A, retry(false));
    let request = RangeRequest {
        key: vec![7; 100_000].into(),
        ..Default::default()
    };
    let answer = KvClient::new(channel.clone()).range(request).await.unwrap();
    assert!(answer.into_inner().count > 100_000);
    assert_eq!((peer.calls(), channel.snapshot().retries), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn other_methods_and_bodies_too_big_to_keep_are_not_made_again() {
    let net = Net::default();
    let peer = refusing(&net, 9, &[]);
    let channel = channel(&net, A, retry(false));
    let mut client = KvClient::new(channel.clone());
    let status = client.put(PutRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), peer.calls()), (Code::Unavailable, 1));
    drop(peer);
    let peer = refusing(&net, 9, &[]);
    let request = RangeRequest {
        key: vec![7; 300_000].into(),
        ..Default::default()
    };
    until(|| channel.snapshot().endpoints[0].connects == 2).await;
    let status = client.range(request).await.unwrap_err();
    assert_eq!((status.code(), peer.calls()), (Code::Unavailable, 1));
}

#[tokio::test(start_paused = true)]
async fn the_peers_pushback_is_obeyed() {
    let net = Net::default();
    let peer = refusing(&net, 1, &[("grpc-retry-pushback-ms", "1500")]);
    let client = channel(&net, A, retry(false));
    until(|| client.snapshot().connections == 1).await;
    let began = Instant::now();
    range(&client).await.unwrap();
    assert_eq!((began.elapsed().as_millis() / 10, peer.calls()), (150, 2));
    drop((peer, client));
    let peer = refusing(&net, 1, &[("grpc-retry-pushback-ms", "-1")]);
    let client = channel(&net, A, retry(false));
    assert_eq!(range(&client).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(peer.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_have_been_done_is_made_again_only_if_that_does_no_harm() {
    for (idempotent, calls) in [(true, 2), (false, 1)] {
        let net = Net::default();
        let peer = Peer::start(
            &net,
            "127.0.0.1:1",
            PeerOptions::default(),
            answering(4, ms(1_000)),
        );
        let channel = channel(&net, A, retry(idempotent));
        // A connection that has lasted is replaced at once.
        sleep(ms(2_000)).await;
        let cut = async {
            until(|| peer.calls() == 1).await;
            peer.cut();
        };
        let (answer, ()) = tokio::join!(range(&channel), cut);
        assert_eq!((answer.is_ok(), peer.calls()), (idempotent, calls), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_fails_the_budget_keeps_attempts_few() {
    let net = Net::default();
    let peer = refusing_all(&net);
    let channel = channel(&net, A, retry(true));
    for _ in 0..500 {
        assert_eq!(range(&channel).await.unwrap_err().code(), Code::Unavailable);
    }
    assert!(peer.calls() <= 510, "{}", peer.calls());
    assert!(channel.snapshot().retry_tokens < 5.0);
}

fn refusing_all(net: &Net) -> Peer {
    let refuse = handler(|exchange| async move { exchange.refuse(Code::Unavailable, &[]) });
    Peer::start(net, "127.0.0.1:1", PeerOptions::default(), refuse)
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_to_another_endpoint() {
    let net = Net::default();
    let refusing = refusing_all(&net);
    let _good = Peer::start(&net, "127.0.0.1:2", PeerOptions::default(), answering(2, ms(20)));
    let channel = channel(&net, AB, retry(false));
    until(|| channel.snapshot().connections == 2).await;
    for _ in 0..20 {
        assert_eq!(range(&channel).await.unwrap(), 2);
    }
    assert!(refusing.calls() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_wins_over_a_slow_endpoint_and_the_loser_is_cancelled() {
    let net = Net::default();
    let cancelled = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&cancelled);
    let slow = handler(move |mut exchange| {
        let counts = Arc::clone(&counts);
        async move {
            let reset = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
            assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
            counts.fetch_add(1, Ordering::SeqCst);
        }
    });
    let slow = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), slow);
    let _fast = Peer::start(&net, "127.0.0.1:2", PeerOptions::default(), answering(2, ms(5)));
    let channel = channel(&net, AB, reads(Attempts::Hedge(Hedge::default())));
    until(|| channel.snapshot().connections == 2).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(range(&channel).await.unwrap(), 2);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < ms(150), "{slowest:?}");
    assert!(slow.calls() > 0);
    assert_eq!(channel.snapshot().hedges, slow.calls() as u64);
    until(|| cancelled.load(Ordering::SeqCst) == slow.calls()).await;
    assert_eq!(channel.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_made_at_once_after_a_failure_and_never_after_a_no() {
    let net = Net::default();
    let peer = refusing_first(&net, 1, Code::Unavailable, &[]);
    let client = channel(&net, A, reads(Attempts::Hedge(Hedge::default())));
    until(|| client.snapshot().connections == 1).await;
    let began = Instant::now();
    assert_eq!(range(&client).await.unwrap(), 1);
    assert!(began.elapsed() < ms(50), "{:?}", began.elapsed());
    drop((peer, client));
    for (code, headers) in [
        (Code::Unavailable, &[("grpc-retry-pushback-ms", "-1")][..]),
        (Code::PermissionDenied, &[]),
    ] {
        let peer = refusing_first(&net, 9, code, headers);
        let client = channel(&net, A, reads(Attempts::Hedge(Hedge::default())));
        assert_eq!(range(&client).await.unwrap_err().code(), code);
        sleep(ms(500)).await;
        assert_eq!(peer.calls(), 1);
    }
}

fn refusing_first(net: &Net, first: usize, code: Code, headers: &[(&'static str, &'static str)]) -> Peer {
    let headers = headers.to_vec();
    let refuse = handler(move |mut exchange| {
        let headers = headers.clone();
        async move {
            let _ = exchange.body().await;
            if exchange.number < first {
                exchange.refuse(code, &headers);
            } else {
                exchange.answer(counted(1));
            }
        }
    });
    Peer::start(net, "127.0.0.1:1", PeerOptions::default(), refuse)
}

#[tokio::test(start_paused = true)]
async fn when_all_fails_the_budget_keeps_hedges_few() {
    let net = Net::default();
    let peer = refusing_all(&net);
    let channel = channel(&net, A, reads(Attempts::Hedge(Hedge::default())));
    for _ in 0..500 {
        assert!(range(&channel).await.is_err());
    }
    assert!(peer.calls() <= 510, "{}", peer.calls());
}
