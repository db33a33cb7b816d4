//! Gives space back: segments that are mostly dead are rewritten, dead ones emptied, leading empty ones
//! deleted.
//!
//! A deletion may be dropped only when no older segment can still hold a write of its key, or a replay of
//! the whole log would bring the key back. A segment that was rewritten at floor F holds nothing that a
//! deletion below F speaks of; so a deletion goes once every older segment was rewritten at a higher floor.
//! Side tables follow the same rule. A write to one stays while its value is the current one: more than the
//! last write of a key may stay then, but the last one always does, and it is replayed last.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::janitor::Janitor;
use super::pace::Pace;
use super::shared::Shared;
use crate::core::header::HEADER;
use crate::core::meta::MetaRef;
use crate::core::record::{Kind, OpRef};
use crate::log::files::{Segment, is_full};
use crate::log::rewrite::{self, Keep, Moved, Plan};
use crate::plant::{self, Plant};
use crate::point::{self, Point};

/// Time between two looks for candidates.
const PAUSE: Duration = Duration::from_millis(500);
/// Time between two segments.
const REST: Duration = Duration::from_millis(10);
/// Segments rewritten before the checkpoint that lets the old ones go.
const ROUND: usize = 8;
/// Places switched under one lock.
const STEP: usize = 256;
/// Bytes of a dead file that are given back at once, and the time between two such pieces. A file system that tells its
/// disk of freed space (`discard`) does so when it writes its journal: of hundreds of megabytes at once, it was seen to hold up
/// syncs for 60 ms.
const GIVEN_BACK: u64 = 4 << 20;
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(50);
/// A segment is rewritten when less than this many parts in [`PARTS`] are alive.
const WORTH: u64 = 8;
/// The same, when somebody has asked for space.
const WORTH_THOROUGH: u64 = 14;
const PARTS: u64 = 16;

/// What cleaning remembers between rounds.
pub(crate) struct Cleaner {
    next: Instant,
    /// How much of a segment may be alive.
    worth: u64,
    /// By segment: the floor at which it was looked at in vain.
    in_vain: HashMap<u32, i64>,
    /// Replaced files, deleted after the next checkpoint.
    replaced: Vec<Arc<Segment>>,
    /// Segments to empty once nobody reads them, with their new header.
    dead: Vec<(Arc<Segment>, i64)>,
    /// Deleted files, whose space is given back once nobody reads them.
    deleted: Vec<Arc<Segment>>,
}

impl Cleaner {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next: now,
            worth: WORTH,
            in_vain: HashMap::new(),
            replaced: Vec::new(),
            dead: Vec::new(),
            deleted: Vec::new(),
        }
    }
}

