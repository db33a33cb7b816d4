//! A socket that writes once per turn of its connection.
//!
//! `h2` hands over every DATA frame of more than a few hundred bytes with a write of its own, which made system
//! calls the largest cost of a small response. Here writes only collect; the connection's driver drains them after
//! each turn, so that all frames a turn produced leave together. Large pieces that a call has [lent](super::lent) are not
//! copied for that.
//!
//! All bytes pass here, so this is also where frames are counted, and where what the protocol says of windows is replaced by
//! what we grant, and where calls can be answered [below](below) it.

mod below;
mod wire;

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::PREFACE;
use super::outbox::Outbox;
use crate::core::flood::Flood;
use crate::core::frames::{Frames, HEADER_BYTES, Kind};
use crate::core::grants::{Grants, Outgoing, Role};
use crate::core::hollow::Kept;
use crate::core::reserve::Reserve;
use crate::gauges::Gauges;
use below::Below;
pub use below::{Answer, Bypass};
pub(crate) use wire::{Harm, Wire};

/// Bytes collected before a write goes out in the middle of a turn: copied ones, or all while the peer is slow.
const COLLECT_BYTES: usize = 64 << 10;
/// The same for all bytes, while the socket takes what it is given: the larger a write, the less each byte costs.
const COLLECT_BYTES_MAX: usize = 256 << 10;
/// An empty buffer larger than this is given back.
const KEEP_BYTES: usize = 4 << 10;

/// Room of a buffer that collects much: so much, and the frame that goes over.
const LARGE_BYTES: usize = COLLECT_BYTES + (20 << 10);

thread_local! {
    /// The large buffer that the last turn of this thread gave back, for the next one that says much. Growing to it from
    /// nothing in every such turn would copy all bytes once more.
    static LARGE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The socket, with what was already read from it and what is not written yet. Clones share it: one is the
/// protocol's, one the driver's. They are used by one task, so the lock is never waited for.
pub struct Cork<T>(Arc<Mutex<Inner<T>>>);

impl<T> Clone for Cork<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<T> {
    socket: T,
    /// Read while finding out the protocol.
    prefix: Bytes,
    out: Outbox,
    /// The socket did not take all of the last write.
    is_slow: bool,
    /// All that has ever been written.
    total: u64,
    /// What came and went, once the protocol is known.
    wire: Option<Box<Wire>>,
    /// Calls that the protocol does not hear of.
    below: Option<Box<Below>>,
    /// Why the socket takes no more. Kept for clients alone: they go on to read, since the peer's last words may have come
    /// before, which say what it never took. What is written is thrown away.
    deaf: Option<io::Error>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Cork<T> {
    /// `prefix` is read again before the socket.
    pub fn new(socket: T, prefix: Bytes) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            socket,
            prefix,
            out: Outbox::default(),
            is_slow: false,
            total: 0,
            wire: None,
            below: None,
            deaf: None,
        })))
    }

    /// Counts frames from here on, and grants what the peer may send. The protocol has to announce
    /// [`ANNOUNCED`](super::windows::ANNOUNCED) for every window, and to be told nothing else.
    pub(crate) fn govern(&self, role: Role, gauges: Arc<Gauges>) {
        gauges.credit.with(|grants| grants.is_of(role));
        let (received, sent) = match role {
            Role::Server => (PREFACE.len(), 0),
            Role::Client => (0, PREFACE.len()),
        };
        self.0.lock().wire = Some(Box::new(Wire {
            role,
            received: Frames::after_preface(received),
            sent: Outgoing::after_preface(sent),
            gauges,
            flood: Flood::new(role, Instant::now()),
            heads_before: 0,
            kept: Kept::default(),
            reserve: None,
            gift: 0,
            note: Vec::new(),
            harm: None,
        }));
    }

    /// Keeps credit for answers below the protocol.
    pub(crate) fn reserve(&self) {
        if let Some(wire) = &mut self.0.lock().wire {
            wire.reserve = Some(Reserve::default());
        }
    }

    /// Whether the protocol is to be polled, since it gets credit that was kept from it.
    pub(crate) fn gives_back(&self) -> bool {
        self.0.lock().wire.as_mut().is_some_and(|wire| wire.gives_back())
    }

    /// Looks at the frames so far.
    pub(crate) fn wire<R>(&self, look: impl FnOnce(&Wire) -> R) -> Option<R> {
        self.0.lock().wire.as_deref().map(look)
    }

    /// Says GOAWAY past the protocol, for clients: `h2` lets only servers say it. Left out within a frame, which will have
    /// no end.
    pub(crate) fn farewell(&self, reason: h2::Reason) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        if let Some(wire) = &mut inner.wire
            && wire.sent.is_between_frames()
        {
            let out = &mut inner.out.own;
            let before = out.len();
            out.extend_from_slice(&[0, 0, 8, Kind::GoAway as u8, 0, 0, 0, 0, 0]);
            // A server opens no streams.
            out.extend_from_slice(&0_u32.to_be_bytes());
            out.extend_from_slice(&u32::from(reason).to_be_bytes());
            wire.sent.bytes += (out.len() - before) as u64;
        }
    }

    /// Whether it holds as much as it may: the client has to read before more is said.
    pub fn is_full(&self) -> bool {
        let inner = self.0.lock();
        inner.out.left() >= inner.limit()
    }

    /// All bytes that the socket has taken.
    pub fn total(&self) -> u64 {
        self.0.lock().total
    }

    /// Writes what was collected, and the WINDOW_UPDATEs that are due: a turn is over.
    ///
    /// # Errors
    /// The socket's, again and again.
    pub fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        if let Some(wire) = &mut inner.wire {
            wire.heads_before = wire.received.count(Kind::Headers);
        }
        if let Some(below) = &mut inner.below {
            below.rest();
        }
        let drained = inner.poll_drain(cx);
        match &inner.deaf {
            Some(error) => Poll::Ready(Err(io::Error::new(error.kind(), error.to_string()))),
            None => drained,
        }
    }
}

