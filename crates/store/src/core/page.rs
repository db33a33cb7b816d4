//! A page of the index: some keys in order, and the versions of each.
//!
//! Keys lie one behind the other in one piece of memory, so a walk reads on where it is and a key costs four bytes
//! beside its own. A search looks at hints first: of each key four bytes, from where the keys of the page begin to
//! differ. They lie together and are all compared, which takes less time than to wait for memory a few times.

use super::index::Version;

/// Most keys in a page.
pub(super) const PAGE: usize = 128;
/// Most bytes of keys in a page of more than one: what an insert moves is bounded.
const PAGE_BYTES: usize = 32 << 10;
/// Room that a page gets when it is full but not full-grown: pages of keys that come in no order are three quarters
/// full on average, and room for a whole page in each of them would be a third of the index.
const GROWTH: usize = PAGE / 8;
/// Bytes of a hint.
const HINT: usize = size_of::<u32>();

#[derive(Default)]
pub(super) struct Page {
    keys: Vec<u8>,
    /// Where each key ends.
    ends: Vec<u32>,
    /// How much all keys of the page have in common, at least.
    common: usize,
    hints: Vec<u32>,
    newest: Vec<Version>,
    /// Of each key, oldest first. Empty if no key has any.
    #[allow(
        clippy::box_collection,
        reason = "eight bytes for the many keys that have none"
    )]
    older: Vec<Option<Box<Vec<Version>>>>,
}

impl Page {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a key of so many bytes can be added.
    pub(super) fn fits(&self, key_len: usize) -> bool {
        self.is_empty() || (self.len() < PAGE && self.keys.len() + key_len <= PAGE_BYTES)
    }

