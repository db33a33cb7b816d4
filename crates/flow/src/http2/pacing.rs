//! What keeps a client that does not read from filling the memory.
//!
//! Answers pass three places: the protocol's queues, the cork, the kernel. Flow control bounds the first only as far
//! as the client wants it to, since the client sets the windows. So a connection counts what its calls have handed to
//! the protocol since that was last emptied into the cork, and calls wait above a bound; while the cork is full and
//! the kernel takes nothing, the connection neither reads nor asks its calls; and when the kernel has taken nothing for
//! long, the connection is cut.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use super::cork::Cork;
use super::credit::Stalled;
use crate::flow::{Flow, Live};
use crate::gauges::Gauges;

/// Bytes that the calls of a connection may hand to the protocol before it is emptied.
const HANDED_BYTES_MAX: usize = 1 << 20;

/// What the calls of one connection have handed to the protocol and is not yet seen to have left it; and the way to its
/// gauges. Calls keep a clone.
#[derive(Clone, Debug)]
pub struct Pace {
    pub(super) gauges: Arc<Gauges>,
    /// By a count of the connection's own: the one of all connections would be fought over by all cores, with every call.
    pub(super) flow: Arc<Flow>,
}

impl Pace {
    /// The pace of a live connection.
    #[must_use]
    pub fn of(live: &Live) -> Self {
        Self {
            gauges: live.gauges().clone(),
            flow: Arc::new(live.flow().clone()),
        }
    }

    /// Bytes are handed to the protocol. Large ones are held until they have left it, so that they need not be copied.
    pub fn hands(&self, bytes: &Bytes) {
        self.gauges.handed.fetch_add(bytes.len(), Ordering::Relaxed);
        self.gauges.lent.lend(bytes);
    }

    /// The protocol has been emptied.
    pub fn emptied(&self) {
        self.gauges.handed.store(0, Ordering::Relaxed);
        self.gauges.lent.clear();
    }

    /// Waits while too much is handed over: the connection empties the protocol after each round of its calls. For calls
    /// that the connection's own task polls.
    pub async fn turn(&self) {
        poll_fn(|cx| {
            if self.gauges.handed.load(Ordering::Relaxed) < HANDED_BYTES_MAX {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Waits until the peer lets a stream send something that has [reserved](h2::SendStream::reserve_capacity) it; how
    /// much. `None` when the stream is gone. The wait is counted, and who held it up.
    pub async fn credit(&self, stream: &mut h2::SendStream<Bytes>) -> Option<usize> {
        let mut stalled = Stalled::new(self);
        poll_fn(|cx| stalled.poll(stream, cx)).await
    }
}

/// Notices that nothing is taken for long.
#[derive(Debug)]
pub struct Stall {
    limit: Duration,
    /// How much had been written when the timer was set.
    written: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Over after `limit` without progress.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self {
            limit,
            written: 0,
            timer: None,
        }
    }

    /// To be asked while something waits to be written; `written` counts all that has been. Whether it is too long.
    pub fn is_over(&mut self, written: u64, cx: &mut Context<'_>) -> bool {
        let fresh = self.timer.is_none() || self.written != written;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.limit)));
        if fresh {
            self.written = written;
            timer.as_mut().reset(Instant::now() + self.limit);
        }
        timer.as_mut().poll(cx).is_ready()
    }

    /// Nothing waits any more.
    pub fn rest(&mut self) {
        self.timer = None;
    }
}

/// How a round of writing went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All is written, or nothing can be any more.
    All,
    /// Something waits for the peer.
    Waits,
    /// The peer has not read for too long.
    Stalled,
    /// The socket is broken.
    Broken,
}

/// Writes what was collected.
pub fn drain<T: AsyncRead + AsyncWrite + Unpin>(
    cork: &Cork<T>,
    stall: &mut Stall,
    cx: &mut Context<'_>,
) -> Drained {
    match cork.poll_drain(cx) {
        Poll::Ready(Ok(())) => {
            stall.rest();
            Drained::All
        }
        Poll::Ready(Err(_)) => Drained::Broken,
        Poll::Pending if stall.is_over(cork.total(), cx) => Drained::Stalled,
        Poll::Pending => Drained::Waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_over_after_its_limit_without_progress() {
        let mut stall = Stall::new(Duration::from_secs(10));
        let mut ask = async |written, after| {
            tokio::time::advance(Duration::from_secs(after)).await;
            poll_fn(|cx| Poll::Ready(stall.is_over(written, cx))).await
        };
        assert!(!ask(1, 0).await);
        assert!(!ask(1, 9).await);
        assert!(!ask(2, 9).await, "some was taken");
        assert!(!ask(2, 9).await);
        assert!(ask(2, 2).await);
    }

    #[tokio::test]
    async fn calls_wait_until_the_protocol_is_emptied() {
        let live = Flow::default().open("test", "");
        let pace = Pace::of(&live);
        pace.turn().await;
        pace.hands(&vec![0; HANDED_BYTES_MAX].into());
        let waits = tokio::time::timeout(Duration::from_millis(20), pace.turn()).await;
        assert!(waits.is_err());
        pace.emptied();
        pace.turn().await;
    }
}
