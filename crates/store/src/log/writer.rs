//! Appends commits to the newest segment, and goes on to the next one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::files::{Files, Segment, is_full};
use super::recover::Next;
use super::spare::{Spare, SpareSlot, prepare};
use crate::core::header::{HEADER, Header, file_name};
use crate::core::record::Encoder;
use crate::plant::{self, Plant};
use crate::point::{self, Point};

/// The end of the log.
pub(crate) struct Writer {
    files: Arc<Files>,
    spare: Arc<SpareSlot>,
    segment_bytes: u64,
    active: Arc<Segment>,
    /// Where the active segment's reserved space ends.
    limit: u64,
}

/// What goes into the header of a new segment beside the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The store's revision.
    pub(crate) revision: i64,
    /// Records so far.
    pub(crate) index: u64,
    /// The compaction floor.
    pub(crate) floor: i64,
}

/// Why a commit was not written.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// There is no room, and nothing was touched.
    Full,
    /// The log is in an unknown state.
    Failed(String),
}

/// A commit that is durable.
pub(crate) struct Appended {
    pub(crate) segment: Arc<Segment>,
    /// Where it begins.
    pub(crate) base: u32,
    pub(crate) bytes: Vec<u8>,
    /// How long the sync took.
    pub(crate) sync: Duration,
}

impl Writer {
    /// Goes on where recovery ended.
    pub(crate) fn begin(
        files: Arc<Files>,
        spare: Arc<SpareSlot>,
        segment_bytes: u64,
        next: Next,
    ) -> io::Result<Self> {
        let (active, limit) = match next {
            Next::Begin(header) => start(&files, largest(&files, segment_bytes)?, header)?,
            Next::Reuse(segment) => {
                let limit = reserve(segment_bytes, |len| segment.file.allocate(len).map(|()| len))?;
                (segment, limit)
            }
        };
        Ok(Self {
            files,
            spare,
            segment_bytes,
            active,
            limit,
        })
    }

    /// Where the next commit goes: segment id and offset.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.active.header.id, self.active.end())
    }

    pub(crate) fn header(&self) -> &Header {
        &self.active.header
    }

    /// Makes sure that about `len` bytes fit while the last quarter of the segment stays free for what a
    /// full disk must still accept: deletes and compaction. False when there is no room for that.
    pub(crate) fn can_grow(&mut self, len: u64, mark: Mark) -> Result<bool, AppendError> {
        let reserve = self.limit / 4;
        if self.active.end() + len + reserve <= self.limit || !self.spare.is_empty() {
            return Ok(true);
        }
        match self.roll(len, mark) {
            Ok(()) => Ok(true),
            Err(AppendError::Full) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes records in one piece and syncs them.
    pub(crate) fn append(&mut self, records: Encoder, mark: Mark) -> Result<Appended, AppendError> {
        let len = records.len() as u64;
        if self.active.end() + len > self.limit {
            self.roll(len, mark)?;
        }
        let segment = Arc::clone(&self.active);
        let base = segment.end();
        let bytes = records.seal(base as u32, segment.header.salt, false);
        let written = segment.file.write_all_at(&bytes, base);
        written.map_err(|error| failed("write", &segment, &error))?;
        point::hit(Point::Written);
        let started = Instant::now();
        if !plant::has(Plant::LostWrite) {
            let synced = segment.file.sync_data();
            synced.map_err(|error| failed("sync", &segment, &error))?;
        }
        let sync = started.elapsed();
        segment.end.store(base + len, Ordering::Release);
        Ok(Appended {
            segment,
            base: base as u32,
            bytes,
            sync,
        })
    }

    fn roll(&mut self, len: u64, mark: Mark) -> Result<(), AppendError> {
        let needed = u64::from(HEADER) + len;
        if needed > u64::from(u32::MAX) {
            return Err(AppendError::Full);
        }
        let spare = match self.spare.take() {
            Some(spare) if needed <= spare.len => Ok(spare),
            other => {
                if let Some(spare) = other {
                    self.spare.put(spare);
                }
                let path = self.files.new_temporary();
                prepare(&*self.files.disk, path, needed.max(self.segment_bytes))
            }
        };
        let spare = spare.map_err(|error| self.roll_failed(&error))?;
        let previous = &self.active;
        let header = Header {
            generation: 0,
            id: previous.header.id + 1,
            salt: fastrand::u64(..),
            first_revision: mark.revision,
            first_index: mark.index,
            oldest: self.oldest(),
            floor: mark.floor,
            prev_end: previous.end(),
            sealed_end: 0,
            cleaned: -1,
            ..previous.header
        };
        let (active, limit) = start(&self.files, spare, header).map_err(|error| self.roll_failed(&error))?;
        // The reserved rest goes back to the file system; it costs nothing if this fails.
        let _ = previous.file.set_len(previous.end());
        (self.active, self.limit) = (active, limit);
        Ok(())
    }

    fn roll_failed(&self, error: &io::Error) -> AppendError {
        if is_full(error) {
            AppendError::Full
        } else {
            failed("continue", &self.active, error)
        }
    }

    /// Segments below this one hold nothing any more.
    fn oldest(&self) -> u64 {
        let table = self.files.table();
        let empty = |segment: &&Arc<Segment>| segment.end() == u64::from(HEADER);
        let leading = table.chain.iter().take_while(empty).count();
        let least = table
            .chain
            .get(leading)
            .map_or(self.active.header.id, |segment| segment.header.id);
        least.max(self.active.header.oldest)
    }
}

fn failed(step: &str, segment: &Segment, error: &io::Error) -> AppendError {
    AppendError::Failed(format!("{step} {}: {error}", segment.path.display()))
}

/// A file as large as a segment should be, or as large as there is room for.
fn largest(files: &Files, segment_bytes: u64) -> io::Result<Spare> {
    reserve(segment_bytes, |len| {
        prepare(&*files.disk, files.new_temporary(), len)
    })
}

fn reserve<T>(segment_bytes: u64, attempt: impl Fn(u64) -> io::Result<T>) -> io::Result<T> {
    let mut len = segment_bytes;
    loop {
        match attempt(len) {
            Err(error) if is_full(&error) && len > segment_bytes / 16 => len /= 2,
            other => return other,
        }
    }
}

/// Turns a prepared file into the newest segment: its header is durable before its name is, and its name
/// before the first record.
fn start(files: &Files, spare: Spare, header: Header) -> io::Result<(Arc<Segment>, u64)> {
    spare.file.write_all_at(&header.encode(), 0)?;
    spare.file.sync_data()?;
    point::hit(Point::SegmentPrepared);
    let path = files.path(&file_name(header.id, header.generation));
    files.disk.rename(&spare.path, &path)?;
    point::hit(Point::SegmentNamed);
    if !plant::has(Plant::SkippedSync) {
        files.disk.sync_dir(&files.dir)?;
    }
    let segment = Arc::new(Segment::new(
        files.next_number(),
        header,
        path,
        spare.file,
        u64::from(HEADER),
    ));
    files.push(&segment);
    point::hit(Point::SegmentBegun);
    Ok((segment, spare.len.min(u64::from(u32::MAX))))
}
