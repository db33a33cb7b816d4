//! Many calls at once, on several threads and in stopped time: slots are few, connections come and go, and whoever waits
//! is thought of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use setpoint_base::{BackoffPolicy, Stop, TaskGroup};
use setpoint_flow::channel::{
    Address, CallOptions, ChannelError, ChannelOptions, ChannelSnapshot, Dialer, Dialled, Resolved, Resolver,
};
use setpoint_flow::{Channel, Flow};
use setpoint_proto::etcdserverpb::RangeRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_telemetry::Metrics;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::peer::{Net, Peer, PeerOptions, answering, channel, range, until};

const A: &str = "static:127.0.0.1:1";
/// Nothing here takes so long on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A peer that lets so many streams begin at once on each connection.
fn limited(net: &Net, streams_max: u32, handler: super::peer::Handler) -> Peer {
    let options = PeerOptions {
        streams_max: Some(streams_max),
    };
    Peer::start(net, "127.0.0.1:1", options, handler)
}

/// A call that waits until there is a peer.
async fn patient(channel: &Channel) -> Result<i64, Status> {
    let mut request = tonic::Request::new(RangeRequest::default());
    let options = CallOptions::new().wait_for_ready(true);
    request.extensions_mut().insert(options);
    let answer = KvClient::new(channel.clone()).range(request).await?;
    Ok(answer.into_inner().count)
}

