//! Watchers of one stream that read history: where each one is, and what a chunk of history holds for it.
//!
//! Pure: the stream reads the chunks and lists those who have caught up. A chunk is cut for one watcher at a
//! time, when the consumer asks, so a thousand cursors hold one chunk and a thousand revisions.

use std::sync::Arc;

use super::mailbox::Name;
use super::registry::Filter;
use super::scan::Chunk;
use crate::types::{Event, KeyRange, Revision};

/// A watcher that lags.
pub(super) struct Cursor {
    pub(super) name: Name,
    pub(super) key: u32,
    pub(super) keys: KeyRange,
    pub(super) filter: Filter,
    pub(super) prev_kv: bool,
    /// The first revision it has not been given.
    pub(super) next: Revision,
    /// It may go on once so many items have been taken from the mailbox.
    pub(super) after: u64,
}

/// The cursors of one stream.
#[derive(Default)]
pub(super) struct CatchUp {
    cursors: Vec<Cursor>,
    /// Whose turn it is to choose what is read.
    turn: usize,
    /// The chunk being served, and the cursor that is next.
    serving: Option<(Arc<Chunk>, usize)>,
}

impl CatchUp {
    pub(super) fn add(&mut self, cursor: Cursor) {
        self.cursors.push(cursor);
    }

    pub(super) fn remove(&mut self, name: Name) {
        self.cursors.retain(|cursor| cursor.name != name);
        self.forget_when_empty();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cursors.is_empty()
    }

    /// The watchers that may not have everything up to `revision`.
    pub(super) fn behind(&self, revision: Revision) -> impl Iterator<Item = Name> {
        self.cursors
            .iter()
            .filter(move |cursor| cursor.next <= revision)
            .map(|cursor| cursor.name)
    }

    /// What to read next: the position of a cursor that may go on, each in its turn, so that one that is far
    /// behind does not hold up the others. Whether previous versions are wanted there.
    pub(super) fn choose(&mut self, taken: u64) -> Option<(Revision, bool)> {
        let n = self.cursors.len();
        let at = (0..n)
            .map(|step| (self.turn + step) % n)
            .find(|at| self.cursors[*at].after <= taken)?;
        self.turn = at + 1;
        let from = self.cursors[at].next;
        // Who stands close by is served from the same chunk, and it is read for all of them.
        Some((from, self.cursors.iter().any(|cursor| cursor.prev_kv)))
    }

    /// Takes a chunk to serve.
    pub(super) fn offer(&mut self, chunk: Arc<Chunk>) {
        self.serving = Some((chunk, 0));
    }

    /// The next watcher that has events in the chunk being served, with these.
    pub(super) fn serve(&mut self, taken: u64) -> Option<(Name, Vec<Arc<Event>>, Revision)> {
        let (chunk, at) = self.serving.as_mut()?;
        while let Some(cursor) = self.cursors.get_mut(*at) {
            *at += 1;
            if cursor.after > taken || !chunk.holds(cursor.next) {
                continue;
            }
            let events = cursor.cut(chunk);
            cursor.next = chunk.until;
            if !events.is_empty() {
                return Some((cursor.name, events, Revision(chunk.until.0 - 1)));
            }
        }
        self.serving = None;
        None
    }

    /// Removes the cursors that `list` takes, and those that are below `floor`.
    pub(super) fn extract(&mut self, mut leaves: impl FnMut(&Cursor) -> bool) -> Vec<Cursor> {
        let left = self.cursors.extract_if(.., |cursor| leaves(cursor)).collect();
        self.forget_when_empty();
        left
    }

    fn forget_when_empty(&mut self) {
        if self.cursors.is_empty() {
            *self = Self::default();
        }
    }
}

impl Cursor {
    fn cut(&self, chunk: &Chunk) -> Vec<Arc<Event>> {
        let wanted = |event: &&Arc<Event>| self.keys.contains(&event.kv.key) && self.filter.passes(event);
        chunk.since(self.next).iter().filter(wanted).cloned().collect()
    }
}
