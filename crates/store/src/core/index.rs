//! The ordered index: key → versions → place in the log.
//!
//! Keys live in sorted pages of at most 128; beside the pages run a key at which each begins, so that few places are
//! looked at on the way to a page, and the number of live keys of each, so that `count` over a range at the latest
//! revision adds up small numbers instead of walking keys. Versions that are not a key's newest lie apart, as most keys
//! have none.
//!
//! Worked example, one key put at 2, put at 5, deleted at 7, put at 9 (t = tombstone):
//!
//! ```text
//! versions          2  5  7t 9
//! prune(floor 4)    2  5  7t 9     2 is the newest at or below 4: reads at 4 need it
//! prune(floor 6)       5  7t 9
//! prune(floor 7)          7t 9     a tombstone exactly at the floor stays: a watch from 7 must see it
//! prune(floor 8)             9     below the floor nobody can tell it from absence
//! ```
//!
//! No I/O, no locks; the engine puts one read-write lock around it.

use super::fences::Fences;
use super::page::Page;
use crate::types::KeyRange;

/// Where a value lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    /// Number of the log file, as given out since the store was opened.
    pub(crate) file: u32,
    /// Where the value begins in it.
    pub(crate) offset: u32,
    /// Bytes of the value.
    pub(crate) len: u32,
    /// CRC32C of the value: what is read back from disk is what was written, or an error.
    pub(crate) crc: u32,
}

/// One version of a key; a tombstone when `version` is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) modified: i64,
    pub(crate) create: i64,
    pub(crate) version: i64,
    /// 0 is none.
    pub(crate) lease: i64,
    /// Position within the revision.
    pub(crate) sub: u32,
    pub(crate) at: Location,
}

impl Version {
    pub(crate) fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// The index.
#[derive(Default)]
pub(crate) struct Index {
    pages: Vec<Page>,
    fences: Fences,
    /// Per page: keys whose newest version is not a tombstone.
    live: Vec<u32>,
    /// Per page: what pruning may find.
    stale: Vec<u32>,
    live_total: u64,
}

/// Where a key was when somebody looked. Whoever comes back with it need not search again, unless keys have moved since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Near(Slot);

/// A place in the order of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    page: usize,
    entry: usize,
}

impl Index {
    /// Live keys.
    pub(crate) fn live(&self) -> u64 {
        self.live_total
    }

    /// Versions of all keys, tombstones too.
    pub(crate) fn versions(&self) -> u64 {
        self.live_total + self.stale.iter().copied().map(u64::from).sum::<u64>()
    }

    /// The version of `key` that a read at `revision` sees.
    pub(crate) fn get(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let slot = self.find(key).ok()?;
        self.pages[slot.page].at(slot.entry, revision)
    }

    /// Where `key` is, if it is there.
    pub(crate) fn locate(&self, key: &[u8]) -> Option<Near> {
        self.find(key).ok().map(Near)
    }

    /// As [`Index::get`], of the key that is there; not for a place from before the index changed.
    pub(crate) fn get_at(&self, near: Near, revision: i64) -> Option<&Version> {
        let (page, entry) = self.there(near)?;
        page.at(entry, revision)
    }

    fn there(&self, Near(slot): Near) -> Option<(&Page, usize)> {
        let page = self.pages.get(slot.page)?;
        (slot.entry < page.len()).then_some((page, slot.entry))
    }

    /// The version that was made exactly at `revision`, tombstones too.
    pub(crate) fn exact_mut(&mut self, key: &[u8], revision: i64) -> Option<&mut Version> {
        let slot = self.find(key).ok()?;
        self.pages[slot.page].exact_mut(slot.entry, revision)
    }

    /// See [`Index::exact_mut`].
    pub(crate) fn exact(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let slot = self.find(key).ok()?;
        self.pages[slot.page].exact(slot.entry, revision)
    }

    /// Adds a version that is newer than all of its key. A tombstone of an unknown key is kept, too:
    /// replay of a log whose older part is gone may meet one.
    pub(crate) fn apply(&mut self, key: &[u8], version: Version) {
        self.apply_near(key, version, None);
    }

    /// As [`Index::apply`], for a key that may have been located before.
    pub(crate) fn apply_near(&mut self, key: &[u8], version: Version, near: Option<Near>) {
        match self.find_near(key, near) {
            Ok(slot) => self.add_version(slot, version),
            Err(slot) => self.insert(slot, key, version, &[]),
        }
    }

