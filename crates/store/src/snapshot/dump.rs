//! Every version that a read can see, in the order of the log, at one moment.

use std::sync::Arc;

use crate::core::header::HEADER;
use crate::core::index::Index;
use crate::core::meta::Tables;
use crate::core::record::OpRef;
use crate::engine::{Courtesy, Pin, Shared, Tip};
use crate::error::Error;
use crate::log::files::{Segment, Table};
use crate::log::scan;

/// Bytes read from a segment at once.
const WINDOW: usize = 1 << 20;
/// Records after which it is looked whether to rest.
const BREATHE_EVERY: usize = 16;

/// The store at one moment. While it lives, nothing of it is pruned, and its files stay readable.
pub(crate) struct Dump {
    pub(crate) shared: Arc<Shared>,
    table: Arc<Table>,
    pub(crate) tip: Tip,
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    /// Ids and TTLs.
    pub(crate) leases: Vec<(i64, i64)>,
    pub(crate) tables: Tables,
    _pin: Pin<Arc<Shared>>,
}

impl Dump {
    /// Everything up to now.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Self {
        let index = shared.index.read();
        let dump = Self {
            revision: shared.committed(),
            floor: shared.floor(),
            leases: shared.leases.lock().grants(),
            tables: shared.tables.read().clone(),
            tip: *shared.tip.lock(),
            table: shared.files.table(),
            _pin: shared.pin_owned(shared.floor()),
            shared: Arc::clone(shared),
        };
        drop(index);
        dump
    }

    /// Visits the versions that a read at the floor or above can see: those above the floor, and of each key
    /// the newest at or below it. Two visits of one dump are the same.
    pub(crate) fn visit<E: From<Error>>(
        &self,
        visit: &mut dyn FnMut(i64, &OpRef<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.ops(self.revision, &mut |revision, op| {
            let seen = revision > self.floor
                || match op {
                    // A watch from the floor must see it.
                    OpRef::Delete { .. } => revision == self.floor,
                    OpRef::Put { .. } => is_newest(&self.shared.index.read(), op.key(), revision, self.floor),
                };
            if seen { visit(revision, op) } else { Ok(()) }
        })
    }

    /// Visits all that the log holds up to `until`, also what nothing can reach any more. Beside writes it [rests](Courtesy).
    pub(crate) fn ops<E: From<Error>>(
        &self,
        until: i64,
        visit: &mut dyn FnMut(i64, &OpRef<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut courtesy, mut seen) = (Courtesy::new(&self.shared), 0_usize);
        let mut breathe = || {
            seen += 1;
            if seen.is_multiple_of(BREATHE_EVERY) {
                courtesy.breathe(&self.shared);
            }
        };
        for segment in &self.table.chain {
            if segment.header.first_revision >= until || !segment_ops(segment, until, &mut breathe, visit)? {
                break;
            }
        }
        Ok(())
    }
}

/// Whether a read of `key` at `at` sees the version made at `revision`.
pub(crate) fn is_newest(index: &Index, key: &[u8], revision: i64, at: i64) -> bool {
    index
        .get(key, at)
        .is_some_and(|version| version.modified == revision)
}

/// Whether to go on with the next segment.
fn segment_ops<E: From<Error>>(
    segment: &Segment,
    until: i64,
    breathe: &mut dyn FnMut(),
    visit: &mut dyn FnMut(i64, &OpRef<'_>) -> Result<(), E>,
) -> Result<bool, E> {
    let failed = |at: u32, why: &dyn std::fmt::Display| {
        Error::Read(format!("{} at {at}: {why}", segment.path.display()))
    };
    let end = segment.end();
    let (mut at, mut window) = (HEADER, WINDOW);
    let mut bytes = Vec::new();
    while u64::from(at) < end {
        let len = window.min((end - u64::from(at)) as usize);
        bytes.resize(len, 0);
        let read = segment.file.read_exact_at(&mut bytes, u64::from(at));
        read.map_err(|error| failed(at, &error))?;
        let mut stopped: Option<Result<(), E>> = None;
        let ended = scan::records(&bytes, at, segment.header.salt, |_, record| {
            if record.has_ops() && record.revision > until {
                stopped = Some(Ok(()));
                return Ok(false);
            }
            breathe();
            for op in record.ops() {
                if let Err(error) = visit(record.revision, &op?) {
                    stopped = Some(Err(error));
                    return Ok(false);
                }
            }
            Ok(true)
        });
        if let Some(stopped) = stopped {
            return stopped.map(|()| false);
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
            Some(bad) => return Err(failed(ended.at, &bad.text()).into()),
            None => (),
        }
        at = ended.at;
    }
    Ok(true)
}
