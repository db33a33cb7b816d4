//! Requests that are known again by their bytes, and answered before the protocol has seen them.
//!
//! Many clients ask the same small question again and again: one path, one list of headers, another key. Decoding the list,
//! a stream with its state, a map of headers for the answer and their encoding cost more than the question. So a list that
//! somebody has looked at once is remembered by its bytes, and the next request that begins with them, and is whole, can be
//! answered at once. The protocol never hears of it: streams may be left out (RFC 9113 §5.1.1), and a list that
//! [leaves the table](block) is not missed by the decoder of the next.
//!
//! ```text
//! arrives     HEADERS 5   HEADERS 7  DATA 5   PING   DATA 7   HEADERS 9  DATA 9
//!             known       known      its end         its end  new
//! answered                           5               7
//! passed on                                   PING            HEADERS 9  DATA 9
//! ```
//!
//! What begins like one and goes on in another way is passed on, in its order: a head whose end is not among what has
//! arrived with it, trailers, padding, a body in many frames, a call that nobody can answer at once. Frames that come late
//! for a stream that was answered go nowhere, if they may come; DATA or HEADERS may not.

mod block;

use super::frames::{END_HEADERS, END_STREAM, HEADER_BYTES, Head, Kind, PADDED};

/// The flag of HEADERS whose payload begins with a priority.
const PRIORITY: u8 = 0x20;
/// Lists of headers that are remembered for a connection, and the longest.
pub(crate) const KNOWN_MAX: usize = 8;
const BLOCK_BYTES_MAX: usize = 512;
/// A frame of so many bytes at most is waited for until it is whole, if it is not DATA.
const WHOLE_BYTES_MAX: usize = 1 << 10;
/// Frames that are held back for the end of their calls.
const HELD_MAX: usize = 256;

/// DATA or HEADERS of a stream that was answered, and so has ended on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closed;

/// Where what is left over goes, and who answers: a stream, the place of its list, its body. `false`: it is passed on.
pub(crate) trait Sides {
    fn pass(&mut self, bytes: &[u8]);
    fn answer(&mut self, stream: u32, place: usize, body: &[u8]) -> bool;
}

/// What is known of one connection's requests.
#[derive(Debug, Default)]
pub(crate) struct Bypass {
    /// Lists by their bytes, while the table is as it was.
    known: [Option<Box<[u8]>>; KNOWN_MAX],
    /// The place of the next.
    next: usize,
    /// The last list that was passed on and is not known, and its stream.
    unknown: (u32, Vec<u8>),
    /// The last stream that the protocol has seen, and the last that was answered.
    passed: u32,
    answered: u32,
    /// Frames of what has arrived that may be of calls that are answered.
    held: Vec<Held>,
    /// What is still to come of a frame that is passed on.
    rest: usize,
    /// The list of headers that was passed on last goes on with the next frame.
    in_headers: bool,
}

/// A frame that is held back; where it is.
#[derive(Clone, Copy, Debug)]
struct Held {
    stream: u32,
    from: usize,
    to: usize,
    /// The place of its list, if it is HEADERS.
    place: Option<usize>,
}

/// A whole frame of what has arrived.
#[derive(Clone, Copy)]
struct Frame<'a> {
    head: Head,
    /// All that has arrived, and where in it the frame is.
    read: &'a [u8],
    from: usize,
    to: usize,
}

impl<'a> Frame<'a> {
    fn bytes(&self) -> &'a [u8] {
        &self.read[self.from..self.to]
    }

    fn payload(&self) -> &'a [u8] {
        &self.bytes()[HEADER_BYTES..]
    }
}

impl Bypass {
    /// One for a connection that has passed on the streams up to this one, and is between two frames.
    pub(crate) fn after(stream: u32) -> Self {
        Self {
            passed: stream,
            ..Self::default()
        }
    }