    fn add_version(&mut self, slot: Slot, version: Version) {
        let page = &mut self.pages[slot.page];
        let was_live = !page.newest(slot.entry).is_tombstone();
        page.add(slot.entry, version);
        // One more is not the newest; a tombstone among them counted already.
        self.stale[slot.page] += u32::from(was_live) + u32::from(version.is_tombstone());
        self.count_live(slot.page, was_live, !version.is_tombstone());
    }

    fn count_live(&mut self, page: usize, before: bool, after: bool) {
        match (before, after) {
            (false, true) => {
                self.live[page] += 1;
                self.live_total += 1;
            }
            (true, false) => {
                self.live[page] -= 1;
                self.live_total -= 1;
            }
            _ => (),
        }
    }

    fn insert(&mut self, slot: Slot, key: &[u8], newest: Version, older: &[Version]) {
        let slot = self.room(slot, key);
        let live = !newest.is_tombstone();
        self.stale[slot.page] += older.len() as u32 + u32::from(!live);
        self.pages[slot.page].insert(slot.entry, key, newest, older);
        self.count_live(slot.page, false, live);
    }

    /// Makes room for a key where it belongs. An insert at the very end starts a new page instead of halving, so that
    /// keys that arrive in order leave full pages behind.
    fn room(&mut self, mut slot: Slot, key: &[u8]) -> Slot {
        if self.pages.is_empty() {
            self.add_page(0, Page::default());
        }
        while !self.pages[slot.page].fits(key.len()) {
            let len = self.pages[slot.page].len();
            if slot.entry == len && (slot.page + 1 == self.pages.len() || len == 1) {
                let mut page = Page::default();
                page.expect_all(key.len());
                self.fences.insert(slot.page + 1, key);
                self.add_page(slot.page + 1, page);
                return Slot {
                    page: slot.page + 1,
                    entry: 0,
                };
            }
            if len == 1 {
                // In front of one that leaves no room for another.
                self.fences.insert(slot.page + 1, self.pages[slot.page].key(0));
                self.add_page(slot.page, Page::default());
                return slot;
            }
            slot = self.split(slot);
        }
        slot
    }

    /// Halves a page.
    fn split(&mut self, slot: Slot) -> Slot {
        let cut = self.pages[slot.page].len() / 2;
        let right = self.pages[slot.page].split_off(cut);
        let (live, stale) = right.weigh();
        self.live[slot.page] -= live;
        self.stale[slot.page] -= stale;
        self.live_total -= u64::from(live);
        self.fences.insert(slot.page + 1, right.key(0));
        self.add_page(slot.page + 1, right);
        if slot.entry > cut {
            Slot {
                page: slot.page + 1,
                entry: slot.entry - cut,
            }
        } else {
            slot
        }
    }

    fn add_page(&mut self, at: usize, page: Page) {
        let (live, stale) = page.weigh();
        self.pages.insert(at, page);
        self.live.insert(at, live);
        self.stale.insert(at, stale);
        self.live_total += u64::from(live);
    }

    fn remove_page(&mut self, at: usize) {
        self.pages.remove(at);
        self.fences.remove(at);
        self.live.remove(at);
        self.stale.remove(at);
    }

    /// Adds a key with all its versions, oldest first, after every key there is.
    pub(crate) fn push_sorted(&mut self, key: &[u8], versions: &[Version]) -> bool {
        let Some((newest, older)) = versions.split_last() else {
            return false;
        };
        let page = self.pages.len().saturating_sub(1);
        let entry = self.pages.last().map_or(0, Page::len);
        if entry > 0 && self.pages[page].key(entry - 1) >= key {
            return false;
        }
        self.insert(Slot { page, entry }, key, *newest, older);
        true
    }

    fn find_near(&self, key: &[u8], near: Option<Near>) -> Result<Slot, Slot> {
        if let Some(near) = near
            && let Some((page, entry)) = self.there(near)
            && page.key(entry) == key
        {
            return Ok(near.0);
        }
        self.find(key)
    }

    fn find(&self, key: &[u8]) -> Result<Slot, Slot> {
        let page = self.fences.page_of(key);
        let Some(entries) = self.pages.get(page) else {
            return Err(Slot { page: 0, entry: 0 });
        };
        match entries.find(key) {
            Ok(entry) => Ok(Slot { page, entry }),
            Err(entry) => Err(Slot { page, entry }),
        }
    }

    /// Where the first key at or after `key` is.
    fn seek(&self, key: &[u8]) -> Slot {
        let slot = self.find(key).unwrap_or_else(|slot| slot);
        self.normal(slot)
    }

