//! Which endpoint gets a call: speed, health, addresses that change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_flow::Channel;
use setpoint_flow::channel::{Address, ChannelOptions, Resolved, Resolver};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::peer::{Net, Peer, PeerOptions, answering, channel, counted, handler, range, until};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Calls from several callers at once, for a while, each resting after a call.
async fn load(channel: &Channel, span: Duration, rest: Duration) -> usize {
    let began = Instant::now();
    let callers = (0..8).map(|_| async {
        let mut failed = 0;
        while began.elapsed() < span {
            failed += usize::from(range(channel).await.is_err());
            sleep(rest).await;
        }
        failed
    });
    futures_util::future::join_all(callers).await.into_iter().sum()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_slowed_by_50_ms_loses_its_calls_within_10_s() {
    let net = Net::default();
    let delay = Arc::new(AtomicU64::new(2));
    let slowed = Arc::clone(&delay);
    let slow = handler(move |mut exchange| {
        let delay = ms(slowed.load(Ordering::SeqCst));
        async move {
            let _ = exchange.body().await;
            sleep(delay).await;
            exchange.answer(counted(1));
        }
    });
    let slow = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), slow);
    let fast: Vec<_> = (2..4)
        .map(|port| {
            let address = format!("127.0.0.1:{port}");
            Peer::start(&net, &address, PeerOptions::default(), answering(2, ms(2)))
        })
        .collect();
    let target = "static:127.0.0.1:1,127.0.0.1:2,127.0.0.1:3";
    let channel = channel(&net, target, ChannelOptions::default());
    load(&channel, ms(5_000), ms(4)).await;
    let all = || slow.calls() + fast.iter().map(Peer::calls).sum::<usize>();
    assert!(slow.calls() * 6 > all(), "{} of {}", slow.calls(), all());
    delay.store(52, Ordering::SeqCst);
    load(&channel, ms(10_000), ms(4)).await;
    let before = (slow.calls(), all());
    load(&channel, ms(10_000), ms(4)).await;
    let share = (slow.calls() - before.0) as f64 / (all() - before.1) as f64;
    assert!(share < 0.1, "{share}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let net = Net::default();
    let broken = Arc::new(Mutex::new(true));
    let is_broken = Arc::clone(&broken);
    let bad = handler(move |mut exchange| {
        let broken = *is_broken.lock();
        async move {
            let _ = exchange.body().await;
            if broken {
                exchange.refuse(Code::Internal, &[]);
            } else {
                exchange.answer(counted(1));
            }
        }
    });
    let bad = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), bad);
    let _good = Peer::start(&net, "127.0.0.1:2", PeerOptions::default(), answering(2, ms(3)));
    let channel = channel(&net, "static:127.0.0.1:1,127.0.0.1:2", ChannelOptions::default());
    // As fast as it fails, it would get the most; each failure costs, and five of them end it.
    let mut failed = 0;
    for _ in 0..2_000 {
        failed += usize::from(range(&channel).await.is_err());
    }
    assert!((1..=10).contains(&failed), "{failed}");
    *broken.lock() = false;
    let before = bad.calls();
    let failed = load(&channel, Duration::from_secs(120), ms(100)).await;
    assert_eq!(failed, 0);
    assert!(bad.calls() > before + 100, "{} {before}", bad.calls());
}

#[tokio::test(start_paused = true)]
async fn the_only_endpoint_is_never_left_out() {
    let net = Net::default();
    let bad = handler(|exchange| async move { exchange.refuse(Code::Internal, &[]) });
    let bad = Peer::start(&net, "127.0.0.1:1", PeerOptions::default(), bad);
    let channel = channel(&net, "static:127.0.0.1:1", ChannelOptions::default());
    for _ in 0..100 {
        assert_eq!(range(&channel).await.unwrap_err().code(), Code::Internal);
    }
    assert_eq!(bad.calls(), 100);
}

/// Addresses that the test decides.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Option<Vec<u16>>>>, Arc<AtomicU64>);

impl Resolver for Book {
    fn resolve(&self) -> Resolved<'_> {
        Box::pin(async {
            self.1.fetch_add(1, Ordering::SeqCst);
            let ports = self.0.lock().clone();
            let ports = ports.ok_or_else(|| io::Error::other("the book is lost"))?;
            let address = |port| Address::Socket(([127, 0, 0, 1], port).into());
            Ok(ports.into_iter().map(address).collect())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_the_resolver_and_a_failed_look_up_keeps_them() {
    let net = Net::default();
    let peers: Vec<_> = (1..=3_i64)
        .map(|n| {
            let address = format!("127.0.0.1:{n}");
            Peer::start(&net, &address, PeerOptions::default(), answering(n, ms(1)))
        })
        .collect();
    let book = Book::default();
    let channel = Channel::to("dns:///kv:1")
        .resolver(book.clone())
        .dialer(net.clone())
        .build()
        .unwrap();
    let status = range(&channel).await.unwrap_err();
    assert!(status.message().contains("the book is lost"), "{status:?}");
    *book.0.lock() = Some(vec![1, 2]);
    until(|| peers[0].open() == 1 && peers[1].open() == 1).await;
    range(&channel).await.unwrap();
    *book.0.lock() = Some(vec![2, 3]);
    until(|| peers[0].open() == 0 && peers[2].open() == 1).await;
    // Neither an error nor an empty answer takes the endpoints away.
    for lost in [None, Some(Vec::new())] {
        *book.0.lock() = lost;
        sleep(Duration::from_secs(300)).await;
        assert_ne!(range(&channel).await.unwrap(), 1);
        assert!(channel.snapshot().lookup_failure.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_connection_asks_the_resolver_again_but_not_all_the_time() {
    let net = Net::default();
    let book = Book::default();
    *book.0.lock() = Some(vec![1]);
    let options = ChannelOptions {
        resolve_interval: Duration::from_secs(3_600),
        ..ChannelOptions::default()
    };
    let builder = Channel::to("dns:///kv:1")
        .resolver(book.clone())
        .dialer(net.clone());
    let channel = builder.options(options).build().unwrap();
    sleep(Duration::from_secs(60)).await;
    let asked = book.1.load(Ordering::SeqCst);
    assert!((3..=60).contains(&asked), "{asked}");
    let _peer = Peer::start(&net, "127.0.0.1:2", PeerOptions::default(), answering(2, ms(1)));
    *book.0.lock() = Some(vec![2]);
    until(|| channel.snapshot().connections == 1).await;
    assert_eq!(range(&channel).await.unwrap(), 2);
}