impl Janitor {
    /// One round, if it is time. `pruned` is the floor down to which the index has been pruned.
    pub(crate) fn clean(&mut self, pruned: i64) {
        let now = Instant::now();
        if now < self.cleaner.next || self.shared.poisoned().is_some() {
            return;
        }
        self.cleaner.next = now + PAUSE;
        if self.shared.thorough.swap(false, Ordering::AcqRel) {
            self.cleaner.worth = WORTH_THOROUGH;
            self.cleaner.in_vain.clear();
        }
        if pruned == self.shared.floor() && pruned > 0 {
            match self.rewrite_some(pruned) {
                // What was asked for has been done.
                Ok(0) => self.cleaner.worth = WORTH,
                Err(error) if !is_full(&error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "rewrite a segment");
                    self.cleaner.next = now + 20 * PAUSE;
                }
                _ => (),
            }
        }
        if !self.cleaner.replaced.is_empty() && now >= self.retry_at && self.checkpoint() {
            for old in std::mem::take(&mut self.cleaner.replaced) {
                point::hit(Point::ReplacedGoes);
                self.remove(old);
            }
        }
        self.empty_dead();
        self.delete_leading();
        self.give_back();
    }

    /// How many segments it rewrote.
    fn rewrite_some(&mut self, floor: i64) -> io::Result<usize> {
        let table = self.shared.files.table();
        let Some((_, sealed)) = table.chain.split_last() else {
            return Ok(0);
        };
        let mut older_cleaned = i64::MAX;
        let mut done = 0;
        for segment in sealed {
            let empty = segment.end() == u64::from(HEADER);
            if !empty && done < ROUND && self.is_candidate(segment, floor) {
                let cleaned = self.rewrite(segment, floor, older_cleaned)?;
                done += usize::from(cleaned);
                if cleaned {
                    older_cleaned = older_cleaned.min(if self.is_dead(segment) { -1 } else { floor });
                    point::hit(Point::RewritePause);
                    // Who waits for a compaction that came meanwhile does not wait for the rest of the round.
                    if self.shared.stop.wait(REST) || self.shared.floor() > floor {
                        return Ok(done);
                    }
                    continue;
                }
            }
            // A dead segment that is not emptied yet would still be replayed.
            if self.is_dead(segment) {
                older_cleaned = -1;
            } else if !empty {
                older_cleaned = older_cleaned.min(segment.header.cleaned);
            }
        }
        Ok(done)
    }

    fn is_candidate(&self, segment: &Arc<Segment>, floor: i64) -> bool {
        let total = segment.end() - u64::from(HEADER);
        let live = segment.live.load(Ordering::Relaxed).max(0).unsigned_abs();
        live * PARTS < total * self.cleaner.worth
            && self
                .cleaner
                .in_vain
                .get(&segment.number)
                .is_none_or(|at| *at < floor)
    }

    fn is_dead(&self, segment: &Segment) -> bool {
        self.cleaner
            .dead
            .iter()
            .any(|(dead, _)| dead.header.id == segment.header.id)
    }

    /// Rewrites a segment, or finds it dead; whether it holds only what is reachable now.
    fn rewrite(&mut self, segment: &Arc<Segment>, floor: i64, older_cleaned: i64) -> io::Result<bool> {
        let shared = Arc::clone(&self.shared);
        let mut keep = Reachable {
            shared: &shared,
            floor,
            older_cleaned,
            file: segment.number,
            pace: Pace::new(&shared),
        };
        let plan = rewrite::plan(segment, &mut keep)?;
        point::hit(Point::RewritePlanned);
        if plan.len() == 0 {
            let covered = self.saved.is_some_and(|saved| segment.header.id < saved.segment);
            if covered || !plan.speaks_of_others {
                self.cleaner.dead.push((self.retire(segment, floor), floor));
                return Ok(true);
            }
        } else if plan.len() as u64 * PARTS > segment.end() * self.cleaner.worth {
            self.cleaner.in_vain.insert(segment.number, floor);
            return Ok(false);
        }
        let replaced = self.replace(segment, plan, floor, &mut keep)?;
        self.cleaner.replaced.push(replaced);
        self.shared.metrics.rewrites.inc();
        Ok(true)
    }

    /// Puts the rewritten segment in place of the old one.
    fn replace(
        &self,
        old: &Arc<Segment>,
        plan: Plan,
        floor: i64,
        keep: &mut dyn Keep,
    ) -> io::Result<Arc<Segment>> {
        let files = &self.shared.files;
        let (new, moved) = plan.write(files, old, floor, keep)?;
        point::hit(Point::RewriteDone);
        files.change(|table| {
            table.by_number.insert(new.number, Arc::clone(&new));
        });
        for step in moved.chunks(STEP) {
            switch(&self.shared, old, &new, step);
            point::hit(Point::RewriteSwitching);
            keep.rest();
        }
        files.change(|table| {
            table.by_number.remove(&old.number);
            for segment in &mut table.chain {
                if segment.number == old.number {
                    *segment = Arc::clone(&new);
                }
            }
        });
        point::hit(Point::RewriteSwitched);
        Ok(Arc::clone(old))
    }

    /// Puts an empty segment in place of a dead one, which readers may still hold.
    fn retire(&self, segment: &Arc<Segment>, floor: i64) -> Arc<Segment> {
        let header = rewrite::emptied(&segment.header, floor);
        let (path, file) = (segment.path.clone(), Arc::clone(&segment.file));
        let number = self.shared.files.next_number();
        let empty = Arc::new(Segment::new(number, header, path, file, u64::from(HEADER)));
        self.shared.files.change(|table| {
            table.by_number.remove(&segment.number);
            table.by_number.insert(number, Arc::clone(&empty));
            for member in &mut table.chain {
                if member.number == segment.number {
                    *member = Arc::clone(&empty);
                }
            }
        });
        Arc::clone(segment)
    }

    fn empty_dead(&mut self) {
        let shared = Arc::clone(&self.shared);
        let pruned = self.pruned();
        self.cleaner.dead.retain_mut(|(segment, floor)| {
            if Arc::strong_count(segment) > 1 {
                return true;
            }
            if segment.end() > u64::from(HEADER) {
                point::hit(Point::DeadGoes);
                let header = rewrite::emptied(&segment.header, *floor);
                if let Err(error) = rewrite::empty(segment, &header) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "empty a dead segment");
                    return false;
                }
            }
            !shrink(&shared, pruned, segment, u64::from(HEADER))
        });
    }

    /// Deletes what the newest segment says nobody needs.
    fn delete_leading(&mut self) {
        let table = self.shared.files.table();
        let oldest = table.chain.last().map_or(0, |last| last.header.oldest);
        for segment in table
            .chain
            .iter()
            .take_while(|segment| segment.header.id < oldest)
        {
            point::hit(Point::LeadingGoes);
            self.shared.files.change(|table| {
                table.by_number.remove(&segment.number);
                table.chain.retain(|member| member.number != segment.number);
            });
            self.remove(Arc::clone(segment));
        }
    }

    fn remove(&mut self, segment: Arc<Segment>) {
        match self.shared.files.disk.remove(&segment.path) {
            Ok(()) => self.cleaner.deleted.push(segment),
            // The next start deletes it.
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                path = %segment.path.display(),
                "remove"
            ),
        }
    }

    /// Gives the space of deleted files back, once they are sure to have no names any more: after a crash nobody may find
    /// half of one.
    fn give_back(&mut self) {
        if self.cleaner.deleted.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Err(error) = shared.files.disk.sync_dir(&shared.files.dir) {
            tracing::warn!(error = &error as &dyn std::error::Error, "sync the directory");
            // Closed, they give it back by themselves.
            self.cleaner.deleted.clear();
            return;
        }
        let pruned = self.pruned();
        self.cleaner
            .deleted
            .retain(|segment| Arc::strong_count(segment) > 1 || !shrink(&shared, pruned, segment, 0));
    }
}

