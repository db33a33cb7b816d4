//! etcd's buckets and what is in them (`server/storage/schema`).

use crate::core::alarm::{Alarm, AlarmKind};
use crate::core::codec::{Reader, put_varint};
use crate::core::meta::{Table, Tables};
use crate::core::record::OpRef;

pub(crate) const KEY: &[u8] = b"key";
pub(crate) const LEASE: &[u8] = b"lease";
pub(crate) const MEMBERS_REMOVED: &[u8] = b"members_removed";
pub(crate) const META: &[u8] = b"meta";
/// Side tables and their buckets, whose keys and values are the same.
pub(crate) const TABLES: [(Table, &[u8]); 6] = [
    (Table::ALARM, b"alarm"),
    (Table::AUTH, b"auth"),
    (Table::AUTH_ROLES, b"authRoles"),
    (Table::AUTH_USERS, b"authUsers"),
    (Table::CLUSTER, b"cluster"),
    (Table::MEMBERS, b"members"),
];
const CLUSTER_VERSION_KEY: &[u8] = b"clusterVersion";

/// Bytes of a revision as a key: the main part, `_`, the position within it.
const REVISION_BYTES: usize = 17;
/// The byte behind a revision that says "deleted".
const TOMBSTONE: u8 = b't';

/// Entries of a bucket, in order.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A revision as a key of the `key` bucket: its bytes, and how many of them count.
pub(crate) fn revision_key(revision: i64, op: &OpRef<'_>) -> ([u8; REVISION_BYTES + 1], usize) {
    let (sub, len) = match op {
        OpRef::Put { sub, .. } => (*sub, REVISION_BYTES),
        OpRef::Delete { sub, .. } => (*sub, REVISION_BYTES + 1),
    };
    let mut key = [0; REVISION_BYTES + 1];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8] = b'_';
    key[9..17].copy_from_slice(&u64::from(sub).to_be_bytes());
    key[17] = TOMBSTONE;
    (key, len)
}

/// Bytes of a version as `mvccpb.KeyValue`.
pub(crate) fn version_len(revision: i64, op: &OpRef<'_>) -> usize {
    match *op {
        OpRef::Delete { key, .. } => bytes_len(key),
        OpRef::Put {
            key,
            value,
            lease,
            create,
            version,
            ..
        } => {
            let numbers = [create, revision, version, lease];
            bytes_len(key) + bytes_len(value) + numbers.into_iter().map(int_len).sum::<usize>()
        }
    }
}

/// Appends a version as `mvccpb.KeyValue`, as Go writes it: fields in order, zeros left out.
pub(crate) fn put_version(out: &mut Vec<u8>, revision: i64, op: &OpRef<'_>) {
    put_bytes(out, 1, op.key());
    if let OpRef::Put {
        value,
        lease,
        create,
        version,
        ..
    } = *op
    {
        put_int(out, 2, create);
        put_int(out, 3, revision);
        put_int(out, 4, version);
        put_bytes(out, 5, value);
        put_int(out, 6, lease);
    }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn int_len(value: i64) -> usize {
    if value == 0 {
        0
    } else {
        1 + varint_len(value as u64)
    }
}

fn put_int(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(field << 3);
        put_varint(out, value as u64);
    }
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        0
    } else {
        1 + varint_len(bytes.len() as u64) + bytes.len()
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push((field << 3) | 2);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// `leasepb.Lease` by its id. The time left is not said: a lease starts anew after a restore, as after a restart.
pub(crate) fn leases(grants: &[(i64, i64)]) -> Entries {
    let entry = |(id, ttl): &(i64, i64)| {
        let mut value = Vec::new();
        put_int(&mut value, 1, *id);
        put_int(&mut value, 2, *ttl);
        (id.to_be_bytes().to_vec(), value)
    };
    let mut entries: Entries = grants.iter().map(entry).collect();
    // Ids are signed, their bytes are not.
    entries.sort_unstable();
    entries
}

/// What the `meta` bucket says of a store.
pub(crate) struct Meta {
    pub(crate) floor: i64,
    pub(crate) log_index: u64,
    pub(crate) term: u64,
    pub(crate) member_id: u64,
}

/// The `meta` bucket, as a member of version 3.7 has it.
pub(crate) fn meta(meta: &Meta) -> Entries {
    let mut entries: Entries = vec![
        (
            b"confState".to_vec(),
            format!("{{\"voters\":[{}],\"auto_leave\":false}}", meta.member_id).into_bytes(),
        ),
        // etcd takes 0 for "not known", which a store without a record would say.
        (
            b"consistent_index".to_vec(),
            meta.log_index.max(1).to_be_bytes().to_vec(),
        ),
        (
            b"storageVersion".to_vec(),
            crate::etcd::CLUSTER_VERSION.as_bytes().to_vec(),
        ),
        (b"term".to_vec(), meta.term.to_be_bytes().to_vec()),
    ];
    if meta.floor > 0 {
        for name in ["finishedCompactRev", "scheduledCompactRev"] {
            let mut value = [0; REVISION_BYTES];
            value[..8].copy_from_slice(&meta.floor.to_be_bytes());
            value[8] = b'_';
            entries.push((name.as_bytes().to_vec(), value.to_vec()));
        }
    }
    entries.sort_unstable();
    entries
}

/// The entries of a side table, which are those of its bucket. Of its version etcd reminds a cluster there.
pub(crate) fn table(tables: &Tables, table: Table) -> Entries {
    let entries = tables.table(table);
    let mut entries: Entries = entries
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    if table == Table::CLUSTER && entries.iter().all(|(key, _)| key != CLUSTER_VERSION_KEY) {
        entries.push((
            CLUSTER_VERSION_KEY.to_vec(),
            crate::etcd::CLUSTER_VERSION.as_bytes().to_vec(),
        ));
        entries.sort_unstable();
    }
    entries
}

/// Revision, position within it, and whether it is a deletion, of a key of the `key` bucket.
pub(crate) fn parse_revision(key: &[u8]) -> Option<(i64, u32, bool)> {
    let (revision, mark) = key.split_at_checked(REVISION_BYTES)?;
    let tombstone = match mark {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    if revision[8] != b'_' {
        return None;
    }
    let main = i64::from_be_bytes(*revision.first_chunk()?);
    let sub = u64::from_be_bytes(*revision.last_chunk()?);
    Some((main, u32::try_from(sub).ok()?, tombstone))
}

/// Id and TTL of a `leasepb.Lease`; other fields are passed over.
pub(crate) fn lease(value: &[u8]) -> Option<(i64, i64)> {
    let mut rest = Reader { bytes: value, at: 0 };
    let (mut id, mut ttl) = (0, 0);
    while rest.at < value.len() {
        let (tag, number) = (rest.byte()?, rest.varint()? as i64);
        match tag {
            0x08 => id = number,
            0x10 => ttl = number,
            // Both numbers and all others of the message are varints.
            tag if tag & 7 == 0 => (),
            _ => return None,
        }
    }
    (id != 0 && ttl > 0).then_some((id, ttl))
}

/// Whether a key of the `alarm` bucket says that data is not to be trusted.
pub(crate) fn is_corrupt(key: &[u8]) -> bool {
    Alarm::decode(key).is_some_and(|alarm| alarm.kind == AlarmKind::Corrupt)
}
