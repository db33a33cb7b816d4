//! A link between two streams: reads what there is room for, writes what is due.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::watch;
use tokio::time::Instant;

use super::core::{Direction, Link, Setting};
use super::timer::Timer;

/// Read at once, in bytes.
const READ_BYTES: usize = 64 << 10;
/// Pieces that wait at most; only whoever sends single bytes gets there.
const PIECES_MAX: usize = 1 << 16;
/// Pieces written at once.
const SLICES: usize = 16;

/// What all connections of a proxy share in one direction.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Connections that have something to send.
    busy: AtomicU64,
    /// Bytes that came out.
    pub(super) passed: AtomicU64,
    /// Bytes inside.
    pub(super) inside: AtomicU64,
}

/// One direction of one connection.
pub(super) struct Lane {
    pub(super) direction: Direction,
    pub(super) setting: watch::Receiver<Setting>,
    pub(super) shared: Arc<Shared>,
    pub(super) seed: u64,
    pub(super) timer: Timer,
}

/// Joins two streams by a link that is as `setting` says, until both have ended or one breaks. `client` is the end whose
/// bytes go up. Runs on tokio's clock, paused or not; with paused time, the same seed gives the same run.
///
/// # Errors
/// What broke a stream.
pub async fn join<A, B>(client: A, server: B, setting: watch::Receiver<Setting>, seed: u64) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let lane = |direction, seed| Lane {
        direction,
        setting: setting.clone(),
        shared: Arc::default(),
        seed,
        timer: Timer::tokio(),
    };
    let lanes = [lane(Direction::Up, seed), lane(Direction::Down, !seed)];
    carry_both(split(client), split(server), lanes).await
}

async fn carry_both<A, B>(
    (from_client, to_client): (ReadHalf<A>, WriteHalf<A>),
    (from_server, to_server): (ReadHalf<B>, WriteHalf<B>),
    [up, down]: [Lane; 2],
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let up = carry(from_client, to_server, up);
    let down = carry(from_server, to_client, down);
    tokio::try_join!(up, down).map(|_| ())
}

/// Carries one direction until its end, which is passed on behind the last byte.
pub(super) async fn carry<R, W>(mut from: R, mut to: W, lane: Lane) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let Lane {
        direction,
        mut setting,
        shared,
        seed,
        mut timer,
    } = lane;
    let mut pipe = Pipe::new(*setting.borrow_and_update().of(direction), seed, &shared);
    let mut controlled = true;
    let mut buffer = BytesMut::new();
    loop {
        let now = Instant::now();
        pipe.advance(now);
        if pipe.ended && pipe.pieces.is_empty() {
            return to.shutdown().await;
        }
        let (due, room) = (pipe.link.due(now), pipe.room());
        let next = pipe.link.next(now);
        tokio::select! {
            changed = setting.changed(), if controlled => {
                controlled = changed.is_ok();
                let shape = *setting.borrow_and_update().of(direction);
                pipe.link.reshape(shape, Instant::now());
            }
            written = write(&mut to, &pipe.pieces, due), if due > 0 => pipe.release(written?),
            read = read(&mut from, &mut buffer, room), if room > 0 => {
                read?;
                pipe.accept(buffer.split().freeze());
            }
            () = timer.until(next.unwrap_or(now)), if next.is_some() => (),
        }
    }
}

/// The bytes of a link.
struct Pipe<'a> {
    link: Link,
    pieces: VecDeque<Bytes>,
    ended: bool,
    shared: &'a Shared,
    busy: bool,
}

impl<'a> Pipe<'a> {
    fn new(shape: super::core::Shape, seed: u64, shared: &'a Shared) -> Self {
        Self {
            link: Link::new(shape, seed, Instant::now()),
            pieces: VecDeque::new(),
            ended: false,
            shared,
            busy: false,
        }
    }

    fn advance(&mut self, now: Instant) {
        let others = self.shared.busy.load(Ordering::Relaxed) - u64::from(self.busy);
        self.link.advance(now, others + 1);
        let busy = self.link.is_busy();
        match (self.busy, busy) {
            (false, true) => _ = self.shared.busy.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.shared.busy.fetch_sub(1, Ordering::Relaxed),
            _ => (),
        }
        self.busy = busy;
    }

    /// Bytes to read at most.
    fn room(&self) -> usize {
        if self.ended || self.pieces.len() >= PIECES_MAX {
            return 0;
        }
        usize::try_from(self.link.room())
            .unwrap_or(usize::MAX)
            .min(READ_BYTES)
    }

    fn accept(&mut self, bytes: Bytes) {
        let count = bytes.len() as u64;
        self.ended = bytes.is_empty();
        if !self.ended {
            self.shared.inside.fetch_add(count, Ordering::Relaxed);
            self.link.accept(count, Instant::now());
            self.pieces.push_back(bytes);
        }
    }

    fn release(&mut self, written: usize) {
        let count = written as u64;
        self.link.release(count);
        self.shared.inside.fetch_sub(count, Ordering::Relaxed);
        self.shared.passed.fetch_add(count, Ordering::Relaxed);
        let mut left = written;
        while let Some(piece) = self.pieces.front_mut().filter(|_| left > 0) {
            let step = piece.len().min(left);
            piece.advance(step);
            left -= step;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

impl Drop for Pipe<'_> {
    fn drop(&mut self) {
        let left: usize = self.pieces.iter().map(Bytes::len).sum();
        self.shared.inside.fetch_sub(left as u64, Ordering::Relaxed);
        if self.busy {
            self.shared.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Reads once, at most `room` bytes; nothing is the end.
async fn read<R: AsyncRead + Unpin>(from: &mut R, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
    if buffer.capacity() < room.min(4 << 10) {
        buffer.reserve(READ_BYTES);
    }
    from.take(room as u64).read_buf(buffer).await
}

/// Writes once, at most `due` bytes.
async fn write<W: AsyncWrite + Unpin>(to: &mut W, pieces: &VecDeque<Bytes>, due: u64) -> io::Result<usize> {
    let mut left = usize::try_from(due).unwrap_or(usize::MAX);
    let mut slices = [IoSlice::new(&[]); SLICES];
    let mut used = 0;
    for (slice, piece) in slices.iter_mut().zip(pieces) {
        let part = &piece[..piece.len().min(left)];
        left -= part.len();
        *slice = IoSlice::new(part);
        used += 1;
        if left == 0 {
            break;
        }
    }
    match to.write_vectored(&slices[..used]).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        written => Ok(written),
    }
}
