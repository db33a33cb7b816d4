//! Connections that live long and behave. What `h2` counts for a connection's whole life does not end them.

use setpoint_flow::http2::End;

use super::support::raw::*;
use super::support::*;

/// Calls whose clients say the end in a frame of its own, as gRPC's do.
#[tokio::test(start_paused = true)]
async fn any_number_of_calls_may_end_with_an_empty_frame() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 65_535).await;
    // Which it acknowledges.
    peer.next_of(SETTINGS, 0).await;
    let calls = 20_000;
    for batch in (0..calls).collect::<Vec<u32>>().chunks(100) {
        let said = batch.iter().flat_map(|n| {
            let stream = 2 * n + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &head("/sink")),
                frame(DATA, 0, stream, b"abc"),
                frame(DATA, END_STREAM, stream, &[]),
            ]
            .concat()
        });
        let said: Vec<u8> = said.collect();
        peer.say(&said).await;
        let mut answered = 0;
        while answered < batch.len() {
            let (kind, _, _, payload) = peer.next().await.expect("it is not cut");
            answered += usize::from(kind == DATA && payload == b"3");
        }
        peer.say(&update(0, 100)).await;
    }
    assert_eq!(server.connection().streams_total, u64::from(calls));
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

/// Some senders make a frame for each flush, of nothing as well.
#[tokio::test(start_paused = true)]
async fn any_number_of_frames_may_be_empty_over_a_long_life() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 65_535).await;
    peer.say(&frame(HEADERS, END_HEADERS, 1, &head("/sink"))).await;
    for _ in 0..30 {
        for _ in 0..100 {
            let flushes = [frame(DATA, 0, 1, b"a"), frame(DATA, 0, 1, &[]).repeat(10)].concat();
            peer.say(&flushes).await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    peer.say(&frame(DATA, END_STREAM, 1, &[])).await;
    assert_eq!(peer.next_of(DATA, 1).await.3, b"3000");
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

/// What comes byte by byte is the same.
#[tokio::test(start_paused = true)]
async fn empty_frames_in_pieces_end_nothing_either() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 65_535).await;
    peer.say(&frame(HEADERS, END_HEADERS, 1, &head("/sink"))).await;
    for at in (0..9).cycle().take(1_000) {
        let empty = frame(DATA, 0, 1, &[]);
        peer.say(&empty[..at]).await;
        tokio::task::yield_now().await;
        peer.say(&empty[at..]).await;
    }
    peer.say(&frame(DATA, END_STREAM, 1, b"end")).await;
    assert_eq!(peer.next_of(DATA, 1).await.3, b"3");
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

/// On streams that are not open it is an error as ever.
#[tokio::test(start_paused = true)]
async fn an_empty_frame_of_no_call_is_the_protocols_error() {
    for stream in [0, 7] {
        let (mut server, socket) = Server::plain();
        let mut peer = RawPeer::greet(socket, 65_535).await;
        peer.flood(&frame(DATA, 0, stream, &[])).await;
        while peer.next().await.is_some() {}
        assert_eq!(
            server.end().await,
            End::Refused(h2::Reason::PROTOCOL_ERROR),
            "{stream}"
        );
    }
}
