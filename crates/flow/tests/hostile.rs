//! Peers that mean harm: each gets the protocol's error for itself alone, is counted, and costs bounded memory.

use std::time::Duration;

use h2::Reason;
use setpoint_flow::Flow;
use setpoint_flow::http2::{End, Http2Options, KeepAlive};

use super::support::raw::*;
use super::support::*;

/// Greets, floods, and tells how the connection ended, which the peer was told as well. A neighbour has a call under way, and
/// is answered before and after; nobody else is left.
pub(crate) async fn flooded(flood: &[u8]) -> (Server, End) {
    let (mut server, socket) = Server::plain();
    let mut neighbour = Neighbour::of(&server.flow).await;
    neighbour.is_well().await;
    let mut peer = RawPeer::greet(socket, 65_535).await;
    peer.flood(flood).await;
    // What is answered is read to the end.
    while peer.next().await.is_some() {}
    let end = server.end().await;
    if let End::Refused(reason) = end {
        assert_eq!(peer.told, Some(reason));
    }
    server.counted("flow_connections_ended_total{front=\"test\",how=\"cut\"} 1");
    assert_eq!(server.flow.snapshot().connections.len(), 1);
    neighbour.ends_well().await;
    (server, end)
}

/// The line of metrics that says so.
pub(crate) fn cut(reason: &str) -> String {
    format!("flow_connections_cut_total{{front=\"test\",reason=\"{reason}\"}} 1")
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_reset_at_once_are_bounded() {
    let flood: Vec<u8> = (0..40_000)
        .flat_map(|n| {
            let mut bytes = call(2 * n + 1, "/hold");
            bytes.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
            bytes
        })
        .collect();
    let (server, end) = flooded(&flood).await;
    assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM));
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"resets\"} 1");
}

/// 8 KB that are 16 MB once the table of headers has been asked.
#[tokio::test(start_paused = true)]
async fn headers_that_grow_when_they_are_read_are_not_grown() {
    let mut bomb = head("/hold");
    // Into the table: "x" with 3,900 bytes (a prefix of 7 bits, then the rest).
    bomb.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xbd, 0x1d]);
    bomb.extend_from_slice(&[b'a'; 3_900]);
    // And 4,000 times out of it.
    bomb.extend_from_slice(&[0xbe; 4_000]);
    let bomb = frame(HEADERS, END_HEADERS | END_STREAM, 3, &bomb);
    let (server, end) = flooded(&bomb).await;
    assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM));
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"headers\"} 1");
}

#[tokio::test(start_paused = true)]
async fn who_closes_its_half_is_answered_or_let_go_and_leaves_nothing_behind() {
    for (what, said, how) in [
        ("a call that ends", call(1, "/9"), "closed"),
        ("a call that does not", call(1, "/hold"), "closed"),
        (
            "half a call",
            frame(HEADERS, END_HEADERS, 1, &head("/sink")),
            "closed",
        ),
        (
            "a frame that never ends",
            frame(HEADERS, END_HEADERS, 1, &head("/sink"))[..12].to_vec(),
            "gone",
        ),
    ] {
        let (mut server, socket) = Server::plain();
        let mut neighbour = Neighbour::of(&server.flow).await;
        let mut peer = RawPeer::greet(socket, 65_535).await;
        peer.say(&said).await;
        peer.half_close().await;
        while peer.next().await.is_some() {}
        let end = server.end().await;
        assert!(
            !matches!(end, End::Stalled | End::Silent),
            "{what}, {end:?}: not waited for"
        );
        assert_eq!(server.flow.snapshot().connections.len(), 1, "{what}");
        server.counted(&format!(
            "flow_connections_ended_total{{front=\"test\",how=\"{how}\"}} 1"
        ));
        neighbour.is_well().await;
        neighbour.ends_well().await;
    }
}

