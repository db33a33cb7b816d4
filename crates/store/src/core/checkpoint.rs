//! The index as a file, so that a restart need not read the whole log.
//!
//! ```text
//! "SPCKPT\0\x01"                      8 bytes
//! block*                              length u32, crc32c(number of the block u64, body) u32, body
//! ```
//!
//! The first block says where in the log the checkpoint stands, which segments it speaks of, the leases and
//! the side tables; then come
//! blocks of keys in order, each key without the prefix it shares with the one before in its block; an empty
//! block ends the file. A file that does not read back to its end is no checkpoint: the log is the truth, and
//! is replayed as a whole instead.
//!
//! It is written while the store goes on, in steps: it holds every version up to its revision that is still
//! reachable, and none above; the log behind its position supplies the rest.

use super::codec::{Reader, put_varint};
use super::index::{Index, Location, Version};
use super::meta::{Tables, entries};

const MAGIC: &[u8; 8] = b"SPCKPT\0\x01";
/// Body size from which on a block is closed.
pub(crate) const BLOCK: usize = 64 << 10;

/// What the first block says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) revision: i64,
    pub(crate) floor: i64,
    pub(crate) log_index: u64,
    /// Id of the segment and the offset in it where the log goes on.
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Id and generation of the segments there were; places name them by their position here.
    pub(crate) files: Vec<(u64, u32)>,
    /// Id and TTL.
    pub(crate) leases: Vec<(i64, i64)>,
    /// Nothing is written for empty ones, so a file from before there were any reads as that.
    pub(crate) tables: Tables,
}

/// Builds the blocks of a checkpoint.
pub(crate) struct Builder {
    block: Vec<u8>,
    number: u64,
    last_key: Vec<u8>,
}

