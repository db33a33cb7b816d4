//! The state of all watchers, stepped by the dispatcher and by streams; no I/O, no clock.
//!
//! A watcher is *listed* (the dispatcher hands it what it wants) or a *cursor* (its stream reads history for
//! it). [`Registry::dispatched`] is the revision up to which listed watchers have been handed everything,
//! and it changes only in [`Registry::dispatch`], under the same lock as listing.
//!
//! # Why there is neither gap nor repetition at the seam
//! A listed watcher has `first`, the lowest revision it may be handed.
//! - *Listing* at `next` is allowed only if `next > dispatched`; then `first = next`. All revisions below
//!   `next` were read from history (or were not asked for); all at or above it are still to be dispatched,
//!   because `dispatched < next`, and will be, because dispatching is in order and without holes.
//! - *Unlisting* happens inside `dispatch`, when the mailbox is full: the cursor starts at the revision of
//!   the first event that did not fit. Batches hold whole revisions, so nothing of that revision was handed
//!   out, and everything before it is in the mailbox, which the stream empties before it reads for the cursor.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::{Index, NONE};
use super::mailbox::{Mailbox, Name, Parcel, Pushed, Room};
use super::slab::Slab;
use crate::plant::{self, Plant};
use crate::types::{Event, EventKind, KeyRange, Revision};

/// Which kinds of events a watcher wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
}

impl Filter {
    pub(super) fn passes(self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }

    fn number(self) -> usize {
        usize::from(self.no_put) + 2 * usize::from(self.no_delete)
    }
}

/// One watcher.
pub(super) struct Watcher {
    mailbox: Arc<Mailbox>,
    name: Name,
    /// The lowest revision it may be handed while listed.
    first: Revision,
    group: u32,
    /// Its neighbours in the group's list.
    pub(super) next: u32,
    prev: u32,
    filter: Filter,
    listed: bool,
}

/// All watchers of a store.
pub(super) struct Registry {
    index: Index,
    watchers: Slab<Watcher>,
    dispatched: Revision,
    room: Room,
    /// Streams that want to hear of every new `dispatched` until they ask no more.
    waiting: Vec<Arc<Mailbox>>,
}

impl Registry {
    pub(super) fn new(room: Room) -> Self {
        Self {
            index: Index::default(),
            watchers: Slab::default(),
            dispatched: Revision::default(),
            room,
            waiting: Vec::new(),
        }
    }

    /// Watchers, listed or not.
    pub(super) fn len(&self) -> usize {
        self.watchers.len()
    }

    pub(super) fn dispatched(&self) -> Revision {
        self.dispatched
    }

    /// Goes on at `to` without having dispatched what is before it: there was nobody to see it.
    pub(super) fn skip(&mut self, to: Revision) {
        self.dispatched = self.dispatched.max(to);
    }

    /// Adds a watcher, not listed yet.
    pub(super) fn add(&mut self, mailbox: &Arc<Mailbox>, name: Name, keys: KeyRange, filter: Filter) -> u32 {
        let group = self.index.join(keys);
        let mailbox = Arc::clone(mailbox);
        let first = Revision::default();
        self.watchers.insert(Watcher {
            mailbox,
            name,
            first,
            group,
            next: NONE,
            prev: NONE,
            filter,
            listed: false,
        })
    }

    /// Lists a watcher from `next` on, if everything from there on is still to be dispatched.
    pub(super) fn list(&mut self, key: u32, next: Revision) -> bool {
        if next <= self.dispatched {
            return false;
        }
        let Some(watcher) = self.watchers.get_mut(key) else {
            return false;
        };
        watcher.first = next;
        watcher.listed = true;
        let group = self.index.group_mut(watcher.group);
        watcher.next = std::mem::replace(&mut group.head, key);
        let neighbour = watcher.next;
        if let Some(neighbour) = self.watchers.get_mut(neighbour) {
            neighbour.prev = key;
        }
        true
    }

    /// Takes a watcher off its group's list.
    fn unlist(&mut self, key: u32) {
        let Some(watcher) = self.watchers.get_mut(key).filter(|watcher| watcher.listed) else {
            return;
        };
        watcher.listed = false;
        let (group, prev, next) = (watcher.group, watcher.prev, watcher.next);
        (watcher.prev, watcher.next) = (NONE, NONE);
        match self.watchers.get_mut(prev) {
            Some(before) => before.next = next,
            None => self.index.group_mut(group).head = next,
        }
        if let Some(after) = self.watchers.get_mut(next) {
            after.prev = prev;
        }
    }

    pub(super) fn remove(&mut self, key: u32) {
        self.unlist(key);
        if let Some(watcher) = self.watchers.remove(key) {
            self.index.leave(watcher.group);
        }
    }

    /// The keys and the filter of a watcher, for its stream to read history by.
    pub(super) fn wants(&self, key: u32) -> Option<(KeyRange, Filter)> {
        let watcher = self.watchers.get(key)?;
        Some((self.index.group(watcher.group).keys.clone(), watcher.filter))
    }

