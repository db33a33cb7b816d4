//! Which keys there are, in the order they were last written.

use std::collections::HashSet;

use bytes::Bytes;
use setpoint_store::Log;
use setpoint_store::types::{KeyRange, Range, Revision};

use super::{MigrateError, spans};

/// Keys in one answer.
const PAGE: usize = 5_000;

/// The keys of a log at a revision; values are not held.
pub(super) struct Index {
    pub(super) revision: Revision,
    /// By revision of the last write, then by key.
    order: Vec<(Revision, Bytes)>,
}

impl Index {
    pub(super) async fn read(log: &Log) -> Result<Self, MigrateError> {
        let revision = log.revision().await.map_err(MigrateError::source)?;
        let mut order = Vec::new();
        for span in spans() {
            scan(log, span, Some(revision), &mut order)
                .await
                .map_err(MigrateError::source)?;
        }
        order.sort_unstable();
        Ok(Self { revision, order })
    }

    /// The keys that a log has now.
    pub(super) async fn keys_of(log: &Log) -> Result<Vec<Bytes>, MigrateError> {
        let mut keys = Vec::new();
        for span in spans() {
            scan(log, span, None, &mut keys)
                .await
                .map_err(MigrateError::target)?;
        }
        Ok(keys.into_iter().map(|(_, key)| key).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn names(&self) -> HashSet<&Bytes> {
        self.order.iter().map(|(_, key)| key).collect()
    }

    /// What was last written after a revision, in order.
    pub(super) fn after(&self, revision: Revision) -> &[(Revision, Bytes)] {
        let done = self.order.partition_point(|(at, _)| *at <= revision);
        &self.order[done..]
    }
}

async fn scan(
    log: &Log,
    span: KeyRange,
    revision: Option<Revision>,
    keys: &mut Vec<(Revision, Bytes)>,
) -> Result<(), setpoint_store::Error> {
    let mut range = Range::of(span);
    range.keys_only = true;
    range.revision = revision;
    range.limit = PAGE;
    loop {
        let page = log.range(&range).await?;
        // One revision for all pages.
        range.revision = range.revision.or(Some(page.revision));
        let last = page.kvs.last().map(|kv| kv.key.clone());
        keys.extend(page.kvs.into_iter().map(|kv| (kv.mod_revision, kv.key)));
        match last {
            Some(last) if page.more => range.keys = after(&range.keys, &last),
            _ => return Ok(()),
        }
    }
}

/// What is left of a range after a key.
pub(super) fn after(keys: &KeyRange, last: &Bytes) -> KeyRange {
    let start = Bytes::from([last, &b"\0"[..]].concat());
    match keys {
        KeyRange::Span(_, end) => KeyRange::Span(start, end.clone()),
        KeyRange::Key(_) | KeyRange::From(_) => KeyRange::From(start),
    }
}
