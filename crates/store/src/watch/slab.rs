//! Values with small stable names.

/// Values of a block. Many blocks grow without being moved: a move of all would hold up everybody, and leave its old place
/// behind.
const BLOCK: usize = 256;

/// Values by index; freed indices are used again.
pub(super) struct Slab<T> {
    /// All but the last are full.
    blocks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            blocks: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(key) = self.free.pop() {
            *self.slot(key).expect("a freed index has a place") = Some(value);
            return key;
        }
        let key = u32::try_from(self.places()).expect("streams times watchers is kept far below 2^32");
        match self.blocks.last_mut().filter(|block| block.len() < BLOCK) {
            Some(block) => block.push(Some(value)),
            None => {
                // The first may stay small.
                let room = if self.blocks.is_empty() { 0 } else { BLOCK };
                let mut block = Vec::with_capacity(room);
                block.push(Some(value));
                self.blocks.push(block);
            }
        }
        key
    }

    /// Places, taken or free.
    fn places(&self) -> usize {
        let last = self.blocks.last().map_or(0, Vec::len);
        self.blocks.len().saturating_sub(1) * BLOCK + last
    }

    fn slot(&mut self, key: u32) -> Option<&mut Option<T>> {
        let key = key as usize;
        self.blocks.get_mut(key / BLOCK)?.get_mut(key % BLOCK)
    }

    pub(super) fn get(&self, key: u32) -> Option<&T> {
        let key = key as usize;
        self.blocks.get(key / BLOCK)?.get(key % BLOCK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: u32) -> Option<&mut T> {
        self.slot(key)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: u32) -> Option<T> {
        let value = self.slot(key)?.take();
        if value.is_some() {
            self.free.push(key);
        }
        value
    }

    pub(super) fn len(&self) -> usize {
        self.places() - self.free.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = u32> + use<T> {
        let used: Vec<u32> = (0u32..)
            .zip(self.blocks.iter().flatten())
            .filter(|(_, slot)| slot.is_some())
            .map(|(key, _)| key)
            .collect();
        used.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_while_blocks_are_added_and_freed_ones_come_again() {
        let mut slab = Slab::default();
        let n = u32::try_from(3 * BLOCK + 1).unwrap();
        assert!((0..n).all(|value| slab.insert(value) == value));
        assert_eq!((slab.len(), slab.get(n)), (n as usize, None));
        assert!((0..n).all(|key| slab.get(key) == Some(&key)));
        assert_eq!((slab.remove(300), slab.remove(300)), (Some(300), None));
        assert!(slab.get(300).is_none() && slab.get_mut(300).is_none());
        assert!(slab.keys().eq((0..n).filter(|key| *key != 300)));
        assert_eq!((slab.insert(7), slab.get(300)), (300, Some(&7)));
        assert_eq!(slab.len(), n as usize);
    }
}
