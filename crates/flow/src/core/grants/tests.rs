//! Grants against a peer that keeps its own accounts.

use std::collections::HashMap;
use std::time::Duration;

pub(super) use setpoint_testkit::frames::frame;

use super::*;
use crate::core::frames::Frames;

pub(super) const SETTINGS: u8 = Kind::Settings as u8;
pub(super) const DATA: u8 = Kind::Data as u8;
pub(super) const HEADERS: u8 = Kind::Headers as u8;
pub(super) const RESET: u8 = Kind::Reset as u8;

pub(super) fn initial(bytes: u32) -> Vec<u8> {
    let [a, b, c, d] = bytes.to_be_bytes();
    frame(
        SETTINGS,
        0,
        0,
        &[0, 3, 0, 0, 0, 100, 0, 4, a, b, c, d, 0, 6, 0, 0, 1, 0],
    )
}

/// Frames as they come, to their ends: kind, flags, stream, payload.
fn cut(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [_, a, b, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*a, *b]));
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        frames.push((*kind, *flags, stream, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    frames
}

/// Our end of a connection, and what its peer knows.
pub(super) struct Ends {
    pub(super) grants: Grants,
    outgoing: Outgoing,
    frames: Frames,
    pub(super) now: Instant,
    /// The peer's account: the initial window, the connection's credit, and each stream's beyond the initial window.
    pub(super) peer_initial: i64,
    pub(super) peer_connection: i64,
    pub(super) peer_streams: HashMap<u32, i64>,
}

impl Ends {
    /// SETTINGS were sent and have been acknowledged.
    pub(super) fn settled(stream: u64, connection: u64) -> Self {
        let mut ends = Self::greeting(stream, connection);
        ends.say(SETTINGS, ACK, 0, &[]);
        ends
    }

    /// SETTINGS and the protocol's update of the connection were sent.
    pub(super) fn greeting(stream: u64, connection: u64) -> Self {
        let mut ends = Self::said(stream, connection);
        ends.write(&frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
        ends
    }

    fn said(stream: u64, connection: u64) -> Self {
        let mut grants = Grants::default();
        grants.set_initial(stream);
        grants.set_share(stream);
        grants.set_window(connection);
        let mut ends = Self {
            grants,
            outgoing: Outgoing::after_preface(0),
            frames: Frames::default(),
            now: Instant::now(),
            peer_initial: 65_535,
            peer_connection: 65_535,
            peer_streams: HashMap::new(),
        };
        ends.write(&initial(i32::MAX as u32));
        ends
    }

    /// The protocol writes; the peer hears it, and the updates that are due.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut out = Vec::new();
        self.outgoing.take(bytes, &mut self.grants, &mut out);
        if self.outgoing.is_between_frames() {
            self.grants.updates(&mut out, || self.now);
        }
        let heard = cut(&out);
        for (kind, flags, stream, payload) in &heard {
            let value = |at: usize| {
                let bytes: [u8; 4] = payload[at..at + 4].try_into().unwrap();
                i64::from(u32::from_be_bytes(bytes))
            };
            match *kind {
                SETTINGS if flags & ACK == 0 => self.peer_initial = value(8),
                8 if *stream == 0 => self.peer_connection += value(0),
                8 => *self.peer_streams.entry(*stream).or_default() += value(0),
                _ => (),
            }
        }
        heard
    }

    /// The peer says something.
    pub(super) fn hear(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), Overrun> {
        let bytes = frame(kind, flags, stream, payload);
        let grants = &mut self.grants;
        let heard = self
            .frames
            .take(&bytes, |head, _| grants.received(head).map(drop));
        heard.map_err(|(before, overrun)| {
            assert_eq!(before, 0);
            // It would be over; here it goes on with the next frame.
            self.frames = Frames::default();
            overrun
        })
    }

    #[track_caller]
    pub(super) fn say(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        assert_eq!(self.hear(kind, flags, stream, payload), Ok(()));
    }

    /// A request with a body begins, and somebody reads it.
    pub(super) fn begin(&mut self, stream: u32) {
        self.say(HEADERS, 4, stream, &[]);
        self.grants.has_reader(stream);
    }

    pub(super) fn data(&mut self, stream: u32, bytes: usize) -> Result<(), Overrun> {
        let heard = self.hear(DATA, 0, stream, &vec![0; bytes]);
        self.peer_connection -= bytes as i64;
        *self.peer_streams.entry(stream).or_default() -= bytes as i64;
        heard
    }

    /// What the peer may send on a stream.
    pub(super) fn may(&self, stream: u32) -> i64 {
        let stream = self.peer_streams.get(&stream).copied().unwrap_or(0);
        (self.peer_initial + stream).min(self.peer_connection)
    }
}

#[test]
fn the_protocols_windows_are_replaced_by_ours() {
    let mut ends = Ends::said(100_000, 400_000);
    // It reads what has come before it writes its own update, and until then holds the connection to the first window.
    assert_eq!((ends.peer_initial, ends.peer_connection), (100_000, 65_535));
    let heard = ends.write(&frame(8, 0, 0, &[0x7f, 0xff, 0, 0]));
    assert_eq!(heard, [(8, 0, 0, 334_465_u32.to_be_bytes().to_vec())]);
    assert_eq!(ends.peer_connection, 400_000);
    // Before the peer has acknowledged them, the protocol's own are right for streams.
    ends.begin(1);
    ends.data(1, 40_000).unwrap();
    ends.grants.read(1, 40_000);
    let heard = ends.write(&frame(8, 0, 1, &40_000_u32.to_be_bytes()));
    assert_eq!(heard.iter().filter(|(_, _, stream, _)| *stream == 1).count(), 1);
    assert_eq!(ends.may(1), 100_000);
    ends.say(SETTINGS, ACK, 0, &[]);
    assert_eq!(ends.write(&frame(8, 0, 1, &40_000_u32.to_be_bytes())), []);
}

#[test]
fn how_long_credit_took_to_be_used_is_known() {
    let mut ends = Ends::settled(100_000, 4 << 20);
    ends.begin(1);
    ends.begin(3);
    for _ in 0..6 {
        ends.data(1, 10_000).unwrap();
    }
    assert_eq!(ends.grants.credit_used(), None);
    ends.grants.read(1, 60_000);
    let given = ends.now;
    ends.write(&[]);
    ends.now += Duration::from_millis(20);
    for _ in 0..4 {
        ends.data(1, 10_000).unwrap();
        assert_eq!(ends.grants.credit_used(), None, "what it had before");
    }
    ends.data(1, 10_000).unwrap();
    assert_eq!(ends.grants.credit_used(), Some(given));
    assert_eq!(ends.grants.credit_used(), None);
}

#[test]
fn credit_beyond_the_first_windows_waits_for_a_delayed_acknowledgement() {
    let mut ends = Ends::greeting(1 << 20, 4 << 20);
    ends.begin(1);
    for _ in 0..4 {
        ends.data(1, 16_000).unwrap();
    }
    ends.grants.read(1, 64_000);
    assert_eq!(
        ends.write(&[]),
        [],
        "the protocol would not take more than 65,535"
    );
    ends.say(SETTINGS, ACK, 0, &[]);
    ends.data(1, 16_000).unwrap();
    ends.grants.set_share(2 << 20);
    ends.grants.read(1, 16_000);
    assert!(
        ends.write(&[])
            .iter()
            .any(|(kind, _, stream, _)| (*kind, *stream) == (8, 1))
    );
}

#[test]
fn a_stream_that_is_read_gets_more_and_one_that_is_not_keeps_what_it_had() {
    let mut ends = Ends::settled(100_000, 4 << 20);
    ends.grants.set_share(1 << 20);
    ends.begin(1);
    ends.begin(3);
    ends.data(1, 50_000).unwrap();
    ends.data(3, 50_000).unwrap();
    ends.grants.read(1, 50_000);
    ends.write(&[]);
    assert_eq!(
        ends.may(1),
        500_000,
        "what it began with, and eight times what was read"
    );
    assert_eq!(ends.may(3), 50_000);
    ends.data(3, 50_000).unwrap();
    assert_eq!(ends.data(3, 1), Err(Overrun));
}

#[test]
fn beside_many_that_are_not_read_the_one_that_is_keeps_its_window() {
    let mut ends = Ends::settled(1 << 20, 4 << 20);
    for stream in 0..4 {
        ends.begin(2 * stream + 1);
        for _ in 0..64 {
            ends.data(2 * stream + 1, 16 << 10).unwrap();
        }
    }
    assert_eq!((ends.grants.unread(), ends.peer_connection), (4 << 20, 0));
    // Smaller windows for all, and credit for the connection once that is known.
    ends.grants.set_initial(32 << 10);
    ends.write(&initial(7));
    ends.say(SETTINGS, ACK, 0, &[]);
    ends.grants.set_window(10 << 20);
    ends.grants.set_share(2 << 20);
    ends.begin(2001);
    ends.write(&[]);
    assert_eq!(
        ends.may(1),
        (32 << 10) - (1 << 20),
        "nothing more of those that are full"
    );
    let (mut sent, mut rounds) = (0_u64, 0);
    while sent < 20 << 20 {
        rounds += 1;
        for _ in 0..ends.may(2001) / (16 << 10) {
            ends.data(2001, 16 << 10).unwrap();
            ends.grants.read(2001, 16 << 10);
            sent += 16 << 10;
        }
        ends.write(&[]);
    }
    assert!(ends.may(2001) > 3 << 19, "{}", ends.may(2001));
    assert!(rounds < 20, "{rounds} round trips for 20 MiB");
    assert_eq!(ends.grants.unread(), 4 << 20);
}

#[test]
fn smaller_windows_leave_nobody_without_credit_who_is_read() {
    let mut ends = Ends::settled(1 << 20, 8 << 20);
    ends.begin(1);
    for _ in 0..32 {
        ends.data(1, 16 << 10).unwrap();
        ends.grants.read(1, 16 << 10);
    }
    ends.write(&[]);
    ends.grants.set_initial(16 << 10);
    ends.grants.set_share(16 << 10);
    // Its window becomes negative with these, and nothing is left to be read that could change it.
    ends.write(&initial(7));
    assert!(ends.may(1) >= 8 << 10, "{}", ends.may(1));
    // What was under way is within what the peer knew.
    ends.data(1, 16 << 10).unwrap();
    ends.say(SETTINGS, ACK, 0, &[]);
    ends.grants.read(1, 16 << 10);
    ends.write(&[]);
    assert!(ends.may(1) >= 8 << 10, "{}", ends.may(1));
}

#[test]
fn a_peer_that_overruns_a_stream_or_the_connection_is_found_out() {
    let mut ends = Ends::settled(20_000, 30_000);
    // The connection has 65,535 in any case.
    for stream in [1, 3, 5] {
        ends.begin(stream);
        ends.data(stream, 20_000).unwrap();
    }
    assert_eq!(ends.data(5, 1), Err(Overrun), "the stream's");
    ends.begin(7);
    ends.data(7, 5_535).unwrap();
    assert_eq!(ends.data(7, 1), Err(Overrun), "the connection's");
    assert_eq!(ends.data(7, 0), Ok(()), "nothing is never too much");
}

#[test]
fn until_it_is_acknowledged_the_larger_initial_window_counts() {
    let mut ends = Ends::settled(100_000, 1 << 20);
    ends.begin(1);
    ends.grants.set_initial(20_000);
    ends.write(&initial(7));
    ends.data(1, 100_000).unwrap();
    ends.say(SETTINGS, ACK, 0, &[]);
    assert_eq!(ends.data(1, 1), Err(Overrun));
}

#[test]
fn padding_counts_and_is_given_back_at_once() {
    let mut ends = Ends::settled(10_000, 100_000);
    ends.begin(1);
    let mut padded = vec![0; 1_000];
    padded[0] = 200;
    ends.say(DATA, 8, 1, &padded);
    assert_eq!((ends.grants.arrived(), ends.grants.unread()), (1_000, 799));
    ends.grants.read(1, 799);
    assert_eq!(ends.grants.unread(), 0);
    // Padding that is longer than its frame is the protocol's business.
    ends.say(DATA, 8, 1, &[255]);
    assert_eq!(ends.grants.unread(), 0);
}

#[test]
fn what_nobody_will_read_is_given_back_to_the_connection() {
    let mut ends = Ends::settled(20_000, 100_000);
    // Read in part, and left.
    ends.begin(1);
    ends.data(1, 10_000).unwrap();
    ends.grants.read(1, 1_000);
    ends.grants.has_left(1);
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
    ends.data(1, 10_000).unwrap();
    assert_eq!(ends.grants.unread(), 0, "came afterwards");
    assert_eq!(ends.data(1, 1), Err(Overrun), "and is still held to its window");
    // Reset by the peer before anybody could read it.
    ends.say(HEADERS, 4, 3, &[]);
    ends.data(3, 10_000).unwrap();
    ends.say(RESET, 0, 3, &[0; 4]);
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
    // Refused by the protocol.
    ends.say(HEADERS, 4, 5, &[]);
    ends.data(5, 10_000).unwrap();
    ends.write(&frame(RESET, 0, 5, &[0; 4]));
    ends.data(5, 5_000).unwrap();
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
    // Begun after GOAWAY, or before it and not served.
    ends.say(HEADERS, 4, 7, &[]);
    ends.data(7, 10_000).unwrap();
    ends.write(&frame(7, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 0]));
    ends.say(HEADERS, 4, 9, &[]);
    ends.data(9, 10_000).unwrap();
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
    assert_eq!(ends.grants.arrived(), 65_000);
}

