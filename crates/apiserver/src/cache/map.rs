//! A sorted map that is cheap to photograph.
//!
//! Two levels, copy-on-write: a vector of pages, each a vector of at most [`PAGE_MAX`] entries. A clone is
//! one reference count; the first change after it copies the page vector and one page, nothing else. So a
//! LIST walks a frozen picture while the feed goes on writing.

use std::cmp::Ordering;
use std::sync::Arc;

/// Entries of a page before it is split in two.
const PAGE_MAX: usize = 128;
/// Neighbours that together have at most this many are joined.
const PAGE_JOIN: usize = 64;

/// Namespace and name, ordered as the store orders `namespace/name`.
///
/// ```text
/// "a-b/c" < "a/b"     because '-' < '/'
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    /// Empty for cluster-scoped objects.
    pub(crate) namespace: &'a str,
    /// The object's name.
    pub(crate) name: &'a str,
}

impl<'a> Key<'a> {
    /// Splits the part of a store key after the resource's prefix.
    pub(crate) fn parse(text: &'a str, namespaced: bool) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) if namespaced => Self { namespace, name },
            _ => Self {
                namespace: "",
                name: text,
            },
        }
    }

    /// The part of a store key after the resource's prefix.
    pub(crate) fn path(&self) -> String {
        if self.namespace.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        let slash = (!self.namespace.is_empty()).then_some(b'/');
        self.namespace.bytes().chain(slash).chain(self.name.bytes())
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.namespace == other.namespace {
            self.name.cmp(other.name)
        } else {
            self.bytes().cmp(other.bytes())
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What the map holds: a cheap handle that knows its own key.
pub(crate) trait Keyed: Clone {
    /// The entry's key; constant for the entry's life.
    fn key(&self) -> Key<'_>;
}

/// The map. See the module's head.
#[derive(Clone, Debug)]
pub(crate) struct PagedMap<T> {
    pages: Arc<Vec<Arc<Vec<T>>>>,
    len: usize,
}

impl<T> Default for PagedMap<T> {
    fn default() -> Self {
        Self {
            pages: Arc::default(),
            len: 0,
        }
    }
}

impl<T: Keyed> PagedMap<T> {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this key.
    pub(crate) fn get(&self, key: Key<'_>) -> Option<&T> {
        let page = &self.pages.get(self.page_of(key)?)?;
        let at = page.binary_search_by(|entry| entry.key().cmp(&key)).ok()?;
        page.get(at)
    }

    /// Puts an entry, returns the one it replaces.
    pub(crate) fn insert(&mut self, entry: T) -> Option<T> {
        let key = entry.key();
        let pages = Arc::make_mut(&mut self.pages);
        let at = pages
            .partition_point(|page| page[0].key() <= key)
            .saturating_sub(1);
        let Some(page) = pages.get_mut(at) else {
            pages.push(Arc::new(vec![entry]));
            self.len = 1;
            return None;
        };
        let page = Arc::make_mut(page);
        match page.binary_search_by(|other| other.key().cmp(&key)) {
            Ok(found) => Some(std::mem::replace(&mut page[found], entry)),
            Err(place) => {
                page.insert(place, entry);
                self.len += 1;
                if page.len() > PAGE_MAX {
                    // Appending in order (the usual load) leaves full pages behind, not halves.
                    let keep = if place + 1 == page.len() {
                        PAGE_MAX - 8
                    } else {
                        PAGE_MAX / 2
                    };
                    let right = page.split_off(keep);
                    pages.insert(at + 1, Arc::new(right));
                }
                None
            }
        }
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: Key<'_>) -> Option<T> {
        let at = self.page_of(key)?;
        let place = self.pages[at]
            .binary_search_by(|entry| entry.key().cmp(&key))
            .ok()?;
        let pages = Arc::make_mut(&mut self.pages);
        let page = Arc::make_mut(&mut pages[at]);
        let removed = page.remove(place);
        self.len -= 1;
        if page.is_empty() {
            pages.remove(at);
        } else if pages
            .get(at + 1)
            .is_some_and(|next| next.len() + pages[at].len() <= PAGE_JOIN)
        {
            let next = pages.remove(at + 1);
            Arc::make_mut(&mut pages[at]).extend(next.iter().cloned());
        }
        Some(removed)
    }

    /// A walk that starts at the first entry whose key is not below `key`.
    pub(crate) fn seek(&self, key: Key<'_>) -> Walk<T> {
        let (page, at) = match self.page_of(key) {
            None => (0, 0),
            Some(page) => (page, self.pages[page].partition_point(|entry| entry.key() < key)),
        };
        Walk {
            map: self.clone(),
            page,
            at,
        }
    }

    /// A walk over everything.
    pub(crate) fn walk(&self) -> Walk<T> {
        Walk {
            map: self.clone(),
            page: 0,
            at: 0,
        }
    }

    /// The page that has the key if any page does.
    fn page_of(&self, key: Key<'_>) -> Option<usize> {
        self.pages
            .partition_point(|page| page[0].key() <= key)
            .checked_sub(1)
    }
}

/// A position in a frozen map.
#[derive(Clone, Debug)]
pub(crate) struct Walk<T> {
    map: PagedMap<T>,
    page: usize,
    at: usize,
}

impl<T> Walk<T> {
    /// The entry at the position, without moving.
    pub(crate) fn peek(&mut self) -> Option<&T> {
        while self.page < self.map.pages.len() && self.at >= self.map.pages[self.page].len() {
            self.page += 1;
            self.at = 0;
        }
        self.map.pages.get(self.page)?.get(self.at)
    }

    /// The entry at the position; moves behind it.
    pub(crate) fn step(&mut self) -> Option<&T> {
        self.peek()?;
        self.at += 1;
        self.map.pages[self.page].get(self.at - 1)
    }

    /// Entries not walked yet.
    pub(crate) fn left(&self) -> usize {
        let pages = self.map.pages.iter().skip(self.page);
        pages
            .map(|page| page.len())
            .sum::<usize>()
            .saturating_sub(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Entry(&'static str, String, u32);
    impl Keyed for Entry {
        fn key(&self) -> Key<'_> {
            Key {
                namespace: self.0,
                name: &self.1,
            }
        }
    }

    const NAMESPACES: [&str; 4] = ["a", "a-b", "b", "a.c"];

    fn content(map: &PagedMap<Entry>) -> Vec<Entry> {
        let mut walk = map.walk();
        std::iter::from_fn(|| walk.step().cloned()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_behaves_like_a_sorted_map_and_pictures_do_not_change(
            steps in proptest::collection::vec((0..4usize, 0..300u32, any::<bool>(), 0..40u8), 1..1500),
        ) {
            let mut map = PagedMap::default();
            let mut model: BTreeMap<String, Entry> = BTreeMap::new();
            let mut pictures = Vec::new();
            for (at, (namespace, name, put, picture)) in steps.into_iter().enumerate() {
                let entry = Entry(NAMESPACES[namespace], format!("n{name}"), at as u32);
                let path = entry.key().path();
                if put {
                    prop_assert_eq!(map.insert(entry.clone()), model.insert(path, entry));
                } else {
                    prop_assert_eq!(map.remove(entry.key()), model.remove(&path));
                }
                if picture == 0 {
                    pictures.push((map.clone(), model.values().cloned().collect::<Vec<_>>()));
                }
            }
            pictures.push((map.clone(), model.values().cloned().collect()));
            for (map, want) in pictures {
                prop_assert_eq!(map.len(), want.len());
                prop_assert_eq!(content(&map), want);
            }
            for probe in ["a/n1", "a-b/", "a/", "a/n299", "b/n", "z/z"] {
                let mut walk = map.seek(Key::parse(probe, true));
                let left: Vec<_> = model.range(probe.to_owned()..).map(|(_, entry)| entry).collect();
                prop_assert_eq!(walk.left(), left.len(), "{}", probe);
                prop_assert_eq!(walk.peek(), left.first().copied());
            }
        }
    }

    #[test]
    fn keys_sort_as_their_store_keys_do() {
        let mut paths = ["a-b/c", "a/b", "a/b-c", "a.b/c", "aa/a"];
        paths.sort_by(|x, y| Key::parse(x, true).cmp(&Key::parse(y, true)));
        let mut bytes = paths;
        bytes.sort_unstable();
        assert_eq!(paths, bytes);
    }
}
