//! Hashing of stream ids: one multiplication, whose halves are folded so that ids that differ in their high bits only do
//! not fall together.

use std::hash::{BuildHasher, Hasher};

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes [`IdHash`]es.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdHasher;

impl BuildHasher for IdHasher {
    type Hasher = IdHash;

    fn build_hasher(&self) -> IdHash {
        IdHash(0)
    }
}

/// The hash of one id.
pub(super) struct IdHash(u64);

impl Hasher for IdHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        let product = u128::from(self.0 ^ u64::from(id) ^ SPREAD) * u128::from(SPREAD);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}
