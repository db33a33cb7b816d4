//! A disk in memory that behaves as badly as a real one may.
//!
//! Promises are those of POSIX and no more: written data is durable after `sync_data` on the file, names
//! after `sync_dir` on their directory. Everything else may or may not survive [`SimDisk::crash`], sector by
//! sector and name by name, independently of the order in which it was done.
//!
//! What it simplifies: directories are durable as soon as they are made, a file's length counts as used
//! space even where nothing was written, and a removed file gives its space back when its directory is synced.
//!
//! ```
//! use setpoint_base::Disk;
//! use setpoint_testkit::SimDisk;
//! let disk = SimDisk::default();
//! let file = disk.create("/log".as_ref()).unwrap();
//! disk.sync_dir("/".as_ref()).unwrap();
//! file.write_all_at(b"kept", 0).unwrap();
//! file.sync_data().unwrap();
//! file.write_all_at(b"maybe", 4).unwrap();
//! let after = disk.crash(&mut fastrand::Rng::with_seed(1));
//! assert_eq!(after.contents("/log".as_ref()).unwrap()[..4], *b"kept");
//! assert!(file.sync_data().is_err(), "handles from before the crash are dead");
//! ```

mod file;
mod names;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use setpoint_base::{Disk, DiskFile, DiskLock};

use file::Inode;
use names::Names;

/// The errors the simulated kernel gives.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

/// The machine the disk is in.
#[derive(Default)]
struct World {
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Bytes the disk holds; `None` is no limit.
    capacity: Option<u64>,
    /// Syncs that still succeed before one fails.
    syncs_before_failure: Option<u64>,
    /// Changes that still succeed before the power goes.
    changes_before_power_cut: Option<u64>,
    power_is_off: bool,
    locks: BTreeMap<PathBuf, Arc<AtomicBool>>,
    syncs: u64,
    changes: u64,
}

impl SimDisk {
    /// The power goes and comes back: what was not synced is lost, kept or torn as `rng` decides.
    ///
    /// Returns the disk after the crash; it has no capacity limit and no planned failure. This one and all
    /// its handles answer every call with an error from now on, so what is left of the crashed program can
    /// do no harm.
    #[must_use]
    pub fn crash(&self, rng: &mut fastrand::Rng) -> Self {
        let mut world = self.0.lock();
        world.power_is_off = true;
        let names = world.names.after_crash(rng);
        let inodes = (world.inodes.iter())
            .filter(|(id, _)| names.holds(**id))
            .map(|(id, inode)| (*id, inode.after_crash(rng)))
            .collect();
        Self(Arc::new(Mutex::new(World {
            names,
            inodes,
            next_inode: world.next_inode,
            ..World::default()
        })))
    }

    /// Turns the power off after `changes` more writes, syncs, resizes, creations, renames or removals. The
    /// one that meets the end fails; it may have had an effect, as every change that was not synced.
    pub fn cut_power_after(&self, changes: u64) {
        self.0.lock().changes_before_power_cut = Some(changes);
    }

    /// Whether the power is off.
    #[must_use]
    pub fn power_is_off(&self) -> bool {
        self.0.lock().power_is_off
    }

    /// Sets the disk's size in bytes; `None` is no limit. What is there already stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes in use, in whole pages.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Makes a sync fail with EIO after `succeeding` more have succeeded. As in Linux, the data stays readable,
    /// is not durable, and a second sync does not know of it.
    pub fn fail_sync_after(&self, succeeding: u64) {
        self.0.lock().syncs_before_failure = Some(succeeding);
    }

