//! Side tables: small durable facts beside the keys, like etcd's buckets for users, roles and alarms.
//!
//! A change to them is a record of the log like any other, but makes no revision: no reader of keys and no
//! watcher sees it. All of them are in memory at all times, and in every checkpoint, so they are bounded.
//!
//! ```text
//! entry: 1, table u8, key length varint, key, value length varint, value     the key has this value
//!        2, table u8, key length varint, key                                 the key is gone
//! ```

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::codec::{Reader, put_varint};

/// Bytes that keys and values of all tables may have together.
pub(crate) const TABLES_BYTES_MAX: usize = 64 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// The name of a side table; the number is part of the format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table(pub u8);

impl Table {
    /// Whether authentication is on, and its revision (etcd's bucket `auth`).
    pub const AUTH: Self = Self(1);
    /// Users by name, as `authpb.User` (etcd's `authUsers`).
    pub const AUTH_USERS: Self = Self(2);
    /// Roles by name, as `authpb.Role` (etcd's `authRoles`).
    pub const AUTH_ROLES: Self = Self(3);
    /// Raised alarms (etcd's `alarm`).
    pub const ALARM: Self = Self(4);
    /// What the cluster agreed on (etcd's `cluster`).
    pub const CLUSTER: Self = Self(5);
    /// Members (etcd's `members`).
    pub const MEMBERS: Self = Self(6);
}

/// A change to one key of a table.
#[derive(Clone, PartialEq, Eq)]
pub struct MetaWrite {
    /// Which table.
    pub table: Table,
    /// Which key.
    pub key: Bytes,
    /// Its new value; `None` removes it.
    pub value: Option<Bytes>,
}

/// Changes that happen all or none: only if each of `expect` holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaTxn {
    /// What must be there, or (`None`) not be there, when the changes are made.
    pub expect: Vec<MetaWrite>,
    /// The changes, in order.
    pub writes: Vec<MetaWrite>,
}

impl MetaWrite {
    /// Sets a key.
    #[must_use]
    pub fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(table: Table, key: impl Into<Bytes>) -> Self {
        Self {
            table,
            key: key.into(),
            value: None,
        }
    }

    pub(crate) fn entry(&self) -> MetaRef<'_> {
        MetaRef {
            table: self.table,
            key: &self.key,
            value: self.value.as_deref(),
        }
    }
}

impl MetaTxn {
    /// Changes under no condition.
    #[must_use]
    pub fn new(writes: Vec<MetaWrite>) -> Self {
        Self {
            expect: Vec::new(),
            writes,
        }
    }

    /// What it counts for in the line of proposals, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.expect.iter().chain(&self.writes);
        all.map(|write| write.key.len() + write.value.as_ref().map_or(0, Bytes::len))
            .sum()
    }
}

/// Values may be secrets: only their length is shown.
impl fmt::Debug for MetaWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.value.as_ref().map(Bytes::len);
        write!(f, "{:?} {:?} = {len:?} bytes", self.table, self.key)
    }
}

/// A change as it lies in a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetaRef<'a> {
    pub(crate) table: Table,
    pub(crate) key: &'a [u8],
    /// `None` removes the key.
    pub(crate) value: Option<&'a [u8]>,
}

impl fmt::Debug for MetaRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.value.map(<[u8]>::len);
        write!(f, "{:?} {:?} = {len:?} bytes", self.table, self.key)
    }
}

impl MetaRef<'_> {
    pub(crate) fn encode(&self, buf: &mut Vec<u8>) {
        buf.push(if self.value.is_some() { PUT } else { DELETE });
        buf.push(self.table.0);
        for part in [Some(self.key), self.value].into_iter().flatten() {
            put_varint(buf, part.len() as u64);
            buf.extend_from_slice(part);
        }
    }
}

/// The entries in `bytes`; a last `None` where they make no sense.
pub(crate) fn entries(bytes: &[u8]) -> impl Iterator<Item = Option<MetaRef<'_>>> {
    let mut rest = Reader { bytes, at: 0 };
    std::iter::from_fn(move || {
        if rest.at >= rest.bytes.len() {
            return None;
        }
        let entry = entry(&mut rest);
        if entry.is_none() {
            rest.at = rest.bytes.len();
        }
        Some(entry)
    })
}

fn entry<'a>(rest: &mut Reader<'a>) -> Option<MetaRef<'a>> {
    let tag = rest.byte()?;
    let table = Table(rest.byte()?);
    let mut part = || {
        let len = usize::try_from(rest.varint()?).ok()?;
        rest.take(len)
    };
    let key = part()?;
    let value = match tag {
        PUT => Some(part()?),
        DELETE => None,
        _ => return None,
    };
    Some(MetaRef { table, key, value })
}

/// The tables as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    entries: BTreeMap<Table, BTreeMap<Bytes, Bytes>>,
    bytes: usize,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tables of {} bytes", self.bytes)
    }
}

impl Tables {
    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<&Bytes> {
        self.entries.get(&table)?.get(key)
    }

