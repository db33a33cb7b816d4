//! Deadlocks and stalls that HTTP/2 stacks are known for. Each has to end in progress, or in a refusal of that call alone.

use std::time::Duration;

use bytes::Bytes;
use setpoint_flow::http2::{End, Http2Options, KeepAlive};
use setpoint_flow::{Flow, FlowOptions};

use super::support::raw::*;
use super::support::*;

/// hyper#4003: what a stream reserves without using it, others lack.
#[tokio::test(start_paused = true)]
async fn answers_with_nothing_to_say_hold_no_credit() {
    let (_server, socket) = Server::plain();
    let client = Client::over(socket).await;
    let mut idle = Vec::new();
    for _ in 0..900 {
        let (answer, _) = client.begin("/idle", true).await;
        idle.push(in_time(answer).await.unwrap());
    }
    // The client's window for the whole connection is 65,535 bytes.
    let answer = in_time(client.upload("/65000", 0)).await.unwrap();
    assert_eq!(answer.len(), 65_000);
}

/// hyper#3559: calls beyond a limit have to be answered, not parked until one of them ends.
#[tokio::test(start_paused = true)]
async fn calls_beyond_the_limit_are_refused_and_the_others_go_on() {
    let options = Http2Options {
        streams_max: 10,
        ..Http2Options::default()
    };
    let (_server, socket) = Server::start(Flow::default(), options);
    let mut peer = RawPeer::greet(socket, 65_535).await;
    for n in 0..20 {
        peer.say(&call(2 * n + 1, "/hold")).await;
    }
    for n in 10..20 {
        let (.., why) = peer.next_of(RST_STREAM, 2 * n + 1).await;
        assert_eq!(why, 7_u32.to_be_bytes(), "REFUSED_STREAM");
    }
    // Room again.
    peer.say(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).await;
    peer.say(&call(101, "/7")).await;
    let (.., data) = peer.next_of(DATA, 101).await;
    assert_eq!(data, [7; 7]);
}

/// hyper#2899: streams that nobody reads must not stop the one that is read, whichever began first.
#[tokio::test(start_paused = true)]
async fn streams_that_nobody_reads_do_not_stop_the_others() {
    const BUDGET: u64 = 16 << 20;
    let flow = Flow::new(FlowOptions {
        budget_bytes: BUDGET,
        ..FlowOptions::default()
    });
    let (server, socket) = Server::start(flow, Http2Options::default());
    let client = Client::over(socket).await;
    let before = client.upload("/sink", 64 << 20);
    let hoard = async {
        let mut kept = Vec::new();
        for _ in 0..100 {
            tokio::task::yield_now().await;
            let (answer, mut stream) = client.begin("/hold", false).await;
            server
                .tasks
                .spawn(async move { drop(pour(&mut stream, 1 << 20).await) });
            kept.push(answer);
        }
        let answer = in_time(client.upload("/sink", 64 << 20)).await;
        (answer, kept)
    };
    let (before, (after, _kept)) = in_time(futures_util::future::join(before, hoard)).await;
    let whole = (64 << 20).to_string();
    assert_eq!(before.unwrap(), whole);
    assert_eq!(after.unwrap(), whole);
    let connection = server.connection();
    assert!(connection.hoarding, "{connection:?}");
    assert!(connection.stream_window_bytes < 256 << 10, "{connection:?}");
    assert!(connection.unread_bytes <= BUDGET, "{}", connection.unread_bytes);
    server.counted("flow_hoarding_total{front=\"test\"}");
}

