//! Requests that do not come to their end, and those of others.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use setpoint_telemetry::Metrics;

use super::hostile::{dial, ended, request};
use super::raw::framed;
use super::*;

const PUT: &str = "/etcdserverpb.KV/Put";
const MIB: usize = 1 << 20;

/// Calls of one client that were begun and not ended.
struct Halves {
    requests: h2::client::SendRequest<Bytes>,
    streams: Vec<h2::SendStream<Bytes>>,
    answers: FuturesUnordered<h2::client::ResponseFuture>,
    _tasks: TaskGroup,
}

impl Halves {
    async fn of(server: &Server) -> Self {
        let (requests, tasks) = dial(server).await;
        Self {
            requests,
            streams: Vec::new(),
            answers: FuturesUnordered::new(),
            _tasks: tasks,
        }
    }

    /// Begins a put, of which all but the last byte arrives.
    fn begin(&mut self, value_bytes: usize) {
        let mut message = self.message(value_bytes);
        message.pop();
        let request = request(PUT).body(()).unwrap();
        let (answer, mut stream) = self.requests.send_request(request, false).unwrap();
        stream.send_data(message.into(), false).unwrap();
        self.streams.push(stream);
        self.answers.push(answer);
    }

    fn message(&self, value_bytes: usize) -> Vec<u8> {
        let put = pb::PutRequest {
            key: format!("k{}", self.streams.len()).into(),
            value: vec![7; value_bytes].into(),
            ..Default::default()
        };
        framed(&prost::Message::encode_to_vec(&put))
    }
}

/// What is there now of requests that are not whole.
fn arriving(metrics: &Metrics) -> usize {
    let text = metrics.encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd_front_arriving_bytes "));
    line.unwrap().parse().unwrap()
}

async fn until(metrics: &Metrics, reached: impl Fn(usize) -> bool) {
    let seen = async {
        while !reached(arriving(metrics)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(30), seen).await;
    seen.unwrap_or_else(|_| panic!("{} bytes are there", arriving(metrics)));
}

async fn with_budget(bytes: usize) -> (Server, Metrics) {
    let metrics = Metrics::new();
    let shown = metrics.clone();
    let server = Server::start(|options| {
        options.metrics = Some(shown);
        options.inbound_bytes_max = bytes;
        // Nothing here waits for it.
        options.request_timeout = Duration::from_secs(120);
    })
    .await;
    (server, metrics)
}

#[tokio::test]
async fn one_connections_half_requests_leave_room_for_those_of_others() {
    let (server, metrics) = with_budget(32 * MIB).await;
    let mut hostile = Halves::of(&server).await;
    for _ in 0..40 {
        hostile.begin(MIB);
    }
    // All but what fits into half of the room are refused, one by one.
    for _ in 0..24 {
        let answer = tokio::time::timeout(Duration::from_secs(30), hostile.answers.next()).await;
        let answer = answer.expect("a refusal").unwrap().unwrap();
        let message = answer.headers()["grpc-message"].to_str().unwrap();
        assert_eq!(message.replace("%20", " "), "etcdserver: too many requests");
    }
    until(&metrics, |bytes| (14 * MIB..=16 * MIB).contains(&bytes)).await;
    // A second one has half of the rest, and both together leave some to others.
    let mut second = Halves::of(&server).await;
    for _ in 0..6 {
        second.begin(MIB);
    }
    until(&metrics, |bytes| bytes >= 20 * MIB).await;
    let mut kv = server.kv().await;
    let puts = (0..3).map(|n| {
        let request = pb::PutRequest {
            key: format!("other{n}").into(),
            value: vec![1; MIB].into(),
            ..Default::default()
        };
        let mut kv = kv.clone();
        async move { kv.put(request).await.map(drop) }
    });
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let text = metrics.encode();
    assert!(
        text.contains("etcd_front_arriving_refused_total{bound=\"connection\"}"),
        "{text}"
    );
    assert!(!text.contains("bound=\"all\""), "{text}");
    drop((hostile, second));
    until(&metrics, |bytes| bytes == 0).await;
    kv.put(put("after", "1")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_many_large_values_at_a_time_is_served() {
    let (server, metrics) = with_budget(64 * MIB).await;
    let mut client = Halves::of(&server).await;
    // Three times an eighth of the room.
    for _ in 0..24 {
        client.begin(MIB);
    }
    until(&metrics, |bytes| bytes >= 24 * MIB).await;
    for stream in &mut client.streams {
        stream.send_data(Bytes::from_static(&[7]), true).unwrap();
    }
    while let Some(answer) = client.answers.next().await {
        assert!(
            !answer.unwrap().headers().contains_key("grpc-status"),
            "an answer, not a refusal"
        );
    }
    until(&metrics, |bytes| bytes == 0).await;
    let (answer, _) = client
        .requests
        .send_request(request(PUT).body(()).unwrap(), true)
        .unwrap();
    assert_eq!(ended(answer).await.0, "13", "no message");
    server.stop().await;
}
