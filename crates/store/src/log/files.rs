//! The open segments, by number and in order.
//!
//! A place in the index names a file by a number given out when the file was opened, never reused while the
//! store runs. A rewritten segment gets a new number, so places in the old and the new file cannot be
//! confused, and whoever took a [`Table`] keeps the old file readable until done.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setpoint_base::{Disk, DiskFile};

use crate::core::header::Header;
use crate::error::OpenError;

/// Bytes a version costs in the log beside key and value: framing, numbers.
const RECORD_COST: i64 = 40;
/// Distance between two entries of a segment's sparse map, in bytes.
const MARK_EVERY: u32 = 256 << 10;

/// One open segment.
pub(crate) struct Segment {
    /// What [`Location::file`](crate::core::index::Location::file) says.
    pub(crate) number: u32,
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where its durable records end.
    pub(crate) end: AtomicU64,
    /// Bytes of versions that the index can reach.
    pub(crate) live: AtomicI64,
    /// Some revisions and where their records begin, in order.
    marks: Mutex<Vec<(i64, u32)>>,
}

impl Segment {
    pub(crate) fn new(number: u32, header: Header, path: PathBuf, file: Arc<dyn DiskFile>, end: u64) -> Self {
        Self {
            number,
            header,
            path,
            file,
            end: AtomicU64::new(end),
            live: AtomicI64::new(0),
            marks: Mutex::default(),
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Counts a version in (+1) or out (-1).
    pub(crate) fn weigh(&self, sign: i64, key_len: usize, value_len: u32) {
        let bytes = RECORD_COST + key_len as i64 + i64::from(value_len);
        self.live.fetch_add(sign * bytes, Ordering::Relaxed);
    }

    /// Notes that the record of `revision` begins at `offset`. Records without a revision of their own must
    /// not be noted: they carry the one before, which begins earlier.
    pub(crate) fn mark(&self, revision: i64, offset: u32) {
        let mut marks = self.marks.lock();
        if marks
            .last()
            .is_none_or(|(last, at)| *last < revision && *at + MARK_EVERY <= offset)
        {
            marks.push((revision, offset));
        }
    }

    /// A place at or before the first record of `revision`.
    pub(crate) fn seek(&self, revision: i64) -> u32 {
        let marks = self.marks.lock();
        let n = marks.partition_point(|(marked, _)| *marked <= revision);
        n.checked_sub(1)
            .map_or(crate::core::header::HEADER, |n| marks[n].1)
    }
}

/// What is open at one moment.
#[derive(Clone, Default)]
pub(crate) struct Table {
    /// By number; while a segment is being replaced, both files are here.
    pub(crate) by_number: HashMap<u32, Arc<Segment>>,
    /// The log in order.
    pub(crate) chain: Vec<Arc<Segment>>,
}

/// The directory and what is open in it.
pub(crate) struct Files {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    table: ArcSwap<Table>,
    next_number: AtomicU32,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        Self {
            disk,
            dir,
            table: ArcSwap::default(),
            next_number: AtomicU32::new(0),
        }
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    pub(crate) fn next_number(&self) -> u32 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A name for a segment in the making that no other has had since the store was opened.
    pub(crate) fn new_temporary(&self) -> PathBuf {
        self.path(&format!("next-{}.tmp", self.next_number()))
    }

    /// Adds the next segment of the log.
    pub(crate) fn push(&self, segment: &Arc<Segment>) {
        self.change(|table| {
            table.by_number.insert(segment.number, Arc::clone(segment));
            table.chain.push(Arc::clone(segment));
        });
    }

    /// Puts a new table in place of the present one, which readers may go on using.
    pub(crate) fn change(&self, change: impl Fn(&mut Table)) {
        self.table.rcu(|table| {
            let mut next = Table::clone(table);
            change(&mut next);
            next
        });
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.table.load().chain.iter().map(|segment| segment.end()).sum()
    }

    /// Bytes that the index can reach.
    pub(crate) fn live_bytes(&self) -> u64 {
        let live = |segment: &Arc<Segment>| segment.live.load(Ordering::Relaxed).max(0).unsigned_abs();
        self.table.load().by_number.values().map(live).sum()
    }
}

/// Bytes of a large file that are synced together. A disk that is given tens of megabytes at once makes commits wait
/// until it has written them all.
pub(crate) const SYNC_PIECE: usize = 1 << 20;

/// An [`OpenError::Io`] for a step on a path.
pub(crate) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        step,
        path: path.to_path_buf(),
        source,
    }
}

/// Whether an error says that there is no room left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
