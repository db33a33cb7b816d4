//! The ordered index: key → versions → place in the log.
//!
//! Keys live in sorted pages of at most 128; beside the pages runs an array with the number of live keys of
//! each page, so that `count` over a range at the latest revision adds up small numbers instead of
//! walking keys. The newest version of a key lies in the entry itself; older ones in a vector that most
//! keys never need.
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

use crate::types::KeyRange;

/// Most keys in a page.
const PAGE: usize = 128;
/// Room that a page gets when it is full but not full-grown: pages of keys that come in no order are three quarters
/// full on average, and room for a whole page in each of them would be a third of the index.
const GROWTH: usize = PAGE / 8;

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

struct Entry {
    key: Box<[u8]>,
    newest: Version,
    /// Oldest first.
    #[allow(
        clippy::box_collection,
        reason = "eight bytes in the many entries that have none"
    )]
    older: Option<Box<Vec<Version>>>,
}

impl Entry {
    fn at(&self, revision: i64) -> Option<&Version> {
        if self.newest.modified <= revision {
            return (!self.newest.is_tombstone()).then_some(&self.newest);
        }
        let older = self.older.as_deref()?;
        let n = older.partition_point(|version| version.modified <= revision);
        older[..n].last().filter(|version| !version.is_tombstone())
    }

    /// Versions that are not the newest, and tombstones: what pruning may find.
    fn stale(&self) -> u32 {
        let older = self.older.as_ref().map_or(0, |older| older.len() as u32);
        older + u32::from(self.newest.is_tombstone())
    }

    /// Drops what no read at or above `floor` can see; returns whether anything is left.
    fn prune(&mut self, floor: i64, dropped: &mut dyn FnMut(&[u8], &Version)) -> bool {
        if let Some(older) = self.older.as_deref_mut() {
            let visible = if self.newest.modified <= floor {
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
                dropped(&self.key, &version);
            }
            if older.is_empty() {
                self.older = None;
            } else if older.capacity() > 4 * older.len() {
                older.shrink_to_fit();
            }
        }
        let gone = self.newest.is_tombstone() && self.newest.modified < floor;
        if gone {
            dropped(&self.key, &self.newest);
        }
        !gone
    }
}

