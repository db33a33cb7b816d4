//! The store of a plane: on which disk, and what it forgets by itself.

use std::path::Path;
use std::sync::Arc;

use setpoint_base::{Disk, FsDisk, SystemClock, TaskGroup, UnsyncedDisk};
use setpoint_store::Store;

use super::{PlaneError, PlaneOptions};

/// Where a restore works, beside the store's place.
pub(crate) const UNFINISHED: &str = "store.restoring";

/// Opens the store. Blocks.
pub(super) fn open(options: &PlaneOptions) -> Result<Store, PlaneError> {
    nobody_elses(&options.data_dir, &options.store.dir)?;
    let disk: Arc<dyn Disk> = if options.unsafe_no_fsync {
        tracing::warn!(
            "writes are not synced: a crash of this machine loses acknowledged writes, and may leave a log that does \
             not open. Only for data that may be lost"
        );
        Arc::new(UnsyncedDisk(FsDisk))
    } else {
        Arc::new(FsDisk)
    };
    Ok(Store::open(options.store.clone(), disk, SystemClock::shared())?)
}

/// Where there is something else and no store, an empty one would be served as if all had been deleted.
fn nobody_elses(data_dir: &Path, store: &Path) -> Result<(), PlaneError> {
    if store.exists() {
        return Ok(());
    }
    let unfinished = data_dir.join(UNFINISHED);
    if unfinished.exists() {
        return Err(PlaneError::HalfRestored { unfinished });
    }
    if is_etcds(data_dir) {
        return Err(PlaneError::EtcdsOwn {
            dir: data_dir.to_owned(),
        });
    }
    Ok(())
}

/// Whether a directory is that of a member of etcd.
pub(crate) fn is_etcds(dir: &Path) -> bool {
    ["member/snap/db", "member/wal"]
        .iter()
        .any(|name| dir.join(name).symlink_metadata().is_ok())
}

/// Compacts as the options say, while the group runs.
pub(super) fn compact(options: &PlaneOptions, store: &Store, group: &TaskGroup) {
    if let Some(policy) = options.auto_compaction {
        let (store, stop) = (store.clone(), group.stop().clone());
        group.spawn(async move { policy.run(&store, &stop).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_restore_is_not_served_as_an_empty_store() {
        let dir = crate::envtest::TempDir::new().unwrap();
        let options = PlaneOptions::new(dir.path());
        std::fs::create_dir(dir.path().join(UNFINISHED)).unwrap();
        let refused = open(&options).err().unwrap().to_string();
        assert!(refused.contains("was not finished"), "{refused}");
        // Of an older attempt: the store has come since.
        std::fs::create_dir(dir.path().join("store")).unwrap();
        drop(open(&options).unwrap());
    }

    #[test]
    fn the_data_of_an_etcd_is_not_served_as_an_empty_store() {
        let dir = crate::envtest::TempDir::new().unwrap();
        let options = PlaneOptions::new(dir.path());
        std::fs::create_dir_all(dir.path().join("member/wal")).unwrap();
        let refused = open(&options).err().unwrap().to_string();
        assert!(refused.contains("setpoint store import"), "{refused}");
    }
}
