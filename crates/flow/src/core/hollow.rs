//! Frames of DATA that hold none and do not end their stream: the protocol is not shown them.
//!
//! They mean nothing, but they are allowed, and some senders make one whenever they flush. `h2` ends a connection for the
//! hundred-and-first of its whole life, so one that lives for weeks would be cut although it behaves. How many a second are
//! too many is for [`flood`](super::flood); what passes there gets a kind that nobody has defined, which is passed over.
//!
//! ```text
//! arrives   0,0,0  DATA     flags  stream        DATA of an open stream, of no length, no end
//! passed    0,0,0  unknown  flags  stream
//! arrives   0,0,0  DATA  |  flags  stream        cut in its head: the bytes from the kind on are kept until it is whole
//! ```
//!
//! Padded ones are left as they are, and those of streams that are not open: the protocol has errors for these.

use super::frames::{END_STREAM, HEADER_BYTES, Head, KIND_AT, Kind, PADDED};

/// No standard defines it, and none will: it is among those that are for trying things out.
const PASSED_OVER: u8 = 0xf7;
const KEPT_BYTES: usize = HEADER_BYTES - KIND_AT;

impl Head {
    /// DATA without any, and not the end.
    pub(crate) fn is_hollow(&self) -> bool {
        self.kind == Kind::Data as u8 && self.bytes == 0 && self.flags & (END_STREAM | PADDED) == 0
    }
}

/// Makes the protocol pass over a hollow frame whose head ends after so many of `bytes`; what was before them is `kept`.
pub(crate) fn pass_over(bytes: &mut [u8], head_end: usize, kept: &mut Kept) {
    match head_end.checked_sub(KEPT_BYTES) {
        Some(kind) => bytes[kind] = PASSED_OVER,
        None => kept.bytes[0] = PASSED_OVER,
    }
}

/// The end of what has arrived, while it is half a head that may turn out to be hollow: from its kind on.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: [u8; KEPT_BYTES],
    len: usize,
}

impl Kept {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps these as well; never more than a head has.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Gives back at most so many, the first ones.
    pub(crate) fn give(&mut self, most: usize) -> ([u8; KEPT_BYTES], usize) {
        let (given, n) = (self.bytes, most.min(self.len));
        self.bytes.copy_within(n..self.len, 0);
        self.len -= n;
        (given, n)
    }
}