    /// Whether all that was passed on is whole: frames, and lists of headers.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.rest == 0 && !self.in_headers
    }

    /// The place for the list of the stream's HEADERS, if it was passed on last and can be known again.
    pub(crate) fn place_of(&self, stream: u32) -> Option<usize> {
        (self.unknown.0 == stream && stream > 0).then_some(self.next)
    }

    /// Remembers the list of which [`Bypass::place_of`] was told: calls that begin with it can be answered.
    pub(crate) fn learn(&mut self) {
        self.known[self.next] = Some(self.unknown.1.as_slice().into());
        self.next = (self.next + 1) % KNOWN_MAX;
        self.unknown.0 = 0;
    }

    /// Takes what has arrived, from where it last stopped; how many bytes that is. The rest is to be shown again with more.
    ///
    /// # Errors
    /// [`Closed`], after which nothing is taken.
    pub(crate) fn take(&mut self, bytes: &[u8], sides: &mut impl Sides) -> Result<usize, Closed> {
        let mut at = self.rest.min(bytes.len());
        self.rest -= at;
        if at > 0 {
            sides.pass(&bytes[..at]);
        }
        while let Some((head, whole)) = Head::of(&bytes[at..]) {
            let to = at + HEADER_BYTES + whole;
            if to > bytes.len() {
                if head.kind != Kind::Data as u8 && whole <= WHOLE_BYTES_MAX {
                    break;
                }
                self.begin_long(&head, bytes, at, to, sides)?;
                at = bytes.len();
                break;
            }
            let (read, from) = (bytes, at);
            self.frame(Frame { head, read, from, to }, sides)?;
            at = to;
        }
        self.let_go(bytes, sides);
        Ok(at)
    }

    /// Passes on what there is of a frame, and what is to come.
    fn begin_long(
        &mut self,
        head: &Head,
        bytes: &[u8],
        at: usize,
        to: usize,
        sides: &mut impl Sides,
    ) -> Result<(), Closed> {
        self.let_go(bytes, sides);
        self.is_open(head.stream)?;
        if head.kind == Kind::Headers as u8 {
            self.forget();
            self.passed = self.passed.max(head.stream);
        }
        self.goes_on(head);
        self.rest = to - bytes.len();
        sides.pass(&bytes[at..]);
        Ok(())
    }

    /// Takes a whole frame.
    fn frame(&mut self, frame: Frame<'_>, sides: &mut impl Sides) -> Result<(), Closed> {
        let head = &frame.head;
        let stream = head.stream;
        match Kind::of(head.kind) {
            Kind::Headers => return self.headers(frame, sides),
            Kind::Data => {
                if let Some(index) = self.held.iter().position(|held| held.stream == stream) {
                    self.data(frame, index, sides);
                    return Ok(());
                }
                self.is_open(stream)?;
            }
            Kind::Priority | Kind::Reset | Kind::WindowUpdate if stream > 0 => {
                if self.held.iter().any(|held| held.stream == stream) {
                    self.let_go(frame.read, sides);
                }
                if self.is_open(stream).is_err() {
                    return Ok(());
                }
            }
            // More of a list whose beginning was passed on.
            Kind::Continuation => self.forget(),
            _ => (),
        }
        self.goes_on(head);
        sides.pass(frame.bytes());
        Ok(())
    }

    /// Notes whether a list of headers goes on behind a frame that is passed on.
    fn goes_on(&mut self, head: &Head) {
        if matches!(Kind::of(head.kind), Kind::Headers | Kind::Continuation) {
            self.in_headers = head.flags & END_HEADERS == 0;
        }
    }

    fn headers(&mut self, frame: Frame<'_>, sides: &mut impl Sides) -> Result<(), Closed> {
        let (head, block) = (&frame.head, frame.payload());
        let stream = head.stream;
        let last = self.held.last().map_or(0, |held| held.stream);
        let opens = stream % 2 == 1 && stream > self.passed.max(self.answered).max(last);
        let plain = opens && head.flags == END_HEADERS && block.len() <= BLOCK_BYTES_MAX;
        let known = plain.then(|| {
            self.known
                .iter()
                .position(|known| known.as_deref() == Some(block))
        });
        if let Some(place @ Some(_)) = known {
            self.hold(frame, place, sides);
            return Ok(());
        }
        self.let_go(frame.read, sides);
        self.is_open(stream)?;
        let stays =
            head.flags & (END_HEADERS | PADDED | PRIORITY) == END_HEADERS && block::leaves_table(block);
        if !stays {
            self.forget();
        } else if plain {
            self.unknown.0 = stream;
            self.unknown.1.clear();
            self.unknown.1.extend_from_slice(block);
        }
        self.passed = self.passed.max(stream);
        self.goes_on(head);
        sides.pass(frame.bytes());
        Ok(())
    }

    /// Takes DATA of a call whose HEADERS are held back, at `index`.
    fn data(&mut self, frame: Frame<'_>, index: usize, sides: &mut impl Sides) {
        let (head, read) = (&frame.head, frame.read);
        let stream = head.stream;
        let before = self.held[index + 1..].iter().find(|held| held.stream == stream);
        let empty = head.bytes == 0;
        let body = match (before, head.flags & END_STREAM != 0) {
            _ if head.flags & PADDED != 0 => None,
            (None, false) if !empty => return self.hold(frame, None, sides),
            (None, true) => Some((frame.from, frame.to)),
            (Some(before), true) if empty => Some((before.from, before.to)),
            _ => None,
        };
        if let (Some((from, to)), Some(place)) = (body, self.held[index].place)
            && sides.answer(stream, place, &read[from + HEADER_BYTES..to])
        {
            self.answered = self.answered.max(stream);
            self.held.retain(|held| held.stream != stream);
            return;
        }
        self.let_go(read, sides);
        sides.pass(frame.bytes());
    }

    /// Holds a frame back; `place` is that of its list, if it is HEADERS.
    fn hold(&mut self, frame: Frame<'_>, place: Option<usize>, sides: &mut impl Sides) {
        let stream = frame.head.stream;
        if self.held.len() >= HELD_MAX {
            self.let_go(frame.read, sides);
        }
        if place.is_none() && self.held.iter().all(|held| held.stream != stream) {
            // Its HEADERS have just been let go.
            return sides.pass(frame.bytes());
        }
        self.held.push(Held {
            stream,
            from: frame.from,
            to: frame.to,
            place,
        });
    }

    /// Passes on what is held back.
    fn let_go(&mut self, bytes: &[u8], sides: &mut impl Sides) {
        for held in self.held.drain(..) {
            if held.place.is_some() {
                self.passed = self.passed.max(held.stream);
            }
            sides.pass(&bytes[held.from..held.to]);
        }
    }

    /// Whether the protocol may know the stream, or will when it opens.
    fn is_open(&self, stream: u32) -> Result<(), Closed> {
        if stream > self.passed && stream <= self.answered {
            Err(Closed)
        } else {
            Ok(())
        }
    }

    /// The table has changed: what is known may say something else.
    fn forget(&mut self) {
        self.known = Default::default();
        self.unknown.0 = 0;
    }
}

#[cfg(test)]
mod tests;