/// A machine that slept: an hour has gone by at once.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_cuts_nobody_who_answers() {
    let options = Http2Options {
        keep_alive: Some(KeepAlive {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(15),
        }),
        ..Http2Options::default()
    };
    let (server, socket) = Server::start(Flow::default(), options);
    let client = Client::over(socket).await;
    for _ in 0..5 {
        let answer = in_time(client.upload("/sink", 3 << 20)).await.unwrap();
        assert_eq!(answer, (3 << 20).to_string());
        tokio::time::advance(Duration::from_secs(3_600)).await;
    }
    let connection = server.connection();
    assert!(connection.unread_bytes < 1 << 20, "{connection:?}");
    assert!(!server.metrics.encode().contains("flow_connections_cut_total{"));
    // It was asked whether it is there, an hour later each time.
    server.counted("flow_pings_total{front=\"test\",reason=\"keepalive\"}");
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_none_end_their_connection() {
    for (what, bytes, reason, counted) in [
        (
            "a frame too large",
            frame(DATA, 0, 1, &vec![0; 20_000]),
            Reason::FRAME_SIZE_ERROR,
            "frame_size",
        ),
        (
            "data on no stream",
            frame(DATA, 0, 0, &[0; 10]),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "headers that are none",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 30]),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "a call of a stream that only we may open",
            call(2, "/9"),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "padding longer than its frame",
            frame(DATA, 8, 1, &[200, 0, 0]),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
    ] {
        let (server, end) = flooded(&bytes).await;
        assert_eq!(end, End::Refused(reason), "{what}");
        server.counted(&cut(counted));
    }
}

/// Within its window, and three hundred times as large in memory.
#[tokio::test(start_paused = true)]
async fn a_window_full_of_single_bytes_that_nobody_reads_is_not_kept() {
    let begun = frame(HEADERS, END_HEADERS, 1, &head("/hold"));
    let bytes = |frames| [&begun[..], &frame(DATA, 0, 1, &[0]).repeat(frames)].concat();
    let (server, end) = flooded(&bytes(100_000)).await;
    assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM));
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"small_data\"} 1");
    // As many as fit into what a slow reader may leave.
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 65_535).await;
    assert!(peer.flood(&bytes(40_000)).await);
    peer.say(&call(3, "/9")).await;
    assert_eq!(peer.next_of(DATA, 3).await.3, [7; 9]);
    assert_eq!(server.connection().unread_bytes, 40_000);
}

/// In one frame or in many, with a body to come or without.
#[tokio::test(start_paused = true)]
async fn headers_that_are_too_large_refuse_their_call_alone() {
    let options = Http2Options {
        header_bytes_max: 4 << 10,
        ..Http2Options::default()
    };
    let (server, socket) = Server::start(Flow::default(), options);
    let mut neighbour = Neighbour::of(&server.flow).await;
    let mut peer = RawPeer::greet(socket, 65_535).await;
    // Which it acknowledges.
    peer.next_of(SETTINGS, 0).await;
    let mut block = head("/hold");
    for _ in 0..60 {
        header(&mut block, "x", &"a".repeat(100));
    }
    let (first, rest) = block.split_at(100);
    let continued = |stream, flags| {
        let mut bytes = frame(HEADERS, flags, stream, first);
        let (last, middle) = (rest.len() / 1_500, rest.chunks(1_500));
        for (n, part) in middle.enumerate() {
            bytes.extend(frame(
                CONTINUATION,
                if n == last { END_HEADERS } else { 0 },
                stream,
                part,
            ));
        }
        bytes
    };
    for (n, said) in [
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
        frame(HEADERS, END_HEADERS, 3, &block),
        continued(5, END_STREAM)[..].to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 2 * u32::try_from(n).unwrap() + 1;
        peer.say(&said).await;
        let (_, flags, ..) = peer.next_of(HEADERS, stream).await;
        assert_eq!(flags, END_HEADERS | END_STREAM, "stream {stream}");
        server.counted(&format!(
            "flow_headers_too_large_total{{front=\"test\"}} {}",
            n + 1
        ));
    }
    // The one with a body to come.
    server.counted("flow_streams_reset_total{front=\"test\",reason=\"protocol\"} 1");
    peer.say(&call(7, "/9")).await;
    assert_eq!(peer.next_of(DATA, 7).await.3, [7; 9]);
    neighbour.is_well().await;
    neighbour.ends_well().await;
    let text = server.metrics.encode();
    assert!(!text.contains("flow_connections_cut_total{"), "{text}");
    server.counted("flow_headers_too_large_total{front=\"test\"} 3");
}

#[tokio::test(start_paused = true)]
async fn who_asks_with_headers_that_are_too_large_is_answered_431() {
    let options = Http2Options {
        header_bytes_max: 4 << 10,
        ..Http2Options::default()
    };
    let (server, socket) = Server::start(Flow::default(), options);
    let client = Client::over(socket).await;
    let small = client.begin("/9", true).await;
    assert_eq!(in_time(small.0).await.unwrap().status(), 200);
    let mut large = request("/9");
    let value = http::HeaderValue::from_str(&"a".repeat(8 << 10)).unwrap();
    large.headers_mut().insert("x", value);
    let mut ready = client.requests.clone().ready().await.unwrap();
    let (answer, _stream) = ready.send_request(large, true).unwrap();
    assert_eq!(in_time(answer).await.unwrap().status(), 431);
    let small = client.begin("/9", true).await;
    assert_eq!(in_time(small.0).await.unwrap().status(), 200);
    server.counted("flow_headers_too_large_total{front=\"test\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_headers_that_are_too_large_ends_its_connection() {
    let mut block = head("/hold");
    // More than 16 KiB with what each header counts for beside its bytes, and less than a frame.
    for _ in 0..130 {
        header(&mut block, "x", &"a".repeat(100));
    }
    let flood: Vec<u8> = (0..11_000)
        .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block))
        .collect();
    let (server, end) = flooded(&flood).await;
    assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM));
    server.counted("flow_floods_total{front=\"test\",kind=\"HEADERS\"} 1");
}