    /// Syncs of file data so far, failed ones included.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// Changes so far, as [`SimDisk::cut_power_after`] counts them.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// A file's bytes as a reader would see them now.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.0.lock();
        Ok(world.inode_at(path)?.contents())
    }

    /// Makes `bytes` the durable contents of a file, which is made if absent: damage and forgeries.
    pub fn replace(&self, path: &Path, bytes: &[u8]) {
        let mut world = self.0.lock();
        let id = match world.names.get(path) {
            Some(id) => id,
            None => world.add_file(path),
        };
        world.names.sync_all();
        if let Some(inode) = world.inodes.get_mut(&id) {
            *inode = Inode::durable(bytes);
        }
    }

    /// Flips one bit of a file, durably.
    ///
    /// # Errors
    /// When there is no such file or it is too short.
    pub fn flip_bit(&self, path: &Path, offset: usize, bit: u8) -> io::Result<()> {
        let mut bytes = self.contents(path)?;
        let byte = bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        *byte ^= 1 << (bit % 8);
        self.replace(path, &bytes);
        Ok(())
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().names.paths().cloned().collect()
    }
}

impl World {
    /// Refuses everything once the power is off.
    fn powered(&self) -> io::Result<()> {
        if self.power_is_off {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    /// Counts a change; whether it is the one at which the power goes.
    fn change(&mut self) -> io::Result<bool> {
        self.powered()?;
        self.changes += 1;
        match &mut self.changes_before_power_cut {
            Some(0) => {
                self.power_is_off = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn used(&self) -> u64 {
        self.inodes
            .iter()
            .filter(|(id, _)| self.names.holds(**id))
            .map(|(_, inode)| inode.space())
            .sum()
    }

    /// Refuses growth beyond the capacity.
    fn reserve(&self, id: u64, len: u64) -> io::Result<()> {
        let more = self.inodes.get(&id).map_or(0, |inode| inode.growth(len));
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            _ => Ok(()),
        }
    }

    fn add_file(&mut self, path: &Path) -> u64 {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        self.names.link(path, id);
        id
    }

    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&id)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode_at(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let id = self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.inode(id)
    }
}

/// The error of the change at which the power went.
fn power_cut(cut: bool) -> io::Result<()> {
    if cut {
        Err(io::Error::other("the power went"))
    } else {
        Ok(())
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.powered()?;
        world.names.add_dir(dir);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.0.lock();
        world.powered()?;
        Ok(world.names.list(dir))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.0.lock();
        let cut = world.change()?;
        if world.names.get(path).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = world.add_file(path);
        power_cut(cut)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let world = self.0.lock();
        world.powered()?;
        let id = world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            id,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let cut = world.change()?;
        let id = world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.rename(from, to, id);
        power_cut(cut)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let cut = world.change()?;
        world.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        world.names.unlink(path);
        power_cut(cut)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let cut = world.change()?;
        power_cut(cut)?;
        world.names.sync_dir(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<DiskLock> {
        let mut world = self.0.lock();
        world.powered()?;
        let held = world.locks.entry(path.to_owned()).or_default();
        if held.swap(true, Ordering::AcqRel) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lock: Box<dyn Any + Send + Sync> = Box::new(SimLock(Arc::clone(held)));
        Ok(lock)
    }
}

/// Held until dropped.
struct SimLock(Arc<AtomicBool>);

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// An open file; it outlives its name.
struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.0.lock();
        world.powered()?;
        Ok(world.inode(self.id)?.read(buf, offset))
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let cut = world.change()?;
        world.reserve(self.id, offset + buf.len() as u64)?;
        world.inode(self.id)?.write(buf, offset);
        power_cut(cut)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let cut = world.change()?;
        power_cut(cut)?;
        world.syncs += 1;
        match &mut world.syncs_before_failure {
            Some(0) => {
                world.syncs_before_failure = None;
                world.inode(self.id)?.forget_unsynced();
                return Err(io::Error::from_raw_os_error(EIO));
            }
            Some(left) => *left -= 1,
            None => (),
        }
        world.inode(self.id)?.sync();
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let cut = world.change()?;
        world.reserve(self.id, len)?;
        let inode = world.inode(self.id)?;
        if inode.len() < len {
            inode.resize(len);
        }
        power_cut(cut)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let cut = world.change()?;
        world.inode(self.id)?.resize(len);
        power_cut(cut)
    }

    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.0.lock();
        world.powered()?;
        Ok(world.inode(self.id)?.len())
    }
}

#[cfg(test)]
mod tests;