/// The index.
#[derive(Default)]
pub(crate) struct Index {
    pages: Vec<Vec<Entry>>,
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
        self.find(key)
            .ok()
            .and_then(|slot| self.pages[slot.page][slot.entry].at(revision))
    }

    /// Where `key` is, if it is there.
    pub(crate) fn locate(&self, key: &[u8]) -> Option<Near> {
        self.find(key).ok().map(Near)
    }

    /// As [`Index::get`], of the key that is there; not for a place from before the index changed.
    pub(crate) fn get_at(&self, near: Near, revision: i64) -> Option<&Version> {
        self.pages.get(near.0.page)?.get(near.0.entry)?.at(revision)
    }

    /// The version that was made exactly at `revision`, tombstones too.
    pub(crate) fn exact_mut(&mut self, key: &[u8], revision: i64) -> Option<&mut Version> {
        let slot = self.find(key).ok()?;
        let entry = &mut self.pages[slot.page][slot.entry];
        if entry.newest.modified == revision {
            return Some(&mut entry.newest);
        }
        let older = entry.older.as_deref_mut()?;
        let at = older
            .binary_search_by_key(&revision, |version| version.modified)
            .ok()?;
        older.get_mut(at)
    }

    /// See [`Index::exact_mut`].
    pub(crate) fn exact(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let slot = self.find(key).ok()?;
        let entry = &self.pages[slot.page][slot.entry];
        if entry.newest.modified == revision {
            return Some(&entry.newest);
        }
        let older = entry.older.as_deref()?;
        let at = older
            .binary_search_by_key(&revision, |version| version.modified)
            .ok()?;
        older.get(at)
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
            Err(slot) => self.insert(
                slot,
                Entry {
                    key: key.into(),
                    newest: version,
                    older: None,
                },
            ),
        }
    }

    fn add_version(&mut self, slot: Slot, version: Version) {
        let entry = &mut self.pages[slot.page][slot.entry];
        debug_assert!(
            version.modified > entry.newest.modified,
            "revisions of a key only grow"
        );
        let was_live = !entry.newest.is_tombstone();
        let stale_before = entry.stale();
        let previous = std::mem::replace(&mut entry.newest, version);
        entry
            .older
            .get_or_insert_with(|| Box::new(Vec::with_capacity(1)))
            .push(previous);
        self.stale[slot.page] += entry.stale() - stale_before;
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

    fn insert(&mut self, mut slot: Slot, entry: Entry) {
        if self.pages.is_empty() {
            self.add_page(0, Vec::with_capacity(PAGE));
        }
        if self.pages[slot.page].len() == PAGE {
            slot = self.split(slot);
        }
        let live = !entry.newest.is_tombstone();
        self.stale[slot.page] += entry.stale();
        let page = &mut self.pages[slot.page];
        if page.len() == page.capacity() {
            page.reserve_exact(GROWTH);
        }
        page.insert(slot.entry, entry);
        self.count_live(slot.page, false, live);
    }

    /// Makes room in a full page. An insert at the very end starts a new page instead of halving, so that
    /// keys that arrive in order leave full pages behind.
    fn split(&mut self, slot: Slot) -> Slot {
        let cut = if slot.entry == PAGE && slot.page + 1 == self.pages.len() {
            PAGE
        } else {
            PAGE / 2
        };
        let mut right = Vec::with_capacity(PAGE - cut + GROWTH);
        right.extend(self.pages[slot.page].drain(cut..));
        self.pages[slot.page].shrink_to(cut + GROWTH);
        let (live, stale) = weigh(&right);
        self.live[slot.page] -= live;
        self.stale[slot.page] -= stale;
        self.live_total -= u64::from(live);
        self.add_page(slot.page + 1, right);
        if slot.entry > cut || cut == PAGE {
            Slot {
                page: slot.page + 1,
                entry: slot.entry - cut,
            }
        } else {
            slot
        }
    }

    fn add_page(&mut self, at: usize, page: Vec<Entry>) {
        let (live, stale) = weigh(&page);
        self.pages.insert(at, page);
        self.live.insert(at, live);
        self.stale.insert(at, stale);
        self.live_total += u64::from(live);
    }

    /// Adds a key with all its versions, oldest first, after every key there is.
    pub(crate) fn push_sorted(&mut self, key: &[u8], versions: &[Version]) -> bool {
        let Some((newest, older)) = versions.split_last() else {
            return false;
        };
        let last = self.pages.last().and_then(|page| page.last());
        if last.is_some_and(|last| &*last.key >= key) {
            return false;
        }
        let older = (!older.is_empty()).then(|| Box::new(older.to_vec()));
        let entry = Entry {
            key: key.into(),
            newest: *newest,
            older,
        };
        let page = self.pages.len().saturating_sub(1);
        let slot = Slot {
            page,
            entry: self.pages.last().map_or(0, Vec::len),
        };
        self.insert(slot, entry);
        true
    }

    fn find_near(&self, key: &[u8], near: Option<Near>) -> Result<Slot, Slot> {
        let entry = near.and_then(|Near(slot)| Some((slot, self.pages.get(slot.page)?.get(slot.entry)?)));
        match entry {
            Some((slot, entry)) if *entry.key == *key => Ok(slot),
            _ => self.find(key),
        }
    }

    fn find(&self, key: &[u8]) -> Result<Slot, Slot> {
        let page = self
            .pages
            .partition_point(|page| &*page[0].key <= key)
            .saturating_sub(1);
        let Some(entries) = self.pages.get(page) else {
            return Err(Slot { page: 0, entry: 0 });
        };
        match entries.binary_search_by(|entry| (*entry.key).cmp(key)) {
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
            let entries = &self.pages[page][from..to];
            entries
                .iter()
                .filter(|entry| !entry.newest.is_tombstone())
                .count() as u64
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
            .filter_map(move |entry| Some((&*entry.key, entry.at(revision)?)))
    }

    fn entries(&self, mut from: Slot, to: Slot) -> impl Iterator<Item = &Entry> {
        std::iter::from_fn(move || {
            if from >= to {
                return None;
            }
            let page = &self.pages[from.page];
            let entry = &page[from.entry];
            from.entry += 1;
            if from.entry == page.len() {
                from = Slot {
                    page: from.page + 1,
                    entry: 0,
                };
            }
            Some(entry)
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
        for entry in self.entries(from, end) {
            let older = entry.older.as_deref().map_or(&[][..], |older| older);
            visit(&entry.key, older, &entry.newest);
            last = Some(entry);
            visited += older.len() + 1;
            if visited >= max {
                break;
            }
        }
        last.map(|entry| entry.key.clone())
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
                return Some(self.pages[page][0].key.clone());
            }
            if self.stale[page] == 0 {
                page += 1;
                continue;
            }
            looked += self.pages[page].len() + self.stale[page] as usize;
            self.pages[page].retain_mut(|entry| entry.prune(floor, dropped));
            if self.pages[page].is_empty() {
                self.pages.remove(page);
                self.live.remove(page);
                self.stale.remove(page);
            } else {
                (self.live[page], self.stale[page]) = weigh(&self.pages[page]);
                page += 1;
            }
        }
        None
    }
}

fn weigh(page: &[Entry]) -> (u32, u32) {
    let live = page.iter().filter(|entry| !entry.newest.is_tombstone()).count() as u32;
    (live, page.iter().map(Entry::stale).sum())
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
