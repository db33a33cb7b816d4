//! What the target knows of a migration under way: from where, and how far.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde_json::{Value, json};
use setpoint_store::Log;
use setpoint_store::types::{
    Compare, CompareTarget, Delete, KeyRange, Op, Put, Range, Relation, Revision, Txn,
};

use super::{MigrateError, copy};

const KEY: &str = "/setpoint/migration/note";
const BUMP: &str = "/setpoint/migration/bump";
/// Writes that raise the revision, between two looks at it.
pub(super) const BUMPS_MAX: usize = 20_000;
/// Of them at once: enough that their commits are gathered.
const BUMPS_IN_FLIGHT: usize = 256;

/// The note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Which log is the source.
    pub(super) source: u64,
    /// Everything that the source had written up to here is in the target.
    pub(super) copied: Revision,
}

impl Note {
    pub(super) fn new(source: u64) -> Self {
        Self {
            source,
            copied: Revision(0),
        }
    }

    /// Writing it.
    pub(super) fn put(&self) -> Op {
        let text = json!({"source": format!("{:016x}", self.source), "copied": self.copied.0});
        Op::Put(Put::new(KEY, text.to_string()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            source: u64::from_str_radix(value.get("source")?.as_str()?, 16).ok()?,
            copied: Revision(value.get("copied")?.as_i64()?),
        })
    }
}

/// The note, if there is one that can be read, and its revision; 0 when there is none.
pub(super) async fn read(log: &Log) -> Result<(Option<Note>, Revision), MigrateError> {
    let found = log.range(&Range::key(KEY)).await.map_err(MigrateError::target)?;
    Ok(found.kvs.first().map_or((None, Revision(0)), |kv| {
        (Note::parse(&kv.value), kv.mod_revision)
    }))
}

/// Whether there is one.
pub(super) async fn is_there(log: &Log) -> Result<bool, setpoint_store::Error> {
    Ok(log.range(&Range::key(KEY)).await?.count > 0)
}

/// The condition that the note is as it was at a revision.
pub(super) fn unchanged(at: Revision) -> Compare {
    Compare {
        keys: KeyRange::Key(KEY.into()),
        relation: Relation::Equal,
        target: CompareTarget::Mod(at.0),
    }
}

/// Raises the revision by so many.
pub(super) async fn bump(log: &Log, count: usize) -> Result<(), MigrateError> {
    let put = || Txn {
        success: vec![Op::Put(Put::new(BUMP, Bytes::new()))],
        ..Txn::default()
    };
    let mut writes =
        stream::iter((0..count).map(|_| copy::insist(log, put()))).buffer_unordered(BUMPS_IN_FLIGHT);
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

/// The migration is over.
pub(super) async fn remove(log: &Log) -> Result<(), MigrateError> {
    let delete = |key: &'static str| {
        Op::Delete(Delete {
            keys: KeyRange::Key(key.into()),
            prev_kv: false,
        })
    };
    let txn = Txn {
        success: vec![delete(KEY), delete(BUMP)],
        ..Txn::default()
    };
    copy::insist(log, txn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let note = Note {
            source: u64::MAX,
            copied: Revision(12),
        };
        let Op::Put(put) = note.put() else {
            panic!("not a put");
        };
        assert_eq!(Note::parse(&put.value.unwrap()), Some(note));
        assert_eq!(Note::parse(b"{}"), None);
    }
}
