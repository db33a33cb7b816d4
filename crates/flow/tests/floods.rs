//! Floods: of each kind of frame some are let pass, and who sends thousands a second is told ENHANCE_YOUR_CALM, alone.

use h2::Reason;
use setpoint_flow::http2::{End, Http2Options};

use super::support::raw::*;
use super::support::*;

/// A kind that nobody has defined.
const UNKNOWN: u8 = 0xb0;
const PADDED: u8 = 8;

/// On a connection with a call open whose body has not ended, a flood and then another call: how the connection ended, or
/// `None` if that call was served.
///
/// A neighbour has a call under way, and is answered before and after; nobody else is left.
async fn flood_beside_a_call(flood: &[u8], open: bool) -> (Server, Option<End>) {
    let (mut server, socket) = Server::plain();
    let mut neighbour = Neighbour::of(&server.flow).await;
    neighbour.is_well().await;
    let mut peer = RawPeer::greet(socket, 65_535).await;
    if open {
        peer.say(&frame(HEADERS, END_HEADERS, 1, &head("/hold"))).await;
    } else {
        peer.say(&call(1, "/9")).await;
        peer.next_of(DATA, 1).await;
    }
    if peer.flood(flood).await {
        peer.flood(&call(1_000_001, "/9")).await;
    }
    while let Some((kind, _, stream, _)) = peer.next().await {
        if (kind, stream) == (DATA, 1_000_001) {
            neighbour.ends_well().await;
            return (server, None);
        }
    }
    let end = server.end().await;
    if let End::Refused(reason) = end {
        assert_eq!(peer.told, Some(reason));
    }
    assert_eq!(server.flow.snapshot().connections.len(), 1);
    neighbour.ends_well().await;
    (server, Some(end))
}

