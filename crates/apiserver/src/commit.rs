//! Reading one object and writing it back on the condition that nobody else did.

use bytes::Bytes;
use setpoint_apimachinery::encoded::Encoded;
use setpoint_apimachinery::status::Status;
use setpoint_base::TraceContext;
use setpoint_store::Log;
use setpoint_store::types::{
    Compare, CompareTarget, Delete, KeyRange, KeyValue, LeaseId, Op, Put, PutLease, Range, Relation, Txn,
};

use crate::cache::feed::revision_u64;
use crate::storage::Storage;
use crate::store_error::store_status;

/// An object as it is in the store.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// The stored pair.
    pub(crate) kv: KeyValue,
    /// The object in it.
    pub(crate) object: Encoded,
}

/// Whether a conditional write happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// At this revision.
    At(u64),
    /// Something else changed first.
    Conflict,
}

/// Reads an object.
///
/// # Errors
/// 500 when the store fails or the bytes are not an object.
pub(crate) async fn load(
    store: &Log,
    storage: &Storage,
    namespace: &str,
    name: &str,
) -> Result<Option<Current>, Status> {
    let range = Range::key(storage.key(namespace, name));
    let Some(kv) = store
        .range(&range)
        .await
        .map_err(|error| store_status(&error))?
        .kvs
        .pop()
    else {
        return Ok(None);
    };
    let object = storage.decode(&kv)?;
    Ok(Some(Current { kv, object }))
}

/// A condition that a key still has the revision it was read at; 0 is "does not exist".
pub(crate) fn unchanged(key: Bytes, mod_revision: i64) -> Compare {
    Compare {
        keys: KeyRange::Key(key),
        relation: Relation::Equal,
        target: CompareTarget::Mod(mod_revision),
    }
}

/// Writes `body` if all conditions hold. `lease` as [`PutLease`].
///
/// # Errors
/// What the store refuses.
pub(crate) async fn put(
    store: &Log,
    conditions: Vec<Compare>,
    key: Bytes,
    body: Bytes,
    lease: PutLease,
    trace: TraceContext,
) -> Result<Written, Status> {
    let put = Put {
        lease,
        ..Put::new(key, body)
    };
    run(store, conditions, Op::Put(put), trace).await
}

/// Deletes `key` if it still has the revision it was read at.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn delete(store: &Log, current: &KeyValue, trace: TraceContext) -> Result<Written, Status> {
    let condition = unchanged(current.key.clone(), current.mod_revision.0);
    let delete = Delete {
        keys: KeyRange::Key(current.key.clone()),
        prev_kv: false,
    };
    run(store, vec![condition], Op::Delete(delete), trace).await
}

async fn run(store: &Log, conditions: Vec<Compare>, op: Op, trace: TraceContext) -> Result<Written, Status> {
    let txn = Txn {
        compares: conditions,
        success: vec![op],
        failure: Vec::new(),
    };
    let result = store
        .txn(txn, Some(trace))
        .await
        .map_err(|error| store_status(&error))?;
    Ok(if result.succeeded {
        Written::At(revision_u64(result.revision))
    } else {
        Written::Conflict
    })
}

/// A lease for objects that end by themselves.
///
/// # Errors
/// What the store refuses.
pub(crate) async fn lease(store: &Log, seconds: u64) -> Result<LeaseId, Status> {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    store
        .lease_grant(seconds)
        .await
        .map_err(|error| store_status(&error))
}
