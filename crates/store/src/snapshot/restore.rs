//! A store made from a snapshot.
//!
//! The log is written as one that was rewritten: sealed segments in which revisions may have gaps, and behind them an
//! empty one to go on in. That one is written last: a directory in which it is missing does not open, so half a
//! restore is never taken for a whole one.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use setpoint_base::{Disk, DiskFile};

use super::file::{FileError, KeyVersion, SnapshotFile, Stop};
use crate::core::header::{HEADER, Header, file_name};
use crate::core::lease::{TTL_MAX, TTL_MIN};
use crate::core::record::{BODY_MAX, Encoder, Kind};
use crate::types::Revision;

/// Bytes from which on a segment is closed.
const SEGMENT_BYTES: usize = 64 << 20;
/// Bytes of a record beside its keys and values, roughly, for each operation.
const OP_COST: usize = 64;

/// No restored store begins above this: there have to be revisions left to write.
const REVISION_MAX: i64 = i64::MAX / 2;

/// What a restore does to the revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restore {
    /// How far the revision jumps ahead. Clients that saw revisions above the snapshot's, before what was lost was lost,
    /// must never see a revision twice with another meaning; so this should be more than was written since. Everything
    /// before the jump is compacted, so that watchers and caches start again. 0 is neither.
    pub bump: u64,
}

impl Restore {
    /// The jump that is made unless another is asked for: more writes than a store sees in years.
    pub const BUMP: u64 = 1_000_000_000;
}

/// A store could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The snapshot cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The revision cannot go so far.
    #[error(
        "a revision cannot be raised by {bump} from {snapshot}, {REVISION_MAX} is the highest: give --bump-revision a \
         smaller number"
    )]
    Bump {
        /// How far it was to jump.
        bump: u64,
        /// The revision of the snapshot.
        snapshot: i64,
    },
    /// The directory has something in it.
    #[error("{} is not empty: choose a directory without a store, a restore replaces nothing", .dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// A step on the file system failed.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was tried, in the present tense.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The new store's revision.
    pub revision: Revision,
    /// Its compaction floor; -1 when nothing was compacted.
    pub compact_revision: i64,
    /// The revision of the snapshot.
    pub snapshot_revision: Revision,
    /// Versions of keys, deletions too.
    pub versions: u64,
    /// Leases.
    pub leases: u64,
}

impl SnapshotFile {
    /// Makes a store of it in `dir`, which must be empty or not exist. `progress` gets versions done.
    ///
    /// # Errors
    /// [`RestoreError`]. What was written until then does not open as a store.
    pub fn restore(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        how: Restore,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Restored, RestoreError> {
        let failed = |source| RestoreError::Io {
            step: "make",
            path: dir.to_owned(),
            source,
        };
        disk.create_dir_all(dir).map_err(failed)?;
        if !disk.list(dir).map_err(failed)?.is_empty() {
            return Err(RestoreError::NotEmpty { dir: dir.to_owned() });
        }
        let mut log = Log::new(disk, dir);
        log.records_without_revision(self)?;
        let walked = self.versions(&mut |version| {
            log.add(version)?;
            progress(log.versions);
            Ok(())
        });
        if let Some(source) = log.broken.take() {
            return Err(log.unwritten(source));
        }
        walked?;
        log.close_revision().map_err(|stop| self.unusable(stop))?;
        let snapshot = log.revision.max(self.floor()?);
        let bumped = i64::try_from(how.bump)
            .ok()
            .and_then(|bump| snapshot.checked_add(bump))
            .filter(|revision| *revision <= REVISION_MAX);
        let revision = bumped.ok_or(RestoreError::Bump {
            bump: how.bump,
            snapshot,
        })?;
        let floor = if how.bump > 0 { revision } else { self.floor()? };
        log.finish(revision, floor)?;
        Ok(Restored {
            revision: Revision(revision),
            compact_revision: floor,
            snapshot_revision: Revision(snapshot),
            versions: log.versions,
            leases: log.leases,
        })
    }
}

/// The log that is being written.
struct Log<'a> {
    disk: &'a Arc<dyn Disk>,
    dir: &'a Path,
    records: Encoder,
    /// Of the open segment.
    header: Header,
    /// Records so far.
    index: u64,
    revision: i64,
    /// The versions of the newest revision, which is not complete yet.
    open: Vec<KeyVersion>,
    open_bytes: usize,
    versions: u64,
    leases: u64,
    /// Why a segment could not be written.
    broken: Option<io::Error>,
}