    /// A table's keys in order, with their values.
    pub(crate) fn table(&self, table: Table) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.entries.get(&table).into_iter().flatten()
    }

    pub(crate) fn apply(&mut self, entry: &MetaRef<'_>) {
        let table = self.entries.entry(entry.table).or_default();
        let len = |value: &[u8]| entry.key.len() + value.len();
        let before = match entry.value {
            // Copies: the bytes they come from may be a whole request's.
            Some(value) => table.insert(Bytes::copy_from_slice(entry.key), Bytes::copy_from_slice(value)),
            None => table.remove(entry.key),
        };
        if table.is_empty() {
            self.entries.remove(&entry.table);
        }
        self.bytes += entry.value.map_or(0, len);
        self.bytes -= before.map_or(0, |before| len(&before));
    }

    /// Everything there is, as changes to nothing.
    pub(crate) fn entries(&self) -> impl Iterator<Item = MetaRef<'_>> {
        self.entries.iter().flat_map(|(table, entries)| {
            entries.iter().map(|(key, value)| MetaRef {
                table: *table,
                key,
                value: Some(value),
            })
        })
    }

    /// A little of everything, for tests and fuzzers.
    pub(crate) fn sample() -> Self {
        let mut tables = Self::default();
        for (table, key, value) in [
            (Table::AUTH, "enabled", "1"),
            (Table::AUTH_USERS, "root", "secret"),
            (Table(200), "", ""),
        ] {
            tables.apply(&MetaRef {
                table,
                key: key.as_bytes(),
                value: Some(value.as_bytes()),
            });
        }
        tables
    }
}

/// Changes of a commit that is being put together, in front of the tables as they are.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    changed: BTreeMap<(Table, Bytes), Option<Bytes>>,
    /// Bytes by which the tables will have grown.
    grown: isize,
}

impl Pending {
    fn get<'a>(&'a self, tables: &'a Tables, table: Table, key: &Bytes) -> Option<&'a Bytes> {
        match self.changed.get(&(table, key.clone())) {
            Some(changed) => changed.as_ref(),
            None => tables.get(table, key),
        }
    }

    pub(crate) fn holds(&self, tables: &Tables, expect: &[MetaWrite]) -> bool {
        expect
            .iter()
            .all(|expect| self.get(tables, expect.table, &expect.key) == expect.value.as_ref())
    }

    /// Takes changes in, unless the tables would become too large.
    pub(crate) fn add(&mut self, tables: &Tables, writes: &[MetaWrite]) -> bool {
        let mut last = BTreeMap::new();
        for write in writes {
            last.insert((write.table, write.key.clone()), write.value.clone());
        }
        let len =
            |key: &Bytes, value: Option<&Bytes>| value.map_or(0, |value| key.len() + value.len()) as isize;
        let grows = |((table, key), value): (&(Table, Bytes), &Option<Bytes>)| {
            len(key, value.as_ref()) - len(key, self.get(tables, *table, key))
        };
        let grown: isize = last.iter().map(grows).sum();
        let after = tables.bytes() as isize + self.grown + grown;
        if grown > 0 && after > TABLES_BYTES_MAX as isize {
            return false;
        }
        self.grown += grown;
        self.changed.append(&mut last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(n: u8, value: Option<u8>) -> MetaWrite {
        let key = Bytes::from(vec![n % 5]);
        MetaWrite {
            table: Table(n % 2),
            key,
            value: value.map(|value| vec![value; usize::from(value % 7)].into()),
        }
    }

    proptest! {
        #[test]
        fn tables_agree_with_a_map_and_read_back_as_written(ops in prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..100)) {
            let (mut tables, mut pending, mut model) = (Tables::default(), Pending::default(), BTreeMap::new());
            let (before, mut log) = (Tables::default(), Vec::new());
            for (n, value) in ops {
                let write = write(n, value);
                prop_assert!(pending.add(&before, std::slice::from_ref(&write)));
                write.entry().encode(&mut log);
                tables.apply(&write.entry());
                model.insert((write.table, write.key), write.value);
            }
            model.retain(|_, value| value.is_some());
            let bytes: usize = model.iter().map(|((_, key), value)| key.len() + value.as_ref().unwrap().len()).sum();
            prop_assert_eq!((tables.bytes(), pending.grown), (bytes, bytes as isize));
            let seen: Vec<_> = tables.entries().map(|entry| (entry.table, entry.key.to_vec())).collect();
            let expect: Vec<_> = model.keys().map(|(table, key)| (*table, key.to_vec())).collect();
            prop_assert_eq!(seen, expect);
            let mut again = Tables::default();
            entries(&log).for_each(|entry| again.apply(&entry.unwrap()));
            prop_assert_eq!(again.entries().collect::<Vec<_>>(), tables.entries().collect::<Vec<_>>());
            for ((table, key), value) in &model {
                let expect = MetaWrite { table: *table, key: key.clone(), value: value.clone() };
                prop_assert!(pending.holds(&before, &[expect]));
            }
        }
    }

    #[test]
    fn what_would_not_fit_is_refused_as_a_whole_and_removal_always_goes() {
        let mut tables = Tables::default();
        let large = MetaWrite::put(Table::AUTH, "large", vec![0; TABLES_BYTES_MAX - 5]);
        tables.apply(&large.entry());
        let mut pending = Pending::default();
        assert!(!pending.add(&tables, &[MetaWrite::put(Table::AUTH, "k", "")]));
        assert!(pending.holds(&tables, &[MetaWrite::delete(Table::AUTH, "k")]));
        assert!(pending.add(&tables, &[MetaWrite::delete(Table::AUTH, "large")]));
        assert!(pending.add(&tables, &[MetaWrite::put(Table::AUTH, "k", "")]));
    }

    #[test]
    fn values_are_not_shown() {
        let write = MetaWrite::put(Table::AUTH_USERS, "alice", "secret");
        let shown = format!("{write:?} {:?} {:?}", write.entry(), Tables::sample());
        assert!(shown.contains("alice") && !shown.contains("secret"), "{shown}");
    }
}
