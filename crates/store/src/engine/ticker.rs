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
/// Leases ended in one go.
const EXPIRE_MAX: usize = 1_000;

/// Runs until the store stops.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut ended: Vec<i64> = Vec::new();
    let mut retry_at = Instant::now();
    let mut last_leases = Instant::now();
    let mut pause = Duration::ZERO;
    while !shared.stop.wait(pause) {
        let now = Instant::now();
        if now - last_leases >= PAUSE || ended.len() == EXPIRE_MAX {
            last_leases = now;
            expire(shared, &mut ended, now);
        }
        shared.room.look(shared.files.live_bytes());
        raise(shared);
        if shared.spare.is_empty() && now >= retry_at && shared.poisoned().is_none() {
            prepare(shared);
            retry_at = now + RETRY;
        }
        if !shared.spare.is_empty() && shared.no_space.swap(false, Ordering::AcqRel) {
            tracing::info!("there is room on the disk again, writes are accepted");
        }
        pause = if fill_is_due(shared) && fill(shared) {
            FILL_PAUSE
        } else {
            PAUSE
        };
    }
}

/// Proposes the end of leases; what the line has no room for waits for the next round.
fn expire(shared: &Shared, ended: &mut Vec<i64>, now: Instant) {
    if ended.is_empty() {
        *ended = shared.leases.lock().expire(now, EXPIRE_MAX);
    }
    if ended.is_empty() {
        return;
    }
    let ids = ended.clone();
    if shared
        .queue
        .push(Proposal {
            command: Command::Expire(ids),
            trace: None,
            expect: None,
            bytes: 0,
        })
        .is_ok()
    {
        ended.clear();
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
        expect: None,
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

/// Zeros are worth their writing once the segment in use is a quarter full: an idle store writes none.
fn fill_is_due(shared: &Shared) -> bool {
    shared.options.prefill && shared.tip.lock().offset > shared.options.segment_bytes / 4
}

fn fill(shared: &Shared) -> bool {
    shared.spare.fill().unwrap_or_else(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "fill the next segment with zeros"
        );
        drop(shared.spare.take());
        false
    })
}