/// What is counted of a channel on which nothing happens.
#[track_caller]
fn assert_at_rest(snapshot: &ChannelSnapshot) {
    let endpoints = snapshot.endpoints.iter();
    let in_flight: usize = endpoints.flat_map(|e| &e.links).map(|link| link.in_flight).sum();
    assert_eq!(
        (snapshot.waiting, snapshot.in_flight, in_flight),
        (0, 0, 0),
        "{snapshot:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_is_not_overtaken_by_those_that_come_later() {
    let net = Net::default();
    let _peer = limited(&net, 1, answering(1, ms(10)));
    let options = ChannelOptions {
        connections_max: 1,
        ..ChannelOptions::default()
    };
    let channel = channel(&net, A, options);
    let done = AtomicBool::new(false);
    let overtook = AtomicUsize::new(0);
    let busy = async {
        while !done.load(Ordering::Relaxed) {
            range(&channel).await.unwrap();
            overtook.fetch_add(1, Ordering::Relaxed);
        }
    };
    let waits = async {
        until(|| channel.snapshot().in_flight == 1).await;
        let answer = range(&channel).await;
        done.store(true, Ordering::Relaxed);
        answer.unwrap()
    };
    tokio::join!(busy, waits);
    // The one that had the slot, and the next, which came when it was free and somebody waited.
    assert!(
        overtook.load(Ordering::Relaxed) <= 2,
        "{} calls overtook one that waited",
        overtook.load(Ordering::Relaxed)
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_peer_is_thought_of_after_a_failure() {
    let net = Net::default();
    let options = ChannelOptions {
        eager: false,
        ..ChannelOptions::default()
    };
    let channel = channel(&net, A, options);
    let comes = async {
        sleep(ms(3_000)).await;
        limited(&net, 10, answering(7, ms(1)))
    };
    let (answer, _peer) = tokio::join!(patient(&channel), comes);
    assert_eq!(answer.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_lost_long_ago_is_no_failure_of_today() {
    let net = Net::default();
    let peer = limited(&net, 10, answering(7, ms(100)));
    let options = ChannelOptions {
        eager: false,
        ..ChannelOptions::default()
    };
    let channel = channel(&net, A, options);
    let cut = async {
        until(|| peer.calls() == 1).await;
        peer.cut();
    };
    let (answer, ()) = tokio::join!(range(&channel), cut);
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(range(&channel).await.unwrap(), 7);
}

/// A network on which connections after the first take their time.
struct Slow {
    net: Net,
    dialled: AtomicUsize,
}

impl Dialer for Slow {
    fn dial<'a>(&'a self, address: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            if self.dialled.fetch_add(1, Ordering::Relaxed) == 1 {
                sleep(ms(1_000)).await;
            }
            self.net.dial(address).await
        })
    }
}

/// The connection that was drained ends while the next one is made: what calls want of that one is not forgotten.
#[tokio::test(start_paused = true)]
async fn a_pool_grows_also_after_a_connection_was_drained() {
    let net = Net::default();
    let peer = limited(&net, 1, answering(1, ms(2_000)));
    let options = ChannelOptions {
        eager: false,
        ..ChannelOptions::default()
    };
    let dialer = Slow {
        net: net.clone(),
        dialled: AtomicUsize::new(0),
    };
    let channel = Channel::to(A).dialer(dialer).options(options).build().unwrap();
    let drained = async {
        until(|| peer.calls() == 1).await;
        // It has lived for long enough to be one.
        sleep(ms(1_500)).await;
        peer.drain();
        until(|| channel.snapshot().connections == 0).await;
        // This one wants the next connection, which takes a second, and gives up; the call on the drained one ends before it.
        let given_up = timeout(ms(100), range(&channel)).await;
        assert!(given_up.is_err());
        until(|| channel.snapshot().connections == 1).await;
    };
    let (first, ()) = tokio::join!(range(&channel), drained);
    assert_eq!(first.unwrap(), 1);
    let calls = join_all((0..4).map(|_| range(&channel))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    assert_eq!(channel.snapshot().connections, 4, "{:?}", channel.snapshot());
}

#[tokio::test(start_paused = true)]
async fn a_channel_whose_surroundings_stop_answers_those_that_wait_and_those_that_come() {
    let net = Net::default();
    for connected in [false, true] {
        let peer = connected.then(|| limited(&net, 1, answering(1, Duration::from_secs(60))));
        let stop = Stop::new();
        let channel = Channel::to(A).dialer(net.clone()).stop(&stop).build().unwrap();
        let began = Instant::now();
        let stops = async {
            until(|| channel.snapshot().waiting > 0).await;
            stop.cancel();
        };
        let calls = join_all((0..8).map(|_| patient(&channel)));
        let (answers, ()) = tokio::join!(calls, stops);
        let waited = began.elapsed();
        assert!(
            waited < Duration::from_secs(2),
            "connected {connected}: {waited:?}"
        );
        let closed = answers.iter().filter(|answer| {
            let error = answer.as_ref().unwrap_err();
            matches!(ChannelError::of(error), Some(ChannelError::Closed { .. }))
        });
        assert!(closed.count() >= 4, "connected {connected}: {answers:?}");
        let late = patient(&channel).await.unwrap_err();
        assert!(
            matches!(ChannelError::of(&late), Some(ChannelError::Closed { .. })),
            "connected {connected}: {late:?}"
        );
        assert_eq!(began.elapsed(), waited);
        assert_at_rest(&channel.snapshot());
        drop(peer);
    }
}

/// Slots are few, calls are given up in the middle of waiting, and connections are drained under them: each call that is
/// not given up is answered, there are never too many connections, and in the end nothing is left of it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crowds_that_come_and_give_up_leave_nothing_behind() {
    let tasks = TaskGroup::new(&Stop::new());
    for round in 0..30_u64 {
        let net = Net::default();
        let peer = Arc::new(limited(&net, 2, answering(1, Duration::ZERO)));
        let options = ChannelOptions {
            connections_max: 3,
            eager: round % 2 == 0,
            reconnect: BackoffPolicy {
                base: ms(5),
                max: ms(50),
                ..ChannelOptions::default().reconnect
            },
            queue_timeout: PATIENCE,
            timeout: PATIENCE,
            timeout_max: PATIENCE,
            ..ChannelOptions::default()
        };
        let channel = channel(&net, A, options);
        let callers = (0..24_u64).map(|caller| {
            let channel = channel.clone();
            tasks.spawn(async move {
                for n in 0..12 {
                    if (caller + n) % 3 == 0 {
                        // Given up after a few turns, whatever it is doing then.
                        let gives_up = async {
                            for _ in 0..(caller + n) % 7 {
                                tokio::task::yield_now().await;
                            }
                        };
                        tokio::select! {
                            biased;
                            answer = patient(&channel) => { answer.unwrap(); }
                            () = gives_up => (),
                        }
                    } else {
                        patient(&channel).await.unwrap();
                    }
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let drains = {
            let (peer, channel) = (Arc::clone(&peer), channel.clone());
            tasks.spawn(async move {
                let mut most = 0;
                for n in 0..40 {
                    tokio::task::yield_now().await;
                    most = most.max(channel.snapshot().connections);
                    if round % 3 == 0 && n % 10 == 9 {
                        peer.drain();
                    }
                }
                most
            })
        };
        for caller in callers {
            let done = timeout(PATIENCE, caller).await;
            assert!(done.is_ok(), "round {round}: {:?}", channel.snapshot());
            done.unwrap().unwrap();
        }
        assert!(drains.await.unwrap() <= 3);
        until(|| channel.snapshot().in_flight == 0).await;
        assert_at_rest(&channel.snapshot());
        assert!(channel.snapshot().connections <= 3);
        assert_eq!(channel.close(Duration::from_secs(10)).await, 0);
        until(|| peer.open() == 0).await;
    }
}

/// One port or another, or both.
struct Moving(AtomicUsize);

impl Resolver for Moving {
    fn resolve(&self) -> Resolved<'_> {
        Box::pin(async {
            let ports: &[u16] = [&[1, 2][..], &[1], &[2]][self.0.fetch_add(1, Ordering::Relaxed) % 3];
            let address = |port: &u16| Address::Socket(([127, 0, 0, 1], *port).into());
            Ok(ports.iter().map(address).collect())
        })
    }
}

/// Endpoints go and come again under calls that fail fast, connections are drained as they are used: no call feels it,
/// and the gauges end where they began.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peers_that_come_and_go_under_a_crowd_cost_no_call() {
    let tasks = TaskGroup::new(&Stop::new());
    let net = Net::default();
    let peers = [1, 2].map(|port| {
        let address = format!("127.0.0.1:{port}");
        let options = PeerOptions { streams_max: Some(4) };
        Arc::new(Peer::start(&net, &address, options, answering(1, Duration::ZERO)))
    });
    let options = ChannelOptions {
        resolve_interval: ms(1),
        queue_timeout: PATIENCE,
        timeout: PATIENCE,
        timeout_max: PATIENCE,
        ..ChannelOptions::default()
    };
    let (flow, metrics) = (Flow::default(), Metrics::new());
    flow.register_metrics(&metrics).unwrap();
    let channel = Channel::to("dns:///kv:1")
        .resolver(Moving(AtomicUsize::new(0)))
        .dialer(net.clone())
        .options(options)
        .flow(&flow)
        .build()
        .unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let drains = {
        let (done, peers) = (Arc::clone(&done), peers.clone());
        tasks.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                sleep(ms(20)).await;
                peers[0].drain();
                sleep(ms(20)).await;
                peers[1].drain();
            }
        })
    };
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let channel = channel.clone();
            tasks.spawn(async move {
                for _ in 0..100 {
                    patient(&channel).await?;
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    for caller in callers {
        let answered = timeout(PATIENCE, caller).await;
        assert!(answered.is_ok(), "{:?}", channel.snapshot());
        answered.unwrap().unwrap().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    drains.await.unwrap();
    until(|| channel.snapshot().in_flight == 0).await;
    assert_at_rest(&channel.snapshot());
    assert_eq!(channel.close(Duration::from_secs(10)).await, 0);
    let text = metrics.encode();
    for gauge in ["connections", "in_flight", "waiting"] {
        let at_rest = format!("flow_channel_{gauge}{{channel=\"dns:///kv:1\"}} 0\n");
        assert!(text.contains(&at_rest), "{gauge}: {text}");
    }
    assert_eq!(flow.snapshot().connections.len(), 0);
}

/// A channel is closed while calls wait, run and come: each is answered at once, one way or the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_channel_closed_under_a_crowd_answers_everybody() {
    let tasks = TaskGroup::new(&Stop::new());
    for round in 0..40 {
        let net = Net::default();
        let peer = limited(&net, 2, answering(1, Duration::ZERO));
        let options = ChannelOptions {
            timeout: PATIENCE * 2,
            queue_timeout: PATIENCE * 2,
            connections_max: 2,
            ..ChannelOptions::default()
        };
        let stop = Stop::new();
        let to = Channel::to(A).dialer(net.clone()).options(options).stop(&stop);
        let channel = to.build().unwrap();
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let channel = channel.clone();
                tasks.spawn(async move { while patient(&channel).await.is_ok() {} })
            })
            .collect();
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        if round % 2 == 0 {
            stop.cancel();
        } else {
            assert_eq!(channel.close(Duration::from_secs(10)).await, 0);
        }
        for caller in callers {
            let answered = timeout(PATIENCE, caller).await;
            assert!(answered.is_ok(), "round {round}: {:?}", channel.snapshot());
        }
        assert_at_rest(&channel.snapshot());
        until(|| peer.open() == 0).await;
    }
}
