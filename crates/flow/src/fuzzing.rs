//! Doors for fuzzers to what parses bytes from the network. Not an API.

use std::collections::HashSet;

use crate::core::bypass::{Bypass, Closed, Sides};
use crate::core::frames::{HEADER_BYTES, Head, Kind};

/// The protocol, and somebody who answers every other call.
#[derive(Default)]
struct Both {
    /// Streams of whole lists that were passed on since somebody looked, and of all HEADERS.
    fresh: Vec<u32>,
    opened: HashSet<u32>,
    /// What is still to come of a frame.
    rest: usize,
    passed: usize,
    answered: HashSet<u32>,
    asked: u64,
}

impl Sides for Both {
    fn pass(&mut self, mut bytes: &[u8]) {
        self.passed += bytes.len();
        let n = self.rest.min(bytes.len());
        self.rest -= n;
        bytes = &bytes[n..];
        while let Some((head, len)) = Head::of(bytes) {
            let here = (HEADER_BYTES + len).min(bytes.len());
            self.rest = HEADER_BYTES + len - here;
            bytes = &bytes[here..];
            if head.kind == Kind::Headers as u8 {
                self.fresh.push(head.stream);
                self.opened.insert(head.stream);
            }
        }
        assert!(bytes.is_empty(), "half a head is passed on");
    }

    fn answer(&mut self, stream: u32, _place: usize, _body: &[u8]) -> bool {
        self.asked += 1;
        let answers = self.asked % 2 == 1;
        if answers {
            assert!(!self.opened.contains(&stream), "it was passed on as well");
            assert!(self.answered.insert(stream), "it was answered twice");
        }
        answers
    }
}

/// Shows bytes to a connection's bypass, so many at a time, and lets it learn from what it passes on.
///
/// # Panics
/// When a call is answered that was passed on, or answered before, or when more is passed on than there was.
pub fn bypass(bytes: &[u8], cut: usize) {
    let (mut both, mut bypass, mut tail) = (Both::default(), Bypass::default(), Vec::new());
    for piece in bytes.chunks(cut.max(1)) {
        tail.extend_from_slice(piece);
        match bypass.take(&tail, &mut both) {
            Ok(taken) => drop(tail.drain(..taken)),
            Err(Closed) => break,
        }
        for stream in both.fresh.drain(..) {
            if bypass.place_of(stream).is_some() {
                bypass.learn();
            }
        }
    }
    assert!(both.passed <= bytes.len());
}
