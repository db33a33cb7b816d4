//! Room for answers on their way to clients, and who has to leave it.
//!
//! A wide answer takes room when it begins and gives it back when its client has read it all, so clients that do not read
//! could keep everybody else from reading. Three things stand against that. A connection has an eighth of the room at
//! most: what it asks for beyond waits for its own answers. A quarter of the room is for connections that have none, so
//! that one answer at a time begins at once for everybody, however many wait for their tenth. And while somebody waits for
//! room, whoever has some has to take [`PART_BYTES`] a second, or loses its call; otherwise it may take as long over them as
//! a stall lasts.
//!
//! ```text
//! of 256 MiB    192 for all: six connections fill it     64 for first answers, of 1 MiB at most: 64 connections' first
//! ```

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Room is counted in these.
pub(super) const UNIT: usize = 4 << 10;
/// What a client has to take within [`PRESSED`] while others wait.
pub(super) const PART_BYTES: usize = 48 << 10;
const PRESSED: Duration = Duration::from_secs(1);
/// A connection may have this part of the room.
const SHARES: usize = 8;
/// This part of it is for connections that have none.
const FIRSTS: usize = 4;
/// Answers that are made before their room is taken, at a time.
const TURNS: usize = 4;
/// Where that part has no place for a wide answer, there is none: so many units.
const FIRST_MIN: usize = (1 << 20) / UNIT;

/// The room of all, in units of [`UNIT`] bytes.
pub(super) struct Room {
    free: Arc<Semaphore>,
    /// For connections that have none.
    first: Arc<Semaphore>,
    /// How much of each there is in all.
    all: [usize; 2],
    /// Who waits for some.
    waiting: AtomicUsize,
    share: usize,
    /// For answers that are made before their room is taken.
    turns: Arc<Semaphore>,
}

/// What one connection may have.
pub(super) type Share = Arc<Part>;

/// See [`Share`].
pub(super) struct Part {
    /// Of the room for wide answers.
    room: Arc<Semaphore>,
    /// One answer at a time is made before its room is taken.
    turn: Arc<Semaphore>,
    /// What it has of the room for answers of few keys, in bytes.
    pub(super) few: AtomicUsize,
}

/// What a wide answer has: of its connection's share, and of the room of all.
pub(super) type Held = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

