//! Follows the frames of one direction of an HTTP/2 connection (RFC 9113 §4.1), however its bytes are cut.
//!
//! `h2` does not tell how much DATA has come or gone, nor what is left of the windows; nine bytes before each frame do.
//! Nothing is checked here: that is the protocol's business.

use super::unfinished::Unfinished;

pub(crate) const HEADER_BYTES: usize = 9;
/// Where in it the frame's kind is, and its flags.
pub(crate) const KIND_AT: usize = 3;
/// The flag of SETTINGS that acknowledge.
pub(crate) const ACK: u8 = 1;
/// The flag of a stream's last frame.
pub(crate) const END_STREAM: u8 = 1;
/// The flag of the last frame of a list of headers.
pub(crate) const END_HEADERS: u8 = 4;
/// The flag of frames whose payload begins with the length of its padding.
pub(crate) const PADDED: u8 = 8;
/// The bit before a stream's id or an increment means nothing.
pub(crate) const ID: u32 = 0x7fff_ffff;
/// Bytes of a payload that are looked at.
const PEEK_BYTES: usize = 4;

/// Kinds of frames, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    Reset = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    /// Any other: to be ignored (RFC 9113 §4.1).
    Unknown = 10,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Data,
        Self::Headers,
        Self::Priority,
        Self::Reset,
        Self::Settings,
        Self::PushPromise,
        Self::Ping,
        Self::GoAway,
        Self::WindowUpdate,
        Self::Continuation,
        Self::Unknown,
    ];

    /// Of a frame with this number.
    pub(crate) fn of(number: u8) -> Self {
        *Self::ALL.get(usize::from(number)).unwrap_or(&Self::Unknown)
    }

    /// As in the protocol's text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "DATA",
            Self::Headers => "HEADERS",
            Self::Priority => "PRIORITY",
            Self::Reset => "RST_STREAM",
            Self::Settings => "SETTINGS",
            Self::PushPromise => "PUSH_PROMISE",
            Self::Ping => "PING",
            Self::GoAway => "GOAWAY",
            Self::WindowUpdate => "WINDOW_UPDATE",
            Self::Continuation => "CONTINUATION",
            Self::Unknown => "unknown",
        }
    }
}

/// The head of a frame, and what of its payload is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// By number; it may be of [`Kind::Unknown`].
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// The payload's length.
    pub(crate) bytes: u64,
    /// Of that: padding, and the byte that says how much there is.
    pub(crate) padding: u64,
}

impl Head {
    /// Of the frame that these bytes begin with, with the length of its payload; padding is not looked at.
    pub(crate) fn of(bytes: &[u8]) -> Option<(Self, usize)> {
        let head = Self::read(*bytes.first_chunk()?);
        // Less than 2^24.
        Some((head, head.bytes as usize))
    }

    fn read([a, b, c, kind, flags, s0, s1, s2, s3]: [u8; HEADER_BYTES]) -> Self {
        Self {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & ID,
            bytes: u32::from_be_bytes([0, a, b, c]).into(),
            padding: 0,
        }
    }
}

/// What one direction has carried.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// Bytes in all, frame headers included.
    pub bytes: u64,
    /// Bytes of DATA, padding included: what flow control counts.
    pub data_bytes: u64,
    /// Credit given to the whole connection by WINDOW_UPDATE, in bytes.
    pub connection_credit: u64,
    /// Frames by [`Kind`].
    pub counts: [u64; Kind::ALL.len()],
    header: [u8; HEADER_BYTES + PEEK_BYTES],
    /// How much of `header` is there.
    have: usize,
    /// What is still to come of the present frame's payload.
    rest: u64,
    /// Bytes still to pass over at the very beginning.
    preface: usize,
    /// Bytes before the present frame, or before the list of headers that it is of.
    began: u64,
    /// The list of headers goes on with the next frame.
    in_headers: bool,
}

impl Frames {
    /// One that passes over a client's preface.
    #[must_use]
    pub fn after_preface(bytes: usize) -> Self {
        Self {
            preface: bytes,
            ..Self::default()
        }
    }