#[test]
fn a_reset_with_unread_data_gives_the_connection_its_credit_back() {
    let mut ends = Ends::settled(60_000, 60_000);
    for stream in 0..100 {
        let stream = 2 * stream + 1;
        ends.begin(stream);
        for _ in 0..3 {
            ends.data(stream, 16_000).unwrap();
        }
        ends.say(RESET, 0, stream, &[0; 4]);
        ends.grants.has_left(stream);
        ends.write(&[]);
        assert!(ends.peer_connection >= 48_000, "{}", ends.peer_connection);
    }
    assert_eq!(ends.grants.streams.len(), 0);
}

#[test]
fn what_is_remembered_of_streams_that_were_left_is_bounded() {
    let mut ends = Ends::settled(60_000, 60_000);
    for stream in 0..10_000 {
        ends.begin(2 * stream + 1);
        ends.grants.has_left(2 * stream + 1);
    }
    assert!(ends.grants.streams.len() <= LEFT_MAX + 1);
    assert!(ends.grants.left.len() <= LEFT_MAX + 1);
}

#[test]
fn a_stream_whose_only_data_ends_it_leaves_nothing_and_costs_no_update() {
    let mut ends = Ends::settled(60_000, 60_000);
    for stream in 0..1_000 {
        let stream = 2 * stream + 1;
        ends.begin(stream);
        ends.say(DATA, END_STREAM, stream, &[0; 30]);
        assert_eq!(ends.grants.unread(), 30);
        ends.grants.read(stream, 30);
        ends.grants.has_left(stream);
        assert_eq!((ends.grants.unread(), ends.grants.streams.len()), (0, 0));
        let heard = ends.write(&[]);
        assert!(heard.iter().all(|(_, _, stream, _)| *stream == 0), "{heard:?}");
    }
}

