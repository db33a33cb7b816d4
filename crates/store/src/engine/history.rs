//! Events for watchers that lag: from memory, else from the segments.

use std::sync::Arc;

use bytes::Bytes;

use super::publish::event;
use super::shared::Shared;
use crate::core::batch::History;
use crate::core::header::HEADER;
use crate::core::record::Record;
use crate::error::Error;
use crate::log::files::Segment;
use crate::log::scan;
use crate::point::{self, Point};
use crate::types::{Event, KeyValue, Revision};

/// Bytes read from a segment at once.
const WINDOW: usize = 96 << 10;

impl History for Shared {
    fn committed(&self) -> Revision {
        self.revision()
    }

    fn floor(&self) -> i64 {
        Shared::floor(self)
    }

    fn read(
        &self,
        from: Revision,
        bytes_max: usize,
        prev_kv: bool,
    ) -> Result<(Vec<Arc<Event>>, Revision), Error> {
        let until = self.revision();
        if from > until {
            return Ok((Vec::new(), from));
        }
        self.check_floor(from)?;
        let bytes_max = bytes_max.max(1);
        let read = match self.hot.events(from, until, bytes_max) {
            Some(read) => read,
            None => Scan {
                shared: self,
                from,
                until,
                bytes_max,
                prev_kv,
            }
            .run()?,
        };
        // What was compacted while it was being read may be missing.
        self.check_floor(from)?;
        Ok(read)
    }
}

impl Shared {
    fn check_floor(&self, from: Revision) -> Result<(), Error> {
        let floor = self.floor();
        if from.0 < floor {
            return Err(Error::Compacted {
                asked: from,
                floor: Revision(floor),
            });
        }
        Ok(())
    }
}

struct Scan<'a> {
    shared: &'a Shared,
    from: Revision,
    until: Revision,
    bytes_max: usize,
    prev_kv: bool,
}

/// How far a scan has come.
struct Progress {
    events: Vec<Arc<Event>>,
    bytes: usize,
    next: Revision,
}

impl Scan<'_> {
    fn run(&self) -> Result<(Vec<Arc<Event>>, Revision), Error> {
        let table = self.shared.files.table();
        point::hit(Point::HistoryLocated);
        let n = table
            .chain
            .partition_point(|segment| segment.header.first_revision < self.from.0);
        let mut progress = Progress {
            events: Vec::new(),
            bytes: 0,
            next: self.from,
        };
        for segment in &table.chain[n.saturating_sub(1)..] {
            if !self.segment(segment, &mut progress)? {
                return Ok((progress.events, progress.next));
            }
        }
        // Everything up to `until` was there; revisions without events of their own do not exist.
        Ok((progress.events, self.until.next()))
    }

    /// Reads on in a segment; whether to go on with the next one.
    fn segment(&self, segment: &Segment, progress: &mut Progress) -> Result<bool, Error> {
        let end = segment.end();
        let mut at = segment.seek(self.from.0).max(HEADER);
        let mut window = WINDOW;
        while u64::from(at) < end {
            let len = window.min((end - u64::from(at)) as usize);
            let mut bytes = vec![0; len];
            segment
                .file
                .read_exact_at(&mut bytes, u64::from(at))
                .map_err(|error| self.shared.damage(segment, at, &error))?;
            let bytes = Bytes::from(bytes);
            let mut full = false;
            let ended = scan::records(&bytes, at, segment.header.salt, |offset, record| {
                if record.has_ops() {
                    segment.mark(record.revision, offset);
                }
                full = self.is_full(record, progress);
                if !full {
                    self.record(&bytes, (offset - at) as usize, record, progress)?;
                }
                Ok(!full)
            });
            if full {
                return Ok(false);
            }
            match ended.bad {
                // The window cut a record: read again from there, more if it is a large one.
                Some(_) if u64::from(at) + (len as u64) < end => {
                    window = if ended.at == at {
                        window.saturating_mul(4)
                    } else {
                        WINDOW
                    };
                }
                Some(bad) => {
                    return Err(self.shared.damage(segment, ended.at, &bad.text()));
                }
                None => (),
            }
            at = ended.at;
        }
        Ok(true)
    }

    fn is_full(&self, record: &Record<'_>, progress: &Progress) -> bool {
        record.has_ops()
            && (record.revision > self.until.0
                || (progress.bytes >= self.bytes_max && record.revision >= progress.next.0))
    }

    fn record(
        &self,
        bytes: &Bytes,
        at: usize,
        record: &Record<'_>,
        progress: &mut Progress,
    ) -> Result<(), crate::core::record::Bad> {
        if !record.has_ops() || record.revision < self.from.0 {
            return Ok(());
        }
        for op in record.ops() {
            let op = op?;
            let prev = if self.prev_kv {
                self.prev(op.key(), record.revision)
            } else {
                None
            };
            let event = event(bytes, at, record, &op, prev);
            progress.bytes += event.kv.key.len() + event.kv.value.len() + 64;
            progress.events.push(Arc::new(event));
        }
        progress.next = Revision(record.revision).next();
        Ok(())
    }

    /// The version before a revision, if compaction has left it.
    fn prev(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let (version, values) = {
            let index = self.shared.index.read();
            if revision - 1 < self.shared.floor() {
                return None;
            }
            (*index.get(key, revision - 1)?, self.shared.values())
        };
        crate::core::eval::prev_kv(&Bytes::copy_from_slice(key), &version, &values).ok()
    }
}