    fn begin(&self, n: usize) -> usize {
        n.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(super) fn key(&self, n: usize) -> &[u8] {
        &self.keys[self.begin(n)..self.ends[n] as usize]
    }

    pub(super) fn newest(&self, n: usize) -> &Version {
        &self.newest[n]
    }

    pub(super) fn older(&self, n: usize) -> &[Version] {
        let older = self.older.get(n).and_then(Option::as_deref);
        older.map_or(&[], |older| older)
    }

    /// Where a key is, or would be.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        if self.is_empty() {
            return Err(0);
        }
        let common = &self.keys[..self.common];
        let Some(rest) = key.strip_prefix(common) else {
            return Err(if key < common { 0 } else { self.len() });
        };
        let hint = hint(rest);
        let mut from = self.hints.iter().filter(|other| **other < hint).count();
        let alike = self.hints[from..].iter().take_while(|other| **other == hint);
        let mut to = from + alike.count();
        while from < to {
            let middle = from.midpoint(to);
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// The version of a key that a read at `revision` sees.
    pub(super) fn at(&self, n: usize, revision: i64) -> Option<&Version> {
        let newest = &self.newest[n];
        if newest.modified <= revision {
            return (!newest.is_tombstone()).then_some(newest);
        }
        let older = self.older(n);
        let seen = older.partition_point(|version| version.modified <= revision);
        older[..seen].last().filter(|version| !version.is_tombstone())
    }

    /// The version of a key that was made exactly at `revision`.
    pub(super) fn exact(&self, n: usize, revision: i64) -> Option<&Version> {
        if self.newest[n].modified == revision {
            return Some(&self.newest[n]);
        }
        let older = self.older(n);
        let at = older
            .binary_search_by_key(&revision, |version| version.modified)
            .ok()?;
        older.get(at)
    }

    /// See [`Page::exact`].
    pub(super) fn exact_mut(&mut self, n: usize, revision: i64) -> Option<&mut Version> {
        if self.newest[n].modified == revision {
            return Some(&mut self.newest[n]);
        }
        let older = self.older.get_mut(n)?.as_deref_mut()?;
        let at = older
            .binary_search_by_key(&revision, |version| version.modified)
            .ok()?;
        older.get_mut(at)
    }

    /// Adds a key, where it belongs, with versions that are oldest first.
    pub(super) fn insert(&mut self, n: usize, key: &[u8], newest: Version, older: &[Version]) {
        self.grow(key.len());
        let (from, len) = (self.begin(n), self.keys.len());
        self.keys.extend_from_slice(key);
        if from < len {
            self.keys[from..].rotate_right(key.len());
        }
        self.ends.insert(n, from as u32);
        for end in &mut self.ends[n..] {
            *end += key.len() as u32;
        }
        self.newest.insert(n, newest);
        if !self.older.is_empty() {
            self.older.insert(n, None);
        }
        if !older.is_empty() {
            self.histories()[n] = Some(Box::new(older.to_vec()));
        }
        if n == 0 || n + 1 == self.len() {
            let common = common(self.key(0), self.key(self.len() - 1));
            if common != self.common || self.len() == 1 {
                return self.hint_all();
            }
        }
        self.hints.insert(n, hint(&key[self.common..]));
    }

    /// Makes room for a key.
    fn grow(&mut self, key_len: usize) {
        if self.newest.len() == self.newest.capacity() {
            self.newest.reserve_exact(GROWTH);
            self.ends.reserve_exact(GROWTH);
            self.hints.reserve_exact(GROWTH);
        }
        if self.keys.capacity() - self.keys.len() < key_len {
            let alike = (self.newest.capacity() - self.newest.len()).min(GROWTH) * key_len;
            self.keys.reserve_exact(alike.min(PAGE_BYTES).max(key_len));
        }
    }

    /// Room for a whole page of keys like one that comes next: for those that come in order.
    pub(super) fn expect_all(&mut self, key_len: usize) {
        self.newest.reserve_exact(PAGE);
        self.ends.reserve_exact(PAGE);
        self.hints.reserve_exact(PAGE);
        self.keys
            .reserve_exact((PAGE * key_len).min(PAGE_BYTES.max(key_len)));
    }

    fn hint_all(&mut self) {
        self.common = match self.len() {
            0 => 0,
            len => common(self.key(0), self.key(len - 1)),
        };
        let mut hints = std::mem::take(&mut self.hints);
        hints.clear();
        hints.extend((0..self.len()).map(|n| hint(&self.key(n)[self.common..])));
        self.hints = hints;
    }

    /// A place for the older versions of each key.
    #[allow(clippy::box_collection, reason = "as the field")]
    fn histories(&mut self) -> &mut Vec<Option<Box<Vec<Version>>>> {
        if self.older.is_empty() {
            self.older.reserve_exact(self.newest.capacity());
            self.older.resize_with(self.newest.len(), || None);
        }
        &mut self.older
    }

    /// Adds a version of a key.
    pub(super) fn add(&mut self, n: usize, version: Version) {
        debug_assert!(
            version.modified > self.newest[n].modified,
            "revisions of a key only grow"
        );
        let previous = std::mem::replace(&mut self.newest[n], version);
        self.histories()[n]
            .get_or_insert_with(|| Box::new(Vec::with_capacity(1)))
            .push(previous);
    }

    /// Moves the keys from `n` on to a page of their own.
    pub(super) fn split_off(&mut self, n: usize) -> Self {
        let cut = self.begin(n);
        let mut right = Self::default();
        let more = self.len() - n + GROWTH;
        right.newest.reserve_exact(more);
        right.ends.reserve_exact(more);
        right.hints.reserve_exact(more);
        right.keys.extend_from_slice(&self.keys[cut..]);
        right
            .ends
            .extend(self.ends.drain(n..).map(|end| end - cut as u32));
        right.newest.extend(self.newest.drain(n..));
        if !self.older.is_empty() {
            right.older.reserve_exact(more);
            right.older.extend(self.older.drain(n..));
        }
        self.keys.truncate(cut);
        self.hint_all();
        self.shrink();
        right.hint_all();
        right
    }

    fn shrink(&mut self) {
        let len = self.len() + GROWTH;
        self.newest.shrink_to(len);
        self.ends.shrink_to(len);
        self.hints.shrink_to(len);
        self.older.shrink_to(len);
        let average = self.keys.len() / self.len().max(1);
        self.keys.shrink_to(self.keys.len() + GROWTH * average);
    }

    /// Drops what no read at or above `floor` can see; whether no key is left.
    pub(super) fn prune(&mut self, floor: i64, dropped: &mut dyn FnMut(&[u8], &Version)) -> bool {
        let mut gone = Vec::new();
        for n in 0..self.len() {
            let newest = self.newest[n];
            let key = &self.keys[self.begin(n)..self.ends[n] as usize];
            if let Some(place) = self.older.get_mut(n) {
                prune_older(place, &newest, floor, &mut |version| dropped(key, version));
            }
            if newest.is_tombstone() && newest.modified < floor {
                dropped(key, &newest);
                gone.push(n);
            }
        }
        if self.older.iter().all(Option::is_none) {
            self.older = Vec::new();
        }
        self.remove(&gone);
        self.is_empty()
    }

    /// Removes keys, given in order.
    fn remove(&mut self, gone: &[usize]) {
        if gone.is_empty() {
            return;
        }
        let mut left = Self::default();
        let more = self.len() - gone.len();
        left.newest.reserve_exact(more);
        left.ends.reserve_exact(more);
        left.hints.reserve_exact(more);
        let mut gone = gone.iter().copied().peekable();
        for n in 0..self.len() {
            if gone.next_if_eq(&n).is_some() {
                continue;
            }
            left.keys.extend_from_slice(self.key(n));
            left.ends.push(left.keys.len() as u32);
            left.newest.push(self.newest[n]);
            if let Some(older) = self.older.get_mut(n) {
                left.older.push(older.take());
            }
        }
        *self = left;
        self.hint_all();
    }

    /// Keys whose newest version is not a tombstone, and what pruning may find: versions that are not the newest, and
    /// tombstones.
    pub(super) fn weigh(&self) -> (u32, u32) {
        let tombstones = self.newest.iter().filter(|newest| newest.is_tombstone()).count();
        let older: usize = self.older.iter().flatten().map(|older| older.len()).sum();
        ((self.len() - tombstones) as u32, (older + tombstones) as u32)
    }
}

/// Drops versions of one key that no read at or above `floor` can see.
#[allow(clippy::box_collection, reason = "as the field")]
fn prune_older(
    place: &mut Option<Box<Vec<Version>>>,
    newest: &Version,
    floor: i64,
    dropped: &mut dyn FnMut(&Version),
) {
    let Some(older) = place.as_deref_mut() else {
        return;
    };
    let visible = if newest.modified <= floor {
        older.len()
    } else {
        let n = older.partition_point(|version| version.modified <= floor);
        match n.checked_sub(1) {
            Some(last) if older[last].is_tombstone() && older[last].modified < floor => n,
            Some(last) => last,
            None => 0,
        }
    };
    for version in older.drain(..visible) {
        dropped(&version);
    }
    if older.is_empty() {
        *place = None;
    } else if older.capacity() > 4 * older.len() {
        older.shrink_to_fit();
    }
}

/// The first bytes, in an order that never contradicts that of the whole.
fn hint(bytes: &[u8]) -> u32 {
    match bytes.first_chunk::<HINT>() {
        Some(first) => u32::from_be_bytes(*first),
        None => {
            let mut padded = [0; HINT];
            padded[..bytes.len()].copy_from_slice(bytes);
            u32::from_be_bytes(padded)
        }
    }
}

/// How many bytes two keys have in common at their beginnings.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