#[test]
fn a_clients_streams_are_known_from_their_requests_on() {
    let mut ends = Ends::settled(60_000, 60_000);
    ends.grants.is_of(Role::Client);
    ends.write(&frame(HEADERS, 4, 1, &[]));
    ends.say(HEADERS, 4, 1, &[]);
    ends.data(1, 10_000).unwrap();
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (10_000, 1));
    ends.grants.has_reader(1);
    ends.grants.read(1, 10_000);
    ends.say(HEADERS, 4 | END_STREAM, 1, &[]);
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
    ends.grants.has_left(1);
    // Given up before it was answered.
    ends.grants.has_reader(3);
    ends.write(&frame(HEADERS, 4, 3, &[]));
    ends.data(3, 10_000).unwrap();
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (10_000, 1));
    ends.grants.has_left(3);
    ends.data(3, 10_000).unwrap();
    // Answered in full before anybody looked, then given up.
    ends.write(&frame(HEADERS, 4, 5, &[]));
    ends.say(DATA, END_STREAM, 5, &[0; 100]);
    ends.grants.has_reader(5);
    ends.grants.has_left(5);
    assert_eq!((ends.grants.unread(), ends.grants.receiving()), (0, 0));
}

#[test]
fn a_waiting_connection_is_woken_once_and_not_within_its_turn() {
    let mut ends = Ends::settled(20_000, 200_000);
    ends.begin(1);
    ends.data(1, 20_000).unwrap();
    ends.grants.begin_turn();
    assert!(!ends.grants.read(1, 5_000), "its end comes anyway");
    ends.grants.end_turn();
    ends.write(&[]);
    let woken: Vec<_> = (0..15).map(|_| ends.grants.read(1, 1_000)).collect();
    assert_eq!(woken.iter().filter(|woken| **woken).count(), 1, "{woken:?}");
    ends.write(&[]);
    assert!(ends.may(1) >= 10_000);
}

#[test]
fn the_streams_that_are_shown_are_those_with_the_most_unread() {
    let mut ends = Ends::settled(20_000, 200_000);
    for stream in 0..10 {
        ends.begin(2 * stream + 1);
        ends.data(2 * stream + 1, 1_000 * stream as usize).unwrap();
    }
    let shown = ends.grants.largest(2);
    let ids: Vec<_> = shown.iter().map(|it| (it.id, it.unread, it.left)).collect();
    assert_eq!(ids, [(19, 9_000, 11_000), (17, 8_000, 12_000)]);
    assert_eq!(ends.grants.largest(100).len(), 10);
}