impl Builder {
    /// Begins a checkpoint; returns its first bytes, too.
    pub(crate) fn new(meta: &Meta) -> (Self, Vec<u8>) {
        let mut builder = Self {
            block: Vec::with_capacity(2 * BLOCK),
            number: 0,
            last_key: Vec::new(),
        };
        for number in [
            meta.revision as u64,
            meta.floor as u64,
            meta.log_index,
            meta.segment,
            meta.offset,
        ] {
            builder.block.extend_from_slice(&number.to_le_bytes());
        }
        put_varint(&mut builder.block, meta.files.len() as u64);
        for (id, generation) in &meta.files {
            put_varint(&mut builder.block, *id);
            put_varint(&mut builder.block, u64::from(*generation));
        }
        put_varint(&mut builder.block, meta.leases.len() as u64);
        for (id, ttl) in &meta.leases {
            put_varint(&mut builder.block, *id as u64);
            put_varint(&mut builder.block, *ttl as u64);
        }
        for entry in meta.tables.entries() {
            entry.encode(&mut builder.block);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(builder.close());
        (builder, bytes)
    }

    /// Adds a key with its versions, oldest first; their places carry positions in [`Meta::files`].
    pub(crate) fn key(&mut self, key: &[u8], versions: &[Version]) {
        let shared = key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count();
        put_varint(&mut self.block, shared as u64);
        put_varint(&mut self.block, (key.len() - shared) as u64);
        self.block.extend_from_slice(&key[shared..]);
        put_varint(&mut self.block, versions.len() as u64);
        for version in versions {
            // The version's age is a smaller number than its creation.
            let age = version.modified - version.create;
            for number in [version.modified, age, version.version, version.lease] {
                put_varint(&mut self.block, number as u64);
            }
            let at = version.at;
            for number in [version.sub, at.file, at.offset, at.len] {
                put_varint(&mut self.block, u64::from(number));
            }
            self.block.extend_from_slice(&at.crc.to_le_bytes());
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
    }

    /// Bytes in the open block.
    pub(crate) fn pending(&self) -> usize {
        self.block.len()
    }

    /// Closes the block; its bytes go to the file.
    pub(crate) fn close(&mut self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.block.len() + 8);
        bytes.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum(self.number, &self.block).to_le_bytes());
        bytes.append(&mut self.block);
        self.number += 1;
        self.last_key.clear();
        bytes
    }
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

/// Reads a whole checkpoint; `None` when any of it is damaged or missing. `place` turns the position of a
/// file into its number.
pub(crate) fn load(bytes: &[u8], place: impl FnOnce(&Meta) -> Vec<u32>) -> Option<(Meta, Index)> {
    let mut blocks = Blocks {
        rest: Reader { bytes, at: 0 },
        number: 0,
    };
    if blocks.rest.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let meta = meta(blocks.next()?)?;
    let numbers = place(&meta);
    if numbers.len() != meta.files.len() {
        return None;
    }
    let mut index = Index::default();
    loop {
        let block = blocks.next()?;
        if block.is_empty() {
            return (blocks.rest.at == bytes.len()).then_some((meta, index));
        }
        keys(block, &numbers, meta.revision, &mut index)?;
    }
}

/// What the first block says, if that much is intact.
pub(crate) fn read_meta(bytes: &[u8]) -> Option<Meta> {
    let mut blocks = Blocks {
        rest: Reader { bytes, at: 0 },
        number: 0,
    };
    if blocks.rest.take(MAGIC.len())? != MAGIC {
        return None;
    }
    meta(blocks.next()?)
}

/// Blocks given as a length of two bytes and a body, framed and closed as in a file; for fuzzers.
pub(crate) fn with_checksums(mut blocks: &[u8]) -> Vec<u8> {
    let mut builder = Builder {
        block: Vec::new(),
        number: 0,
        last_key: Vec::new(),
    };
    let mut bytes = MAGIC.to_vec();
    while let Some((len, rest)) = blocks.split_first_chunk() {
        let (body, rest) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        builder.block.extend_from_slice(body);
        bytes.extend(builder.close());
        blocks = rest;
    }
    bytes.extend(builder.close());
    bytes
}

/// The blocks of a small checkpoint, as [`with_checksums`] takes them.
pub(crate) fn sample_blocks() -> Vec<u8> {
    let meta = Meta {
        revision: 9,
        floor: 3,
        log_index: 12,
        segment: 2,
        offset: 4_096,
        files: vec![(1, 0), (2, 3)],
        leases: vec![(-5, 60), (7, 9)],
        tables: Tables::sample(),
    };
    let old = Version {
        modified: 4,
        create: 4,
        version: 1,
        lease: -5,
        ..Version::default()
    };
    let new = Version { modified: 8, ..old };
    let (mut builder, file) = Builder::new(&meta);
    let mut bodies = vec![file[MAGIC.len() + 8..].to_vec()];
    for block in [["/a", "/ab"], ["/abc", "/b"]] {
        for key in block {
            builder.key(key.as_bytes(), &[old, new]);
        }
        bodies.push(builder.close().split_off(8));
    }
    let framed = |body: &Vec<u8>| [&(body.len() as u16).to_le_bytes()[..], body].concat();
    bodies.iter().flat_map(framed).collect()
}

struct Blocks<'a> {
    rest: Reader<'a>,
    number: u64,
}

impl<'a> Blocks<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let len = self.rest.u32()? as usize;
        let crc = self.rest.u32()?;
        let body = self.rest.take(len)?;
        (checksum(self.number, body) == crc).then(|| {
            self.number += 1;
            body
        })
    }
}

fn meta(block: &[u8]) -> Option<Meta> {
    let mut rest = Reader { bytes: block, at: 0 };
    let mut meta = Meta {
        revision: rest.i64()?,
        floor: rest.i64()?,
        log_index: rest.u64()?,
        segment: rest.u64()?,
        offset: rest.u64()?,
        ..Meta::default()
    };
    for _ in 0..rest.varint()? {
        meta.files
            .push((rest.varint()?, u32::try_from(rest.varint()?).ok()?));
    }
    for _ in 0..rest.varint()? {
        meta.leases.push((rest.varint()? as i64, rest.varint()? as i64));
    }
    for entry in entries(&block[rest.at..]) {
        meta.tables.apply(&entry?);
    }
    (meta.revision >= 1).then_some(meta)
}

