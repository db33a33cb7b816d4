//! The keys at which the pages of an index begin.
//!
//! As in a page, a search looks at hints first: of each key eight bytes, from where all of them begin to differ. Where keys
//! of one kind are many, hints tell most of them apart.

/// Bytes of a hint.
const HINT: usize = size_of::<u64>();

/// Of every page but the first a key that is above all of the page before, and not above any of its own.
#[derive(Default)]
pub(super) struct Fences {
    keys: Vec<Box<[u8]>>,
    /// How much all of them have in common, at least.
    common: usize,
    hints: Vec<u64>,
}

impl Fences {
    /// The page that a key belongs to: how many fences are not above it.
    pub(super) fn page_of(&self, key: &[u8]) -> usize {
        let Some(first) = self.keys.first() else {
            return 0;
        };
        let common = &first[..self.common];
        let Some(rest) = key.strip_prefix(common) else {
            return if key < common { 0 } else { self.keys.len() };
        };
        let hint = hint(rest);
        let from = self.hints.partition_point(|other| *other < hint);
        let to = from + self.hints[from..].partition_point(|other| *other == hint);
        from + self.keys[from..to].partition_point(|fence| &**fence <= key)
    }

    /// Sets a fence before page `page`, which is not the first; those behind it are one further.
    pub(super) fn insert(&mut self, page: usize, key: &[u8]) {
        let at = page - 1;
        self.keys.insert(at, key.into());
        if (at == 0 || page == self.keys.len()) && self.shared() != self.common || self.keys.len() == 1 {
            return self.hint_all();
        }
        self.hints.insert(at, hint(&key[self.common..]));
    }

    /// Removes a page's fence; that of the first is the next one's, which becomes the first.
    pub(super) fn remove(&mut self, page: usize) {
        let at = page.saturating_sub(1);
        if at < self.keys.len() {
            self.keys.remove(at);
            self.hints.remove(at);
        }
    }

    fn shared(&self) -> usize {
        let (Some(first), Some(last)) = (self.keys.first(), self.keys.last()) else {
            return 0;
        };
        first.iter().zip(last).take_while(|(a, b)| a == b).count()
    }

    fn hint_all(&mut self) {
        self.common = self.shared();
        let hints = self.keys.iter().map(|key| hint(&key[self.common..]));
        self.hints = hints.collect();
    }
}

/// The first bytes, in an order that never contradicts that of the whole.
fn hint(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<HINT>() {
        Some(first) => u64::from_be_bytes(*first),
        None => {
            let mut padded = [0; HINT];
            padded[..bytes.len()].copy_from_slice(bytes);
            u64::from_be_bytes(padded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_page_behind_the_last_fence_that_is_not_above_it() {
        let mut fences = Fences::default();
        assert_eq!(fences.page_of(b"anything"), 0);
        let mut keys: Vec<&[u8]> = Vec::new();
        let set: [&[u8]; 9] = [
            b"/k/0005",
            b"/k/0005\0",
            b"/k/0003",
            b"/k/0009/of/many",
            b"/k/0009/of/more",
            b"/k",
            b"/k/0009",
            b"/z",
            b"/k/0005\0\0",
        ];
        let asked = set.iter().flat_map(|key| {
            let mut near = vec![
                key.to_vec(),
                [key, &b"\0"[..]].concat(),
                [key, &b"~"[..]].concat(),
            ];
            near.push(key[..key.len() - 1].to_vec());
            near
        });
        let asked: Vec<_> = asked.chain([vec![], vec![0], vec![0xff; 9]]).collect();
        let check = |fences: &Fences, keys: &[&[u8]]| {
            for key in &asked {
                let expect = keys.iter().filter(|fence| **fence <= &key[..]).count();
                assert_eq!(
                    fences.page_of(key),
                    expect,
                    "{:?} in {keys:?}",
                    key.escape_ascii()
                );
            }
        };
        for key in set {
            let at = keys.partition_point(|other| *other < key);
            keys.insert(at, key);
            fences.insert(at + 1, key);
            check(&fences, &keys);
        }
        for page in [9, 0, 3, 1, 5, 0, 2, 1, 0] {
            let at = usize::min(page, keys.len()).saturating_sub(1);
            keys.remove(at);
            fences.remove(page.min(keys.len() + 1));
            check(&fences, &keys);
        }
    }
}
