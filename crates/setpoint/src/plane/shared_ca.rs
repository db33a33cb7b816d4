//! The CA that all API servers of a cluster use, kept in the cluster itself.
//!
//! The first server puts its own there (the one in its PKI directory, or a new one); the others take it from there. It
//! lies beside the Secrets, under the plane's prefix: who may read those could act for anybody anyhow.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use setpoint_apiserver::{PkiError, SharedCa};
use setpoint_base::SystemClock;
use setpoint_store::types::{Compare, CompareTarget, KeyRange, Op, Put, Range, Relation, Txn};
use setpoint_store::{Error, Log};

use super::{PlaneError, blocking};

/// The key of the CA and its private key.
const KEY: &str = "/setpoint/pki/ca";
/// How often two first starts at once may cross.
const TRIES: usize = 3;

/// Makes the cluster's CA the one of the PKI directory, after putting this one's there if it had none.
pub(super) async fn install(log: &Log, dir: &Path) -> Result<(), PlaneError> {
    let mut last = None;
    for _ in 0..TRIES {
        if let Some(bytes) = read(log).await? {
            return finish(bytes, dir.to_owned()).await;
        }
        let candidate = {
            let dir = dir.to_owned();
            blocking("the certificates", move || {
                candidate(&dir).map_err(PlaneError::Pki)
            })
            .await?
        };
        // Whoever wins, the next look finds one. An answer that was lost is cleared up by that look, too.
        last = publish(log, candidate).await.err();
    }
    Err(PlaneError::Log(last.unwrap_or(Error::Unavailable(
        "the shared CA was written and is not there".to_owned(),
    ))))
}

/// The cluster's CA, if it has one.
pub(crate) async fn read(log: &Log) -> Result<Option<Bytes>, PlaneError> {
    let found = log.range(&Range::key(KEY)).await.map_err(PlaneError::Log)?;
    Ok(found.kvs.into_iter().next().map(|kv| kv.value))
}

async fn finish(bytes: Bytes, dir: PathBuf) -> Result<(), PlaneError> {
    blocking("the certificates", move || {
        let ca = SharedCa::from_bytes(&bytes, Path::new(KEY))?;
        Ok(ca.install(&dir)?)
    })
    .await
}

fn candidate(dir: &Path) -> Result<Bytes, PkiError> {
    let ca = match SharedCa::in_dir(dir)? {
        Some(ca) => ca,
        None => SharedCa::new(&SystemClock)?,
    };
    Ok(ca.to_bytes().into())
}

/// Makes this the cluster's CA if it has none.
pub(crate) async fn publish(log: &Log, ca: Bytes) -> Result<(), Error> {
    let absent = Compare {
        keys: KeyRange::Key(KEY.into()),
        relation: Relation::Equal,
        target: CompareTarget::Create(0),
    };
    let txn = Txn {
        compares: vec![absent],
        success: vec![Op::Put(Put::new(KEY, ca))],
        failure: Vec::new(),
    };
    log.txn(txn, None).await.map(drop)
}