/// Cuts a file that nobody reads down to a length, some at a time; whether that is done. It is not when a compaction came
/// meanwhile, whose client waits.
fn shrink(shared: &Shared, pruned: i64, segment: &Segment, to: u64) -> bool {
    loop {
        // A file that does not tell, or that cannot be cut, gives its space back when it is closed or deleted.
        let Ok(len) = segment.file.len() else {
            return true;
        };
        let next = len.saturating_sub(GIVEN_BACK).max(to);
        if next >= len || segment.file.set_len(next).is_err() || next == to {
            return true;
        }
        let hurry = shared.no_space.load(Ordering::Acquire);
        if shared.floor() > pruned {
            return false;
        }
        // A store that stops does not rest.
        shared
            .stop
            .wait(if hurry { Duration::ZERO } else { GIVE_BACK_PAUSE });
    }
}

fn switch(shared: &Shared, old: &Segment, new: &Segment, moved: &[Moved]) {
    let mut index = shared.index.write();
    for moved in moved {
        if let Some(version) = index.exact_mut(&moved.key, moved.revision)
            && version.at.file == old.number
        {
            version.at.file = new.number;
            version.at.offset = moved.offset;
            old.weigh(-1, moved.key.len(), moved.len);
            new.weigh(1, moved.key.len(), moved.len);
        }
    }
}

/// What the index, or a replay, can still reach.
struct Reachable<'a> {
    shared: &'a Shared,
    floor: i64,
    older_cleaned: i64,
    file: u32,
    pace: Pace<'a>,
}

impl Reachable<'_> {
    fn speaks_of_older(&self, revision: i64) -> bool {
        revision >= self.older_cleaned
    }
}

impl Keep for Reachable<'_> {
    fn op(&self, revision: i64, op: &OpRef<'_>) -> bool {
        if plant::has(Plant::LostDeletion) && matches!(op, OpRef::Delete { .. }) {
            return false;
        }
        if revision >= self.floor {
            return true;
        }
        if matches!(op, OpRef::Delete { .. }) && self.speaks_of_older(revision) {
            return !plant::has(Plant::ForgottenDeletion);
        }
        let index = self.shared.index.read();
        index
            .exact(op.key(), revision)
            .is_some_and(|version| version.at.file == self.file)
    }

    fn record(&self, revision: i64, kind: Kind) -> bool {
        match kind {
            // The headers of later segments carry the floor.
            Kind::Revision | Kind::Compact { .. } => false,
            // Its entries decide.
            Kind::Meta => false,
            Kind::Grant { id, .. } => self.shared.leases.lock().contains(id),
            Kind::Revoke { .. } => revision >= self.floor || self.speaks_of_older(revision),
        }
    }

    fn meta(&self, revision: i64, entry: &MetaRef<'_>) -> bool {
        match entry.value {
            Some(value) => {
                let tables = self.shared.tables.read();
                tables.get(entry.table, entry.key).is_some_and(|now| now == value)
            }
            None => revision >= self.floor || self.speaks_of_older(revision),
        }
    }

    fn breathe(&mut self) {
        self.pace.breathe();
    }

    fn rest(&mut self) {
        self.pace.rest();
    }
}