/// h2#853: many calls at once must all come to their ends.
#[tokio::test(start_paused = true)]
async fn thousands_of_calls_at_once_come_to_their_ends() {
    let options = Http2Options {
        streams_max: 100,
        ..Http2Options::default()
    };
    let (_server, socket) = Server::start(Flow::default(), options);
    let client = Client::over(socket).await;
    let calls = (0..3000).map(|n| {
        let client = &client;
        async move {
            if n % 2 == 0 {
                client
                    .upload("/sink", 10_000)
                    .await
                    .map(|answer| answer == "10000")
            } else {
                client
                    .upload("/10000", 0)
                    .await
                    .map(|answer| answer.len() == 10_000)
            }
        }
    });
    let ended = in_time(futures_util::future::join_all(calls)).await;
    assert!(ended.into_iter().all(|answer| answer.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_window_of_one_byte_is_served_byte_by_byte() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 1).await;
    peer.say(&call(1, "/100")).await;
    let mut got = 0;
    while got < 100 {
        let (.., data) = peer.next_of(DATA, 1).await;
        assert!(data.len() <= 1);
        got += data.len();
        tokio::time::advance(Duration::from_millis(5)).await;
        peer.say(&update(1, 1)).await;
    }
    let stalls = server.connection().stalls;
    assert!(stalls.stream_total >= 90, "{stalls:?}");
    assert_eq!((stalls.connection_total, stalls.waiting.len()), (0, 0));
    server.counted("flow_credit_stalls_total{front=\"test\",holder=\"stream\"}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_window_holds_up_its_stream_alone_and_says_who_waits() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 0).await;
    peer.say(&call(1, "/100")).await;
    peer.next_of(HEADERS, 1).await;
    peer.say(&[call(3, "/50"), update(3, 50)].concat()).await;
    assert_eq!(peer.next_of(DATA, 3).await.3.len(), 50);
    let waiting = server.connection().stalls.waiting;
    assert_eq!(
        (waiting.len(), waiting[0].stream, waiting[0].holder),
        (1, 1, "stream")
    );
    // The whole connection's credit, used up by one stream.
    peer.say(&[call(5, "/70000"), update(5, 70_000)].concat()).await;
    let mut got = 0;
    while got < 65_485 {
        got += peer.next_of(DATA, 5).await.3.len();
    }
    let connection = server.connection();
    assert_eq!(connection.send_credit_bytes, 0);
    assert_eq!(connection.stalls.waiting[0].holder, "connection");
    peer.say(&[frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes()), update(0, 10_000)].concat())
        .await;
    while got < 70_000 {
        got += peer.next_of(DATA, 5).await.3.len();
    }
    peer.say(&call(7, "/0")).await;
    peer.next_of(HEADERS, 7).await;
    assert!(server.connection().stalls.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_cut() {
    let options = Http2Options {
        stall_timeout: Duration::from_secs(10),
        ..Http2Options::default()
    };
    let (mut server, socket) = Server::start(Flow::default(), options);
    let mut peer = RawPeer::greet(socket, i32::MAX as u32).await;
    peer.say(&update(0, 1 << 30)).await;
    for n in 0..8 {
        peer.say(&call(2 * n + 1, "/10000000")).await;
    }
    assert_eq!(server.end().await, End::Stalled);
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"stalled\"} 1");
    assert!(server.flow.snapshot().connections.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_cut_and_one_that_answers_is_kept() {
    let keep_alive = KeepAlive {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(15),
    };
    let options = Http2Options {
        keep_alive: Some(keep_alive),
        ..Http2Options::default()
    };
    let (mut server, socket) = Server::start(Flow::default(), options);
    let mut peer = RawPeer::greet(socket, 65_535).await;
    for _ in 0..3 {
        let (.., payload) = peer.next_of(PING, 0).await;
        peer.say(&frame(PING, ACK, 0, &payload)).await;
    }
    peer.next_of(PING, 0).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(server.end().await, End::Silent);
    assert_eq!(asked.elapsed().as_secs(), 15);
    server.counted("flow_pings_total{front=\"test\",reason=\"keepalive\"} 4");
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"silent\"} 1");
}

#[tokio::test(start_paused = true)]
async fn uploads_that_are_reset_on_their_way_leave_nothing_behind() {
    let (server, socket) = Server::plain();
    let client = Client::over(socket).await;
    for round in 0..50 {
        let (answer, mut stream) = client
            .begin(if round % 2 == 0 { "/hold" } else { "/sink" }, false)
            .await;
        stream.send_data(Bytes::from(vec![1; 40_000]), false).unwrap();
        tokio::task::yield_now().await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        let answer = in_time(client.upload("/sink", 100_000)).await.unwrap();
        assert_eq!(answer, "100000");
    }
    let answer = in_time(client.upload("/sink", 4 << 20)).await.unwrap();
    assert_eq!(answer, (4 << 20).to_string());
    let connection = server.connection();
    assert!(connection.unread_bytes < 100_000, "{}", connection.unread_bytes);
    assert_eq!(connection.streams_receiving, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_calls_end_and_takes_no_new_ones() {
    let (mut server, socket) = Server::plain();
    let client = Client::over(socket).await;
    let (answer, mut stream) = client.begin("/sink", false).await;
    stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
    in_time(client.upload("/1", 0)).await.unwrap();
    server.stop.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(client.requests.clone().ready().await.is_err());
    stream.send_data(Bytes::from_static(b", ended"), true).unwrap();
    let answer = in_time(answer).await.unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap(), "12");
    drop(client);
    assert_eq!(server.end().await, End::Closed);
}
