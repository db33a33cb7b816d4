//! A set of keys made of ranges.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::types::KeyRange;

/// A set of keys as disjoint spans `[start, end)`, so that a lookup is one search however many there are.
#[derive(Default)]
pub(crate) struct Spans(BTreeMap<Vec<u8>, Vec<u8>>);

impl Spans {
    /// Adds the keys of a range. A range that runs to the end of the keys adds none: etcd's check of transactions, whose
    /// sets these are, reads its end "\0" as a key.
    pub(crate) fn insert(&mut self, range: &KeyRange) {
        match range {
            KeyRange::Key(key) => {
                let mut end = key.to_vec();
                end.push(0);
                self.insert_span(key.to_vec(), end);
            }
            KeyRange::Span(start, end) => self.insert_span(start.to_vec(), end.to_vec()),
            KeyRange::From(_) => (),
        }
    }

    fn insert_span(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        if start >= end {
            return;
        }
        // Everything that touches the new span becomes part of it.
        while let Some((other_start, other_end)) = self
            .0
            .range(..=end.clone())
            .next_back()
            .map(|(start, end)| (start.clone(), end.clone()))
            .filter(|(_, other_end)| *other_end >= start)
        {
            self.0.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    /// Adds all keys of another set.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if self.0.len() < other.0.len() {
            std::mem::swap(self, &mut other);
        }
        for (start, end) in other.0 {
            self.insert_span(start, end);
        }
    }

    /// Whether a key is in the set.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.0
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| key < &end[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_merge_into_what_they_touch() {
        let mut spans = Spans::default();
        for (start, end) in [("a", "c"), ("e", "g"), ("b", "f"), ("x", "y"), ("z", "a")] {
            spans.insert_span(start.into(), end.into());
        }
        assert_eq!(spans.0.len(), 2);
        for (key, expect) in [
            ("a", true),
            ("d", true),
            ("g", false),
            ("x", true),
            ("y", false),
            ("", false),
        ] {
            assert_eq!(spans.contains(key.as_bytes()), expect, "{key}");
        }
    }
}
