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
    let (server, near) = Server::start(flow, Http2Options::default());
    let (far, link) = tokio::io::duplex(256 << 10);
    let (near_read, near_write) = tokio::io::split(near);
    let (link_read, link_write) = tokio::io::split(link);
    server.tasks.spawn(carry(near_read, link_write, delay));
    server.tasks.spawn(carry(link_read, near_write, delay));
    let client = Client::over(far).await;
    (server, client)
}

/// Brings everything from one end to the other, later.
async fn carry(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    delay: Duration,
) {
    // As much as a long, fast link holds.
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(1 << 16);
    let read = async move {
        loop {
            let mut chunk = vec![0; 16 << 10];
            let n = from.read(&mut chunk).await.unwrap_or(0);
            chunk.truncate(n);
            if n == 0 || sender.send((Instant::now() + delay, chunk)).await.is_err() {
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
