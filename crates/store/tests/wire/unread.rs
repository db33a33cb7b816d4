//! Wide answers that nobody reads, and those who want to.

use std::time::Duration;

use setpoint_testkit::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, frame, head, header, update,
};

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

/// Opens a connection that lets no answer leave, and makes these calls.
async fn calls_and_never_reads(server: &Server, calls: &[Vec<u8>]) -> TcpStream {
    let mut socket = connect(server, 0).await;
    for call in calls {
        socket.write_all(call).await.unwrap();
    }
    socket
}

/// Reads what a server says until that many answers have begun.
async fn begun(socket: &mut TcpStream, answers: usize) {
    reads_heads(socket, &mut Vec::new(), answers).await;
}

/// Reads what a server says until there are that many lists of headers, and ends before their time, in it.
async fn reads_heads(socket: &mut TcpStream, seen: &mut Vec<u8>, heads: usize) {
    let mut said = vec![0; 64 << 10];
    let is_one = |kind: &u8| matches!(*kind, HEADERS | RST_STREAM);
    while frames(seen).iter().filter(|(kind, ..)| is_one(kind)).count() < heads {
        let n = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut said)).await;
        let n = n.expect("they come").unwrap();
        assert!(n > 0);
        seen.extend_from_slice(&said[..n]);
    }
}

/// A transaction that reads 3 MB.
fn reads_in_a_transaction(stream: u32) -> Vec<u8> {
    let range = Some(Op::RequestRange(get("k", "l")));
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp { request: range }],
        ..Default::default()
    };
    call(
        stream,
        "/etcdserverpb.KV/Txn",
        &prost::Message::encode_to_vec(&txn),
    )
}

#[tokio::test]
async fn transactions_that_wait_for_room_keep_no_range_from_being_read() {
    let server = with_values(|options| {
        options.outbound_bytes_max = 16 << 20;
        options.stall_timeout = Duration::from_secs(3_600);
        options.request_timeout = Duration::from_secs(60);
    })
    .await;
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let mut socket = calls_and_never_reads(&server, &[reads_in_a_transaction(1)]).await;
        begun(&mut socket, 1).await;
        sockets.push(socket);
    }
    // There is no room for these, and there are more of them than reads that run at a time.
    for _ in 0..8 {
        sockets.push(calls_and_never_reads(&server, &[reads_in_a_transaction(1)]).await);
    }
    for _ in 0..5 {
        reads_all(&server).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn single_values_that_a_connection_does_not_take_leave_room_for_those_of_others() {
    let server = Server::start(|options| {
        options.outbound_bytes_max = 8 << 20;
        options.stall_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut kv = server.kv().await;
    kv.put(put("k", &"v".repeat(100_000))).await.unwrap();
    let get_k = prost::Message::encode_to_vec(&get("k", ""));
    let calls = |count: u32| -> Vec<_> { (0..count).map(|n| call(2 * n + 1, RANGE, &get_k)).collect() };
    // 10 MB, where there is room for 4.
    let mut greedy = calls_and_never_reads(&server, &calls(100)).await;
    begun(&mut greedy, 100).await;
    // Half a MB is an eighth of the room.
    let mut socket = calls_and_never_reads(&server, &calls(5)).await;
    let mut seen = Vec::new();
    reads_heads(&mut socket, &mut seen, 5).await;
    // Their windows open, and all of it comes, and what they ended with.
    let wide = [0_u32, 1, 3, 5, 7, 9]
        .map(|stream| update(stream, 1 << 20))
        .concat();
    socket.write_all(&wide).await.unwrap();
    reads_heads(&mut socket, &mut seen, 10).await;
    assert!(frames(&seen).iter().all(|(kind, ..)| *kind != RST_STREAM));
    assert!(seen.len() > 500_000, "{}", seen.len());
    server.stop().await;
}

#[tokio::test]
async fn json_that_a_connection_does_not_take_holds_up_its_own_answers_only() {
    let server = with_values(|options| {
        options.outbound_bytes_max = 128 << 20;
        options.stall_timeout = Duration::from_secs(3_600);
    })
    .await;
    let mut socket = connect(&server, 0).await;
    let body = r#"{"key":"aw==","range_end":"bA=="}"#;
    for n in 0..12 {
        let mut block = head("/v3/kv/range");
        header(&mut block, "content-type", "application/json");
        socket
            .write_all(&frame(HEADERS, END_HEADERS, 2 * n + 1, &block))
            .await
            .unwrap();
        socket
            .write_all(&frame(DATA, END_STREAM, 2 * n + 1, body.as_bytes()))
            .await
            .unwrap();
    }
    begun(&mut socket, 1).await;
    for _ in 0..3 {
        let (code, text) = gateway::post(&server, "/v3/kv/range", body).await;
        assert_eq!(code, 200, "{}", &text[..text.len().min(200)]);
    }
    server.stop().await;
}

/// Takes an answer of a few large values at so many bytes a second while others wait for its room; how much of it came, and
/// whether it came to its end.
async fn taken_at(server: &Server, bytes_a_second: u32) -> (usize, bool) {
    const TICK: Duration = Duration::from_millis(100);
    let mut socket = connect(server, 0).await;
    let range = prost::Message::encode_to_vec(&get("w", "x"));
    socket.write_all(&call(1, RANGE, &range)).await.unwrap();
    socket.write_all(&update(0, 1 << 20)).await.unwrap();
    let (mut seen, mut said) = (Vec::new(), vec![0; 64 << 10]);
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => socket.write_all(&update(1, bytes_a_second / 10)).await.unwrap(),
            read = socket.read(&mut said) => match read.unwrap() {
                0 => break,
                n => seen.extend_from_slice(&said[..n]),
            },
        }
        let frames = frames(&seen);
        let heads = frames.iter().filter(|(kind, ..)| *kind == HEADERS).count();
        if heads == 2 || frames.iter().any(|(kind, ..)| *kind == RST_STREAM) {
            let data = frames.iter().filter(|(kind, ..)| *kind == DATA);
            return (data.map(|(.., bytes)| bytes.len()).sum(), heads == 2);
        }
    }
    (0, false)
}

#[tokio::test]
async fn who_takes_what_is_asked_for_has_all_of_a_wide_answer_while_others_wait_and_who_takes_less_loses_it()
{
    // Beyond 512 KiB, which would be an answer of few keys.
    const VALUES: usize = 6;
    const VALUE_BYTES: usize = 100_000;
    let server = with_room_for_two().await;
    let mut kv = server.kv().await;
    for n in 0..VALUES {
        kv.put(put(&format!("w{n}"), &"w".repeat(VALUE_BYTES)))
            .await
            .unwrap();
    }
    let mut done = false;
    // The bound is 48 KiB in any second, and a busy machine may keep the client from them.
    for rate in [64, 80, 96] {
        let crowd = async {
            let mut sockets = Vec::new();
            for _ in 0..6 {
                sockets.push(asks_and_never_reads(&server, 10).await);
            }
            sockets
        };
        let (enough, less) = (taken_at(&server, rate << 10), taken_at(&server, 16 << 10));
        let (_sockets, enough, less) = tokio::join!(crowd, enough, less);
        assert!(!less.1 && less.0 < VALUES * VALUE_BYTES, "{less:?}");
        done = done || (enough.1 && enough.0 > VALUES * VALUE_BYTES);
        if done {
            break;
        }
    }
    assert!(done);
    server.stop().await;
}
