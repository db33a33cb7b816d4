//! etcd's hashes of a store (`server/storage/mvcc/hash.go`): the same history gives the same number on both.

use std::sync::Arc;

use crc32c::crc32c_append;

use super::dump::{Dump, is_newest};
use super::schema;
use crate::core::record::OpRef;
use crate::engine::Shared;
use crate::error::Error;
use crate::types::{KeyRange, Revision};

/// What HashKV says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The store's revision.
    pub revision: Revision,
    /// CRC32C of the versions up to `hash_revision`.
    pub hash: u32,
    /// The compaction floor it was made with; -1 before the first compaction.
    pub compact_revision: i64,
    /// The revision up to which it was made.
    pub hash_revision: Revision,
}

/// See [`Store::hash_kv`](crate::Store::hash_kv).
pub(crate) fn hash_kv(shared: &Arc<Shared>, asked: Revision) -> Result<KvHash, Error> {
    let dump = Dump::begin(shared);
    let (current, floor) = (dump.revision, dump.floor);
    if asked.0 > 0 && asked.0 < floor {
        return Err(Error::Compacted {
            asked,
            floor: Revision(floor),
        });
    }
    if asked.0 > 0 && asked.0 > current {
        return Err(Error::FutureRevision {
            asked,
            current: Revision(current),
        });
    }
    let until = if asked.0 == 0 { current } else { asked.0 };
    let everything = KeyRange::From(bytes::Bytes::new());
    let any = shared.index.read().scan(&everything, until).next().is_some();
    // With no key left, etcd leaves nothing out of what compaction has left.
    let seen_at = if any { until } else { floor };
    let mut hash = crc32c::crc32c(schema::KEY);
    let mut value = Vec::new();
    dump.ops(until, &mut |revision, op| {
        let counts = revision > floor
            || (matches!(op, OpRef::Put { .. })
                && is_newest(&shared.index.read(), op.key(), revision, seen_at));
        if counts {
            let (key, len) = schema::revision_key(revision, op);
            value.clear();
            schema::put_version(&mut value, revision, op);
            hash = crc32c_append(crc32c_append(hash, &key[..len]), &value);
        }
        Ok::<_, Error>(())
    })?;
    Ok(KvHash {
        revision: Revision(current),
        hash,
        compact_revision: floor,
        hash_revision: Revision(until),
    })
}