/// An answer is made whose length nobody knows before: few are in memory at a time, one of each connection.
pub(super) struct Turn {
    _of_one: Option<OwnedSemaphorePermit>,
    of_all: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).min(Semaphore::MAX_PERMITS);
        let first = Some(units / FIRSTS)
            .filter(|units| *units >= FIRST_MIN)
            .unwrap_or(0);
        let all = [units - first, first];
        let [free, first] = all.map(|units| Arc::new(Semaphore::new(units)));
        Self {
            free,
            first,
            all,
            waiting: AtomicUsize::new(0),
            share: (units / SHARES).max(1),
            turns: Arc::new(Semaphore::new(TURNS)),
        }
    }

    /// For a connection that begins.
    pub(super) fn share(&self) -> Share {
        Arc::new(Part {
            room: Arc::new(Semaphore::new(self.share)),
            turn: Arc::new(Semaphore::new(1)),
            few: AtomicUsize::new(0),
        })
    }

    /// Whether a connection has none of the room.
    pub(super) fn is_without(&self, share: &Share) -> bool {
        share.room.available_permits() == self.share
    }

    /// Waits for room, of all there is at most. Whoever is `without` need not wait behind those who have some.
    pub(super) async fn take(&self, units: u32, without: bool) -> Option<OwnedSemaphorePermit> {
        let [free, first] = self.all.map(|all| u32::try_from(all).unwrap_or(u32::MAX));
        let units = units.min(free);
        if let Ok(room) = self.free.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        let without = without && units <= first;
        if without && let Ok(room) = self.first.clone().try_acquire_many_owned(units) {
            return Some(room);
        }
        let _waiting = Waiting::new(&self.waiting);
        let of_all = self.free.clone().acquire_many_owned(units);
        if !without {
            return of_all.await.ok();
        }
        tokio::select! {
            biased;
            room = self.first.clone().acquire_many_owned(units) => room.ok(),
            room = of_all => room.ok(),
        }
    }

    /// Waits until the connection has room left of its share.
    pub(super) async fn take_of(&self, share: &Share, units: u32) -> Option<OwnedSemaphorePermit> {
        let units = units.min(u32::try_from(self.share).unwrap_or(u32::MAX));
        share.room.clone().acquire_many_owned(units).await.ok()
    }

    /// Waits until an answer may be made whose length nobody knows before.
    pub(super) async fn turn(&self, share: &Share) -> Turn {
        Turn {
            _of_one: share.turn.clone().acquire_owned().await.ok(),
            of_all: self.turns.clone().acquire_owned().await.ok(),
        }
    }

    /// Waits for the room of such an answer. Whose connection has no room left of its share waits for its own answers, and lets
    /// others have their turns.
    pub(super) async fn take_in_turn(&self, mut turn: Turn, share: &Share, units: u32) -> Held {
        let without = self.is_without(share);
        let mut of_share = pin!(self.take_of(share, units));
        let of_share = match of_share.as_mut().now_or_never() {
            Some(taken) => taken,
            None => {
                turn.of_all = None;
                of_share.await
            }
        };
        (of_share, self.take(units, without).await)
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
        let all = room.take(10, false).await;
        assert_eq!(seconds(&room).await, 60);
        {
            let mut waits = pin!(room.take(1, false));
            assert!(futures_util::poll!(waits.as_mut()).is_pending());
            assert_eq!(seconds(&room).await, 1);
        }
        assert_eq!(seconds(&room).await, 60, "nobody waits any more");
        drop(all);
        assert!(room.take(10, false).await.is_some());
    }

    /// Whether there is room at once; it is kept.
    async fn at_once(room: &Room, share: &Share, kept: &mut Vec<Held>) -> bool {
        const ANSWER: u32 = FIRST_MIN as u32;
        let without = room.is_without(share);
        let taken = async {
            (
                room.take_of(share, ANSWER).await,
                room.take(ANSWER, without).await,
            )
        };
        // However much this task has done already.
        let taken = tokio::task::unconstrained(taken).now_or_never();
        let is_there = taken.is_some();
        kept.extend(taken);
        is_there
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_yet_does_not_wait_behind_those_who_have() {
        let room = Room::new(128 << 20);
        let (hoarders, mut kept) = ((0..20).map(|_| room.share()).collect::<Vec<_>>(), Vec::new());
        for hoarder in &hoarders {
            assert!(at_once(&room, hoarder, &mut kept).await, "the first of each");
            while at_once(&room, hoarder, &mut kept).await {}
        }
        assert_eq!(kept.len(), 96 + 14, "and what there is for all");
        let mut waits = hoarders
            .iter()
            .map(|_| Box::pin(room.take(1, false)))
            .collect::<Vec<_>>();
        for wait in &mut waits {
            assert!(futures_util::poll!(wait.as_mut()).is_pending());
        }
        // Somebody else reads one answer after the other.
        let share = room.share();
        for _ in 0..100 {
            let mut kept = Vec::new();
            assert!(at_once(&room, &share, &mut kept).await);
            assert!(
                !at_once(&room, &share, &mut kept).await,
                "a second one waits like others"
            );
        }
        // Those for whom there was no place among the first any more get one before those who have some.
        let others = (0..19).map(|_| room.share()).collect::<Vec<_>>();
        for other in &others[..18] {
            assert!(at_once(&room, other, &mut kept).await);
        }
        assert!(room.is_without(&others[18]));
        let mut next = pin!(room.take(FIRST_MIN as u32, true));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        kept.pop();
        assert!(futures_util::poll!(next.as_mut()).is_ready());
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_own_connection_lets_others_have_their_turn() {
        let room = Room::new(80 * UNIT);
        let (full, other) = (room.share(), room.share());
        let all_of_it = room.take_of(&full, 10).await;
        let mut waits = Vec::new();
        for _ in 0..2 * TURNS {
            let mut made = Box::pin(async {
                let turn = room.turn(&full).await;
                room.take_in_turn(turn, &full, 10).await
            });
            assert!(futures_util::poll!(made.as_mut()).is_pending());
            waits.push(made);
        }
        let turn = room.turn(&other).now_or_never().expect("another's turn");
        assert!(room.take_in_turn(turn, &other, 10).await.1.is_some());
        drop(all_of_it);
        for made in waits {
            assert!(made.await.1.is_some(), "one after the other");
        }
    }
}
