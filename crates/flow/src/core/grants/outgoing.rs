//! What the protocol writes, on its way out: SETTINGS say our initial window instead of its own, its WINDOW_UPDATEs stay
//! behind, and what it says of streams is noted.
//!
//! ```text
//! written    SETTINGS(initial window 2^31-1)   WINDOW_UPDATE(0)   HEADERS  CONTINUATION   DATA
//! sent       SETTINGS(initial window 1 MiB)                       HEADERS  CONTINUATION   DATA   WINDOW_UPDATE(ours)
//! between frames?                           ^                   ^                       ^      ^
//! ```
//!
//! Bytes may be cut anywhere. Nothing is held back but the head of a frame that is not whole yet, and SETTINGS entries.

use super::Grants;
use crate::core::flood::{Faults, Said};
use crate::core::frames::{ACK, END_HEADERS, ID, Kind};

const HEAD_BYTES: usize = 9;
/// An id and a value.
const ENTRY_BYTES: usize = 6;
/// SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: u16 = 4;
/// So much of a GOAWAY is kept: a reason and thirty-two bytes of text.
const FAREWELL_BYTES: usize = 4 + 32;

/// What the rest of the present frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Passed on as it is.
    Passed,
    /// SETTINGS; entries are collected.
    Settings,
    /// Left out.
    Dropped,
}

/// The sending direction of one connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    /// All bytes that were sent, and those of DATA.
    pub(crate) bytes: u64,
    pub(crate) data_bytes: u64,
    /// What the peer may react to.
    pub(crate) said: Said,
    /// Streams that were reset for a fault.
    pub(crate) faults: Faults,
    /// Calls of which nobody was told, since their headers were larger than they may be: the protocol has answered 431.
    pub(crate) too_large: u64,
    /// The last stream whose call somebody was told of. The protocol reads, writes, and only then tells of calls, each after
    /// those before it: what it answers beyond that is its own.
    pub(crate) begun: u32,
    /// The beginning of a frame, or of an entry.
    held: [u8; HEAD_BYTES + 4],
    have: usize,
    need: usize,
    rest: Rest,
    left: usize,
    /// Still to come of a client's preface.
    preface: usize,
    in_headers: bool,
    /// What the last GOAWAY says after the last stream: why, and text for who looks.
    farewell: [u8; FAREWELL_BYTES],
    said_farewell: usize,
    in_farewell: bool,
    /// What SETTINGS say of the initial window.
    announces: u32,
}

impl Outgoing {
    /// After so many bytes that begin the connection.
    pub(crate) fn after_preface(bytes: usize) -> Self {
        Self {
            bytes: 0,
            data_bytes: 0,
            said: Said::default(),
            faults: Faults::default(),
            too_large: 0,
            begun: u32::MAX,
            held: [0; HEAD_BYTES + 4],
            have: 0,
            need: HEAD_BYTES,
            rest: Rest::Passed,
            left: 0,
            preface: bytes,
            in_headers: false,
            farewell: [0; FAREWELL_BYTES],
            said_farewell: 0,
            in_farewell: false,
            announces: 0,
        }
    }

