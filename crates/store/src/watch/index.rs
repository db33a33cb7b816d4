//! Which watchers want an event.
//!
//! Watchers of the same keys form a group, found once per event: single keys by hash, spans through
//! [`Spans`]. A watcher that lags stays in its group's count but not in its list, so it costs the
//! dispatcher nothing and joins again in O(1).

use std::collections::HashMap;

use bytes::Bytes;

use super::slab::Slab;
use super::spans::Spans;
use crate::types::KeyRange;

/// No watcher.
pub(super) const NONE: u32 = u32::MAX;

/// Watchers of the same keys.
pub(super) struct Group {
    pub(super) keys: KeyRange,
    /// The first watcher of the list that runs through [`Watcher::next`](super::registry::Watcher::next).
    pub(super) head: u32,
    /// Watchers, listed or not.
    members: u32,
}

/// All groups.
#[derive(Default)]
pub(super) struct Index {
    groups: Slab<Group>,
    exact: HashMap<Bytes, u32>,
    wide: HashMap<KeyRange, u32>,
    spans: Spans,
}

impl Index {
    /// Counts one more watcher of these keys; returns their group.
    pub(super) fn join(&mut self, keys: KeyRange) -> u32 {
        let known = match &keys {
            KeyRange::Key(key) => self.exact.get(key),
            wide => self.wide.get(wide),
        };
        let number = match known {
            Some(number) => *number,
            None => self.add(keys),
        };
        self.group_mut(number).members += 1;
        number
    }

    fn add(&mut self, keys: KeyRange) -> u32 {
        let number = self.groups.insert(Group {
            keys: keys.clone(),
            head: NONE,
            members: 0,
        });
        match &keys {
            KeyRange::Key(key) => {
                self.exact.insert(key.clone(), number);
                return number;
            }
            KeyRange::Span(start, end) => self.spans.insert(start.clone(), Some(end.clone()), number),
            KeyRange::From(start) => self.spans.insert(start.clone(), None, number),
        }
        self.wide.insert(keys, number);
        number
    }

    /// Counts one watcher less; the group goes with its last.
    pub(super) fn leave(&mut self, number: u32) {
        let group = self.group_mut(number);
        group.members -= 1;
        if group.members > 0 {
            return;
        }
        if let Some(group) = self.groups.remove(number) {
            match &group.keys {
                KeyRange::Key(key) => {
                    self.exact.remove(key);
                }
                wide => {
                    self.wide.remove(wide);
                    self.spans.remove(wide.start(), number);
                }
            }
        }
    }

    pub(super) fn group(&self, number: u32) -> &Group {
        self.groups
            .get(number)
            .expect("a group lives as long as a watcher names it")
    }

    pub(super) fn group_mut(&mut self, number: u32) -> &mut Group {
        self.groups
            .get_mut(number)
            .expect("a group lives as long as a watcher names it")
    }

    /// Calls `found` with each group that contains the key and has somebody listed.
    pub(super) fn containing(&self, key: &[u8], mut found: impl FnMut(u32)) {
        let mut listed = |number| {
            if self.group(number).head != NONE {
                found(number);
            }
        };
        if let Some(number) = self.exact.get(key) {
            listed(*number);
        }
        self.spans.containing(key, &mut listed);
    }
}
