//! The store of a plane: on which disk, and what it forgets by itself.

use std::sync::Arc;

use setpoint_base::{Disk, FsDisk, SystemClock, TaskGroup, UnsyncedDisk};
use setpoint_store::{OpenError, Store};

use super::PlaneOptions;

/// Opens the store. Blocks.
pub(super) fn open(options: &PlaneOptions) -> Result<Store, OpenError> {
    let disk: Arc<dyn Disk> = if options.unsafe_no_fsync {
        tracing::warn!(
            "writes are not synced: a crash of this machine loses acknowledged writes, and may leave a log that does \
             not open. Only for data that may be lost"
        );
        Arc::new(UnsyncedDisk(FsDisk))
    } else {
        Arc::new(FsDisk)
    };
    Store::open(options.store.clone(), disk, SystemClock::shared())
}

/// Compacts as the options say, while the group runs.
pub(super) fn compact(options: &PlaneOptions, store: &Store, group: &TaskGroup) {
    if let Some(policy) = options.auto_compaction {
        let (store, stop) = (store.clone(), group.stop().clone());
        group.spawn(async move { policy.run(&store, &stop).await });
    }
}
