//! The next segment, prepared before it is needed.
//!
//! Space is reserved beforehand, so a full disk shows here and not in the middle of a commit; and filling
//! the file with zeros beforehand spares each commit a metadata update of the file system.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use setpoint_base::{Disk, DiskFile};

use super::files::SYNC_PIECE;

/// Bytes zeroed at once by who keeps up with the log: a commit that meets their sync waits hardly longer than without.
const PIECE: u64 = 64 << 10;
/// The same by who lags: the writer might have to wait for them.
const PIECE_MAX: u64 = 4 * PIECE;
/// Bytes zeroed between two syncs by who lags.
const SYNC_EVERY: u64 = SYNC_PIECE as u64;

/// A file with reserved space.
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    filled: u64,
    /// Zeros that were not synced yet.
    unsynced: u64,
}

/// Makes a file of `len` reserved bytes. The name must be one that was never used: between the moment when the
/// writer takes a spare and its renaming, the next one is prepared already.
pub(crate) fn prepare(disk: &dyn Disk, path: PathBuf, len: u64) -> io::Result<Spare> {
    let file = disk.create(&path)?;
    if let Err(error) = file.allocate(len) {
        // Whatever was reserved goes back, or a full disk would stay full for our own sake.
        let _ = disk.remove(&path);
        return Err(error);
    }
    Ok(Spare {
        file,
        path,
        len,
        filled: 0,
        unsynced: 0,
    })
}

/// Holds the spare segment. Filling happens under its lock, in small steps, so that the writer never takes
/// a file that is still being zeroed.
#[derive(Default)]
pub(crate) struct SpareSlot(Mutex<Option<Spare>>);

impl SpareSlot {
    pub(crate) fn take(&self) -> Option<Spare> {
        self.0.lock().take()
    }

    pub(crate) fn put(&self, spare: Spare) {
        *self.0.lock() = Some(spare);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_none()
    }

    /// Zeroes the next piece of the spare where less than `until` of it is filled; whether it did. `None` when all of it is,
    /// or there is none.
    pub(crate) fn fill(&self, until: u64) -> io::Result<Option<bool>> {
        let mut slot = self.0.lock();
        let Some(spare) = slot.as_mut().filter(|spare| spare.filled < spare.len) else {
            return Ok(None);
        };
        let lacks = until.min(spare.len).saturating_sub(spare.filled);
        let is_last = spare.filled + lacks == spare.len;
        let piece = if is_last { lacks } else { lacks - lacks % PIECE }.min(PIECE_MAX);
        if piece == 0 {
            return Ok(Some(false));
        }
        spare.file.write_all_at(&vec![0; piece as usize], spare.filled)?;
        spare.filled += piece;
        spare.unsynced += piece;
        let keeps_up = lacks - piece < PIECE;
        if keeps_up || spare.unsynced >= SYNC_EVERY {
            spare.file.sync_data()?;
            spare.unsynced = 0;
        }
        Ok(Some(true))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Did {
        Zeroed(u64, usize),
        Synced,
    }

    /// A disk that notes what is done to its one file.
    #[derive(Clone, Default)]
    struct Noting(Arc<Mutex<Vec<Did>>>);

    impl Disk for Noting {
        fn create_dir_all(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn list(&self, _: &Path) -> io::Result<Vec<String>> {
            Ok(Vec::new())
        }
        fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
            Ok(Arc::new(self.clone()))
        }
        fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
            self.create(path)
        }
        fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn remove(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn sync_dir(&self, _: &Path) -> io::Result<()> {
            Ok(())
        }
        fn lock(&self, _: &Path) -> io::Result<setpoint_base::DiskLock> {
            Ok(Box::new(()))
        }
    }

    impl DiskFile for Noting {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
            assert!(buf.iter().all(|byte| *byte == 0));
            self.0.lock().push(Did::Zeroed(offset, buf.len()));
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.lock().push(Did::Synced);
            Ok(())
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    fn slot(len: u64) -> (SpareSlot, Noting) {
        let (slot, disk) = (SpareSlot::default(), Noting::default());
        slot.put(prepare(&disk, PathBuf::from("spare"), len).unwrap());
        (slot, disk)
    }

    #[test]
    fn zeros_that_keep_up_come_in_small_pieces_and_are_synced_at_once() {
        let (slot, disk) = slot(1 << 20);
        let piece = PIECE as usize;
        assert_eq!(slot.fill(PIECE - 1).unwrap(), Some(false));
        assert_eq!(slot.fill(PIECE + 100).unwrap(), Some(true));
        assert_eq!(slot.fill(2 * PIECE - 1).unwrap(), Some(false));
        assert_eq!(slot.fill(2 * PIECE).unwrap(), Some(true));
        let expected = [
            Did::Zeroed(0, piece),
            Did::Synced,
            Did::Zeroed(PIECE, piece),
            Did::Synced,
        ];
        assert_eq!(disk.0.lock()[..], expected);
    }

    #[test]
    fn zeros_that_lag_are_synced_seldom_and_end_with_the_file() {
        let len = SYNC_EVERY + PIECE_MAX + 100;
        let (slot, disk) = slot(len);
        while slot.fill(u64::MAX).unwrap().is_some() {}
        let pieces = (0..5).map(|n| Did::Zeroed(n * PIECE_MAX, PIECE_MAX as usize));
        let mut expected: Vec<_> = pieces.collect();
        expected.insert(4, Did::Synced);
        expected.extend([Did::Synced, Did::Zeroed(5 * PIECE_MAX, 100), Did::Synced]);
        assert_eq!(disk.0.lock()[..], expected);
    }
}
