//! A set of keys made of ranges.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::types::KeyRange;

/// A set of keys as disjoint spans, so that a lookup is one search however many there are.
#[derive(Default)]
pub(crate) struct Spans {
    /// `[start, end)` by start.
    bounded: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Every key from this one on.
    from: Option<Vec<u8>>,
}

impl Spans {
    /// Adds the keys of a range.
    pub(crate) fn insert(&mut self, range: &KeyRange) {
        match range {
            KeyRange::Key(key) => {
                let mut end = key.to_vec();
                end.push(0);
                self.insert_span(key.to_vec(), end);
            }
            KeyRange::Span(start, end) => self.insert_span(start.to_vec(), end.to_vec()),
            KeyRange::From(start) => self.insert_from(start.to_vec()),
        }
    }

    fn insert_from(&mut self, start: Vec<u8>) {
        if self.from.as_ref().is_none_or(|from| start < *from) {
            self.from = Some(start);
        }
    }

    fn insert_span(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        if start >= end {
            return;
        }
        // Everything that touches the new span becomes part of it.
        while let Some((other_start, other_end)) = self
            .bounded
            .range(..=end.clone())
            .next_back()
            .map(|(start, end)| (start.clone(), end.clone()))
            .filter(|(_, other_end)| *other_end >= start)
        {
            self.bounded.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.bounded.insert(start, end);
    }

    /// Adds all keys of another set.
    pub(crate) fn merge(&mut self, mut other: Self) {
        if self.bounded.len() < other.bounded.len() {
            std::mem::swap(self, &mut other);
        }
        for (start, end) in other.bounded {
            self.insert_span(start, end);
        }
        if let Some(from) = other.from {
            self.insert_from(from);
        }
    }

    /// Whether there is nothing in the set.
    pub(crate) fn is_empty(&self) -> bool {
        self.bounded.is_empty() && self.from.is_none()
    }

    /// Whether a key is in the set.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let below = (Bound::Unbounded, Bound::Included(key));
        self.from.as_ref().is_some_and(|from| &from[..] <= key)
            || self
                .bounded
                .range::<[u8], _>(below)
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
        assert_eq!(spans.bounded.len(), 2);
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
