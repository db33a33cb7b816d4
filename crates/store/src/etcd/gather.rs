//! Watch answers on their way into frames.
//!
//! What a stream has to say at a moment is written one message behind the other into one buffer, so that it costs one
//! way through the protocol's queues and, for small events, one copy. The buffer ends at a message where it can, before
//! it would need a second frame.

use bytes::{Bytes, BytesMut};
use setpoint_proto::etcdserverpb as pb;

use super::inbound::FRAME_BYTES;
use super::wire::{self, SHARE_BYTES, delimited_len, int_len, put_frame, put_header, put_int};

/// What a frame holds at most by default: where gathering ends.
const GATHER_BYTES: usize = 16 << 10;

/// What precedes the events of a message at most: a header of four numbers, and a watch id, each with its tag.
const HEAD_BYTES_MAX: usize = 2 + 5 * 11;

/// Framed messages, in pieces: large events are shared, the rest is copied together.
#[derive(Default)]
pub(super) struct Gathered {
    pieces: Vec<Bytes>,
    open: BytesMut,
    bytes: usize,
    /// Bytes of the last message.
    last: usize,
}

impl Gathered {
    /// Whether another message like the last one should go into the next frame.
    pub(super) fn is_full(&self) -> bool {
        self.bytes + self.last > GATHER_BYTES
    }

    /// What was gathered, in order.
    pub(super) fn into_pieces(mut self) -> Vec<Bytes> {
        self.close();
        self.pieces
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(self.open.split().freeze());
        }
    }

    fn count(&mut self, len: usize) {
        self.bytes += len;
        self.last = len;
    }

    /// Adds a message that `prost` encodes.
    pub(super) fn message(&mut self, message: &pb::WatchResponse) {
        let message = wire::message(message);
        self.count(message.len());
        self.open.extend_from_slice(&message);
    }

    /// Adds a WatchResponse of encoded events; `alike` more of about this size are expected behind it.
    pub(super) fn events<'a>(
        &mut self,
        header: &pb::ResponseHeader,
        (watch_id, fragment): (i64, bool),
        events: impl Iterator<Item = &'a Bytes> + Clone,
        alike: usize,
    ) {
        let (mut events_len, mut small) = (0, 0);
        for event in events.clone() {
            events_len += event.len();
            small += if event.len() < SHARE_BYTES { event.len() } else { 0 };
        }
        let fragment = i64::from(fragment);
        let len =
            delimited_len(wire::header_len(header)) + int_len(watch_id) + int_len(fragment) + events_len;
        self.count(FRAME_BYTES + len);
        self.make_room(FRAME_BYTES + len - events_len + small, alike);
        put_frame(&mut self.open, len);
        put_header(&mut self.open, header);
        put_int(&mut self.open, 2, watch_id);
        put_int(&mut self.open, 7, fragment);
        for event in events {
            if event.len() < SHARE_BYTES {
                self.open.extend_from_slice(event);
            } else {
                self.close();
                self.pieces.push(event.clone());
            }
        }
    }

    /// Adds a WatchResponse for one of those who see the same; `alike` more of them are expected behind it.
    pub(super) fn same(&mut self, same: &Same, watch_id: i64, alike: usize) {
        let len = same.header.len() + int_len(watch_id) + same.events.len();
        self.count(FRAME_BYTES + len);
        let is_small = same.events.len() < SHARE_BYTES;
        let copied = if is_small { len } else { len - same.events.len() };
        self.make_room(FRAME_BYTES + copied, alike);
        put_frame(&mut self.open, len);
        self.open.extend_from_slice(&same.header);
        put_int(&mut self.open, 2, watch_id);
        if is_small {
            self.open.extend_from_slice(&same.events);
        } else {
            self.close();
            self.pieces.push(same.events.clone());
        }
    }

    /// Adds messages that are written already.
    pub(super) fn text(&mut self, text: Bytes) {
        self.count(text.len());
        if text.len() < SHARE_BYTES {
            self.make_room(text.len(), 0);
            self.open.extend_from_slice(&text);
        } else {
            self.close();
            self.pieces.push(text);
        }
    }

    /// As little as it takes for a message and those like it: thousands of watchers may not be reading.
    fn make_room(&mut self, room: usize, alike: usize) {
        if self.open.capacity() - self.open.len() < room {
            let all = room.saturating_mul(alike + 1).min(GATHER_BYTES);
            self.open.reserve(room.max(all.saturating_sub(self.open.len())));
        }
    }
}

/// What is the same in the answers to watchers that see the same events: all but the id.
#[derive(Default)]
pub(super) struct Same {
    showing: u64,
    header: Bytes,
    events: Bytes,
}

impl Same {
    /// Writes header and events once for all; `showing` is their number.
    pub(super) fn new<'a>(
        showing: u64,
        header: &pb::ResponseHeader,
        events: impl Iterator<Item = &'a Bytes> + Clone,
    ) -> Self {
        let mut head = BytesMut::with_capacity(delimited_len(wire::header_len(header)));
        put_header(&mut head, header);
        let events = match (events.clone().next(), events.clone().nth(1)) {
            (Some(one), None) => one.clone(),
            _ => {
                let mut all = BytesMut::with_capacity(events.clone().map(Bytes::len).sum());
                events.for_each(|event| all.extend_from_slice(event));
                all.freeze()
            }
        };
        Self {
            showing,
            header: head.freeze(),
            events,
        }
    }

    /// The messages to all of these.
    pub(super) fn to_each(&self, ids: &[i64]) -> Vec<u8> {
        let rest = self.header.len() + self.events.len();
        let all = ids.iter().map(|id| FRAME_BYTES + rest + int_len(*id)).sum();
        let mut out = BytesMut::with_capacity(all);
        for id in ids {
            put_frame(&mut out, rest + int_len(*id));
            out.extend_from_slice(&self.header);
            put_int(&mut out, 2, *id);
            out.extend_from_slice(&self.events);
        }
        out.into()
    }

    /// Whether it is of this number.
    pub(super) fn is(&self, showing: u64) -> bool {
        self.showing == showing && !self.header.is_empty()
    }
}