    /// Whether frames of ours may go now.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.have == 0 && self.preface == 0 && !self.in_headers
    }

    /// Whether the next bytes belong to a frame that passes as it is. They are taken then, and are to be sent.
    pub(crate) fn pass(&mut self, bytes: usize) -> bool {
        let passes = self.preface == 0 && self.rest == Rest::Passed && bytes <= self.left;
        if passes {
            self.left -= bytes;
            self.bytes += bytes as u64;
        }
        passes
    }

    /// Takes the next bytes; what is to be sent for them is added to `out`.
    pub(crate) fn take(&mut self, mut bytes: &[u8], grants: &mut Grants, out: &mut Vec<u8>) {
        let before = out.len();
        while !bytes.is_empty() {
            let n = if self.preface > 0 {
                let n = self.preface.min(bytes.len());
                self.preface -= n;
                out.extend_from_slice(&bytes[..n]);
                n
            } else if self.left > 0 && self.rest != Rest::Settings {
                let n = self.left.min(bytes.len());
                self.left -= n;
                if self.in_farewell {
                    self.keep_farewell(&bytes[..n]);
                }
                if self.rest == Rest::Passed {
                    out.extend_from_slice(&bytes[..n]);
                }
                n
            } else if self.left > 0 {
                self.entry(bytes, out)
            } else {
                self.head(bytes, grants, out)
            };
            bytes = &bytes[n..];
        }
        self.bytes += (out.len() - before) as u64;
    }

    /// The text of the last GOAWAY, as far as it is kept.
    pub(crate) fn farewell(&self) -> &[u8] {
        self.farewell[..self.said_farewell].get(4..).unwrap_or_default()
    }

    fn keep_farewell(&mut self, bytes: &[u8]) {
        let room = &mut self.farewell[self.said_farewell..];
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.said_farewell += n;
    }

    /// Collects an entry of SETTINGS; how many bytes it took.
    fn entry(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> usize {
        let need = ENTRY_BYTES.min(self.left + self.have);
        let n = (need - self.have).min(bytes.len());
        self.held[self.have..self.have + n].copy_from_slice(&bytes[..n]);
        self.have += n;
        self.left -= n;
        if self.have == need {
            if let [a, b, value @ ..] = &mut self.held[..need]
                && u16::from_be_bytes([*a, *b]) == INITIAL_WINDOW
                && value.len() == 4
            {
                value.copy_from_slice(&self.announces.to_be_bytes());
            }
            out.extend_from_slice(&self.held[..need]);
            self.have = 0;
        }
        n
    }

    /// Collects the beginning of a frame; how many bytes it took.
    fn head(&mut self, bytes: &[u8], grants: &mut Grants, out: &mut Vec<u8>) -> usize {
        let n = (self.need - self.have).min(bytes.len());
        self.held[self.have..self.have + n].copy_from_slice(&bytes[..n]);
        self.have += n;
        if self.have < self.need {
            return n;
        }
        let [_, a, b, kind, ..] = self.held;
        let length = usize::from(self.held[0]) << 16 | usize::from(u16::from_be_bytes([a, b]));
        let peeks = [Kind::WindowUpdate, Kind::GoAway, Kind::Reset]
            .iter()
            .any(|peeked| kind == *peeked as u8);
        if self.need == HEAD_BYTES && peeks && length >= 4 {
            self.need = HEAD_BYTES + 4;
            return n;
        }
        self.left = length - (self.have - HEAD_BYTES);
        let passes = self.begin(kind, length, grants);
        if passes {
            out.extend_from_slice(&self.held[..self.have]);
        }
        self.have = 0;
        self.need = HEAD_BYTES;
        n
    }

    /// A frame begins; whether it passes.
    fn begin(&mut self, kind: u8, length: usize, grants: &mut Grants) -> bool {
        let [_, _, _, _, flags, s0, s1, s2, s3, p0, p1, p2, p3] = self.held;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & ID;
        let peeked = u32::from_be_bytes([p0, p1, p2, p3]) & ID;
        self.rest = Rest::Passed;
        self.in_farewell = kind == Kind::GoAway as u8;
        const DATA: u8 = Kind::Data as u8;
        const HEADERS: u8 = Kind::Headers as u8;
        const PUSH: u8 = Kind::PushPromise as u8;
        const CONTINUATION: u8 = Kind::Continuation as u8;
        const SETTINGS: u8 = Kind::Settings as u8;
        const RESET: u8 = Kind::Reset as u8;
        const GO_AWAY: u8 = Kind::GoAway as u8;
        const UPDATE: u8 = Kind::WindowUpdate as u8;
        match kind {
            DATA => {
                self.data_bytes += length as u64;
                self.said.data += 1;
            }
            HEADERS | PUSH | CONTINUATION => {
                self.in_headers = flags & END_HEADERS == 0;
                if kind == HEADERS {
                    self.said.headers += 1;
                    if stream > self.begun {
                        self.too_large += 1;
                        self.said.faults += 1;
                    }
                    grants.says(stream);
                }
            }
            SETTINGS if flags & ACK == 0 => {
                self.announces = grants.settings();
                self.rest = Rest::Settings;
            }
            RESET => {
                self.said.reset(peeked, &mut self.faults);
                grants.reset(stream);
            }
            GO_AWAY => {
                self.said_farewell = 0;
                grants.goes_away(peeked);
            }
            UPDATE if !grants.passes(stream, u64::from(peeked)) => {
                self.rest = Rest::Dropped;
                return false;
            }
            _ => (),
        }
        true
    }
}