    /// Has the stream woken after the next dispatch.
    pub(super) fn wait(&mut self, mailbox: &Arc<Mailbox>) {
        if !self.waiting.iter().any(|waiting| Arc::ptr_eq(waiting, mailbox)) {
            self.waiting.push(Arc::clone(mailbox));
        }
    }

    /// Hands out the events up to `last`, leaving out those that were handed out before. The streams in `wake`
    /// then have to be woken.
    pub(super) fn dispatch(&mut self, events: &[Arc<Event>], last: Revision, wake: &mut Vec<Arc<Mailbox>>) {
        if last <= self.dispatched {
            return;
        }
        for (group, events) in self.matches(events) {
            self.hand_out(group, &Parcel::new(events), wake);
        }
        self.dispatched = last;
        wake.extend(self.waiting.drain(..).filter(|waiting| waiting.signal()));
    }

    /// The events for each group that has any, in order.
    fn matches(&self, events: &[Arc<Event>]) -> Vec<(u32, Vec<Arc<Event>>)> {
        let mut matches: Vec<(u32, Vec<Arc<Event>>)> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        for event in events
            .iter()
            .filter(|event| event.kv.mod_revision > self.dispatched)
        {
            self.index.containing(&event.kv.key, |group| {
                let place = *places.entry(group).or_insert_with(|| {
                    matches.push((group, Vec::new()));
                    matches.len() - 1
                });
                matches[place].1.push(Arc::clone(event));
            });
        }
        matches
    }

    /// Gives a parcel to all who are listed in a group.
    fn hand_out(&mut self, group: u32, whole: &Arc<Parcel>, wake: &mut Vec<Arc<Mailbox>>) {
        let mut filtered: [Option<Arc<Parcel>>; 4] = [Some(Arc::clone(whole)), None, None, None];
        let mut key = self.index.group(group).head;
        while let Some(watcher) = self.watchers.get(key) {
            let next = watcher.next;
            let parcel = watcher.cut(whole, &mut filtered);
            if let Some(first) = parcel.first() {
                match watcher.mailbox.push(watcher.name, &parcel, self.room) {
                    Pushed::In { wake: true } => wake.push(Arc::clone(&watcher.mailbox)),
                    Pushed::In { wake: false } => (),
                    Pushed::Full if plant::has(Plant::LostEvent) => {
                        self.turn_into_cursor(key, first.next(), wake);
                    }
                    Pushed::Full => self.turn_into_cursor(key, first, wake),
                }
            }
            key = next;
        }
    }

    fn turn_into_cursor(&mut self, key: u32, next: Revision, wake: &mut Vec<Arc<Mailbox>>) {
        self.unlist(key);
        if let Some(watcher) = self.watchers.get(key)
            && watcher.mailbox.lag(watcher.name, next)
        {
            wake.push(Arc::clone(&watcher.mailbox));
        }
    }

    /// Turns all listed watchers into cursors from what is not dispatched on, and goes on at `to`. For a hole
    /// that cannot be filled any more: each stream will see for itself that its history is compacted.
    pub(super) fn give_up(&mut self, to: Revision, wake: &mut Vec<Arc<Mailbox>>) {
        for key in self.watchers.keys() {
            let listed = self.watchers.get(key).filter(|watcher| watcher.listed);
            if let Some(first) = listed.map(|watcher| watcher.first) {
                self.turn_into_cursor(key, first.max(self.dispatched.next()), wake);
            }
        }
        self.skip(to);
    }
}

impl Watcher {
    /// The part of a parcel that this watcher wants; `filtered` keeps parts that others may want too.
    fn cut(&self, whole: &Arc<Parcel>, filtered: &mut [Option<Arc<Parcel>>; 4]) -> Arc<Parcel> {
        let wanted = |event: &&Arc<Event>| self.filter.passes(event) && event.kv.mod_revision >= self.first;
        let cut = || Parcel::new(whole.events.iter().filter(wanted).cloned().collect());
        if whole.first().is_some_and(|first| first < self.first) {
            // Only just listed: nobody else wants exactly this.
            return cut();
        }
        Arc::clone(filtered[self.filter.number()].get_or_insert_with(cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_watcher_takes_less_than_200_bytes_besides_its_key() {
        // The watcher, its key's group and hash entry, its entry in the stream; hash tables are at least 7/16 full.
        let watcher = size_of::<Option<Watcher>>();
        let group = size_of::<Option<super::super::index::Group>>();
        let hashed = size_of::<(bytes::Bytes, u32)>();
        let in_stream = super::super::members::MEMBER_BYTES;
        let shared_keys = watcher + 2 * in_stream;
        assert!(shared_keys <= 200, "{shared_keys}");
        assert!(
            watcher + group + hashed + in_stream <= 256,
            "{watcher} + {group} + {hashed} + {in_stream}"
        );
    }
}
