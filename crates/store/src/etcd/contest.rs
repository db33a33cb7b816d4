//! Taking turns by keys: what locks and elections have in common.
//!
//! Each contender has a key `NAME/LEASE` (the lease in hexadecimal), made by one transaction; whose key was created
//! first has the turn, and who comes later waits for the one just before it, so that a release wakes one contender.
//! The scheme is that of etcd's `client/v3/concurrency`: programs that use that package and callers of these services
//! take turns with each other.
//!
//! Unlike there, a contender whose own key disappears (its lease ended) learns it at once, and never gets the turn.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use setpoint_base::TraceContext;
use tonic::{Code, Status};

use super::auth::Caller;
use super::server::Shared;
use super::waits::{Leftover, Place};
use super::{convert, status, wide};
use crate::Error;
use crate::types::{
    Compare, CompareTarget, KeyRange, KeyValue, LeaseId, Op, OpResult, Put, PutLease, Range, Relation,
    Revision, SortTarget, Txn, TxnResult, WatchSpec, WatchUpdate,
};

/// Seconds that a lease made for a caller without one lasts (`client/v3/concurrency/session.go`).
const SESSION_TTL: i64 = 60;
/// With more contenders than this, looking for the one before leaves the worker thread.
const INLINE_KEYS_MAX: i64 = 500;
/// How often a transaction is tried while users and roles change under it.
const TRIES: usize = 16;

/// Someone who takes turns.
pub(super) struct Contender {
    pub(super) key: Bytes,
    pub(super) lease: LeaseId,
    /// When the key was created: the place in line.
    pub(super) created: Revision,
    /// The revision of the transaction that entered.
    pub(super) entered: Revision,
    /// The value a key of this lease had already; `None` when it was made now.
    pub(super) found: Option<Bytes>,
    rivals: KeyRange,
}

/// Who calls. Asked anew at each step what it may do: waiting takes long, and rights change.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) caller: &'a Caller,
    pub(super) trace: Option<TraceContext>,
}

impl Asker<'_> {
    /// Runs a transaction under the rights that hold when it is decided.
    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResult, Status> {
        for _ in 0..TRIES {
            let access = self.shared.auth.access(self.caller);
            access
                .txn(&self.shared.store, &txn)
                .map_err(|error| as_client(error.into()))?;
            let store = access.store(self.shared);
            match store.txn(txn.clone(), self.trace).await {
                // Users, roles or a lease changed while it waited in line.
                Err(Error::FactChanged) => (),
                done => return done.map_err(|error| told(&error)),
            }
        }
        Err(told(&Error::FactChanged))
    }

    /// Whether these keys may be read now.
    fn may_read(&self, keys: &KeyRange) -> Result<(), Status> {
        let access = self.shared.auth.access(self.caller);
        access.range(keys).map_err(|error| as_client(error.into()))
    }
}

/// Enters the line of `name`. From then on `place` owes the key, or the lease when it was made here.
pub(super) async fn enter(
    asker: Asker<'_>,
    place: &mut Place,
    (name, lease): (&[u8], i64),
    value: Bytes,
) -> Result<Contender, Status> {
    let shared = asker.shared;
    let given = convert::lease_id(lease);
    let lease = session(shared, given).await?;
    if given.is_none() {
        place.owes(Leftover::Lease(lease));
    }
    let key = key(name, lease);
    shared.may_write(&KeyRange::Key(key.clone()))?;
    // Until the answer is here, the key is ours if it is younger than this.
    let before = shared.store.revision();
    if given.is_some() {
        place.owes(Leftover::Key(key.clone(), Relation::Greater, before));
    }
    let entered = asker.txn(entry(&key, lease, value)).await?;
    let found = match entered.results.into_iter().next() {
        Some(OpResult::Range(range)) => range.kvs.into_iter().next(),
        _ => None,
    };
    let created = found.as_ref().map_or(entered.revision, |kv| kv.create_revision);
    if given.is_some() {
        place.owes(Leftover::Key(key.clone(), Relation::Equal, created));
    }
    Ok(Contender {
        key,
        lease,
        created,
        entered: entered.revision,
        found: found.map(|kv| kv.value),
        rivals: rivals(name),
    })
}

/// The caller's lease, or a new one, which nobody keeps alive.
pub(super) async fn session(shared: &Arc<Shared>, given: Option<LeaseId>) -> Result<LeaseId, Status> {
    match given {
        Some(lease) => Ok(lease),
        None => {
            let granted = shared.store.lease_grant(None, SESSION_TTL).await;
            Ok(granted.map_err(|error| told(&error))?.id)
        }
    }
}

/// Makes the key, or reads the one that is there.
fn entry(key: &Bytes, lease: LeaseId, value: Bytes) -> Txn {
    Txn {
        compares: vec![created(key, 0)],
        success: vec![Op::Put(Put {
            lease: PutLease::Set(Some(lease)),
            ..Put::new(key.clone(), value)
        })],
        failure: vec![Op::Range(Range::key(key.clone()))],
    }
}