/// What a framed message of encoded events takes at most.
pub(super) fn most_bytes(events_len: usize) -> usize {
    FRAME_BYTES + HEAD_BYTES_MAX + events_len
}

/// How many events fit into a message that has to stay below `max` bytes; one always does.
pub(super) fn fitting<'a>(
    header: &pb::ResponseHeader,
    events: impl Iterator<Item = &'a Bytes>,
    max: usize,
) -> usize {
    // What precedes the events: header, a watch id, the fragment flag.
    let mut len = delimited_len(wire::header_len(header)) + 11 + 2;
    let mut fit = 0;
    for event in events {
        len += event.len();
        if fit > 0 && len >= max {
            break;
        }
        fit += 1;
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: u64::MAX,
            member_id: 1,
            revision: 128,
            raft_term: wire::RAFT_TERM,
        }
    }

    /// An event of so many bytes: unknown to every decoder, but whole.
    fn event(len: usize) -> Bytes {
        vec![7; len].into()
    }

    #[test]
    fn messages_follow_each_other_and_large_events_are_not_copied() {
        let (small, large) = (event(1_000), event(SHARE_BYTES));
        let mut gathered = Gathered::default();
        let mut expect = Vec::new();
        for (id, events) in [
            (3, vec![&small, &large, &small]),
            (4, vec![&small]),
            (5, vec![&large]),
        ] {
            let before: usize = gathered.bytes;
            gathered.events(&header(), (id, false), events.iter().copied(), 1);
            let mut alone = Gathered::default();
            alone.events(&header(), (id, false), events.into_iter(), 0);
            assert_eq!(gathered.bytes - before, alone.bytes);
            expect.extend(alone.into_pieces().concat());
        }
        gathered.message(&pb::WatchResponse::default());
        expect.extend(wire::message(&pb::WatchResponse::default()));
        let pieces = gathered.into_pieces();
        assert_eq!(pieces.concat(), expect);
        let shared = pieces.iter().filter(|piece| piece.as_ptr() == large.as_ptr());
        assert_eq!(shared.count(), 2);
    }

    #[test]
    fn what_is_written_once_for_many_is_what_each_would_get_alone() {
        let (small, large) = (event(1_000), event(SHARE_BYTES));
        for events in [
            vec![&small],
            vec![&small, &small],
            vec![&large],
            vec![&small, &large],
        ] {
            let same = Same::new(1, &header(), events.iter().copied());
            let (mut once, mut alone) = (Gathered::default(), Gathered::default());
            for id in [0, 1, 300, -5] {
                once.same(&same, id, 3);
                alone.events(&header(), (id, false), events.iter().copied(), 3);
            }
            assert_eq!((once.bytes, once.last), (alone.bytes, alone.last));
            assert!(once.into_pieces().concat() == alone.into_pieces().concat());
        }
        assert!(!Same::default().is(0), "nothing was written yet");
    }

    #[test]
    fn a_text_for_many_is_what_each_would_get_alone() {
        let ids = [0, 1, 127, 128, 300, -5];
        for event in [event(100), event(6_000)] {
            let same = Same::new(1, &header(), [&event, &event].into_iter());
            let (mut text, mut alone) = (Gathered::default(), Gathered::default());
            text.message(&pb::WatchResponse::default());
            alone.message(&pb::WatchResponse::default());
            let written = same.to_each(&ids);
            assert!(written.len() <= ids.len() * most_bytes(2 * event.len()));
            assert_eq!(written.capacity(), written.len(), "nothing is taken for nothing");
            text.text(written.into());
            for id in ids {
                alone.same(&same, id, 0);
            }
            assert_eq!(text.bytes, alone.bytes);
            assert!(text.into_pieces().concat() == alone.into_pieces().concat());
        }
    }

    #[test]
    fn a_frame_is_filled_with_whole_messages() {
        for len in [10, 1_000, 6_000, 9_000, 20_000] {
            let event = event(len);
            let mut gathered = Gathered::default();
            let mut messages = 0;
            while !gathered.is_full() {
                gathered.events(&header(), (1, false), std::iter::once(&event), 1_000);
                messages += 1;
            }
            let bytes: usize = gathered.into_pieces().iter().map(Bytes::len).sum();
            assert!(messages == 1 || bytes <= GATHER_BYTES, "{len}: {bytes}");
            assert!(
                messages == 1 || bytes + bytes / messages > GATHER_BYTES,
                "{len}: {bytes}"
            );
        }
    }

    #[test]
    fn a_fragment_holds_at_least_one_event_and_stays_below_the_limit() {
        let event = event(400);
        let fit = |max| fitting(&header(), std::iter::repeat_n(&event, 5), max);
        assert_eq!(fit(1_000), 2);
        assert_eq!(fit(10), 1);
        assert_eq!(fit(1 << 20), 5);
    }
}