    /// How many frames of that kind there were.
    #[must_use]
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize]
    }

    /// Whether the next byte begins a frame that goes on with nothing before it.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.rest == 0 && self.preface == 0 && !self.in_headers
    }

    /// What has begun and not ended.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        // The kind is the byte after the length; before it has come, the one of the frame before is still there.
        let is_data = self.header[3] == Kind::Data as u8 && !(1..=3).contains(&self.have);
        (self.have > 0 || self.rest > 0 || self.in_headers).then_some(Unfinished {
            offset: self.began,
            is_data: is_data && !self.in_headers,
        })
    }

    /// Of a head that is not whole, the bytes that are here from its kind on, and those still to come, if the frame may turn
    /// out to be [hollow](Head::is_hollow).
    pub(crate) fn half_a_head(&self) -> Option<(usize, usize)> {
        let may_be = self.length() == 0 && self.header[KIND_AT] == Kind::Data as u8;
        (may_be && (KIND_AT + 1..HEADER_BYTES).contains(&self.have))
            .then(|| (self.have - KIND_AT, HEADER_BYTES - self.have))
    }

    /// Takes the next bytes of the direction, and only counts.
    pub fn count_in(&mut self, bytes: &[u8]) {
        // Nothing refuses a frame.
        let _ = self.take(bytes, |_, _| Ok::<_, std::convert::Infallible>(()));
    }

    /// Takes the next bytes of the direction, and shows each frame that begins, with how many of the bytes it took to see
    /// that. An error ends it: it comes back with how many of the bytes were before that frame.
    pub(crate) fn take<E>(
        &mut self,
        bytes: &[u8],
        mut see: impl FnMut(&Head, usize) -> Result<(), E>,
    ) -> Result<(), (usize, E)> {
        let len = bytes.len();
        let before = self.bytes;
        self.bytes += len as u64;
        let preface = self.preface.min(len);
        self.preface -= preface;
        let (mut at, mut frame) = (preface, preface);
        while at < len {
            if self.rest > 0 {
                let n = self.rest.min((len - at) as u64);
                self.rest -= n;
                // At most the length of a slice.
                at += n as usize;
                continue;
            }
            if self.have == 0 {
                frame = at;
                if !self.in_headers {
                    self.began = before + at as u64;
                }
            }
            let n = (self.needed() - self.have).min(len - at);
            self.header[self.have..self.have + n].copy_from_slice(&bytes[at..at + n]);
            self.have += n;
            at += n;
            if self.have == self.needed() {
                let head = self.begin();
                see(&head, at).map_err(|error| (frame, error))?;
            }
        }
        Ok(())
    }

    /// Bytes to collect before a frame can be counted.
    fn needed(&self) -> usize {
        if self.have < HEADER_BYTES {
            return HEADER_BYTES;
        }
        let (length, padded) = (self.length(), self.header[4] & PADDED != 0);
        match self.header[3] {
            kind if kind == Kind::WindowUpdate as u8 && length >= PEEK_BYTES as u64 => {
                HEADER_BYTES + PEEK_BYTES
            }
            kind if kind == Kind::Data as u8 && padded && length > 0 => HEADER_BYTES + 1,
            _ => HEADER_BYTES,
        }
    }

    fn length(&self) -> u64 {
        let [a, b, c, ..] = self.header;
        u64::from(u32::from_be_bytes([0, a, b, c]))
    }

    fn begin(&mut self) -> Head {
        let [head @ .., c0, c1, c2, c3] = self.header;
        let mut head = Head::read(head);
        let (kind, length) = (head.kind, head.bytes);
        let peeked = self.have - HEADER_BYTES;
        self.counts[Kind::of(kind) as usize] += 1;
        self.in_headers = match Kind::of(kind) {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => head.flags & END_HEADERS == 0,
            _ => false,
        };
        if kind == Kind::Data as u8 {
            self.data_bytes += length;
            if peeked > 0 {
                head.padding = (u64::from(c0) + 1).min(length);
            }
        } else if peeked > 0 && head.stream == 0 {
            self.connection_credit += u64::from(u32::from_be_bytes([c0, c1, c2, c3]) & ID);
        }
        self.have = 0;
        self.rest = length - peeked as u64;
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use setpoint_testkit::frames::{PREFACE, frame};

    #[test]
    fn what_is_begun_is_seen_until_its_last_byte() {
        const HEADERS: u8 = 1;
        // The list of headers is one from its first frame to the last CONTINUATION.
        let mut bytes = frame(6, 0, 0, &[0; 8]);
        let list = bytes.len() as u64;
        bytes.extend(frame(HEADERS, 0, 1, b"one"));
        bytes.extend(frame(9, 0, 1, b"two"));
        let last = bytes.len() + 4;
        bytes.extend(frame(9, 0, 1, b"three"));
        bytes[last] = END_HEADERS;
        let data = bytes.len() as u64;
        bytes.extend(frame(0, 0, 1, &[0; 20]));
        let end = bytes.len() as u64;
        let mut seen = Frames::after_preface(0);
        for (before, byte) in bytes.iter().enumerate() {
            seen.count_in(std::slice::from_ref(byte));
            let (so_far, is_data) = (before as u64 + 1, before as u64 >= data + 3);
            let offset = match so_far {
                _ if so_far == list || so_far == data || so_far == end => None,
                _ if so_far < list => Some(0),
                _ if so_far < data => Some(list),
                _ => Some(data),
            };
            let expected = offset.map(|offset| Unfinished { offset, is_data });
            assert_eq!(seen.unfinished(), expected, "after {so_far} bytes");
        }
    }

    proptest! {
        #[test]
        fn frames_are_counted_however_their_bytes_are_cut(
            frames in prop::collection::vec((0_u8..12, 0_u32..3, prop::collection::vec(any::<u8>(), 0..40)), 0..30),
            cuts in prop::collection::vec(1_usize..20, 1..30),
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut counts = [0; 11];
            let (mut data, mut credit) = (0, 0);
            for (kind, stream, payload) in &frames {
                bytes.extend(frame(*kind, 0, *stream, payload));
                counts[usize::from(*kind).min(10)] += 1;
                if *kind == 0 {
                    data += payload.len() as u64;
                }
                if let (8, 0, [a, b, c, d, ..]) = (kind, stream, &payload[..]) {
                    credit += u64::from(u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff);
                }
            }
            let mut seen = Frames::after_preface(24);
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let n = cuts.next().map_or(1, |cut| (*cut).min(rest.len()));
                let taken = seen.take(&rest[..n], |_, _| Ok::<_, ()>(()));
                prop_assert_eq!(taken, Ok(()));
                rest = &rest[n..];
            }
            prop_assert_eq!(seen.counts, counts);
            prop_assert_eq!((seen.data_bytes, seen.connection_credit), (data, credit));
            prop_assert_eq!(seen.bytes, bytes.len() as u64);
        }
    }
}
