//! Slow duties in the background: prunes the index after a compaction, rewrites segments, writes checkpoints.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::clean::Cleaner;
use super::pace::Pace;
use super::shared::Shared;
use crate::core::checkpoint::{Builder, Meta};
use crate::core::index::{Index, Version};
use crate::error::Error;
use crate::log::checkpoint;
use crate::log::files::Table;
use crate::log::recover::Saved;
use crate::plant::{self, Plant};
use crate::point::{self, Point};

/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// Versions looked at under one lock, unless one key has more: commits wait for it.
const STEP: usize = 512;
/// Least time between two steps of pruning.
const PRUNE_PAUSE: Duration = Duration::from_micros(200);
/// Records behind the checkpoint from which on another is worth its writing, for small stores. For others it is the
/// part that replaces enough of what is written again.
const TAIL_RECORDS: u64 = 100_000;
const TAIL_PART: u64 = 4;
/// The same, in bytes.
const TAIL_BYTES: u64 = 256 << 20;
const TAIL_TIMES: u64 = 4;
/// Time before a checkpoint that failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The janitor's own state.
pub(crate) struct Janitor {
    pub(crate) shared: Arc<Shared>,
    /// The newest checkpoint.
    pub(crate) saved: Option<Saved>,
    pub(crate) retry_at: Instant,
    pub(crate) cleaner: Cleaner,
    /// The floor down to which the index has been pruned of everything.
    pruned: i64,
}

impl Janitor {
    pub(crate) fn new(shared: Arc<Shared>, saved: Option<Saved>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            pruned: -1,
            saved,
            retry_at: now,
            cleaner: Cleaner::new(now),
        }
    }

    /// Runs until the store stops; then writes a last checkpoint, unless the log has failed.
    pub(crate) fn run(mut self) {
        while !self.shared.stop.wait(PAUSE) {
            self.step();
        }
        // Nobody waits, or they hear of it.
        let _ = self.shared.pruned.send_replace(Err(Error::Stopped));
        if self.shared.closing.load(Ordering::Acquire) {
            self.finish();
        }
    }

    /// One round.
    pub(crate) fn step(&mut self) {
        self.prune();
        self.clean(self.pruned);
        if self.is_due() {
            self.checkpoint();
        }
    }

    /// Drops from the index what nobody can see. What readers hold stays, and goes in a round after they are done: who
    /// waits for a compaction does not wait for them.
    fn prune(&mut self) {
        let shared = &self.shared;
        let floor = shared.floor();
        if shared.would_be_prunable() > self.pruned {
            let Some(pruned) = prune(shared) else {
                return;
            };
            self.pruned = pruned;
        }
        shared.pruned.send_if_modified(|told| {
            let news = matches!(told, Ok(before) if *before < floor);
            if news {
                *told = Ok(floor);
            }
            news
        });
    }

    /// Writes the checkpoint that makes the next start short. The sequencer has ended by now.
    pub(crate) fn finish(&mut self) {
        let tip = *self.shared.tip.lock();
        if self.shared.poisoned().is_none() && self.saved.is_none_or(|saved| saved.log_index < tip.log_index)
        {
            self.checkpoint();
        }
    }

    /// The floor down to which the index has been pruned of everything.
    pub(super) fn pruned(&self) -> i64 {
        self.pruned
    }

    fn is_due(&self) -> bool {
        let tip = *self.shared.tip.lock();
        let saved = self.saved.unwrap_or(Saved {
            segment: 0,
            offset: 0,
            log_index: 0,
        });
        if Instant::now() < self.retry_at || tip.log_index == saved.log_index {
            return false;
        }
        let versions = self.shared.index.read().versions();
        let bytes = self.shared.checkpoint_bytes.load(Ordering::Relaxed);
        tip.log_index - saved.log_index >= TAIL_RECORDS.max(versions / TAIL_PART)
            || self.tail_bytes(saved) >= TAIL_BYTES.max(bytes * TAIL_TIMES)
    }

    fn tail_bytes(&self, saved: Saved) -> u64 {
        let table = self.shared.files.table();
        let tail = table
            .chain
            .iter()
            .rev()
            .take_while(|segment| segment.header.id >= saved.segment);
        tail.map(|segment| {
            let before = if segment.header.id == saved.segment {
                saved.offset
            } else {
                0
            };
            segment.end().saturating_sub(before)
        })
        .sum()
    }

    /// Writes a checkpoint; whether that worked.
    pub(crate) fn checkpoint(&mut self) -> bool {
        let shared = &self.shared;
        // Order matters: whatever happens after the tip was taken is in the log behind it.
        let tip = *shared.tip.lock();
        let table = shared.files.table();
        let meta = Meta {
            revision: tip.revision,
            floor: shared.floor(),
            log_index: tip.log_index,
            segment: tip.segment,
            offset: tip.offset,
            files: table
                .chain
                .iter()
                .map(|s| (s.header.id, s.header.generation))
                .collect(),
            leases: shared.grants(),
            tables: shared.tables.read().clone(),
        };
        point::hit(Point::CheckpointBegins);
        match write(shared, &meta, &table) {
            Ok(bytes) => {
                shared.checkpoint_bytes.store(bytes, Ordering::Relaxed);
                shared.metrics.checkpoints.inc();
                let Meta {
                    segment,
                    offset,
                    log_index,
                    ..
                } = meta;
                self.saved = Some(Saved {
                    segment,
                    offset,
                    log_index,
                });
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "write a checkpoint");
                self.retry_at = Instant::now() + RETRY;
                false
            }
        }
    }
}

