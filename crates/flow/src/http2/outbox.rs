//! What a connection says, on its way to the socket: bytes of its own, and between them pieces of others that are not
//! copied.
//!
//! ```text
//! own      [HEADERS][DATA head, some of it]            [DATA head, some of it]                 [WINDOW_UPDATE]
//! pieces                                   [the rest of it]                   [the rest of it]
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Slices that are written at once.
const SLICES_MAX: usize = 64;

/// Bytes that wait to be written, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Copied bytes. They stay until all is written.
    pub(super) own: Vec<u8>,
    /// How much of them has been written.
    written: usize,
    /// What is not copied, each with how much of `own` comes before it.
    pieces: VecDeque<(usize, Bytes)>,
    /// Bytes in pieces, and how many of these have been written.
    shared: usize,
    shared_written: usize,
}

impl Outbox {
    /// Adds a piece without copying it.
    pub(super) fn share(&mut self, piece: Bytes) {
        self.shared += piece.len();
        self.pieces.push_back((self.own.len(), piece));
    }

    /// Bytes since it was last empty.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.shared
    }

    /// Bytes that are still to be written.
    pub(super) fn left(&self) -> usize {
        self.len() - self.written - self.shared_written
    }

    /// Writes all that there is, and is empty then; counts in `total` what the socket has taken.
    pub(super) fn poll_write_to<T: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut T,
        total: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left() > 0 {
            let n = ready!(self.poll_write_some(Pin::new(socket), cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
            *total += n as u64;
        }
        self.own.clear();
        (self.written, self.shared, self.shared_written) = (0, 0, 0);
        Poll::Ready(Ok(()))
    }

    fn poll_write_some<T: AsyncWrite>(
        &self,
        socket: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.pieces.is_empty() {
            return socket.poll_write(cx, &self.own[self.written..]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut n = 0;
        for (slice, place) in self.slices().zip(&mut slices) {
            *place = IoSlice::new(slice);
            n += 1;
        }
        socket.poll_write_vectored(cx, &slices[..n])
    }

    /// What is still to be written.
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = self.written;
        let pieces = self.pieces.iter().flat_map(move |(until, piece)| {
            let before = &self.own[std::mem::replace(&mut from, *until)..*until];
            [before, &piece[..]]
        });
        let last = self.pieces.back().map_or(self.written, |(until, _)| *until);
        let slices = pieces.chain(std::iter::once(&self.own[last..]));
        slices.filter(|slice| !slice.is_empty())
    }

    fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let until = self.pieces.front().map_or(self.own.len(), |(until, _)| *until);
            let some = n.min(until - self.written);
            self.written += some;
            n -= some;
            let Some((_, piece)) = self.pieces.front_mut().filter(|_| n > 0) else {
                continue;
            };
            let some = n.min(piece.len());
            self.shared_written += some;
            n -= some;
            piece.advance(some);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes a few bytes at a time, of several slices at once.
    struct Trickle {
        taken: Vec<u8>,
        most: usize,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.most);
            self.taken.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            assert!(
                bufs.iter().all(|buf| !buf.is_empty()),
                "nothing is written as something"
            );
            let bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let n = bytes.len().min(self.most);
            self.taken.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn all_is_written_in_order_wherever_a_write_ends() {
        // Own bytes before, between and behind pieces, and pieces next to each other; more slices than go out at once.
        let parts: Vec<(bool, Vec<u8>)> = (0..200_u8)
            .map(|n| (n % 3 != 0, vec![n; usize::from(n % 7)]))
            .collect();
        let expect: Vec<u8> = parts.iter().flat_map(|(_, part)| part.clone()).collect();
        for most in [1, 2, 7, 100, usize::MAX] {
            let mut outbox = Outbox::default();
            for (is_shared, part) in &parts {
                match is_shared {
                    true if !part.is_empty() => outbox.share(part.clone().into()),
                    _ => outbox.own.extend_from_slice(part),
                }
            }
            assert_eq!((outbox.len(), outbox.left()), (expect.len(), expect.len()));
            let (mut socket, mut total) = (
                Trickle {
                    taken: Vec::new(),
                    most,
                },
                0,
            );
            poll_fn(|cx| outbox.poll_write_to(&mut socket, &mut total, cx))
                .await
                .unwrap();
            assert!(socket.taken == expect, "{most} at a time");
            assert_eq!((outbox.len(), outbox.left(), total), (0, 0, expect.len() as u64));
        }
    }
}
