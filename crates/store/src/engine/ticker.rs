//! Small periodic duties: ended leases, and the next segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::{Command, Proposal};
use super::shared::Shared;
use crate::core::alarm::{Alarm, AlarmKind};
use crate::core::meta::{MetaTxn, MetaWrite, Table};
use crate::log::files::is_full;
use crate::log::spare;

/// Time between two rounds, when there is nothing to fill.
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two pieces of zeros: at most about 25 MB/s.
const FILL_PAUSE: Duration = Duration::from_millis(10);
/// Time between two attempts to reserve space on a full disk.
const RETRY: Duration = Duration::from_secs(1);
/// Leases ended in one go: few enough that a write behind them waits for some milliseconds at most.
const EXPIRE_MAX: usize = 500;
/// Time between two looks whether the last go is through, while more leases wait for their end.
const EXPIRE_PAUSE: Duration = Duration::from_millis(1);

/// The ticker's own state.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    ending: Ending,
    retry_at: Instant,
    last_leases: Instant,
    filling: bool,
    fill_at: Instant,
    /// Where the log ended when zeros were thought of last.
    log_end: u64,
}

impl Ticker {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            ending: Ending::default(),
            retry_at: now,
            last_leases: now,
            filling: false,
            fill_at: now,
            log_end: 0,
        }
    }

    /// Runs until the store stops.
    pub(crate) fn run(mut self) {
        let mut pause = Duration::ZERO;
        while !self.shared.stop.wait(pause) {
            pause = self.step();
        }
    }

    /// One round; how long to wait for the next.
    pub(crate) fn step(&mut self) -> Duration {
        let shared = &self.shared;
        let now = Instant::now();
        if now - self.last_leases >= PAUSE || self.ending.more {
            self.last_leases = now;
            self.ending.step(shared, now);
        }
        shared.room.look(shared.files.live_bytes());
        raise(shared);
        if shared.spare.is_empty() && now >= self.retry_at && shared.poisoned().is_none() {
            prepare(shared);
            self.retry_at = now + RETRY;
        }
        if !shared.spare.is_empty() && shared.no_space.swap(false, Ordering::AcqRel) {
            tracing::info!("there is room on the disk again, writes are accepted");
        }
        if now >= self.fill_at {
            let end = shared.tip.lock().offset;
            let grows = std::mem::replace(&mut self.log_end, end) != end;
            self.filling = fill(shared, end).is_some_and(|filled| filled || grows);
            self.fill_at = now + FILL_PAUSE;
        }
        match (self.ending.more, self.filling) {
            (true, _) => EXPIRE_PAUSE,
            (false, true) => FILL_PAUSE,
            (false, false) => PAUSE,
        }
    }
}

/// The end of leases: one go after the other, so that a hundred thousand that end at once neither fill the line in
/// front of the sequencer nor make one long commit.
#[derive(Default)]
struct Ending {
    /// The go that is next or under way, in the order of their ends.
    ids: Vec<i64>,
    /// When it was proposed.
    proposed: Option<Instant>,
    /// Whether there is more to do at once.
    more: bool,
}

impl Ending {
    fn step(&mut self, shared: &Shared, now: Instant) {
        if shared.poisoned().is_some() {
            *self = Self::default();
            return;
        }
        if let Some(proposed) = self.proposed {
            let leases = shared.leases.lock();
            if !self.ids.iter().any(|id| leases.has_ended(*id)) {
                self.ids.clear();
            } else if now - proposed < RETRY {
                return;
            }
            // A disk without any room refused it: what has ended already is passed over the next time.
            self.proposed = None;
        }
        if self.ids.is_empty() {
            (self.ids, self.more) = shared.leases.lock().expire(now, EXPIRE_MAX);
        }
        if self.ids.is_empty() {
            return;
        }
        self.more = true;
        let proposal = Proposal {
            command: Command::Expire(self.ids.clone()),
            trace: None,
            rests: None,
            bytes: 0,
        };
        // What the line has no room for waits for the next step.
        if shared.queue.push(proposal).is_ok() {
            self.proposed = Some(now);
        }
    }
}

/// In manual mode a lack of room becomes an alarm, which outlives it and a restart.
fn raise(shared: &Shared) {
    let lacks = shared.room.is_over_quota() || shared.no_space.load(Ordering::Acquire);
    if !shared.room.manual || !lacks || shared.room.is_alarmed() {
        return;
    }
    let alarm = Alarm {
        member: shared.member_id,
        kind: AlarmKind::NoSpace,
    };
    let write = MetaWrite::put(Table::ALARM, alarm.encode(), "");
    // Nobody waits for the answer; if the line is full, the next round tries again.
    let (reply, _) = tokio::sync::oneshot::channel();
    let _ = shared.queue.push(Proposal {
        command: Command::Meta(MetaTxn::new(vec![write]), reply),
        trace: None,
        rests: None,
        bytes: 0,
    });
}

fn prepare(shared: &Shared) {
    let path = shared.files.new_temporary();
    match spare::prepare(&*shared.files.disk, path, shared.options.segment_bytes) {
        Ok(spare) => shared.spare.put(spare),
        Err(error) if is_full(&error) => {
            if !shared.no_space.swap(true, Ordering::AcqRel) {
                tracing::error!("the disk is full: only reads, deletes and compaction are accepted");
            }
        }
        // The writer tries by itself when it needs the segment, and reports then.
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "prepare the next segment"
        ),
    }
}

/// Zeros are worth their writing once the segment in use is a quarter full: an idle store writes none. From then on there
/// are to be twice as many as the log grows by, so that they are spread and still there in time.
fn fill(shared: &Shared, end: u64) -> Option<bool> {
    let due = 2 * end.saturating_sub(shared.options.segment_bytes / 4);
    if !shared.options.prefill || due == 0 {
        return None;
    }
    shared.spare.fill(due).unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "fill the next segment with zeros"
        );
        drop(shared.spare.take());
        None
    })
}