fn write(shared: &Shared, meta: &Meta, table: &Table) -> io::Result<u64> {
    let positions: HashMap<u32, u32> = table
        .chain
        .iter()
        .zip(0..)
        .map(|(segment, n)| (segment.number, n))
        .collect();
    let mut piece = Piece::default();
    let mut after: Option<Box<[u8]>> = None;
    let mut pace = Pace::new(shared);
    checkpoint::write(&shared.files, meta, |builder| {
        // What was written since the last piece is part of the turn.
        pace.rest();
        after = piece.read(&shared.index.read(), after.as_deref(), meta.revision);
        piece.encode(&positions, builder);
        after.is_some()
    })
}

/// Some keys of the index, copied under its lock: encoding takes longer and needs none.
#[derive(Default)]
struct Piece {
    keys: Vec<u8>,
    versions: Vec<Version>,
    /// Where each key ends, and where its versions do.
    ends: Vec<(usize, usize)>,
}

impl Piece {
    /// Copies the versions up to `revision` of the next keys; returns the last key, if there may be more.
    fn read(&mut self, index: &Index, after: Option<&[u8]>, revision: i64) -> Option<Box<[u8]>> {
        self.keys.clear();
        self.versions.clear();
        self.ends.clear();
        index.walk(after, STEP, |key, older, newest| {
            let before = self.versions.len();
            let until = older.partition_point(|version| version.modified <= revision);
            self.versions.extend_from_slice(&older[..until]);
            if newest.modified <= revision {
                self.versions.push(*newest);
            }
            if plant::has(Plant::TornCheckpoint) && self.versions.len() > before + 1 {
                self.versions.pop();
            }
            if self.versions.len() > before {
                self.keys.extend_from_slice(key);
                self.ends.push((self.keys.len(), self.versions.len()));
            }
        })
    }

    fn encode(&mut self, positions: &HashMap<u32, u32>, builder: &mut Builder) {
        for version in &mut self.versions {
            // Versions up to the tip lie in the segments there were then.
            version.at.file = positions.get(&version.at.file).copied().unwrap_or(0);
        }
        let (mut key, mut version) = (0, 0);
        for (key_end, version_end) in self.ends.iter().copied() {
            builder.key(&self.keys[key..key_end], &self.versions[version..version_end]);
            (key, version) = (key_end, version_end);
        }
    }
}

/// Drops what is below the floor and held by nobody; returns the floor down to which everything is gone. `None` when the
/// store stopped meanwhile.
fn prune(shared: &Shared) -> Option<i64> {
    let mut from: Option<Box<[u8]>> = None;
    let mut pruned = i64::MAX;
    point::hit(Point::PruneBegins);
    loop {
        let mut dropped = Vec::new();
        let started;
        {
            let mut index = shared.index.write();
            started = Instant::now();
            let prunable = shared.prunable();
            pruned = pruned.min(prunable);
            from = index.prune(from.as_deref(), prunable, STEP, &mut |key, version| {
                dropped.push((key.len(), version.at));
            });
        }
        point::hit(Point::PrunedSome);
        let table = shared.files.table();
        for (key_len, at) in dropped {
            if let Some(segment) = table.by_number.get(&at.file) {
                segment.weigh(-1, key_len, at.len);
            }
        }
        if from.is_none() {
            point::hit(Point::Pruned);
            return Some(pruned);
        }
        // As long as it took, commits have the lock for themselves.
        if shared.stop.wait(started.elapsed().max(PRUNE_PAUSE)) {
            return None;
        }
    }
}
