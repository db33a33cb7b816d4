//! Reads of history for watchers that lag, shared by all streams.
//!
//! A read blocks, so it runs on tokio's blocking threads; at most [`SCANS_MAX`] at a time, which bounds the
//! memory of all catching up together. The last few chunks are kept, so that watchers at similar positions
//! (after a reconnect, all of them) share one read.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::core::batch::History;
use crate::error::Error;
use crate::point;
use crate::types::{Event, Revision};

/// Bytes of history read at once; one revision may be larger. A chunk is encoded in one turn of its connection, so it
/// also bounds how long others on that thread wait.
const CHUNK_BYTES: usize = 64 << 10;
/// Reads at a time, for all streams of a store.
const SCANS_MAX: usize = 4;
/// Chunks kept for others: 1 MiB at most, but for revisions larger than a chunk.
const RECENT_MAX: usize = 16;

/// Some whole revisions of history.
pub(super) struct Chunk {
    pub(super) from: Revision,
    /// The revision to go on with.
    pub(super) until: Revision,
    pub(super) events: Vec<Arc<Event>>,
    prev_kv: bool,
}

impl Chunk {
    pub(super) fn holds(&self, next: Revision) -> bool {
        self.from <= next && next < self.until
    }

    /// The events from `next` on.
    pub(super) fn since(&self, next: Revision) -> &[Arc<Event>] {
        let start = self.events.partition_point(|event| event.kv.mod_revision < next);
        &self.events[start..]
    }
}

/// The readers of one store.
pub(super) struct Scans {
    permits: Arc<Semaphore>,
    recent: Mutex<VecDeque<Arc<Chunk>>>,
}

impl Default for Scans {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(SCANS_MAX)),
            recent: Mutex::default(),
        }
    }
}

impl Scans {
    /// History from `from` on; with `prev_kv`, including previous versions.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::Read`] as of [`History::read`]; [`Error::Stopped`] never in practice.
    pub(super) async fn read(
        &self,
        history: Arc<dyn History>,
        from: Revision,
        prev_kv: bool,
    ) -> Result<Arc<Chunk>, Error> {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Err(Error::Stopped);
        };
        // Somebody else may have read it while this one waited. What has been compacted since then is not served.
        if from.0 >= history.floor()
            && let Some(chunk) = self.recent(from, prev_kv)
        {
            return Ok(chunk);
        }
        let read = move || {
            let _permit = permit;
            let (events, until) = history.read(from, CHUNK_BYTES, prev_kv)?;
            Ok(Arc::new(Chunk {
                from,
                until,
                events,
                prev_kv,
            }))
        };
        let chunk = if point::is_simulated() {
            read()?
        } else {
            let read = tokio::task::spawn_blocking(read).await;
            read.map_err(|error| Error::Read(error.to_string()))??
        };
        self.keep(&chunk);
        Ok(chunk)
    }

    fn recent(&self, from: Revision, prev_kv: bool) -> Option<Arc<Chunk>> {
        let recent = self.recent.lock();
        recent
            .iter()
            .find(|chunk| chunk.holds(from) && (chunk.prev_kv || !prev_kv))
            .cloned()
    }

    fn keep(&self, chunk: &Arc<Chunk>) {
        let mut recent = self.recent.lock();
        recent.truncate(RECENT_MAX - 1);
        recent.push_front(Arc::clone(chunk));
    }

    /// Forgets all chunks: nobody watches.
    pub(super) fn clear(&self) {
        self.recent.lock().clear();
    }
}
