//! Peers, names and clocks that mean no good. Every call ends, nothing grows, and what is well again is used again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::channel::{
    Address, ByteStream, CallOptions, ChannelOptions, Dialer, Dialled, Resolved, Resolver,
};
use setpoint_flow::http2::{self, Cork, Handler, Http2Options, Receive};
use setpoint_flow::{Channel, Flow};
use setpoint_proto::etcdserverpb::RangeRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tokio::time::{Instant, advance, sleep};
use tonic::Code;

use super::peer::{Net, Peer, PeerOptions, answering, channel, counted, handler, range, until};

const A: &str = "static:127.0.0.1:1";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn start(net: &Net, port: u16, handler: super::peer::Handler) -> Peer {
    Peer::start(net, &format!("127.0.0.1:{port}"), PeerOptions::default(), handler)
}

#[tokio::test(start_paused = true)]
async fn trailers_over_the_limit_end_the_call_and_not_the_connection() {
    let net = Net::default();
    let peer = start(
        &net,
        1,
        handler(|mut exchange| async move {
            let _ = exchange.body().await;
            if exchange.number > 0 {
                return exchange.answer(counted(1));
            }
            let head = Response::builder().header("content-type", "application/grpc");
            let Ok(mut stream) = exchange.respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            let _ = stream.send_data(counted(1), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("x-huge", HeaderValue::from_str(&"x".repeat(40_000)).unwrap());
            // What comes after the limit is not kept, the status with it.
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let began = Instant::now();
    let status = range(&channel).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(range(&channel).await.unwrap(), 1);
    assert_eq!(peer.accepted(), 1);
    assert_eq!(channel.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_flushes_nothing_again_and_again_keeps_its_connection() {
    let net = Net::default();
    let peer = start(
        &net,
        1,
        handler(|mut exchange| async move {
            let _ = exchange.body().await;
            let head = Response::builder().header("content-type", "application/grpc");
            let Ok(mut stream) = exchange.respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            for _ in 0..50 {
                let _ = stream.send_data(Bytes::new(), false);
            }
            let _ = stream.send_data(counted(1), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    for _ in 0..40 {
        assert_eq!(range(&channel).await.unwrap(), 1);
        sleep(ms(100)).await;
    }
    assert_eq!((peer.accepted(), channel.snapshot().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_goaways_is_weathered_without_hammering() {
    let net = Net::default();
    let peer = start(&net, 1, answering(1, ms(1)));
    let channel = channel(&net, A, ChannelOptions::default());
    range(&channel).await.unwrap();
    let storm = async {
        for n in 0..5_000 {
            sleep(ms(2)).await;
            if n % 2 == 0 {
                peer.drain_with(Reason::NO_ERROR);
            } else {
                peer.drain();
            }
        }
    };
    let calls = async {
        let mut answered = 0;
        for _ in 0..50 {
            sleep(ms(200)).await;
            let mut request = tonic::Request::new(RangeRequest::default());
            let patient = CallOptions::new().wait_for_ready(true);
            request.extensions_mut().insert(patient);
            let answer = KvClient::new(channel.clone()).range(request).await;
            answered += usize::from(answer.is_ok());
        }
        answered
    };
    let ((), answered) = tokio::join!(storm, calls);
    // Those that are of use are followed at once by another, those that are not after ever longer waits.
    assert!(answered > 3, "{answered}");
    assert!(
        peer.accepted() <= 2 * answered + 20,
        "{} connections, {answered} answers",
        peer.accepted()
    );
    until(|| channel.snapshot().connections == 1).await;
    assert_eq!(range(&channel).await.unwrap(), 1);
    until(|| peer.open() == 1).await;
    assert_eq!(channel.snapshot().endpoints[0].draining, 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_resets_every_stream_fails_calls_and_keeps_its_connection() {
    let net = Net::default();
    let peer = start(
        &net,
        1,
        handler(|exchange| async move {
            match exchange.number {
                0..2_000 => exchange.reset(Reason::INTERNAL_ERROR),
                _ => exchange.answer(counted(2)),
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    for _ in 0..20 {
        let answers = join_all((0..100).map(|_| range(&channel))).await;
        assert!(
            answers.iter().all(|answer| answer
                .as_ref()
                .is_err_and(|status| status.code() == Code::Internal)),
            "{answers:?}"
        );
    }
    assert_eq!(range(&channel).await.unwrap(), 2);
    assert_eq!((peer.accepted(), channel.snapshot().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_and_no_call_costs_each_call_its_deadline_and_no_more() {
    let net = Net::default();
    let peer = start(
        &net,
        1,
        handler(|exchange| async move {
            let _held = exchange;
            sleep(Duration::from_secs(100_000)).await;
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let began = Instant::now();
    let calls = (0..500).map(|_| async {
        let mut request = tonic::Request::new(RangeRequest::default());
        let options = CallOptions::new().timeout(Duration::from_secs(2));
        request.extensions_mut().insert(options);
        KvClient::new(channel.clone())
            .range(request)
            .await
            .unwrap_err()
            .code()
    });
    assert!(
        join_all(calls)
            .await
            .iter()
            .all(|code| *code == Code::DeadlineExceeded)
    );
    assert!(began.elapsed() < ms(2_100), "{:?}", began.elapsed());
    let snapshot = channel.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.waiting, peer.accepted()), (0, 0, 1));
}

/// A name whose addresses change at every look.
struct Flapping(AtomicUsize);

impl Resolver for Flapping {
    fn resolve(&self) -> Resolved<'_> {
        Box::pin(async {
            let ports: &[u16] = match self.0.fetch_add(1, Ordering::SeqCst) % 6 {
                0 => &[1],
                1 => &[2],
                2 => return Err(io::Error::other("no such name")),
                3 => &[1, 2],
                4 => &[],
                _ => &[2, 1],
            };
            let address = |port: &u16| Address::Socket(([127, 0, 0, 1], *port).into());
            Ok(ports.iter().map(address).collect())
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_flaps_loses_no_call_and_leaves_nothing_behind() {
    let net = Net::default();
    let peers = [1, 2].map(|port| start(&net, port, answering(port.into(), ms(30))));
    let options = ChannelOptions {
        resolve_interval: ms(50),
        ..ChannelOptions::default()
    };
    let flow = Flow::default();
    let channel = Channel::to("dns:///kv:1")
        .resolver(Flapping(AtomicUsize::new(0)))
        .dialer(net.clone())
        .options(options)
        .flow(&flow)
        .build()
        .unwrap();
    for _ in 0..200 {
        let answers = join_all((0..5).map(|_| range(&channel))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    assert!(peers[0].accepted() > 10 && peers[1].accepted() > 10);
    // Those of addresses that went are closed, and forgotten everywhere.
    sleep(ms(500)).await;
    let (open, known) = (
        peers[0].open() + peers[1].open(),
        flow.snapshot().connections.len(),
    );
    assert!(open <= 2 && known <= 2, "{open} {known}");
    assert!(channel.snapshot().endpoints.len() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_breaks_no_connection() {
    let net = Net::default();
    let peer = start(&net, 1, answering(1, ms(5)));
    let channel = channel(&net, A, ChannelOptions::default());
    range(&channel).await.unwrap();
    for jump in [1, 9_999, 10_000, 10_001, 13_000, 3_600_000, 86_400_000] {
        // Just before, at and after the moment of a ping.
        advance(ms(jump)).await;
        assert_eq!(range(&channel).await.unwrap(), 1);
        sleep(ms(20)).await;
    }
    assert_eq!((peer.accepted(), channel.snapshot().keepalive_failures), (1, 0));
}

/// A server of this crate behind every dial.
#[derive(Clone)]
struct Ours {
    tasks: TaskGroup,
    stops: Arc<Mutex<Vec<Stop>>>,
    flow: Flow,
}

/// Answers every call after a while.
struct Answers;

impl Handler for Answers {
    type Call = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    fn begin(&mut self, _: Request<Receive>, mut respond: SendResponse<Bytes>) -> Option<Self::Call> {
        Some(Box::pin(async move {
            sleep(ms(30)).await;
            let head = Response::builder().header("content-type", "application/grpc");
            let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else {
                return;
            };
            let _ = stream.send_data(counted(8), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }))
    }
}

impl Dialer for Ours {
    fn dial<'a>(&'a self, _: &'a Address) -> Dialled<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (live, stop) = (self.flow.open("test", "peer"), Stop::new());
            self.stops.lock().push(stop.clone());
            self.tasks.spawn(async move {
                let cork = Cork::new(theirs, Bytes::new());
                http2::serve(cork, Answers, live, &Http2Options::default(), &stop).await;
            });
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_server_drains_and_our_channel_loses_no_call() {
    let ours = Ours {
        tasks: TaskGroup::new(&Stop::new()),
        stops: Arc::default(),
        flow: Flow::default(),
    };
    let channel = Channel::to(A).dialer(ours.clone()).build().unwrap();
    let workers = (0..20).map(|_| async {
        for _ in 0..50 {
            assert_eq!(range(&channel).await.unwrap(), 8);
        }
    });
    let drains = async {
        for _ in 0..10 {
            sleep(ms(110)).await;
            let stops = std::mem::take(&mut *ours.stops.lock());
            for stop in stops {
                stop.cancel();
            }
        }
    };
    tokio::join!(join_all(workers), drains);
    assert!(channel.snapshot().goaways >= 5, "{:?}", channel.snapshot());
    // Of the servers only the last one is left.
    until(|| ours.flow.snapshot().connections.len() == 1).await;
    assert_eq!(channel.close(Duration::from_secs(1)).await, 0);
    // And it was told that the channel goes.
    assert_eq!(ours.tasks.shutdown(Duration::from_secs(1)).await, 0);
}