/// What brings nothing forward: its name, one of it, and how it is called where floods are counted.
fn idle_frames() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let farewell = [0; 8];
    vec![
        ("PING", frame(PING, 0, 0, &[0; 8]), "PING"),
        ("PING that answer", frame(PING, ACK, 0, &[1; 8]), "PING"),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), "SETTINGS"),
        ("SETTINGS of nothing", frame(SETTINGS, 0, 0, &[]), "SETTINGS"),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7]), "PRIORITY"),
        (
            "PRIORITY of streams that never were",
            frame(PRIORITY, 0, 77_777, &[0, 0, 0, 0, 7]),
            "PRIORITY",
        ),
        ("unknown", frame(UNKNOWN, 0xff, 1, &[9; 20]), "unknown"),
        ("unknown, of nothing", frame(UNKNOWN, 0, 0, &[]), "unknown"),
        ("the first kind that is unknown", frame(10, 0, 1, &[]), "unknown"),
        ("WINDOW_UPDATE of all", update(0, 1), "WINDOW_UPDATE"),
        ("WINDOW_UPDATE of a call", update(1, 1), "WINDOW_UPDATE"),
        ("GOAWAY", frame(GOAWAY, 0, 0, &farewell), "GOAWAY"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_frames_that_bring_nothing_forward_is_cut_although_its_answers_are_read() {
    for (name, one, kind) in idle_frames() {
        let (server, end) = flood_beside_a_call(&one.repeat(40_000), true).await;
        let end = end.unwrap_or_else(|| panic!("{name} is let pass"));
        assert_eq!(end, End::Refused(Reason::ENHANCE_YOUR_CALM), "{name}");
        server.counted("flow_connections_cut_total{front=\"test\",reason=\"calm\"} 1");
        server.counted(&format!("flow_floods_total{{front=\"test\",kind=\"{kind}\"}} 1"));
        server.counted(&format!(
            "flow_frames_received_total{{front=\"test\",kind=\"{kind}\"}}"
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_few_hundred_of_any_frame_that_brings_nothing_forward_are_let_pass() {
    for (name, one, _) in idle_frames() {
        if name == "GOAWAY" {
            // One is enough for no other call to be served.
            continue;
        }
        let (server, end) = flood_beside_a_call(&one.repeat(900), true).await;
        assert_eq!(end, None, "{name}");
        let text = server.metrics.encode();
        assert!(!text.contains("flow_connections_cut_total{"), "{name}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_its_own_connections_end_and_nobody_elses() {
    let flow = setpoint_flow::Flow::default();
    let (mut flooded, socket) = Server::start(flow.clone(), Http2Options::default());
    let (_other, beside) = Server::start(flow.clone(), Http2Options::default());
    let client = Client::over(beside).await;
    let mut peer = RawPeer::greet(socket, 65_535).await;
    let uploads = async {
        for _ in 0..20 {
            assert_eq!(
                client.upload("/sink", 1 << 20).await.unwrap(),
                (1 << 20).to_string()
            );
        }
    };
    let flood = frame(UNKNOWN, 0, 0, &[]).repeat(100_000);
    let (taken, ()) = tokio::join!(peer.flood(&flood), in_time(uploads));
    assert!(!taken, "all of the flood was taken");
    assert_eq!(flooded.end().await, End::Refused(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(client.upload("/sink", 9).await.unwrap(), "9");
    assert_eq!(flow.snapshot().connections.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_any_other_kind_ends_with_the_protocols_error() {
    let many = |frame: Vec<u8>| frame.repeat(40_000);
    let calls = || (1..40_000).flat_map(|n| call(2 * n + 1, "/hold")).collect();
    let trailers = || frame(HEADERS, END_HEADERS, 1, &[0, 1, b'x', 1, b'a']);
    let padding = [&[199_u8][..], &[0; 199]].concat();
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let (calm, wrong) = (
        (Reason::ENHANCE_YOUR_CALM, "calm"),
        (Reason::PROTOCOL_ERROR, "protocol"),
    );
    for (what, open, flood, (reason, counted)) in [
        ("DATA without data", true, many(frame(DATA, 0, 1, &[])), calm),
        (
            "DATA of padding",
            true,
            many(frame(DATA, PADDED, 1, &padding)),
            (Reason::ENHANCE_YOUR_CALM, "small_data"),
        ),
        (
            "DATA of what has ended",
            false,
            many(frame(DATA, 0, 1, &[0; 9])),
            calm,
        ),
        ("HEADERS", true, calls(), calm),
        ("HEADERS after HEADERS", true, many(trailers()), calm),
        ("RST_STREAM of a call that has ended", true, many(reset(1)), calm),
        ("RST_STREAM of a call that never was", true, reset(99), wrong),
        (
            "SETTINGS that acknowledge",
            true,
            many(frame(SETTINGS, ACK, 0, &[])),
            wrong,
        ),
        (
            "PUSH_PROMISE",
            true,
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            wrong,
        ),
        ("WINDOW_UPDATE of zero", true, update(0, 0), wrong),
        (
            "CONTINUATION of nothing",
            true,
            many(frame(CONTINUATION, 0, 1, &[])),
            wrong,
        ),
        (
            "headers without end",
            true,
            [
                frame(HEADERS, 0, 3, &head("/hold")),
                many(frame(CONTINUATION, 0, 3, &[])),
            ]
            .concat(),
            (Reason::ENHANCE_YOUR_CALM, "continuations"),
        ),
    ] {
        let (server, end) = flood_beside_a_call(&flood, open).await;
        assert_eq!(end, Some(End::Refused(reason)), "{what}");
        let counted = format!("flow_connections_cut_total{{front=\"test\",reason=\"{counted}\"}} 1");
        server.counted(&counted);
        server.counted("flow_connections_ended_total{front=\"test\",how=\"cut\"} 1");
    }
}

/// Credit in pieces of one byte is slow, not hostile: each is needed.
#[tokio::test(start_paused = true)]
async fn credit_in_many_small_pieces_is_no_flood() {
    let (server, socket) = Server::plain();
    let mut peer = RawPeer::greet(socket, 0).await;
    let bytes = 30_000;
    peer.say(&call(1, &format!("/{bytes}"))).await;
    let mut came = 0;
    while came < bytes {
        peer.say(&update(1, 1)).await;
        let (_, _, _, data) = peer.next_of(DATA, 1).await;
        came += data.len();
    }
    let text = server.metrics.encode();
    assert!(!text.contains("flow_connections_cut_total{"), "{text}");
}