    fn normal(&self, slot: Slot) -> Slot {
        if self
            .pages
            .get(slot.page)
            .is_some_and(|page| slot.entry >= page.len())
        {
            Slot {
                page: slot.page + 1,
                entry: 0,
            }
        } else {
            slot
        }
    }

    fn bounds(&self, range: &KeyRange) -> (Slot, Slot) {
        let end = Slot {
            page: self.pages.len(),
            entry: 0,
        };
        match range {
            KeyRange::From(start) => (self.seek(start), end),
            KeyRange::Span(start, stop) if stop > start => (self.seek(start), self.seek(stop)),
            KeyRange::Span(..) => (end, end),
            KeyRange::Key(key) => match self.find(key) {
                Ok(slot) => (
                    slot,
                    self.normal(Slot {
                        page: slot.page,
                        entry: slot.entry + 1,
                    }),
                ),
                Err(_) => (end, end),
            },
        }
    }

    /// Live keys of the range now, without walking them.
    pub(crate) fn count(&self, range: &KeyRange) -> u64 {
        let (from, to) = self.bounds(range);
        let part = |page: usize, from: usize, to: usize| {
            let page = &self.pages[page];
            let live = |n: &usize| !page.newest(*n).is_tombstone();
            (from..to).filter(live).count() as u64
        };
        if from >= to {
            0
        } else if from.page == to.page {
            part(from.page, from.entry, to.entry)
        } else {
            let first = part(from.page, from.entry, self.pages[from.page].len());
            let whole: u64 = self.live[from.page + 1..to.page]
                .iter()
                .map(|live| u64::from(*live))
                .sum();
            let last = if to.entry == 0 {
                0
            } else {
                part(to.page, 0, to.entry)
            };
            first + whole + last
        }
    }

    /// Keys of the range that a read at `revision` sees, in order.
    pub(crate) fn scan<'a>(
        &'a self,
        range: &KeyRange,
        revision: i64,
    ) -> impl Iterator<Item = (&'a [u8], &'a Version)> + use<'a> {
        let (from, to) = self.bounds(range);
        self.entries(from, to)
            .filter_map(move |(page, n)| Some((page.key(n), page.at(n, revision)?)))
    }

    fn entries(&self, mut from: Slot, to: Slot) -> impl Iterator<Item = (&Page, usize)> {
        std::iter::from_fn(move || {
            if from >= to {
                return None;
            }
            let page = &self.pages[from.page];
            let entry = from.entry;
            from.entry += 1;
            if from.entry == page.len() {
                from = Slot {
                    page: from.page + 1,
                    entry: 0,
                };
            }
            Some((page, entry))
        })
    }

    /// Visits the versions of the keys after `after`, oldest first, until these are at least `max`; returns the last key
    /// visited.
    pub(crate) fn walk(
        &self,
        after: Option<&[u8]>,
        max: usize,
        mut visit: impl FnMut(&[u8], &[Version], &Version),
    ) -> Option<Box<[u8]>> {
        let from = after.map_or(Slot { page: 0, entry: 0 }, |key| match self.find(key) {
            Ok(slot) => self.normal(Slot {
                page: slot.page,
                entry: slot.entry + 1,
            }),
            Err(slot) => self.normal(slot),
        });
        let end = Slot {
            page: self.pages.len(),
            entry: 0,
        };
        let (mut last, mut visited) = (None, 0);
        for (page, n) in self.entries(from, end) {
            visit(page.key(n), page.older(n), page.newest(n));
            last = Some((page, n));
            visited += page.older(n).len() + 1;
            if visited >= max {
                break;
            }
        }
        last.map(|(page, n)| page.key(n).into())
    }

    /// Looks at about `max` versions, or one page of keys, beginning with the page of `from`, and prunes them; returns the
    /// key to go on from, or `None` at the end. Pages with nothing to find are passed over unread.
    pub(crate) fn prune(
        &mut self,
        from: Option<&[u8]>,
        floor: i64,
        max: usize,
        dropped: &mut dyn FnMut(&[u8], &Version),
    ) -> Option<Box<[u8]>> {
        let mut page = from.map_or(0, |key| self.seek(key).page);
        let mut looked = 0;
        while page < self.pages.len() {
            if looked >= max {
                return Some(self.pages[page].key(0).into());
            }
            if self.stale[page] == 0 {
                page += 1;
                continue;
            }
            looked += self.pages[page].len() + self.stale[page] as usize;
            if self.pages[page].prune(floor, dropped) {
                self.remove_page(page);
            } else {
                (self.live[page], self.stale[page]) = self.pages[page].weigh();
                page += 1;
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
