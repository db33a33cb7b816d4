//! A segment again, without what nothing can reach.
//!
//! Order keeps a crash harmless at every step: the new file is complete and durable before its name is;
//! the old file goes only after a checkpoint speaks of the new one (see `recover`'s choice of generations).

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::files::{Files, SYNC_PIECE, Segment};
use super::scan;
use crate::core::header::{HEADER, Header, file_name};
use crate::core::meta::MetaRef;
use crate::core::record::{Encoder, Kind, OpRef, Record};
use crate::point::{self, Point};

const TEMPORARY: &str = "rewrite.tmp";
/// Bytes read from a segment at once, unless one record has more.
const WINDOW: usize = 256 << 10;

/// Decides what stays, and when to rest.
pub(crate) trait Keep {
    /// Whether an operation of a revision can still be reached.
    fn op(&self, revision: i64, op: &OpRef<'_>) -> bool;
    /// Whether a record is needed beside its operations.
    fn record(&self, revision: i64, kind: Kind) -> bool;
    /// Whether a change to a side table is needed.
    fn meta(&self, revision: i64, entry: &MetaRef<'_>) -> bool;
    /// Some has been decided.
    fn breathe(&mut self);
    /// A piece has been read or written.
    fn rest(&mut self);
}

/// A value that got a new place.
pub(crate) struct Moved {
    pub(crate) key: Box<[u8]>,
    pub(crate) revision: i64,
    /// Where the value begins in the new file.
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// What a segment would be like rewritten.
#[derive(Default)]
pub(crate) struct Plan {
    /// What stays, in the pieces in which it is written.
    pieces: Vec<Encoder>,
    /// Bytes of all pieces but the last.
    before: usize,
    moved: Vec<Moved>,
    /// Revisions and where their records begin.
    marks: Vec<(i64, u32)>,
    /// Whether the segment, as it is, holds deletions (of keys, or in side tables) or ended leases, which speak
    /// about other segments.
    pub(crate) speaks_of_others: bool,
}

impl Plan {
    /// Bytes of what stays.
    pub(crate) fn len(&self) -> usize {
        self.before + self.pieces.last().map_or(0, Encoder::len)
    }
}

/// Reads a segment and decides.
pub(crate) fn plan(segment: &Segment, keep: &mut dyn Keep) -> io::Result<Plan> {
    let end = segment.end();
    let mut plan = Plan::default();
    let (mut at, mut window, mut bytes) = (HEADER, WINDOW, Vec::new());
    while u64::from(at) < end {
        bytes.resize(window.min((end - u64::from(at)) as usize), 0);
        segment.file.read_exact_at(&mut bytes, u64::from(at))?;
        let ended = scan::records(&bytes, at, segment.header.salt, |_, record| {
            plan.record(record, keep)?;
            keep.breathe();
            Ok(true)
        });
        match ended.bad {
            // The window cut a record: read again from there, more if it is a large one.
            Some(_) if u64::from(at) + (bytes.len() as u64) < end => {
                window = if ended.at == at {
                    window.saturating_mul(4)
                } else {
                    WINDOW
                };
            }
            Some(bad) => {
                let text = format!("{} at {}: {}", segment.path.display(), ended.at, bad.text());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            None => window = WINDOW,
        }
        at = ended.at;
        keep.rest();
    }
    Ok(plan)
}

impl Plan {
    /// Where the next record goes, and the piece that takes it.
    fn piece(&mut self) -> (u32, &mut Encoder) {
        if self.pieces.last().is_none_or(|piece| piece.len() >= SYNC_PIECE) {
            self.before = self.len();
            self.pieces.push(Encoder::default());
        }
        let base = HEADER + self.before as u32;
        let piece = self.pieces.last_mut().expect("one was added if there was none");
        (base, piece)
    }

    fn record(&mut self, record: &Record<'_>, keep: &dyn Keep) -> Result<(), crate::core::record::Bad> {
        let mut ops = Vec::new();
        for op in record.ops() {
            let op = op?;
            self.speaks_of_others |= matches!(op, OpRef::Delete { .. });
            if keep.op(record.revision, &op) {
                ops.push(op);
            }
        }
        self.speaks_of_others |= matches!(record.kind, Kind::Revoke { .. });
        if record.kind == Kind::Meta {
            return self.meta(record, keep);
        }
        if ops.is_empty() && !keep.record(record.revision, record.kind) {
            return Ok(());
        }
        let mut moved = Vec::with_capacity(ops.len());
        let (base, records) = self.piece();
        let start = base + records.len() as u32;
        records.begin(record.kind, record.revision, record.trace.as_ref());
        for op in ops {
            let (mut offset, mut len) = (0, 0);
            match op {
                OpRef::Delete { sub, key } => records.delete(sub, key),
                OpRef::Put {
                    sub,
                    key,
                    value,
                    lease,
                    create,
                    version,
                    ..
                } => {
                    let at = records.put(sub, key, value, lease, create, version);
                    (offset, len) = (base + at as u32, value.len() as u32);
                }
            }
            moved.push(Moved {
                key: op.key().into(),
                revision: record.revision,
                offset,
                len,
            });
        }
        records.end();
        if !moved.is_empty() {
            self.marks.push((record.revision, start));
        }
        self.moved.append(&mut moved);
        Ok(())
    }

    fn meta(&mut self, record: &Record<'_>, keep: &dyn Keep) -> Result<(), crate::core::record::Bad> {
        let mut kept = Vec::new();
        for entry in record.meta() {
            let entry = entry?;
            self.speaks_of_others |= entry.value.is_none();
            if keep.meta(record.revision, &entry) {
                kept.push(entry);
            }
        }
        if !kept.is_empty() {
            let (_, records) = self.piece();
            records.begin(record.kind, record.revision, record.trace.as_ref());
            kept.iter().for_each(|entry| records.meta(entry));
            records.end();
        }
        Ok(())
    }

    /// Writes the next generation of a segment; durable on return, but not yet part of the log.
    pub(crate) fn write(
        self,
        files: &Files,
        old: &Segment,
        cleaned: i64,
        keep: &mut dyn Keep,
    ) -> io::Result<(Arc<Segment>, Vec<Moved>)> {
        let end = u64::from(HEADER) + self.len() as u64;
        let header = Header {
            generation: old.header.generation + 1,
            salt: fastrand::u64(..),
            sealed_end: end,
            cleaned,
            ..old.header
        };
        let temporary = files.path(TEMPORARY);
        match files.disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let path = files.path(&file_name(header.id, header.generation));
        let write = || {
            let file = files.disk.create(&temporary)?;
            file.allocate(end)?;
            file.write_all_at(&header.encode(), 0)?;
            let mut at = HEADER;
            for piece in self.pieces {
                let bytes = piece.seal(at, header.salt, true);
                keep.rest();
                file.write_all_at(&bytes, u64::from(at))?;
                file.sync_data()?;
                at += bytes.len() as u32;
                keep.rest();
            }
            // Of a segment without records the header is all there is.
            file.sync_data()?;
            point::hit(Point::RewriteSynced);
            files.disk.rename(&temporary, &path)?;
            Ok(file)
        };
        let file = write().inspect_err(|_: &io::Error| {
            // What did not fit must not keep a full disk full.
            let _ = files.disk.remove(&temporary);
        })?;
        point::hit(Point::RewriteNamed);
        files.disk.sync_dir(&files.dir)?;
        let segment = Arc::new(Segment::new(files.next_number(), header, path, file, end));
        self.marks
            .iter()
            .for_each(|(revision, offset)| segment.mark(*revision, *offset));
        Ok((segment, self.moved))
    }
}

/// The header of a segment in which nothing is left.
pub(crate) fn emptied(old: &Header, cleaned: i64) -> Header {
    Header {
        sealed_end: u64::from(HEADER),
        cleaned,
        ..*old
    }
}

/// Makes a segment an empty one, in place: it needs no room, so it works on a full disk. A header fits into one sector, so
/// it is there as a whole or as it was. What is behind it is the caller's to cut off. Nobody may be reading the segment.
pub(crate) fn empty(segment: &Segment, header: &Header) -> io::Result<()> {
    segment.file.write_all_at(&header.encode(), 0)?;
    segment.file.sync_data()?;
    segment.end.store(u64::from(HEADER), Ordering::Release);
    Ok(())
}
