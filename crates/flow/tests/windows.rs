//! Windows of real connections: they open on a long link, stay within the budget, and close again.

use std::time::Duration;

use setpoint_flow::http2::Http2Options;
use setpoint_flow::{Flow, FlowOptions, Windows};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::support::*;

/// A server, and a client behind a link that is `delay` long each way.
async fn far_away(flow: Flow, delay: Duration) -> (Server, Client) {
    behind(flow, Way { delay, rate: None }).await
}

/// One way of a link.
#[derive(Clone, Copy)]
struct Way {
    delay: Duration,
    /// Bytes a second, if there is an end to it; what comes faster waits, however much that is.
    rate: Option<f64>,
}

/// A server, and a client behind a link that is the same both ways.
async fn behind(flow: Flow, way: Way) -> (Server, Client) {
    let (server, near) = Server::start(flow, Http2Options::default());
    let (far, link) = tokio::io::duplex(256 << 10);
    let (near_read, near_write) = tokio::io::split(near);
    let (link_read, link_write) = tokio::io::split(link);
    server.tasks.spawn(carry(near_read, link_write, way));
    server.tasks.spawn(carry(link_read, near_write, way));
    let client = Client::over(far).await;
    (server, client)
}

/// Brings everything from one end to the other, later.
async fn carry(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    way: Way,
) {
    // As much as a long, fast link holds.
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1 << 16);
    let read = async move {
        let mut free = Instant::now();
        loop {
            let mut chunk = vec![0; 16 << 10];
            let n = from.read(&mut chunk).await.unwrap_or(0);
            chunk.truncate(n);
            let takes = way
                .rate
                .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(n as f64 / rate));
            free = free.max(Instant::now()) + takes;
            if n == 0 || sender.send((free + way.delay, chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, chunk)) = receiver.recv().await {
            sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[tokio::test(start_paused = true)]
async fn a_long_link_opens_the_window_and_rest_closes_it() {
    let (server, client) = far_away(Flow::default(), Duration::from_millis(50)).await;
    in_time(client.upload("/sink", 96 << 20)).await.unwrap();
    let connection = server.connection();
    assert!(connection.stream_window_bytes >= 16 << 20, "{connection:?}");
    assert!(connection.connection_window_bytes >= connection.stream_window_bytes);
    let estimate = connection.estimate.unwrap();
    assert!((0.09..0.13).contains(&estimate.rtt_seconds), "{estimate:?}");
    assert!(!connection.history.is_empty());
    server.counted("flow_pings_total{front=\"test\",reason=\"probe\"}");
    server.counted("flow_rtt_seconds_count{front=\"test\"}");
    server.counted("flow_bandwidth_bytes_per_second_count{front=\"test\"}");
    server.counted("flow_bdp_bytes_count{front=\"test\"}");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(server.connection().stream_window_bytes, 1 << 20);
    assert_eq!(server.flow.snapshot().budget.wanted_bytes, 0);
    // And opens once more.
    in_time(client.upload("/sink", 96 << 20)).await.unwrap();
    assert!(server.connection().stream_window_bytes >= 16 << 20);
}

#[tokio::test(start_paused = true)]
async fn static_windows_stay_as_they_are_and_are_never_pinged_for() {
    let flow = Flow::new(FlowOptions {
        windows: Windows::Static(128 << 10),
        ..FlowOptions::default()
    });
    let (server, client) = far_away(flow, Duration::from_millis(50)).await;
    in_time(client.upload("/sink", 8 << 20)).await.unwrap();
    let connection = server.connection();
    assert_eq!(connection.stream_window_bytes, 128 << 10);
    assert_eq!(connection.connection_window_bytes, 512 << 10);
    assert!(connection.estimate.is_none());
    assert!(!server.metrics.encode().contains("flow_pings_total{"));
}

#[tokio::test(start_paused = true)]
async fn connections_share_a_budget_that_is_too_small_for_all() {
    let flow = Flow::new(FlowOptions {
        budget_bytes: 16 << 20,
        ..FlowOptions::default()
    });
    let (first, one) = far_away(flow.clone(), Duration::from_millis(50)).await;
    in_time(one.upload("/sink", 64 << 20)).await.unwrap();
    let alone = first.connection().connection_window_bytes;
    assert!(alone <= 16 << 20, "{alone}");
    let snapshot = flow.snapshot();
    assert!(
        snapshot.budget.wanted_bytes > snapshot.budget.total_bytes,
        "{:?}",
        snapshot.budget
    );
    drop(first);
}

/// Each may send a whole first window, and what the sender has handed over is before all that comes later.
#[tokio::test(start_paused = true)]
async fn eight_uploads_that_begin_on_a_slow_link_make_a_small_call_wait_for_a_moment_only() {
    let way = Way {
        delay: Duration::from_millis(10),
        rate: Some(12.5e6),
    };
    let (server, client) = behind(Flow::default(), way).await;
    let begun = Instant::now();
    let small_calls = async {
        let mut took = Vec::new();
        while begun.elapsed() < Duration::from_secs(3) {
            let at = Instant::now();
            client.upload("/sink", 1_000).await.unwrap();
            took.push((at - begun, at.elapsed()));
        }
        took
    };
    let uploads = (0..8).map(|_| client.upload("/sink", 8 << 20));
    let (took, _) =
        in_time(async { tokio::join!(small_calls, futures_util::future::join_all(uploads)) }).await;
    let later = |from: u64| {
        let later = took.iter().filter(move |(at, _)| at.as_millis() >= from.into());
        later.map(|(_, took)| took.as_millis()).collect::<Vec<_>>()
    };
    // All else was sent before, as much as there was credit for: 8 MiB take 670 ms.
    let slowest = later(300).into_iter().max().unwrap();
    assert!(slowest <= 60, "{slowest} ms");
    let settled = later(1_000);
    let soon = settled.iter().filter(|took| **took <= 30).count();
    assert!(soon >= settled.len() * 8 / 10, "{settled:?}");
    let estimate = server.connection().estimate.unwrap();
    assert!(estimate.rtt_seconds <= 0.03, "{estimate:?}");
}
