//! Calls that are answered below the protocol: what [`Bypass`](core::Bypass) leaves over is passed on, answers go out between
//! the frames of the protocol's own.
//!
//! **Credit.** The protocol takes all credit of the peer for its own. So some of what arrives for the connection is kept back,
//! and answers are made of that: what the protocol has and what is kept are never more than the peer has given. A stream
//! that is answered here has what SETTINGS gave it, at the least they ever said.
//!
//! **Compression.** The blocks of an answer neither use the table of the peer's decoder nor add to it, so the protocol's
//! encoder does not miss them.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Cork, Harm, Inner, Wire};
use crate::core::bypass as core;
use crate::core::frames::{END_HEADERS, END_STREAM, Kind};
use crate::http2::outbox::Outbox;

/// Read at once.
const READ_BYTES: usize = 32 << 10;
/// A frame that every peer takes (RFC 9113 §4.2).
const FRAME_BYTES_MAX: usize = 16 << 10;
/// Calls that are answered in a turn: each takes microseconds, and others wait.
const ANSWERS_A_TURN: u64 = 256;
/// Memory of what waits is given back above this.
const KEEP_BYTES: usize = 4 << 10;

thread_local! {
    /// Where the connections of this thread read to, in turn.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Answers small calls below the protocol, if it can at once. It is used within a read: it must not ask for anything of the
/// connection.
pub trait Bypass: Send {
    /// A call has begun the usual way. Whether those that begin with the same headers can be answered here; they are known by
    /// this place then, and what was known by it before is forgotten.
    fn learn(&mut self, place: usize, path: &str, headers: &HeaderMap) -> bool;

    /// The answer to a call with the headers of this place and this body, if it is known at once and has a body of at most so
    /// many bytes. With `None` nothing has happened: the call goes the usual way.
    fn answer(&mut self, place: usize, body: &[u8], bytes_max: usize) -> Option<Answer>;
}

/// An answer: blocks of headers (RFC 7541) that leave the decoder's table as it is, and what is between them.
#[derive(Debug)]
pub struct Answer {
    /// The status, and what goes with it.
    pub headers: &'static [u8],
    /// The body.
    pub body: Bytes,
    /// What ends it.
    pub trailers: &'static [u8],
}

/// A connection's bypass.
pub(super) struct Below {
    calls: core::Bypass,
    answers: Box<dyn Bypass>,
    /// The beginning of a frame that is not whole.
    tail: Vec<u8>,
    /// What goes on and did not fit, and how much of it has gone.
    waiting: Vec<u8>,
    given: usize,
    /// The peer has said all.
    ended: bool,
    /// No more calls are answered.
    stopped: bool,
    answered: u64,
    /// What had been answered when the turn began.
    answered_before: u64,
}

impl Below {
    /// A turn is over.
    pub(super) fn rest(&mut self) {
        self.answered_before = self.answered;
    }

    fn is_sated(&self) -> bool {
        self.answered - self.answered_before >= ANSWERS_A_TURN
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.waiting[self.given..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        self.given += n;
        if self.given == self.waiting.len() {
            self.waiting.clear();
            self.waiting.shrink_to(KEEP_BYTES);
            self.given = 0;
        }
        n > 0
    }
}

impl<T> Cork<T> {
    /// Has calls answered below the protocol from here on, if it is a good moment.
    pub(crate) fn bypass(&self, answers: Box<dyn Bypass>) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let Some(wire) = inner.wire.as_mut().filter(|_| inner.prefix.is_empty()) else {
            return;
        };
        if !wire.received.is_between_frames() || !wire.kept.is_empty() {
            return;
        }
        if let Some(reserve) = &mut wire.reserve {
            reserve.active = true;
        }
        let opened = wire.gauges.credit.with(|grants| grants.opened());
        inner.below = Some(Box::new(Below {
            calls: core::Bypass::after(opened),
            answers,
            tail: Vec::new(),
            waiting: Vec::new(),
            given: 0,
            ended: false,
            stopped: false,
            answered: 0,
            answered_before: 0,
        }));
    }

    /// A call has begun the usual way. `false` if there is no bypass to learn from it.
    pub(crate) fn learn(&self, stream: u32, path: &str, headers: &HeaderMap) -> bool {
        let mut inner = self.0.lock();
        let Some(below) = &mut inner.below else {
            return false;
        };
        if let Some(place) = below.calls.place_of(stream)
            && below.answers.learn(place, path, headers)
        {
            below.calls.learn();
        }
        true
    }

    /// Everything goes the usual way from here on.
    pub(crate) fn stop_bypass(&self) {
        if let Some(below) = &mut self.0.lock().below {
            below.stopped = true;
        }
    }

    /// How many calls were answered below the protocol.
    pub(crate) fn answered(&self) -> u64 {
        self.0.lock().below.as_ref().map_or(0, |below| below.answered)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Inner<T> {
    /// Reads, answers, and passes on what is left over.
    pub(super) fn poll_below(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let limit = self.limit();
        let (Some(below), Some(wire)) = (&mut self.below, &mut self.wire) else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let is_whole = below.waiting.is_empty() && below.calls.is_between_frames();
            if wire.give(buf, is_whole) || below.give(buf) || below.ended {
                return Poll::Ready(Ok(()));
            }
            if wire.harm.is_some() {
                return Poll::Pending;
            }
            if below.is_sated() || wire.is_sated() || self.out.left() >= limit {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut scratch = SCRATCH.take();
            scratch.resize(READ_BYTES, 0);
            let begun = below.tail.len();
            scratch[..begun].copy_from_slice(&below.tail);
            let mut room = ReadBuf::new(&mut scratch[begun..]);
            let read = Pin::new(&mut self.socket).poll_read(cx, &mut room);
            let n = room.filled().len();
            if read.is_ready() {
                let before = buf.filled().len();
                let mut turn = Turn {
                    buf,
                    wire,
                    out: &mut self.out,
                    limit,
                };
                turn.take(below, &mut scratch[..begun + n]);
                SCRATCH.set(scratch);
                ready!(read)?;
                if buf.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
            } else {
                SCRATCH.set(scratch);
                return Poll::Pending;
            }
        }
    }
}

/// What one read needs.
struct Turn<'a, 'b> {
    buf: &'a mut ReadBuf<'b>,
    wire: &'a mut Wire,
    out: &'a mut Outbox,
    limit: usize,
}

impl Turn<'_, '_> {
    /// Takes what has come, behind the beginning of a frame that had come before.
    fn take(&mut self, below: &mut Below, bytes: &mut [u8]) {
        let begun = below.tail.len();
        if bytes.len() == begun {
            below.ended = true;
            below.waiting.append(&mut below.tail);
            return;
        }
        let until = begun + self.wire.receive(bytes, begun);
        let Below {
            calls,
            answers,
            waiting,
            stopped,
            answered,
            ..
        } = below;
        let mut sides = Sides {
            turn: self,
            answers: (!*stopped).then_some(&mut **answers),
            waiting,
            answered,
        };
        let taken = calls.take(&bytes[..until], &mut sides);
        below.tail.clear();
        match taken {
            Ok(taken) => below.tail.extend_from_slice(&bytes[taken..until]),
            Err(core::Closed) => self.wire.harm = Some(Harm::Closed),
        }
    }

    /// How large an answer may be now, if one may go.
    fn room(&self) -> Option<usize> {
        let sent = &self.wire.sent;
        // The first block is the protocol's: it may have to say how large its table is.
        let goes = self.out.left() < self.limit && sent.is_between_frames() && sent.said.headers > 0;
        let reserve = self.wire.reserve.as_ref().filter(|_| goes)?;
        Some(reserve.room().min(FRAME_BYTES_MAX))
    }

    fn say(&mut self, stream: u32, answer: &Answer) {
        let out = &mut self.out.own;
        let before = out.len();
        frame(out, Kind::Headers, END_HEADERS, stream, answer.headers);
        frame(out, Kind::Data, 0, stream, &answer.body);
        frame(
            out,
            Kind::Headers,
            END_HEADERS | END_STREAM,
            stream,
            answer.trailers,
        );
        let wire = &mut *self.wire;
        wire.sent.bytes += (out.len() - before) as u64;
        wire.sent.said.data += 1;
        if let Some(reserve) = &mut wire.reserve {
            reserve.used += answer.body.len() as u64;
        }
        // Its turn writes what is due.
        wire.gauges.credit.with(|grants| grants.has_left(stream));
    }
}

/// The two ways a frame can go.
struct Sides<'a, 'b, 'c> {
    turn: &'a mut Turn<'b, 'c>,
    answers: Option<&'a mut dyn Bypass>,
    waiting: &'a mut Vec<u8>,
    answered: &'a mut u64,
}

impl core::Sides for Sides<'_, '_, '_> {
    fn pass(&mut self, bytes: &[u8]) {
        let buf = &mut *self.turn.buf;
        let now = if self.waiting.is_empty() {
            bytes.len().min(buf.remaining())
        } else {
            0
        };
        buf.put_slice(&bytes[..now]);
        self.waiting.extend_from_slice(&bytes[now..]);
    }

    fn answer(&mut self, stream: u32, place: usize, body: &[u8]) -> bool {
        let (Some(room), Some(answers)) = (self.turn.room(), &mut self.answers) else {
            return false;
        };
        let Some(answer) = answers.answer(place, body, room) else {
            return false;
        };
        self.turn.say(stream, &answer);
        *self.answered += 1;
        true
    }
}

fn frame(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    // A frame is no longer than `FRAME_BYTES_MAX`.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind as u8, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}
