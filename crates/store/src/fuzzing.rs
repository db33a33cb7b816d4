//! Doors for fuzzers to everything that parses bytes from disk or from the network. Not an API.
//!
//! Each takes any bytes and must return; what it returns is meant for the corpus of the in-tree mutation test.

use crate::core::checkpoint;
use crate::core::header::Header;
use crate::core::meta::{MetaRef, Table};
use crate::core::record::{self, Encoder, Kind, Record};

use crate::bolt::{Problem, Reader};

pub use crate::etcd::fuzzing::{REQUESTS, json as etcd_json, request as etcd_request, token};

const SALT: u64 = 7;

/// Parses bytes as a segment's header, as records, and as the content of a record whose checksum holds.
pub fn segment(bytes: &[u8]) {
    let _ = Header::parse(bytes);
    let _ = checkpoint::read_meta(bytes);
    let _ = checkpoint::load(bytes, |_| Vec::new());
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let offset = u32::try_from(at).unwrap_or(u32::MAX);
        let _ = record::plausible(rest, offset, 0);
        at += match record::parse(rest, offset, SALT) {
            Ok(record) => walk(&record),
            Err(_) => 1,
        };
    }
    // A random body never has the right checksum, so it is given one.
    let framed = record::with_checksum(bytes, 0, SALT);
    if let Ok(record) = record::parse(&framed, 0, SALT) {
        walk(&record);
    }
}

/// Reads bytes as a checkpoint, and as the blocks of one whose checksums hold: the first is what says where it
/// stands; after it, two bytes give the length of each.
pub fn checkpoint(bytes: &[u8]) {
    let _ = checkpoint::load(bytes, |_| vec![0, 1]);
    let framed = checkpoint::with_checksums(bytes);
    let files = checkpoint::read_meta(&framed).map_or(0, |meta| meta.files.len());
    let _ = checkpoint::load(&framed, |_| vec![0; files]);
}

/// Walks bytes as a file in bbolt's format, as they come and with checksums over what its two first pages say; whether
/// it could be walked to the end.
pub fn bolt(bytes: &[u8]) -> bool {
    let walked = walk_bolt(bytes);
    let mut sealed = bytes.to_vec();
    crate::bolt::seal_metas(&mut sealed);
    walk_bolt(&sealed) || walked
}

fn walk_bolt(bytes: &[u8]) -> bool {
    let walk = || {
        let reader = Reader::open(bytes, bytes.len() as u64)?;
        for bucket in reader.buckets()? {
            reader.bucket::<Problem>(&bucket, &mut |_, _| Ok(true))?;
        }
        Ok::<_, Problem>(())
    };
    walk().is_ok()
}

/// The blocks of a valid checkpoint, as `checkpoint` takes them.
#[must_use]
pub fn valid_checkpoint() -> Vec<u8> {
    checkpoint::sample_blocks()
}

/// Whether `checkpoint` finds a valid one in these blocks.
#[must_use]
pub fn is_checkpoint(blocks: &[u8]) -> bool {
    checkpoint::load(&checkpoint::with_checksums(blocks), |meta| {
        vec![0; meta.files.len()]
    })
    .is_some()
}

fn walk(record: &Record<'_>) -> usize {
    for op in record.ops() {
        let Ok(op) = op else { break };
        assert!(op.key().len() <= record.len, "a key lies inside its record");
    }
    for entry in record.meta() {
        let Ok(entry) = entry else { break };
        assert!(entry.key.len() <= record.len, "a key lies inside its record");
    }
    record.len
}

/// A few valid records, one after the other.
#[must_use]
pub fn valid_records() -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.begin(Kind::Grant { id: 5, ttl: 60 }, 1, None);
    encoder.end();
    encoder.begin(Kind::Revision, 2, None);
    encoder.delete(0, b"gone");
    encoder.delete(1, b"gone too");
    encoder.end();
    encoder.begin(Kind::Compact { floor: 2 }, 2, None);
    encoder.end();
    encoder.begin(Kind::Meta, 2, None);
    for value in [Some(&b"value"[..]), None] {
        encoder.meta(&MetaRef {
            table: Table::AUTH,
            key: b"key",
            value,
        });
    }
    encoder.end();
    encoder.seal(0, SALT, false)
}