impl<'a> Log<'a> {
    fn new(disk: &'a Arc<dyn Disk>, dir: &'a Path) -> Self {
        let header = Header {
            id: 1,
            salt: fastrand::u64(..),
            first_revision: Revision::INITIAL.0,
            oldest: 1,
            floor: -1,
            cleaned: -1,
            cluster_id: fastrand::u64(1..),
            member_id: fastrand::u64(1..),
            ..Header::default()
        };
        Self {
            disk,
            dir,
            records: Encoder::default(),
            header,
            index: 0,
            revision: Revision::INITIAL.0,
            open: Vec::new(),
            open_bytes: 0,
            versions: 0,
            leases: 0,
            broken: None,
        }
    }

    /// Leases and side tables come first: keys hang on leases.
    fn records_without_revision(&mut self, file: &SnapshotFile) -> Result<(), RestoreError> {
        for (id, ttl) in file.leases()? {
            let ttl = ttl.clamp(TTL_MIN, TTL_MAX);
            self.records.begin(Kind::Grant { id, ttl }, self.revision, None);
            self.records.end();
            self.index += 1;
            self.leases += 1;
        }
        for write in file.tables()? {
            self.records.begin(Kind::Meta, self.revision, None);
            self.records.meta(&write.entry());
            self.records.end();
            self.index += 1;
        }
        Ok(())
    }

    fn add(&mut self, version: KeyVersion) -> Result<(), Stop> {
        if version.revision != self.revision {
            self.close_revision()?;
            if self.records.len() >= SEGMENT_BYTES {
                self.close_segment().map_err(|error| {
                    self.broken = Some(error);
                    Stop::Detail("the log could not be written".to_owned())
                })?;
            }
        }
        self.revision = version.revision;
        // An empty key only moves the revision on.
        if !version.kv.key.is_empty() {
            self.open_bytes += version.kv.key.len() + version.kv.value.len() + OP_COST;
            self.versions += 1;
            self.open.push(version);
        }
        if self.open_bytes > BODY_MAX {
            return Err(Stop::Detail(format!("revision {} is too large", self.revision)));
        }
        Ok(())
    }

    fn close_revision(&mut self) -> Result<(), Stop> {
        let open = std::mem::take(&mut self.open);
        self.open_bytes = 0;
        if open.is_empty() {
            return Ok(());
        }
        let mut keys: HashSet<&Bytes> = HashSet::with_capacity(open.len());
        let twice = !open.iter().all(|version| keys.insert(&version.kv.key));
        if twice || self.revision <= Revision::INITIAL.0 {
            return Err(Stop::Detail(format!("revision {} makes no sense", self.revision)));
        }
        self.records.begin(Kind::Revision, self.revision, None);
        for KeyVersion {
            sub, tombstone, kv, ..
        } in &open
        {
            if *tombstone {
                self.records.delete(*sub, &kv.key);
            } else {
                self.records
                    .put(*sub, &kv.key, &kv.value, kv.lease, kv.create_revision, kv.version);
            }
        }
        self.records.end();
        self.index += 1;
        Ok(())
    }

    /// Writes what there is as a sealed segment, and begins the next.
    fn close_segment(&mut self) -> io::Result<()> {
        let records = std::mem::take(&mut self.records);
        let end = u64::from(HEADER) + records.len() as u64;
        let header = Header {
            sealed_end: end,
            ..self.header
        };
        let body = if records.is_empty() {
            Vec::new()
        } else {
            records.seal(HEADER, header.salt, true)
        };
        self.write(&header, &body)?;
        self.header = Header {
            id: header.id + 1,
            salt: fastrand::u64(..),
            first_revision: self.revision,
            first_index: self.index,
            prev_end: end,
            ..self.header
        };
        Ok(())
    }

    fn write(&self, header: &Header, body: &[u8]) -> io::Result<()> {
        let file: Arc<dyn DiskFile> = self.disk.create(&self.path(header))?;
        file.write_all_at(&header.encode(), 0)?;
        file.write_all_at(body, u64::from(HEADER))?;
        file.sync_data()
    }

    fn path(&self, header: &Header) -> PathBuf {
        self.dir.join(file_name(header.id, header.generation))
    }

    fn finish(&mut self, revision: i64, floor: i64) -> Result<(), RestoreError> {
        let finish = |log: &mut Self| {
            log.close_segment()?;
            // What was written so far is durable before the segment that makes it a store.
            log.disk.sync_dir(log.dir)?;
            let header = Header {
                first_revision: revision,
                floor,
                ..log.header
            };
            log.write(&header, &[])?;
            log.disk.sync_dir(log.dir)
        };
        finish(self).map_err(|source| self.unwritten(source))
    }

    fn unwritten(&self, source: io::Error) -> RestoreError {
        RestoreError::Io {
            step: "write",
            path: self.path(&self.header),
            source,
        }
    }
}
