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

/// Bytes zeroed while the writer might have to wait.
const FILL: usize = 256 << 10;
/// Bytes zeroed between two syncs.
const SYNC_EVERY: u64 = SYNC_PIECE as u64;

/// A file with reserved space.
pub(crate) struct Spare {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    filled: u64,
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

    /// Zeroes the next piece of the spare; returns whether there is more to do.
    pub(crate) fn fill(&self) -> io::Result<bool> {
        let mut slot = self.0.lock();
        let Some(spare) = slot.as_mut().filter(|spare| spare.filled < spare.len) else {
            return Ok(false);
        };
        let piece = FILL.min((spare.len - spare.filled) as usize);
        spare.file.write_all_at(&vec![0; piece], spare.filled)?;
        spare.filled += piece as u64;
        if spare.filled.is_multiple_of(SYNC_EVERY) || spare.filled == spare.len {
            spare.file.sync_data()?;
        }
        Ok(spare.filled < spare.len)
    }
}