/// Holds when the key was created at this revision; 0: when it is not there.
pub(super) fn created(key: &Bytes, revision: i64) -> Compare {
    Compare {
        keys: KeyRange::Key(key.clone()),
        relation: Relation::Equal,
        target: CompareTarget::Create(revision),
    }
}

impl Contender {
    /// Waits for the turn. `Some` revision at which it came; `None` when the own key is gone.
    pub(super) async fn turn(&self, asker: Asker<'_>) -> Result<Option<Revision>, Status> {
        let shared = asker.shared;
        loop {
            asker.may_read(&self.rivals)?;
            let Some(seen) = self.is_in_line(shared)? else {
                return Ok(None);
            };
            match self.before(shared, seen).await {
                Ok(None) => return Ok(Some(seen)),
                Ok(Some(rival)) => self.until_gone(shared, rival, seen).await?,
                // So much was written meanwhile that this moment is history: look again.
                Err(status) if status.message() == status::COMPACTED => (),
                Err(status) => return Err(status),
            }
        }
    }

    /// The revision at which the own key was seen.
    fn is_in_line(&self, shared: &Arc<Shared>) -> Result<Option<Revision>, Status> {
        let own = Range {
            keys_only: true,
            ..Range::key(self.key.clone())
        };
        let own = shared.store.range(&own).map_err(|error| told(&error))?;
        let there = own
            .kvs
            .first()
            .is_some_and(|kv| kv.create_revision == self.created);
        Ok(there.then_some(own.revision))
    }

    /// The contender just before this one.
    async fn before(&self, shared: &Arc<Shared>, seen: Revision) -> Result<Option<Bytes>, Status> {
        let range = Range {
            revision: Some(seen),
            create_bounds: (0, self.created.0 - 1),
            ..one_by_creation(self.rivals.clone(), true)
        };
        let rival = pick(
            shared,
            Range {
                keys_only: true,
                ..range
            },
        )
        .await?;
        Ok(rival.1.map(|kv| kv.key))
    }

    /// Waits until a rival's key, or the own one, has been deleted after `seen`.
    async fn until_gone(&self, shared: &Arc<Shared>, rival: Bytes, seen: Revision) -> Result<(), Status> {
        let mut changes = shared.store.watch();
        for key in [rival, self.key.clone()] {
            let spec = WatchSpec {
                no_put: true,
                ..WatchSpec::new(KeyRange::Key(key), Some(seen.next()))
            };
            changes.create(spec).map_err(|error| told(&error))?;
        }
        match changes.next().await.ok_or_else(status::stopped)? {
            WatchUpdate::Failed { error, .. } => Err(told(&error)),
            _ => Ok(()),
        }
    }
}

/// Who has the turn, with its value; and the store's revision.
pub(super) async fn holder(
    shared: &Arc<Shared>,
    name: &[u8],
) -> Result<(Revision, Option<KeyValue>), Status> {
    pick(shared, one_by_creation(rivals(name), false)).await
}

fn one_by_creation(keys: KeyRange, youngest: bool) -> Range {
    Range {
        limit: 1,
        sort: Some((SortTarget::Create, youngest)),
        ..Range::of(keys)
    }
}

/// The one key of a range that sorts.
async fn pick(shared: &Arc<Shared>, range: Range) -> Result<(Revision, Option<KeyValue>), Status> {
    let count = Range {
        count_only: true,
        ..Range::of(range.keys.clone())
    };
    let count = shared.store.range(&count).map_err(|error| told(&error))?.count;
    let result = if count <= INLINE_KEYS_MAX {
        shared.store.range(&range).map_err(|error| told(&error))?
    } else {
        let store = shared.store.clone();
        wide::long(shared, move || store.range(&range))
            .await
            .map_err(as_client)?
    };
    Ok((result.revision, result.kvs.into_iter().next()))
}

/// All keys of contenders for `name`.
pub(super) fn rivals(name: &[u8]) -> KeyRange {
    KeyRange::prefix(&[name, b"/"].concat())
}

/// `NAME/LEASE`, a negative lease with its sign.
pub(super) fn key(name: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    let lease = format!("/{sign}{:x}", lease.0.unsigned_abs());
    let mut key = BytesMut::with_capacity(name.len() + lease.len());
    key.put_slice(name);
    key.put_slice(lease.as_bytes());
    key.freeze()
}

/// An error as these services tell it.
pub(super) fn told(error: &Error) -> Status {
    as_client(status::status(error))
}

/// etcd serves locks and elections through a client of its own, whose errors carry a text and no code. Only
/// UNAVAILABLE is kept: on it callers try again.
pub(super) fn as_client(status: Status) -> Status {
    match status.code() {
        Code::Unavailable => status,
        _ => Status::unknown(status.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_name_and_the_lease_in_hexadecimal() {
        assert_eq!(key(b"a", LeaseId(0x7b)), "a/7b");
        assert_eq!(key(b"", LeaseId(-5)), "/-5");
        assert_eq!(key(b"x/y", LeaseId(i64::MIN)), "x/y/-8000000000000000");
    }
}