#[tokio::test(start_paused = true)]
async fn headers_continued_without_end_are_cut() {
    let mut flood = frame(HEADERS, 0, 1, &head("/hold"));
    flood.extend(frame(CONTINUATION, 0, 1, &[0, 1, b'x', 1, b'a']).repeat(100_000));
    let (server, end) = flooded(&flood).await;
    assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM));
    server.counted("flow_connections_cut_total{front=\"test\",reason=\"continuations\"} 1");
}

/// Of headers that are too large already, the rest is decoded only to follow the table, and not kept.
#[tokio::test(start_paused = true)]
async fn a_string_in_headers_that_fills_frame_after_frame_is_not_kept() {
    let mut block = head("/hold");
    for _ in 0..130 {
        header(&mut block, "x", &"a".repeat(100));
    }
    // "x" with a value of some two million bytes (a prefix of 7 bits, then the rest).
    block.extend_from_slice(&[0, 1, b'x', 0x7f, 0xff, 0xff, 0x7f]);
    let mut flood = frame(HEADERS, 0, 1, &block);
    flood.extend(frame(CONTINUATION, 0, 1, &[b'a'; 16_384]).repeat(100));
    let (server, end) = flooded(&flood).await;
    assert_eq!(end, End::Refused(Reason::COMPRESSION_ERROR));
    server.counted(&cut("compression"));
}

/// A byte every second: neither silent nor idle, and in the way of everything else.
#[tokio::test(start_paused = true)]
async fn headers_that_trickle_in_are_not_waited_for() {
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("/hold"));
    let mut in_pieces = frame(HEADERS, END_STREAM, 1, &head("/hold"));
    in_pieces.extend(frame(CONTINUATION, 0, 1, &[]).repeat(20));
    for (what, bytes) in [
        ("HEADERS", whole),
        ("CONTINUATION", in_pieces),
        ("PING", frame(PING, 0, 0, &[0; 8])),
    ] {
        let (mut server, socket) = Server::plain();
        let mut peer = RawPeer::greet(socket, 65_535).await;
        let begun = tokio::time::Instant::now();
        let trickle = async {
            for byte in bytes {
                peer.say(&[byte]).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            () = trickle => unreachable!("it never ends"),
            end = server.end() => end,
        };
        assert_eq!(end, End::Unfinished, "{what}");
        assert_eq!(begun.elapsed().as_secs(), 10, "{what}");
        server.counted("flow_connections_cut_total{front=\"test\",reason=\"unfinished\"} 1");
        assert!(server.flow.snapshot().connections.is_empty());
    }
}

/// A slow link is not an attack: DATA has longer, and each frame has its own time.
#[tokio::test(start_paused = true)]
async fn data_that_trickles_in_has_as_long_as_a_peer_that_does_not_read() {
    let (mut server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 65_535).await;
    peer.say(&frame(HEADERS, END_HEADERS, 1, &head("/sink"))).await;
    for end_stream in [0, 0, 0, END_STREAM] {
        for byte in frame(DATA, end_stream, 1, &[7; 40]) {
            peer.say(&[byte]).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    assert_eq!(peer.next_of(DATA, 1).await.3, b"160");
    peer.say(&frame(DATA, 0, 3, &[7; 40])[..20]).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(server.end().await, End::Unfinished);
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_greet_is_not_waited_for() {
    for (start, gone) in [
        (&b""[..], false),
        (b"GET / HTTP/1.1\r\n\r\n", false),
        (b"PRI * HTTP", true),
    ] {
        let (mut server, mut socket) = Server::plain();
        tokio::io::AsyncWriteExt::write_all(&mut socket, start)
            .await
            .unwrap();
        let socket = (!gone).then_some(socket);
        assert_eq!(server.end().await, End::NoGreeting);
        server.counted("flow_connections_cut_total{front=\"test\",reason=\"greeting\"} 1");
        drop(socket);
    }
}
