//! tonic's client against the etcd front, with windows that it is not usually given.

use std::time::Duration;

use setpoint::envtest::TempDir;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use setpoint_proto::etcdserverpb::watch_request::RequestUnion;
use setpoint_proto::etcdserverpb::{PutRequest, RangeRequest, WatchCreateRequest, WatchRequest};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{PATIENCE, Server};

const VALUE_BYTES: usize = 1_000_000;
const VALUES: u8 = 12;
const STREAMS: usize = 100;
const EVENTS: usize = 30;

async fn connect(server: &Server, windows: impl Fn(Endpoint) -> Endpoint) -> Channel {
    let endpoint = Endpoint::from_shared(server.text("etcd").to_owned()).unwrap();
    windows(endpoint).connect().await.unwrap()
}

/// Puts values that fit in no window, and reads all of them at once.
async fn large_messages(channel: Channel, prefix: &str) {
    let mut kv = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    for number in 0..VALUES {
        let put = PutRequest {
            key: format!("{prefix}/{number:02}").into(),
            value: vec![number; VALUE_BYTES].into(),
            ..Default::default()
        };
        kv.put(put).await.unwrap();
    }
    let range = RangeRequest {
        key: format!("{prefix}/").into(),
        range_end: format!("{prefix}0").into(),
        ..Default::default()
    };
    let answer = kv.range(range).await.unwrap().into_inner();
    assert_eq!(answer.kvs.len(), usize::from(VALUES));
    for (number, kv) in (0..VALUES).zip(&answer.kvs) {
        assert!(
            kv.value.iter().all(|byte| *byte == number),
            "value {number} came back as another"
        );
        assert_eq!(kv.value.len(), VALUE_BYTES);
    }
}

#[tokio::test]
async fn large_messages_pass_through_windows_of_any_kind() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &["--roles", "store"]).await;
    let tiny = connect(&server, |it| it.initial_stream_window_size(1_000)).await;
    let narrow = connect(&server, |it| {
        it.initial_stream_window_size(1 << 20)
            .initial_connection_window_size(65_535)
    });
    let narrow = narrow.await;
    let adaptive = connect(&server, |it| it.http2_adaptive_window(true)).await;
    let all = async {
        tokio::join!(
            large_messages(tiny, "tiny"),
            large_messages(narrow, "narrow"),
            large_messages(adaptive, "adaptive"),
        )
    };
    timeout(PATIENCE * 2, all).await.unwrap();
}

async fn watch(channel: Channel) -> Streaming<setpoint_proto::etcdserverpb::WatchResponse> {
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
            key: "k".into(),
            ..Default::default()
        })),
    };
    // The client's half stays open, as clients' do.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(create), tokio_stream::pending());
    let mut answers = WatchClient::new(channel)
        .watch(requests)
        .await
        .unwrap()
        .into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    answers
}

/// Every event, once, in order.
async fn read(answers: &mut Streaming<setpoint_proto::etcdserverpb::WatchResponse>) {
    let mut versions = Vec::new();
    while versions.len() < EVENTS {
        let answer = answers.message().await.unwrap().expect("the stream goes on");
        versions.extend(
            answer
                .events
                .iter()
                .map(|event| event.kv.as_ref().unwrap().version),
        );
    }
    let expected: Vec<i64> = (1..=EVENTS as i64).collect();
    assert_eq!(versions, expected);
}

#[tokio::test]
async fn streams_that_are_not_read_do_not_hold_up_those_that_are() {
    let dir = TempDir::new().unwrap();
    let server = Server::start(dir.path(), &["--roles", "store"]).await;
    let channel = connect(&server, |it| {
        // All unread events of a stream fit in its window, and all streams' in the connection's: h2 counts both together.
        it.initial_stream_window_size(256 << 10)
            .initial_connection_window_size(32 << 20)
    });
    let channel = channel.await;
    let mut watches = Vec::new();
    for _ in 0..STREAMS {
        watches.push(watch(channel.clone()).await);
    }
    let mut kv = server.kv().await;
    for _ in 0..EVENTS {
        let put = PutRequest {
            key: "k".into(),
            value: vec![b'v'; 4 << 10].into(),
            ..Default::default()
        };
        kv.put(put).await.unwrap();
    }
    let (now, later) = watches.split_at_mut(STREAMS / 2);
    for half in [now, later] {
        let all = futures_util::future::join_all(half.iter_mut().map(read));
        timeout(PATIENCE * 2, all).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
