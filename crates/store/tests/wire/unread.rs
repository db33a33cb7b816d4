//! Wide answers that nobody reads, and those who want to.

use std::time::Duration;

use super::hostile::{RANGE, call, connect, frames};
use super::*;

/// A server with room for two wide answers. Nobody is cut for a stall here.
async fn with_room_for_two() -> Server {
    with_values(|options| {
        options.outbound_bytes_max = 4 << 20;
        options.stall_timeout = Duration::from_secs(3_600);
        options.request_timeout = Duration::from_secs(60);
    })
    .await
}

/// A server with a range of 3 MB.
async fn with_values(change: impl FnOnce(&mut FrontOptions)) -> Server {
    let server = Server::start(change).await;
    let mut kv = server.kv().await;
    let value = "v".repeat(10_000);
    for n in 0..300 {
        kv.put(put(&format!("k{n:05}"), &value)).await.unwrap();
    }
    server
}

/// Opens a connection that lets no answer leave, and asks for that many.
async fn asks_and_never_reads(server: &Server, answers: u32) -> TcpStream {
    let mut socket = connect(server, 0).await;
    let range = prost::Message::encode_to_vec(&get("k", "l"));
    for n in 0..answers {
        socket.write_all(&call(2 * n + 1, RANGE, &range)).await.unwrap();
    }
    // Until the first of them has begun: its headers come.
    let mut said = vec![0; 1024];
    let (mut seen, deadline) = (Vec::new(), Duration::from_secs(20));
    while !frames(&seen).iter().any(|(kind, ..)| *kind == 1) {
        let n = tokio::time::timeout(deadline, socket.read(&mut said)).await;
        let n = n.expect("an answer begins").unwrap();
        assert!(n > 0);
        seen.extend_from_slice(&said[..n]);
    }
    socket
}

async fn reads_all(server: &Server) {
    let mut kv = server.kv().await;
    let range = tokio::time::timeout(Duration::from_secs(40), kv.range(get("k", "l")));
    let range = range.await.expect("others are not kept waiting").unwrap();
    assert_eq!(range.into_inner().kvs.len(), 300);
}

#[tokio::test]
async fn a_connection_that_reads_nothing_holds_up_its_own_answers_only() {
    let server = with_room_for_two().await;
    let _socket = asks_and_never_reads(&server, 20).await;
    for _ in 0..3 {
        reads_all(&server).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn twenty_connections_that_take_nothing_do_not_keep_others_from_their_answers() {
    let metrics = setpoint_telemetry::Metrics::new();
    let shown = metrics.clone();
    let server = with_values(|options| {
        options.metrics = Some(shown);
        options.outbound_bytes_max = 128 << 20;
        options.stall_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        // Eight of them have room, as far as there is some.
        sockets.push(asks_and_never_reads(&server, 20).await);
        reads_all(&server).await;
    }
    let text = metrics.encode();
    assert!(
        !text.contains("etcd_front_answers_cut_total{why=\"room\"}"),
        "{text}"
    );
    let cut = async {
        while !metrics
            .encode()
            .contains("etcd_front_answers_cut_total{why=\"slow\"}")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let cut = tokio::time::timeout(Duration::from_secs(20), cut).await;
    cut.expect("some wait, so others are cut");
    server.stop().await;
}

#[tokio::test]
async fn whoever_takes_nothing_makes_room_for_those_who_wait() {
    let server = with_room_for_two().await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        sockets.push(asks_and_never_reads(&server, 1).await);
    }
    reads_all(&server).await;
    server.stop().await;
}
