//! Calls: answers, deadlines, limits, cancelling.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use setpoint_flow::channel::{
    CallOptions, ChannelError, ChannelMetrics, ChannelOptions, ChannelState, EndpointState,
};
use setpoint_flow::{Channel, Flow};
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use setpoint_proto::etcdserverpb::{PutRequest, RangeRequest, WatchRequest, WatchResponse};
use setpoint_telemetry::Metrics;
use tokio::time::Instant;
use tonic::Code;

use super::peer::{
    Exchange, Net, Peer, PeerOptions, answering, channel, counted, framed, handler, range, until,
};

const NONE: Duration = Duration::ZERO;
const A: &str = "static:127.0.0.1:1";

fn peer(net: &Net, handler: super::peer::Handler) -> Peer {
    Peer::start(net, "127.0.0.1:1", PeerOptions::default(), handler)
}

#[tokio::test(start_paused = true)]
async fn a_generated_client_calls_through_a_channel() {
    let net = Net::default();
    let peer = peer(&net, answering(7, NONE));
    let channel = channel(&net, A, ChannelOptions::default());
    assert_eq!(range(&channel).await.unwrap(), 7);
    assert_eq!((peer.calls(), peer.accepted()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_status_of_the_peer_is_the_callers() {
    let net = Net::default();
    let said = [("grpc-message", "no%20such%20key"), ("x-more", "1")];
    let _peer = peer(
        &net,
        handler(move |exchange| async move { exchange.refuse(Code::NotFound, &said) }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let status = range(&channel).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such key"));
    assert_eq!(status.metadata().get("x-more").unwrap(), "1");
    assert!(ChannelError::of(&status).is_none());
}

/// Answers every message of a stream with one.
async fn echo(mut exchange: Exchange) {
    let head = http::Response::builder().body(()).unwrap();
    let mut stream = exchange.respond.send_response(head, false).unwrap();
    while let Some(Ok(data)) = exchange.request.body_mut().data().await {
        let _ = exchange
            .request
            .body_mut()
            .flow_control()
            .release_capacity(data.len());
        // The end may come with no bytes.
        if !data.is_empty() {
            let _ = stream.send_data(framed(&WatchResponse::default()), false);
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let _ = stream.send_trailers(trailers);
}

#[tokio::test(start_paused = true)]
async fn both_directions_of_a_stream_go_on_side_by_side() {
    let net = Net::default();
    let _peer = peer(&net, handler(echo));
    let channel = channel(&net, A, ChannelOptions::default());
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let mut client = WatchClient::new(channel);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.watch(requests).await.unwrap().into_inner();
    // The client is gone; its stream is not.
    drop(client);
    for _ in 0..10 {
        sender.send(WatchRequest::default()).await.unwrap();
        assert!(answers.message().await.unwrap().is_some());
    }
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_share_one_connection() {
    let net = Net::default();
    let peer = peer(&net, answering(1, Duration::from_millis(50)));
    let channel = channel(&net, A, ChannelOptions::default());
    let calls: Vec<_> = (0..1_000).map(|_| range(&channel)).collect();
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((peer.calls(), peer.accepted()), (1_000, 1));
    assert_eq!(channel.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_big_message_goes_through_small_windows() {
    let net = Net::default();
    let _peer = peer(
        &net,
        handler(|mut exchange| async move {
            let body = exchange.body().await.unwrap();
            exchange.answer(counted(body.len() as i64));
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let request = PutRequest {
        value: vec![7; 3 << 20].into(),
        ..Default::default()
    };
    let answer = KvClient::new(channel.clone()).put(request).await;
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn every_call_has_a_deadline_and_the_peer_is_told_of_it() {
    let net = Net::default();
    let told = Arc::new(Mutex::new(Vec::new()));
    let told_too = Arc::clone(&told);
    let resets = Arc::new(AtomicUsize::new(0));
    let resets_too = Arc::clone(&resets);
    let _peer = peer(
        &net,
        handler(move |mut exchange| {
            let timeout = exchange.request.headers().get("grpc-timeout").cloned();
            told_too
                .lock()
                .push(timeout.map(|value| value.to_str().unwrap().to_owned()));
            let resets = Arc::clone(&resets_too);
            async move {
                let reset = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
                assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
                resets.fetch_add(1, Ordering::SeqCst);
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let mut client = KvClient::new(channel.clone());
    for (options, header, seconds) in [
        (None, None, 20),
        (Some(CallOptions::new().timeout(Duration::from_secs(3))), None, 3),
        (None, Some(Duration::from_secs(5)), 5),
        (
            Some(CallOptions::new().timeout(Duration::from_secs(9))),
            Some(Duration::from_secs(5)),
            5,
        ),
        (
            Some(CallOptions::new().timeout(Duration::from_secs(9_999))),
            None,
            300,
        ),
        (
            Some(CallOptions::new().long_stream(Duration::from_secs(9_999))),
            None,
            9_999,
        ),
    ] {
        let mut request = tonic::Request::new(RangeRequest::default());
        if let Some(options) = options {
            request.extensions_mut().insert(options);
        }
        if let Some(header) = header {
            request.set_timeout(header);
        }
        let began = Instant::now();
        let status = client.range(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        assert!(ChannelError::of(&status).unwrap().may_have_happened());
        assert_eq!(began.elapsed().as_secs(), seconds);
        let told = told.lock().pop().unwrap().unwrap();
        let told = setpoint_flow::core::timeout::parse(told.as_bytes()).unwrap();
        assert!(told.as_secs_f64() > seconds as f64 * 0.99, "{told:?}");
    }
    until(|| resets.load(Ordering::SeqCst) == 6).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_an_answer_that_has_begun() {
    let net = Net::default();
    let _peer = peer(
        &net,
        handler(|mut exchange| async move {
            let head = http::Response::builder().body(()).unwrap();
            let mut stream = exchange.respond.send_response(head, false).unwrap();
            while stream.send_data(framed(&WatchResponse::default()), false).is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let mut request = tonic::Request::new(tokio_stream::pending());
    request.set_timeout(Duration::from_millis(4_500));
    let answers = WatchClient::new(channel.clone()).watch(request).await.unwrap();
    let answers: Vec<_> = answers.into_inner().collect().await;
    let (messages, errors): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(messages.len(), 5);
    assert_eq!(errors[0].as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    until(|| channel.snapshot().in_flight == 0).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_cancels_its_stream_and_frees_its_slot() {
    let net = Net::default();
    let cancelled = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&cancelled);
    let peer = peer(
        &net,
        handler(move |mut exchange| {
            let counts = Arc::clone(&counts);
            async move {
                let reset = std::future::poll_fn(|cx| exchange.respond.poll_reset(cx)).await;
                if matches!(reset, Ok(h2::Reason::CANCEL)) {
                    counts.fetch_add(1, Ordering::SeqCst);
                }
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    for _ in 0..10 {
        let call = tokio::time::timeout(Duration::from_millis(100), range(&channel));
        assert!(call.await.is_err());
    }
    until(|| cancelled.load(Ordering::SeqCst) == 10).await;
    assert_eq!((peer.accepted(), channel.snapshot().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_over_the_limits_are_answered_with_their_sizes() {
    let net = Net::default();
    let peer = peer(
        &net,
        handler(|mut exchange| async move {
            let _ = exchange.body().await;
            let mut huge = BytesMut::new();
            huge.put_u8(0);
            huge.put_u32(70_000);
            exchange.answer(huge.freeze());
        }),
    );
    let options = ChannelOptions {
        send_bytes_max: 1_000,
        receive_bytes_max: 60_000,
        ..ChannelOptions::default()
    };
    let channel = channel(&net, A, options);
    let status = range(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("(70000 vs. 60000)"), "{status:?}");
    let request = PutRequest {
        value: vec![0; 2_000].into(),
        ..Default::default()
    };
    let before = peer.calls();
    let status = KvClient::new(channel.clone()).put(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("vs. 1000)"), "{status:?}");
    assert!(peer.calls() <= before + 1);
    until(|| channel.snapshot().in_flight == 0).await;
}

#[tokio::test(start_paused = true)]
async fn compressed_answers_are_refused_and_only_identity_is_offered() {
    let net = Net::default();
    let _peer = peer(
        &net,
        handler(|mut exchange| async move {
            assert_eq!(exchange.request.headers()["grpc-accept-encoding"], "identity");
            if exchange.number == 0 {
                let head = http::Response::builder().header("grpc-encoding", "gzip");
                let _ = exchange.respond.send_response(head.body(()).unwrap(), false);
            } else {
                exchange.answer(Bytes::from_static(&[1, 0, 0, 0, 1, 9]));
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    for expect in ["gzip", "compressed"] {
        let status = range(&channel).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains(expect), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_over_the_limit_end_the_call_and_not_the_connection() {
    let net = Net::default();
    let peer = peer(
        &net,
        handler(|mut exchange| async move {
            let _ = exchange.body().await;
            if exchange.number == 0 {
                exchange.refuse(Code::NotFound, &[("x-huge", &"x".repeat(40_000))]);
            } else {
                exchange.answer(counted(1));
            }
        }),
    );
    let channel = channel(&net, A, ChannelOptions::default());
    let status = range(&channel).await.unwrap_err();
    assert_ne!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!(range(&channel).await.unwrap(), 1);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_body_fails_is_cancelled_with_its_own_status() {
    let net = Net::default();
    let peer = peer(&net, answering(1, NONE));
    let channel = channel(&net, A, ChannelOptions::default());
    let mut service = channel.clone();
    let body = http_body_util::StreamBody::new(tokio_stream::iter([
        Ok(http_body::Frame::data(Bytes::from_static(b"\0\0\0\0\x09half"))),
        Err(tonic::Status::data_loss("the disk is gone")),
    ]));
    let request = http::Request::post("/x/Y")
        .header("content-type", "application/grpc")
        .body(body.boxed_unsync())
        .unwrap();
    let status = tower::Service::call(&mut service, request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "the disk is gone")
    );
    assert_eq!(range(&channel).await.unwrap(), 1);
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_channel_does_can_be_seen() {
    let net = Net::default();
    let _peer = peer(&net, answering(1, Duration::from_millis(20)));
    let (metrics, registry) = (ChannelMetrics::default(), Metrics::new());
    metrics.register(&registry).unwrap();
    let channel = Channel::to(A)
        .name("kv")
        .metrics(&metrics)
        .dialer(net.clone())
        .build()
        .unwrap();
    for _ in 0..3 {
        range(&channel).await.unwrap();
    }
    let text = registry.encode();
    for line in [
        "flow_channel_connections{channel=\"kv\"} 1",
        "flow_channel_picks_total{channel=\"kv\",endpoint=\"127.0.0.1:1\"} 3",
        "flow_channel_connect_seconds_count{channel=\"kv\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    let snapshot = channel.snapshot();
    assert_eq!(snapshot.state, ChannelState::Ready);
    let latency = snapshot.endpoints[0].latency_seconds.unwrap();
    assert!((0.019..0.021).contains(&latency), "{latency}");
    let json = serde_json::to_value(&snapshot).unwrap();
    assert_eq!(
        (&json["name"], &json["endpoints"][0]["picks"]),
        (&"kv".into(), &3.into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_seen_with_its_connections_among_those_of_its_process() {
    let net = Net::default();
    let peer = peer(&net, answering(1, Duration::from_secs(2)));
    let (flow, registry) = (Flow::default(), Metrics::new());
    flow.register_metrics(&registry).unwrap();
    let build = |target: &str| {
        let channel = Channel::to(target).flow(&flow).dialer(net.clone());
        channel.name("kv").build().unwrap()
    };
    let channel = build("static:127.0.0.1:1,127.0.0.1:2");
    until(|| channel.snapshot().state == ChannelState::Ready).await;
    let looked = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.drain();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let seen = flow.channel_snapshots();
        let [up, failing] = seen[0].endpoints.as_slice() else {
            panic!("{seen:?}")
        };
        assert_eq!(
            (up.state, failing.state),
            (EndpointState::Up, EndpointState::Failing)
        );
        assert!(failing.failure.as_ref().unwrap().contains("refused"));
        // The drained connection still has its call.
        assert_eq!((up.connections, up.draining, up.links.len()), (1, 1, 2), "{up:?}");
        assert!(up.links[0].draining && up.links[0].in_flight == 1 && up.links[0].rtt_seconds.is_some());
        // They are the same as in the list of connections.
        let connections = flow.snapshot().connections;
        let ids: Vec<_> = connections.iter().map(|connection| connection.id).collect();
        assert_eq!(ids, [up.links[0].id, up.links[1].id]);
        let of_call = &connections[0];
        assert_eq!((of_call.front, &*of_call.peer), ("client", "127.0.0.1:1"));
        assert_eq!((of_call.streams_open, of_call.streams_total), (1, 1));
        assert!(of_call.in_bytes > 0 && of_call.out_bytes > 0, "{of_call:?}");
    };
    let (answer, ()) = tokio::join!(range(&channel), looked);
    answer.unwrap();
    let page = setpoint_flow::page::respond("json", None, Some(&flow)).unwrap();
    let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
    assert_eq!(
        (&page["channels_total"], &page["channels"][0]["name"]),
        (&1.into(), &"kv".into())
    );
    assert!(
        registry
            .encode()
            .contains("flow_channel_goaways_total{channel=\"kv\"} 1")
    );
    let other = channel.clone();
    channel.close(NONE).await;
    assert_eq!(flow.channel_snapshots()[0].state, ChannelState::Closed);
    drop((channel, other));
    assert_eq!(flow.channel_snapshots(), []);
    until(|| flow.snapshot().connections.is_empty()).await;
    until(|| !registry.encode().contains("\"kv\"")).await;
}
