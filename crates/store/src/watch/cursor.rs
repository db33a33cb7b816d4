//! The watchers of one stream that read history.
//!
//! A cursor is a revision and nothing more, however far behind it is. Cursors of one stream that lie close
//! together share a scan: a chunk is read once from the lowest, and each takes what it wants.

use std::sync::Arc;

use crate::core::batch::History;
use crate::error::Error;
use crate::types::{Event, EventKind, Revision, WatchSpec};

/// Bytes of history one step reads; between steps others of the same thread get their turn.
const CHUNK_BYTES: usize = 1 << 20;

/// A lagging watcher, as one step sees and moves it.
pub(super) struct Cursor<'a> {
    pub(super) id: i64,
    pub(super) spec: &'a WatchSpec,
    pub(super) next: Revision,
    pub(super) outcome: Outcome,
}

/// What a step did for one cursor.
pub(super) enum Outcome {
    /// Not reached by the chunk.
    Untouched,
    /// Moved to `next`, with the events on the way.
    Moved(Vec<Arc<Event>>),
    /// Its position has been compacted.
    Compacted(Revision),
}

/// Reads one chunk from the lowest cursor and moves all that it reaches.
///
/// # Errors
/// [`Error::Read`] when the log cannot be read.
pub(super) fn step(history: &dyn History, cursors: &mut [Cursor<'_>]) -> Result<(), Error> {
    let Some(from) = cursors.iter().map(|cursor| cursor.next).min() else {
        return Ok(());
    };
    let prev_kv = cursors.iter().any(|cursor| cursor.spec.prev_kv);
    match history.read(from, CHUNK_BYTES, prev_kv) {
        Ok((events, next)) => {
            for cursor in cursors.iter_mut().filter(|cursor| cursor.next < next) {
                let wanted = events.iter().filter(|event| wants(cursor, event));
                cursor.outcome = Outcome::Moved(wanted.cloned().collect());
                cursor.next = next;
            }
            Ok(())
        }
        Err(Error::Compacted { floor, .. }) => {
            for cursor in cursors.iter_mut().filter(|cursor| cursor.next < floor) {
                cursor.outcome = Outcome::Compacted(floor);
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn wants(cursor: &Cursor<'_>, event: &Event) -> bool {
    let filtered = match event.kind {
        EventKind::Put => cursor.spec.no_put,
        EventKind::Delete => cursor.spec.no_delete,
    };
    !filtered && event.kv.mod_revision >= cursor.next && cursor.spec.keys.contains(&event.kv.key)
}
