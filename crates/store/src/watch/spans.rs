//! Which of many spans contain a key: a treap by start, each node knowing the farthest end below it.
//!
//! A lookup walks only subtrees that start at or before the key and reach beyond it: O(log n + found) when
//! spans nest or are apart, as prefixes do.

use bytes::Bytes;

const NONE: u32 = u32::MAX;

/// A set of spans, each with the caller's number for it.
#[derive(Default)]
pub(super) struct Spans {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: Option<u32>,
}

struct Node {
    start: Bytes,
    /// `None` has no end.
    end: Option<Bytes>,
    number: u32,
    priority: u32,
    left: u32,
    right: u32,
    /// The node of this subtree whose end is farthest.
    farthest: u32,
}

impl Spans {
    /// Adds a span. `number` must not be in use.
    pub(super) fn insert(&mut self, start: Bytes, end: Option<Bytes>, number: u32) {
        let priority = scatter(number);
        let (before, after) = self.split(self.root(), &start, number);
        let node = Node {
            start,
            end,
            number,
            priority,
            left: NONE,
            right: NONE,
            farthest: NONE,
        };
        let new = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("a node per span, and those are numbered by u32")
            }
        };
        self.refresh(new);
        let before = self.merge(before, new);
        let root = self.merge(before, after);
        self.set_root(root);
    }

    /// Removes the span that was inserted with this start and number.
    pub(super) fn remove(&mut self, start: &Bytes, number: u32) {
        let (before, rest) = self.split(self.root(), start, number);
        let (found, after) = self.split(rest, start, number + 1);
        if found != NONE {
            self.nodes[found as usize].start = Bytes::new();
            self.nodes[found as usize].end = None;
            self.free.push(found);
        }
        let root = self.merge(before, after);
        self.set_root(root);
    }

    /// Calls `found` with the number of each span that contains the key.
    pub(super) fn containing(&self, key: &[u8], found: &mut impl FnMut(u32)) {
        self.visit(self.root(), key, found);
    }

    fn visit(&self, at: u32, key: &[u8], found: &mut impl FnMut(u32)) {
        if at == NONE || !self.reaches(self.node(at).farthest, key) {
            return;
        }
        let node = self.node(at);
        self.visit(node.left, key, found);
        if &node.start[..] <= key {
            if self.reaches(at, key) {
                found(node.number);
            }
            self.visit(node.right, key, found);
        }
    }

    fn reaches(&self, at: u32, key: &[u8]) -> bool {
        self.node(at).end.as_ref().is_none_or(|end| key < &end[..])
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn root(&self) -> u32 {
        self.root.unwrap_or(NONE)
    }

    fn set_root(&mut self, root: u32) {
        self.root = (root != NONE).then_some(root);
    }

    /// Cuts a subtree in two: nodes before `(start, number)`, and the rest.
    fn split(&mut self, at: u32, start: &Bytes, number: u32) -> (u32, u32) {
        if at == NONE {
            return (NONE, NONE);
        }
        let node = self.node(at);
        if (&node.start, node.number) < (start, number) {
            let (left, right) = self.split(node.right, start, number);
            self.nodes[at as usize].right = left;
            self.refresh(at);
            (at, right)
        } else {
            let (left, right) = self.split(node.left, start, number);
            self.nodes[at as usize].left = right;
            self.refresh(at);
            (left, at)
        }
    }

    /// Joins two subtrees, all of `left` before all of `right`.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        if left == NONE || right == NONE {
            return if left == NONE { right } else { left };
        }
        if self.node(left).priority > self.node(right).priority {
            self.nodes[left as usize].right = self.merge(self.node(left).right, right);
            self.refresh(left);
            left
        } else {
            self.nodes[right as usize].left = self.merge(left, self.node(right).left);
            self.refresh(right);
            right
        }
    }

    fn refresh(&mut self, at: u32) {
        let node = self.node(at);
        let below = [node.left, node.right].into_iter().filter(|child| *child != NONE);
        let farthest = below
            .map(|child| self.node(child).farthest)
            .fold(at, |best, other| {
                match (&self.node(best).end, &self.node(other).end) {
                    (Some(mine), Some(theirs)) if theirs > mine => other,
                    (Some(_), None) => other,
                    _ => best,
                }
            });
        self.nodes[at as usize].farthest = farthest;
    }
}

/// A treap wants priorities that have nothing to do with the order of keys (the finaliser of murmur3).
fn scatter(number: u32) -> u32 {
    let mut x = number.wrapping_add(0x9e37_79b9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Vec<u8>, Option<Vec<u8>>),
        Remove(usize),
        Find(Vec<u8>),
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..4, 0..4)
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (key(), prop::option::of(key())).prop_map(|(start, end)| Step::Insert(start, end)),
            any::<usize>().prop_map(Step::Remove),
            key().prop_map(Step::Find),
        ]
    }

    proptest! {
        #[test]
        fn a_lookup_finds_what_a_list_would_find(steps in prop::collection::vec(step(), 0..200)) {
            let mut spans = Spans::default();
            let mut list: Vec<(Bytes, Option<Bytes>, u32)> = Vec::new();
            for (number, step) in (0u32..).zip(steps) {
                match step {
                    Step::Insert(start, end) => {
                        let (start, end) = (Bytes::from(start), end.map(Bytes::from));
                        spans.insert(start.clone(), end.clone(), number);
                        list.push((start, end, number));
                    }
                    Step::Remove(at) if !list.is_empty() => {
                        let (start, _, number) = list.swap_remove(at % list.len());
                        spans.remove(&start, number);
                    }
                    Step::Remove(_) => (),
                    Step::Find(key) => {
                        let mut found = Vec::new();
                        spans.containing(&key, &mut |number| found.push(number));
                        found.sort_unstable();
                        let mut expect: Vec<u32> = list.iter()
                            .filter(|(start, end, _)| start[..] <= key[..] && end.as_ref().is_none_or(|end| key[..] < end[..]))
                            .map(|(.., number)| *number).collect();
                        expect.sort_unstable();
                        prop_assert_eq!(found, expect);
                    }
                }
            }
        }
    }
}
