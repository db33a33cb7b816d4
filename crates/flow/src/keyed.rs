//! Buckets by key: as many as there are keys in use, and no more than a bound.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use parking_lot::Mutex;

use crate::core::bucket::{Bucket, Quota};

const SHARDS: usize = 16;
/// Keys of one rule.
const KEYS_MAX: usize = 64 << 10;
/// A longer key is cut: it is no name that anybody gave.
const KEY_BYTES_MAX: usize = 256;

/// Buckets by key. A full bucket is as good as none, so full ones make room for new ones; when every one is in use,
/// further keys share a bucket.
pub(crate) struct Keyed {
    /// Keyed at random: nobody can choose keys that collide.
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<str>, Bucket>>; SHARDS],
    overflow: Bucket,
}

impl Default for Keyed {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
            overflow: Bucket::default(),
        }
    }
}

impl Keyed {
    /// Does something with the bucket of `key`.
    pub(crate) fn with_bucket<T>(
        &self,
        key: &str,
        quota: Quota,
        now: u64,
        work: impl FnOnce(&Bucket) -> T,
    ) -> T {
        let key = &key[..key.floor_char_boundary(KEY_BYTES_MAX)];
        let shard = self.hasher.hash_one(key) as usize % SHARDS;
        let mut buckets = self.shards[shard].lock();
        if let Some(bucket) = buckets.get(key) {
            return work(bucket);
        }
        if buckets.len() >= KEYS_MAX / SHARDS {
            buckets.retain(|_, bucket| !bucket.is_full(quota, now));
            if buckets.len() >= KEYS_MAX / SHARDS {
                return work(&self.overflow);
            }
        }
        work(buckets.entry(key.into()).or_default())
    }

    /// See [`Bucket::change`].
    pub(crate) fn change(&self, from: Quota, to: Quota, now: u64) {
        for shard in &self.shards {
            for bucket in shard.lock().values() {
                bucket.change(from, to, now);
            }
        }
        self.overflow.change(from, to, now);
    }

    /// Keys in use now.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota() -> Quota {
        Quota::new("1/s".parse().unwrap(), 1).unwrap()
    }

    fn take(keyed: &Keyed, key: &str, now: u64) -> bool {
        keyed
            .with_bucket(key, quota(), now, |bucket| bucket.take(quota(), now))
            .is_ok()
    }

    #[test]
    fn each_key_has_its_own_bucket_and_long_keys_are_cut() {
        let keyed = Keyed::default();
        let long = "é".repeat(1_000);
        for (key, expect) in [
            ("a", true),
            ("a", false),
            ("b", true),
            (&long, true),
            (&long[..600], false),
        ] {
            assert_eq!(take(&keyed, key, 1), expect, "{key}");
        }
        assert_eq!(keyed.len(), 3);
    }

    #[test]
    fn full_buckets_make_room_and_spent_ones_do_not() {
        let keyed = Keyed::default();
        for n in 0..2 * KEYS_MAX {
            take(&keyed, &n.to_string(), 1);
        }
        assert!(keyed.len() <= KEYS_MAX, "{}", keyed.len());
        // All spent: a new key shares the overflow, which was spent by others.
        assert!(!take(&keyed, "new", 1));
        let later = crate::core::rate::ticks(std::time::Duration::from_secs(5));
        assert!(take(&keyed, "new", later));
    }
}
