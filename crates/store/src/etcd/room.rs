//! Room for answers on their way to clients, and who has to leave it.
//!
//! A wide answer takes room when it begins and gives it back when its client has read it all, so clients that do not read
//! could keep everybody else from reading. Two things stand against that. A connection has an eighth of the room at
//! most: what it asks for beyond waits for its own answers. And while somebody waits for room, whoever has some has to
//! take [`PART_BYTES`] a second, or loses its call; otherwise it may take as long over them as a stall lasts.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Room is counted in these.
pub(super) const UNIT: usize = 4 << 10;
/// What a client has to take within [`PRESSED`] while others wait.
pub(super) const PART_BYTES: usize = 48 << 10;
const PRESSED: Duration = Duration::from_secs(1);
/// A connection may have this part of the room.
const SHARES: usize = 8;

/// The room of all, in units of [`UNIT`] bytes.
pub(super) struct Room {
    free: Arc<Semaphore>,
    /// Who waits for some.
    waiting: AtomicUsize,
    share: usize,
}

/// The part of the room that one connection may have.
pub(super) type Share = Arc<Semaphore>;

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(units)),
            waiting: AtomicUsize::new(0),
            share: (units / SHARES).max(1),
        }
    }

    /// For a connection that begins.
    pub(super) fn share(&self) -> Share {
        Arc::new(Semaphore::new(self.share))
    }

    /// Waits for room.
    pub(super) async fn take(&self, units: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(room) = self.free.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        let _waiting = Waiting::new(&self.waiting);
        self.free.clone().acquire_many_owned(units).await.ok()
    }

    /// Waits until the connection has room left of its share.
    pub(super) async fn take_of(&self, share: &Share, units: u32) -> Option<OwnedSemaphorePermit> {
        let units = units.min(u32::try_from(self.share).unwrap_or(u32::MAX));
        share.clone().acquire_many_owned(units).await.ok()
    }

    /// What comes of `take`, by which a client takes a part of its answer, if it does so in time.
    pub(super) async fn taken<T>(&self, stall: Duration, take: impl Future<Output = T>) -> Option<T> {
        let mut take = pin!(take);
        let until = Instant::now() + stall;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Ok(taken) = timeout(PRESSED.min(left), take.as_mut()).await {
                return Some(taken);
            }
            if left <= PRESSED || self.waiting.load(Ordering::Relaxed) > 0 {
                return None;
            }
        }
    }
}

/// Somebody who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(60);

    async fn seconds(room: &Room) -> u64 {
        let began = Instant::now();
        let never = std::future::pending::<()>();
        assert!(room.taken(STALL, never).await.is_none());
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_as_long_as_a_stall_lasts_and_a_second_while_others_wait() {
        let room = Room::new(10 * UNIT);
        let all = room.take(10).await;
        assert_eq!(seconds(&room).await, 60);
        {
            let mut waits = pin!(room.take(1));
            assert!(futures_util::poll!(waits.as_mut()).is_pending());
            assert_eq!(seconds(&room).await, 1);
        }
        assert_eq!(seconds(&room).await, 60, "nobody waits any more");
        drop(all);
        assert!(room.take(10).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_has_an_eighth_of_the_room_and_one_answer_however_large() {
        let room = Room::new(80 * UNIT);
        let share = room.share();
        let large = room.take_of(&share, 1_000).await;
        assert!(large.is_some());
        let mut second = pin!(room.take_of(&share, 1));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(room.take_of(&room.share(), 10).await.is_some(), "another's");
        drop(large);
        assert!(second.await.is_some());
    }
}