impl<T: AsyncWrite + Unpin> Inner<T> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wire) = &mut self.wire
            && wire.sent.is_between_frames()
        {
            let out = &mut self.out.own;
            let before = out.len();
            wire.gauges
                .credit
                .with(|grants| grants.updates(out, Instant::now));
            wire.sent.bytes += (out.len() - before) as u64;
        }
        if self.deaf.is_some() {
            self.out = Outbox::default();
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_socket(cx)) {
            Err(error) if self.wire.as_ref().is_some_and(|wire| wire.role == Role::Client) => {
                self.deaf = Some(error);
                self.out = Outbox::default();
                return Poll::Ready(Ok(()));
            }
            written => written?,
        }
        if self.out.own.capacity() > KEEP_BYTES {
            let large = std::mem::take(&mut self.out.own);
            if large.capacity() <= LARGE_BYTES {
                LARGE.set(large);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.out.poll_write_to(&mut self.socket, &mut self.total, cx);
        self.is_slow = written.is_pending();
        ready!(written)?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

impl<T> Inner<T> {
    /// How much is collected at most.
    fn limit(&self) -> usize {
        if self.is_slow {
            COLLECT_BYTES
        } else {
            COLLECT_BYTES_MAX
        }
    }
}

impl<T: AsyncWrite> Inner<T> {
    fn collect(&mut self, buf: &[u8]) {
        if self.share(buf) {
            return;
        }
        self.make_room(buf);
        let out = &mut self.out.own;
        match &mut self.wire {
            None => out.extend_from_slice(buf),
            Some(wire) => {
                let sent = &mut wire.sent;
                sent.begun = wire.gauges.begun.load(Ordering::Relaxed);
                wire.gauges.credit.with(|grants: &mut Grants| {
                    sent.take(buf, grants, out);
                    grants.leaves(Instant::now);
                });
            }
        }
    }

    /// Takes bytes without copying them, if they are part of a piece that was lent and of a frame that has begun.
    fn share(&mut self, buf: &[u8]) -> bool {
        let vectored = self.socket.is_write_vectored();
        let Some(wire) = self.wire.as_mut().filter(|_| vectored) else {
            return false;
        };
        let Some(part) = wire.gauges.lent.find(buf) else {
            return false;
        };
        let passes = wire.sent.pass(buf.len());
        if passes {
            self.out.share(part);
        }
        passes
    }

    fn make_room(&mut self, buf: &[u8]) {
        let own = &mut self.out.own;
        let len = own.len() + buf.len();
        if len > KEEP_BYTES && len > own.capacity() && own.capacity() < LARGE_BYTES {
            let mut large = LARGE.take();
            large.reserve_exact(LARGE_BYTES.max(len));
            large.extend_from_slice(own);
            *own = large;
        }
    }
}

impl<T: AsyncRead + Unpin> Inner<T> {
    /// Reads what there is.
    fn pull(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        Poll::Ready(Ok(()))
    }

    /// Reads the rest of a head of which half is kept, and no more, and passes it on; what there is of it, at the end of all.
    fn poll_kept(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while let Some(wire) = &self.wire
            && let Some((_, lacks)) = wire.received.half_a_head()
        {
            let mut rest = [0; HEADER_BYTES];
            let mut rest = ReadBuf::new(&mut rest[..lacks]);
            ready!(self.pull(cx, &mut rest))?;
            let Some(wire) = self.wire.as_mut().filter(|_| !rest.filled().is_empty()) else {
                break;
            };
            wire.receive(rest.filled_mut(), 0);
            if wire.harm.is_some() {
                return Poll::Pending;
            }
            wire.kept.keep(rest.filled());
        }
        if let Some(wire) = &mut self.wire {
            let (kept, n) = wire.kept.give(buf.remaining());
            buf.put_slice(&kept[..n]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        if inner.below.is_some() {
            return inner.poll_below(cx, buf);
        }
        if inner.wire.as_ref().is_some_and(|wire| wire.harm.is_some()) {
            return Poll::Pending;
        }
        if inner.wire.as_ref().is_some_and(|wire| wire.is_sated()) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(wire) = &mut inner.wire {
            let is_whole = wire.received.is_between_frames() && wire.kept.is_empty();
            if wire.give(buf, is_whole) {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            if inner.wire.as_ref().is_some_and(|wire| !wire.kept.is_empty()) {
                return inner.poll_kept(cx, buf);
            }
            let before = buf.filled().len();
            ready!(inner.pull(cx, buf))?;
            let Some(wire) = &mut inner.wire else {
                return Poll::Ready(Ok(()));
            };
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            let passed = wire.receive(&mut buf.filled_mut()[before..], 0);
            if wire.harm.is_some() {
                buf.set_filled(before + passed);
                // Nothing would be the end of what there is to read.
                return if passed > 0 {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            let goes_on = wire.keep(&buf.filled()[before..]);
            buf.set_filled(before + goes_on);
            if goes_on > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cork<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.lock();
        if inner.out.len() >= inner.limit() || inner.out.own.len() >= COLLECT_BYTES {
            ready!(inner.poll_drain(cx))?;
        }
        inner.collect(buf);
        Poll::Ready(Ok(buf.len()))
    }

    /// Nothing: the driver drains.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.lock();
        ready!(inner.poll_drain(cx))?;
        Pin::new(&mut inner.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
