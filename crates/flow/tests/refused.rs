//! Calls that are refused, or are none, for as long as a connection lives: now and then they are nobody's end, thousands a
//! second are.

use std::time::Duration;

use h2::Reason;
use setpoint_flow::Flow;
use setpoint_flow::http2::{End, Http2Options};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::support::raw::*;
use super::support::*;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
/// Calls that are sent before their answers are read.
const BATCH: u32 = 250;

fn two_calls_at_a_time() -> Http2Options {
    Http2Options {
        streams_max: 2,
        ..Http2Options::default()
    }
}

/// A call without a method.
fn no_call(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x84, 0x86])
}

/// A client with calls 1 and 3 open.
async fn busy<S: AsyncRead + AsyncWrite + Unpin>(socket: S) -> RawPeer<S> {
    let mut peer = RawPeer::greet(socket, 65_535).await;
    peer.say(&[call(1, "/hold"), call(3, "/hold")].concat()).await;
    peer
}

/// Makes so many calls that are reset for `reason`, from stream `first` on.
async fn reset_each<S: AsyncRead + AsyncWrite + Unpin>(
    peer: &mut RawPeer<S>,
    first: u32,
    calls: u32,
    one: impl Fn(u32) -> Vec<u8>,
    reason: u32,
) -> u32 {
    let streams = (0..calls).map(|n| first + 2 * n).collect::<Vec<_>>();
    for batch in streams.chunks(BATCH as usize) {
        peer.say(&batch.iter().flat_map(|stream| one(*stream)).collect::<Vec<_>>())
            .await;
        for stream in batch {
            let (.., why) = peer.next_of(RST_STREAM, *stream).await;
            assert_eq!(why, reason.to_be_bytes(), "stream {stream}");
        }
    }
    first + 2 * calls
}

/// Ends one of the calls, and makes another, which is served.
async fn is_served<S: AsyncRead + AsyncWrite + Unpin>(peer: &mut RawPeer<S>, stream: u32) {
    peer.say(&[reset(1, 8), call(stream, "/7")].concat()).await;
    assert_eq!(peer.next_of(DATA, stream).await.3, [7; 7]);
}

async fn over_tcp(options: Http2Options) -> (Server, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (theirs, _) = listener.accept().await.unwrap();
    (Server::over(theirs, Flow::default(), options), ours)
}

#[tokio::test]
async fn who_is_refused_thousands_of_times_keeps_its_connection() {
    let (server, socket) = over_tcp(two_calls_at_a_time()).await;
    let mut peer = busy(socket).await;
    let next = reset_each(&mut peer, 5, 3_000, |stream| call(stream, "/9"), REFUSED_STREAM).await;
    is_served(&mut peer, next).await;
    server.counted("flow_streams_reset_total{front=\"test\",reason=\"refused\"} 3000");
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

#[tokio::test]
async fn who_makes_thousands_of_calls_that_are_none_keeps_its_connection() {
    let (server, socket) = over_tcp(Http2Options::default()).await;
    let mut peer = busy(socket).await;
    let next = reset_each(&mut peer, 5, 3_000, no_call, PROTOCOL_ERROR).await;
    is_served(&mut peer, next).await;
    server.counted("flow_streams_reset_total{front=\"test\",reason=\"protocol\"} 3000");
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

#[tokio::test(start_paused = true)]
async fn a_long_life_holds_any_number_of_refusals() {
    let (server, socket) = Server::start(Flow::default(), two_calls_at_a_time());
    let mut peer = busy(socket).await;
    let mut next = 5;
    for _ in 0..10 {
        next = reset_each(
            &mut peer,
            next,
            4_000,
            |stream| call(stream, "/9"),
            REFUSED_STREAM,
        )
        .await;
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    is_served(&mut peer, next).await;
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_calls_that_are_refused_or_none_ends_its_connection() {
    for (what, options, one) in [
        (
            "refused",
            two_calls_at_a_time(),
            &(|stream| call(stream, "/hold")) as &dyn Fn(u32) -> Vec<u8>,
        ),
        ("none", Http2Options::default(), &no_call),
    ] {
        let (mut server, socket) = Server::start(Flow::default(), options);
        let mut peer = busy(socket).await;
        let flood: Vec<u8> = (0..40_000).flat_map(|n| one(5 + 2 * n)).collect();
        assert!(!peer.flood(&flood).await, "{what}: all of it was taken");
        assert_eq!(
            server.end().await,
            End::Refused(Reason::ENHANCE_YOUR_CALM),
            "{what}"
        );
        server.counted("flow_floods_total{front=\"test\",kind=\"HEADERS\"} 1");
    }
}
