//! From a key to the watchers that want it.
//!
//! Watchers of the same range share a group. Groups of a single key are found by hash; groups of a range by
//! a sorted array with, over it, a tree of the furthest end below each node: a lookup visits only ranges
//! that contain the key, plus a logarithmic number of others.

use std::collections::HashMap;

use bytes::Bytes;

use crate::types::KeyRange;

/// A watcher's place in the registry.
pub(super) type Slot = u32;

/// All registered ranges and the slots behind them.
#[derive(Debug, Default)]
pub(super) struct Matcher {
    keys: HashMap<Bytes, Vec<Slot>>,
    ranges: Vec<Group>,
    /// `tree[node]`: the furthest end among the node's groups; rebuilt when `ranges` changed.
    tree: Vec<End>,
    stale: bool,
}

#[derive(Debug)]
struct Group {
    start: Bytes,
    end: End,
    slots: Vec<Slot>,
}

/// Where a range ends; without bound sorts last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Never => true,
        }
    }
}

impl Matcher {
    /// Adds a watcher of `keys`.
    pub(super) fn insert(&mut self, keys: &KeyRange, slot: Slot) {
        let (start, end) = match keys {
            KeyRange::Key(key) => return self.keys.entry(key.clone()).or_default().push(slot),
            KeyRange::Span(start, end) => (start, End::Before(end.clone())),
            KeyRange::From(start) => (start, End::Never),
        };
        match self.find(start, &end) {
            Ok(at) => self.ranges[at].slots.push(slot),
            Err(at) => {
                self.ranges.insert(
                    at,
                    Group {
                        start: start.clone(),
                        end,
                        slots: vec![slot],
                    },
                );
                self.stale = true;
            }
        }
    }

    /// Removes a watcher that was added with the same range.
    pub(super) fn remove(&mut self, keys: &KeyRange, slot: Slot) {
        let (start, end) = match keys {
            KeyRange::Key(key) => {
                if let Some(slots) = self.keys.get_mut(key) {
                    slots.retain(|other| *other != slot);
                    if slots.is_empty() {
                        self.keys.remove(key);
                    }
                }
                return;
            }
            KeyRange::Span(start, end) => (start, End::Before(end.clone())),
            KeyRange::From(start) => (start, End::Never),
        };
        if let Ok(at) = self.find(start, &end) {
            self.ranges[at].slots.retain(|other| *other != slot);
            if self.ranges[at].slots.is_empty() {
                self.ranges.remove(at);
                self.stale = true;
            }
        }
    }

    /// Calls `visit` for each watcher of `key`.
    pub(super) fn matching(&mut self, key: &[u8], visit: &mut impl FnMut(Slot)) {
        if let Some(slots) = self.keys.get(key) {
            slots.iter().copied().for_each(&mut *visit);
        }
        if self.ranges.is_empty() {
            return;
        }
        if self.stale {
            self.rebuild();
        }
        // Ranges that start after the key cannot contain it.
        let candidates = self.ranges.partition_point(|group| &group.start[..] <= key);
        self.descend(1, 0, self.tree.len() / 2, candidates, key, visit);
    }

    fn descend(
        &self,
        node: usize,
        from: usize,
        width: usize,
        until: usize,
        key: &[u8],
        visit: &mut impl FnMut(Slot),
    ) {
        if from >= until || !self.tree[node].is_after(key) {
            return;
        }
        if width == 1 {
            return self.ranges[from].slots.iter().copied().for_each(visit);
        }
        let half = width / 2;
        self.descend(2 * node, from, half, until, key, visit);
        self.descend(2 * node + 1, from + half, half, until, key, visit);
    }

    fn find(&self, start: &Bytes, end: &End) -> Result<usize, usize> {
        self.ranges
            .binary_search_by(|group| (&group.start, &group.end).cmp(&(start, end)))
    }

    fn rebuild(&mut self) {
        let leaves = self.ranges.len().next_power_of_two();
        let nothing = End::Before(Bytes::new());
        self.tree.clear();
        self.tree.resize(2 * leaves, nothing);
        for (at, group) in self.ranges.iter().enumerate() {
            self.tree[leaves + at] = group.end.clone();
        }
        for node in (1..leaves).rev() {
            self.tree[node] = self.tree[2 * node].clone().max(self.tree[2 * node + 1].clone());
        }
        self.stale = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matching(matcher: &mut Matcher, key: &[u8]) -> Vec<Slot> {
        let mut found = Vec::new();
        matcher.matching(key, &mut |slot| found.push(slot));
        found.sort_unstable();
        found
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || prop::collection::vec(0u8..4, 0..4).prop_map(Bytes::from);
        prop_oneof![
            key().prop_map(KeyRange::Key),
            (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, end)),
            key().prop_map(KeyRange::From),
        ]
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_asking_every_watcher(
            ranges in prop::collection::vec(range(), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            keys in prop::collection::vec(prop::collection::vec(0u8..4, 0..4), 1..20),
        ) {
            let mut matcher = Matcher::default();
            let mut alive: Vec<(Slot, &KeyRange)> = (0..).zip(&ranges).collect();
            for (slot, range) in &alive {
                matcher.insert(range, *slot);
            }
            for index in removed {
                if !alive.is_empty() {
                    let (slot, range) = alive.remove(index.index(alive.len()));
                    matcher.remove(range, slot);
                }
                for key in &keys {
                    let expected: Vec<Slot> =
                        alive.iter().filter(|(_, range)| range.contains(key)).map(|(slot, _)| *slot).collect();
                    prop_assert_eq!(matching(&mut matcher, key), expected);
                }
            }
        }
    }

    #[test]
    fn watchers_of_one_range_share_a_group() {
        let mut matcher = Matcher::default();
        for slot in 0..1000 {
            matcher.insert(&KeyRange::prefix(b"a/"), slot);
        }
        assert_eq!(matcher.ranges.len(), 1);
        assert_eq!(matching(&mut matcher, b"a/b").len(), 1000);
        assert_eq!(matching(&mut matcher, b"b").len(), 0);
    }
}
