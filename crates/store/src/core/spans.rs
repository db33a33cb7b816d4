//! A set of keys made of ranges.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::types::KeyRange;

/// A set of keys as disjoint spans, so that a lookup is one search however many there are.
#[derive(Debug, Default)]
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

    /// Whether every key of a range is in the set. Of a span that is empty because its end is not behind its start,
    /// the start is asked for.
    pub(crate) fn covers(&self, range: &KeyRange) -> bool {
        match range {
            KeyRange::Key(key) => self.contains(key),
            KeyRange::Span(start, end) if start >= end => self.contains(start),
            KeyRange::Span(start, end) => self.reaches(start, Some(end)),
            KeyRange::From(start) => self.reaches(start, None),
        }
    }

    /// Whether there is no gap between `start` and `end`.
    fn reaches(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        let from = |key: &[u8]| self.from.as_ref().is_some_and(|from| &from[..] <= key);
        if from(start) {
            return true;
        }
        let below = (Bound::Unbounded, Bound::Included(start));
        let around = self.bounded.range::<[u8], _>(below).next_back();
        // Bounded spans do not touch each other, but the open one may begin in, or right after, one of them.
        around.is_some_and(|(_, until)| {
            start < &until[..] && (end.is_some_and(|end| end <= &until[..]) || from(until))
        })
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

    fn range(bytes: (u8, u8, u8)) -> KeyRange {
        // Few keys, of one or two bytes, so that ranges often touch.
        let key = |n: u8| match n % 8 {
            n if n < 4 => vec![b'a' + n],
            n => vec![b'a' + n - 4, 0],
        };
        match bytes.0 % 5 {
            0 => KeyRange::Key(key(bytes.1).into()),
            1 => KeyRange::From(key(bytes.1).into()),
            _ => KeyRange::Span(key(bytes.1).into(), key(bytes.2).into()),
        }
    }

    proptest::proptest! {
        #[test]
        fn a_range_is_covered_when_each_of_its_keys_is(
            granted in proptest::collection::vec(proptest::prelude::any::<(u8, u8, u8)>(), 0..5),
            asked in proptest::prelude::any::<(u8, u8, u8)>(),
        ) {
            let (granted, asked): (Vec<_>, _) = (granted.into_iter().map(range).collect(), range(asked));
            let mut spans = Spans::default();
            granted.iter().for_each(|range| spans.insert(range));
            // Between two bounds that differ there is always one of these keys.
            let keys = (b'a' - 1..=b'h').flat_map(|a| [vec![a], vec![a, 0], vec![a, 0, 0], vec![a, 1]]);
            let mut inside = keys.filter(|key| asked.contains(key)).peekable();
            let is_granted = |key: &[u8]| granted.iter().any(|range| range.contains(key));
            let expect = match inside.peek() {
                None => is_granted(asked.start()),
                Some(_) => inside.all(|key| is_granted(&key)),
            };
            proptest::prop_assert_eq!(spans.covers(&asked), expect, "{:?} {:?}", granted, asked);
        }
    }
}
