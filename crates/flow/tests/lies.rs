//! Peers that lie about windows: they give what there is not, take what they were not given, or say less than they send.

use h2::Reason;
use setpoint_flow::http2::End;

use super::hostile::{cut, flooded};
use super::support::raw::*;
use super::support::*;

const MAX: u32 = i32::MAX as u32;

/// SETTINGS of the window that streams begin with.
fn initial(window: u32) -> Vec<u8> {
    let [a, b, c, d] = window.to_be_bytes();
    frame(SETTINGS, 0, 0, &[0, 4, a, b, c, d])
}

/// A call that nobody reads, with so much of a body.
fn unread(stream: u32, frames: usize) -> Vec<u8> {
    let begun = frame(HEADERS, END_HEADERS, stream, &head("/hold"));
    [begun, frame(DATA, 0, stream, &[0; 16_384]).repeat(frames)].concat()
}

#[tokio::test(start_paused = true)]
async fn updates_of_zero_and_windows_that_overflow_end_what_they_are_about() {
    for (what, bytes, reason, counted) in [
        (
            "zero, connection",
            update(0, 0),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "zero, call",
            [call(1, "/hold"), update(1, 0)].concat(),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "half an update",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "overflow, connection",
            update(0, MAX),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "overflow, connection, in pieces",
            update(0, 1 << 20).repeat(2_048),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "overflow, all calls",
            [call(1, "/hold"), update(1, MAX - 65_535), initial(MAX)].concat(),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "settings above the maximum",
            initial(MAX + 1),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "more than a call's window",
            unread(1, 1_000),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "more than all calls' window",
            (0..100).flat_map(|n| unread(2 * n + 1, 60)).collect(),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "more than nobody's window",
            frame(DATA, 0, 1, &[0; 16_384]).repeat(1_000),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
    ] {
        let (server, end) = flooded(&bytes).await;
        assert_eq!(end, End::Refused(reason), "{what}");
        server.counted(&cut(counted));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lie_about_one_call_resets_that_call_alone() {
    // Ten bytes are said to come.
    let mut short = head("/sink");
    header(&mut short, "content-length", "10");
    let short = frame(HEADERS, END_HEADERS, 1, &short);
    for (what, said, reason, counted) in [
        (
            "a window that overflows",
            [call(1, "/hold"), update(1, MAX)].concat(),
            Reason::FLOW_CONTROL_ERROR,
            "flow_control",
        ),
        (
            "more than was said to come",
            [&short[..], &frame(DATA, 0, 1, &[0; 11])].concat(),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
        (
            "less than was said to come",
            [&short[..], &frame(DATA, END_STREAM, 1, &[0; 9])].concat(),
            Reason::PROTOCOL_ERROR,
            "protocol",
        ),
    ] {
        let (server, socket) = Server::plain();
        let mut neighbour = Neighbour::of(&server.flow).await;
        neighbour.is_well().await;
        let mut peer = RawPeer::greet(socket, 65_535).await;
        peer.say(&said).await;
        let (.., why) = peer.next_of(RST_STREAM, 1).await;
        assert_eq!(why, u32::from(reason).to_be_bytes(), "{what}");
        peer.say(&call(3, "/9")).await;
        assert_eq!(peer.next_of(DATA, 3).await.3, [7; 9], "{what}");
        neighbour.ends_well().await;
        server.counted(&format!(
            "flow_streams_reset_total{{front=\"test\",reason=\"{counted}\"}} 1"
        ));
        let text = server.metrics.encode();
        assert!(!text.contains("flow_connections_cut_total{"), "{what}: {text}");
    }
}
