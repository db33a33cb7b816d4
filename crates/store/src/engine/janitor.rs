//! Slow duties in the background: prunes the index after a compaction.

use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;

/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(50);
/// Keys pruned under one write lock.
const STEP: usize = 512;

/// Runs until the store stops.
pub(crate) fn run(shared: &Arc<Shared>) {
    let mut pruned = *shared.pruned.borrow();
    while !shared.stop.wait(PAUSE) {
        let floor = shared.floor();
        if floor > pruned && prune(shared, floor) {
            pruned = floor;
            shared.pruned.send_replace(floor);
        }
    }
}

/// Drops everything below the floor; whether all of it could go.
fn prune(shared: &Shared, floor: i64) -> bool {
    let mut from: Option<Box<[u8]>> = None;
    let mut complete = true;
    loop {
        let mut dropped = Vec::new();
        {
            let mut index = shared.index.write();
            let prunable = shared.prunable();
            complete &= prunable >= floor;
            from = index.prune(from.as_deref(), prunable, STEP, &mut |key, version| {
                dropped.push((key.len(), version.at));
            });
        }
        let table = shared.files.table();
        for (key_len, at) in dropped {
            if let Some(segment) = table.by_number.get(&at.file) {
                segment.weigh(-1, key_len, at.len);
            }
        }
        if from.is_none() {
            return complete;
        }
        if shared.stop.wait(Duration::from_millis(1)) {
            return false;
        }
    }
}
