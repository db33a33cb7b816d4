//! Compaction that happens by itself, as etcd's `--auto-compaction-mode` has it.
//!
//! `Periodic` keeps the history of so much time. The revision is noted ten times a period (ten times an hour when the
//! period is longer), and the oldest note is what may be forgotten below:
//!
//! ```text
//! period 1 h   notes every 6 min, eleven of them     first compaction after 1 h, then every hour
//! period 24 h  notes every 6 min, 241 of them        first compaction after 24 h, then every hour
//! period 10 s  notes every second, eleven of them    first compaction after 10 s, then every 10 s
//! ```
//!
//! `Revisions` keeps so many of the newest revisions, and looks every five minutes.

use std::collections::VecDeque;
use std::time::Duration;

use setpoint_base::{Chain, Stop};
use tokio::time::Instant;

use crate::types::Revision;
use crate::{Error, Store};

/// Compactions are this far apart at most, and notes a tenth of it.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
const NOTES_AN_INTERVAL: u32 = 10;
/// Notes are not taken more often, however short the period.
const NOTE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Between two looks when revisions are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(300);

/// How much history stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// That of the last so much time.
    Periodic(Duration),
    /// The newest so many revisions.
    Revisions(i64),
}

impl AutoCompaction {
    /// Compacts `store` from time to time, until `stop`.
    pub async fn run(self, store: &Store, stop: &Stop) {
        let mut notes = Notes::new(self, Instant::now());
        loop {
            notes.note(store.revision().0);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(notes.pause()) => (),
            }
            let Some(revision) = notes.due(store.revision().0, Instant::now()) else {
                continue;
            };
            let began = Instant::now();
            match store.compact(Revision(revision), false).await {
                Ok(_) | Err(Error::Compacted { .. }) => {
                    notes.done(revision, Instant::now());
                    let micros = began.elapsed().as_micros();
                    tracing::info!(revision, micros, "completed auto compaction");
                }
                Err(Error::Stopped) => return,
                Err(error) => {
                    tracing::warn!(revision, error = %Chain(&error), "failed auto compaction, it will be tried again");
                }
            }
        }
    }
}

/// What was seen, and what follows from it.
#[derive(Debug)]
struct Notes {
    policy: AutoCompaction,
    /// Revisions, one a pause, the oldest first; as many as cover the period.
    seen: VecDeque<i64>,
    /// When the next compaction may be.
    next: Instant,
    done: i64,
}

impl Notes {
    fn new(policy: AutoCompaction, now: Instant) -> Self {
        let first = match policy {
            AutoCompaction::Periodic(period) => period,
            AutoCompaction::Revisions(_) => Duration::ZERO,
        };
        Self {
            policy,
            seen: VecDeque::new(),
            next: now + first,
            done: 0,
        }
    }

    fn pause(&self) -> Duration {
        match self.policy {
            AutoCompaction::Periodic(period) => {
                (period.min(INTERVAL_MAX) / NOTES_AN_INTERVAL).max(NOTE_INTERVAL_MIN)
            }
            AutoCompaction::Revisions(_) => COUNT_INTERVAL,
        }
    }

    fn note(&mut self, revision: i64) {
        let AutoCompaction::Periodic(period) = self.policy else {
            return;
        };
        let most = period.as_millis() / self.pause().as_millis() + 1;
        self.seen.push_back(revision);
        while self.seen.len() as u128 > most {
            self.seen.pop_front();
        }
    }

    /// The revision below which history may be forgotten now.
    fn due(&self, current: i64, now: Instant) -> Option<i64> {
        let revision = match self.policy {
            AutoCompaction::Periodic(_) => *self.seen.front().filter(|_| now >= self.next)?,
            AutoCompaction::Revisions(keep) => current.checked_sub(keep)?,
        };
        (revision > 0 && revision != self.done).then_some(revision)
    }

    fn done(&mut self, revision: i64, now: Instant) {
        self.done = revision;
        if let AutoCompaction::Periodic(period) = self.policy {
            self.next = now + period.min(INTERVAL_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One write a second; what is compacted, at which second.
    fn compactions(policy: AutoCompaction, seconds: u64) -> Vec<(u64, i64)> {
        let begin = Instant::now();
        let mut notes = Notes::new(policy, begin);
        let (mut at, mut compacted) = (0, Vec::new());
        while at < seconds {
            notes.note(1 + at as i64);
            at += notes.pause().as_secs();
            let now = begin + Duration::from_secs(at);
            if let Some(revision) = notes.due(1 + at as i64, now) {
                notes.done(revision, now);
                compacted.push((at, revision));
            }
        }
        compacted
    }

    #[test]
    fn a_period_is_kept_and_compacted_once_a_period() {
        let policy = AutoCompaction::Periodic(Duration::from_secs(10));
        assert_eq!(compactions(policy, 40), [(10, 1), (20, 10), (30, 20), (40, 30)]);
    }

    #[test]
    fn a_long_period_is_compacted_every_hour_once_it_has_passed() {
        const HOUR: u64 = 3600;
        let policy = AutoCompaction::Periodic(Duration::from_secs(24 * HOUR));
        let seen = compactions(policy, 27 * HOUR);
        let hours: Vec<u64> = seen.iter().map(|(at, _)| at / HOUR).collect();
        assert_eq!(hours, [24, 25, 26, 27]);
        for (at, revision) in seen {
            let kept = 1 + at as i64 - revision;
            assert!(
                (24 * 3600..=24 * 3600 + 360).contains(&kept),
                "at {at} s, {kept} s were kept"
            );
        }
    }

    #[test]
    fn a_count_of_revisions_is_kept() {
        let policy = AutoCompaction::Revisions(400);
        assert_eq!(compactions(policy, 900), [(600, 201), (900, 501)]);
    }

    #[test]
    fn nothing_new_is_nothing_to_compact() {
        let begin = Instant::now();
        let mut notes = Notes::new(AutoCompaction::Periodic(Duration::from_secs(10)), begin);
        let later = begin + Duration::from_secs(60);
        notes.note(7);
        assert_eq!(notes.due(7, later), Some(7));
        notes.done(7, later);
        notes.note(7);
        assert_eq!(notes.due(7, later + Duration::from_secs(60)), None);
    }

    #[test]
    fn the_shortest_period_does_not_spin() {
        let mut notes = Notes::new(AutoCompaction::Periodic(Duration::from_nanos(1)), Instant::now());
        notes.note(1);
        assert!(notes.pause() >= NOTE_INTERVAL_MIN);
    }
}