fn keys(block: &[u8], numbers: &[u32], revision: i64, index: &mut Index) -> Option<()> {
    let mut rest = Reader { bytes: block, at: 0 };
    let (mut key, mut versions) = (Vec::new(), Vec::new());
    while rest.at < block.len() {
        let shared = usize::try_from(rest.varint()?).ok()?;
        let suffix_len = usize::try_from(rest.varint()?).ok()?;
        let suffix = rest.take(suffix_len)?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(suffix);
        versions.clear();
        let mut before = 0;
        for _ in 0..rest.varint()? {
            let version = version(&mut rest, numbers)?;
            if version.modified <= before || version.modified > revision {
                return None;
            }
            before = version.modified;
            versions.push(version);
        }
        if !index.push_sorted(&key, &versions) {
            return None;
        }
    }
    Some(())
}

fn version(rest: &mut Reader<'_>, numbers: &[u32]) -> Option<Version> {
    let modified = i64::try_from(rest.varint()?).ok()?;
    let create = modified.checked_sub(i64::try_from(rest.varint()?).ok()?)?;
    let version = i64::try_from(rest.varint()?).ok()?;
    let lease = rest.varint()? as i64;
    let sub = u32::try_from(rest.varint()?).ok()?;
    let file = *numbers.get(usize::try_from(rest.varint()?).ok()?)?;
    let offset = u32::try_from(rest.varint()?).ok()?;
    let len = u32::try_from(rest.varint()?).ok()?;
    let at = Location {
        file,
        offset,
        len,
        crc: rest.u32()?,
    };
    Some(Version {
        modified,
        create,
        version,
        lease,
        sub,
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Meta, Vec<u8>, usize) {
        let meta = Meta {
            revision: 900,
            floor: 3,
            log_index: 1_000,
            segment: 2,
            offset: 4_096,
            files: vec![(1, 0), (2, 3)],
            leases: vec![(-5, 60), (7, 9)],
            tables: Tables::sample(),
        };
        let (mut builder, mut bytes) = Builder::new(&meta);
        let keys = 300;
        for n in 0..keys {
            let at = Location {
                file: n % 2,
                offset: n,
                len: 9,
                crc: n,
            };
            let old = Version {
                modified: 4,
                create: 4,
                version: 1,
                lease: -5,
                sub: 1,
                at,
            };
            let new = Version {
                modified: 5 + i64::from(n),
                version: i64::from(n % 3),
                ..old
            };
            builder.key(format!("/registry/pods/{n:04}").as_bytes(), &[old, new]);
            if builder.pending() > 2_000 {
                bytes.extend(builder.close());
            }
        }
        bytes.extend(builder.close());
        bytes.extend(builder.close());
        (meta, bytes, keys as usize)
    }

    #[test]
    fn a_checkpoint_reads_back_as_written() {
        let (meta, bytes, keys) = sample();
        let (read, index) = load(&bytes, |_| vec![10, 11]).unwrap();
        assert_eq!(read, meta);
        let mut seen = 0;
        index.walk(None, usize::MAX, |_, older, newest| {
            assert_eq!(
                (older.len(), older[0].lease, newest.at.file),
                (1, -5, 10 + seen % 2)
            );
            seen += 1;
        });
        assert_eq!(seen as usize, keys);
    }

    #[test]
    fn a_checkpoint_from_before_there_were_tables_reads_as_one_without() {
        let (meta, ..) = sample();
        let before = Meta {
            tables: Tables::default(),
            ..meta.clone()
        };
        let ((_, with), (_, without)) = (Builder::new(&meta), Builder::new(&before));
        assert!(without.len() < with.len());
        assert_eq!(read_meta(&without).unwrap(), before);
        assert_eq!(read_meta(&with).unwrap(), meta);
    }

    #[test]
    fn a_damaged_or_truncated_checkpoint_is_none() {
        let (_, bytes, _) = sample();
        for len in 0..bytes.len() {
            assert!(load(&bytes[..len], |_| vec![10, 11]).is_none(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(load(&damaged, |_| vec![10, 11]).is_none(), "{at}");
        }
    }
}
