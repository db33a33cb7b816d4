//! Who may wait on a client's behalf, and what is taken back when the client goes away.
//!
//! A call that waits for a lock or for leadership holds a [`Place`]: a slot reserved in the sweeper's line. Places are
//! bounded, and so is what waiting costs. The slot is also how the call cleans up: when it is dropped (by a reset, a
//! lost connection, the stop), what it has written goes into the slot, which cannot be full, and the sweeper removes
//! it. A call that succeeds [settles](Place::settle), and leaves what it wrote.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use setpoint_base::{Chain, Stop};
use tokio::sync::mpsc;
use tonic::Status;

use super::status;
use crate::types::{Compare, CompareTarget, Delete, KeyRange, LeaseId, Op, Relation, Revision, Txn};
use crate::{Error, Store};

/// Pause before another try when the store has too much to do.
const RETRY: Duration = Duration::from_millis(20);

/// The places there are.
pub(super) struct Waits {
    line: mpsc::Sender<Leftover>,
    /// The other end, until the sweeper has taken it.
    swept: Mutex<Option<mpsc::Receiver<Leftover>>>,
}

impl Waits {
    /// Room for `max` calls that wait.
    pub(super) fn new(max: usize) -> Self {
        let (line, swept) = mpsc::channel(max.max(1));
        Self {
            line,
            swept: Mutex::new(Some(swept)),
        }
    }

    /// A place, if one is free.
    pub(super) fn place(&self) -> Result<Place, Status> {
        let permit = self.line.clone().try_reserve_owned();
        permit
            .map(|permit| Place {
                permit: Some(permit),
                leftover: None,
            })
            .map_err(|_| status::overloaded())
    }

    /// Removes what callers leave behind, until `over` and the last place has been given back.
    pub(super) async fn sweep(&self, store: &Store, over: &Stop) {
        let Some(mut line) = self.swept.lock().take() else {
            return;
        };
        let mut closed = false;
        loop {
            let leftover = tokio::select! {
                biased;
                leftover = line.recv() => leftover,
                () = over.cancelled(), if !closed => {
                    closed = true;
                    line.close();
                    continue;
                }
            };
            let Some(leftover) = leftover else {
                return;
            };
            match leftover.remove(store).await {
                // Its end took the key with it.
                Ok(()) | Err(Error::LeaseNotFound(_)) => (),
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "remove what a client that went away was waiting with");
                }
            }
        }
    }
}

/// A call that waits. Dropping it removes what the call [owes](Place::owes).
pub(super) struct Place {
    permit: Option<mpsc::OwnedPermit<Leftover>>,
    leftover: Option<Leftover>,
}

impl Place {
    /// From now on, the end of the call takes this away.
    pub(super) fn owes(&mut self, leftover: Leftover) {
        self.leftover = Some(leftover);
    }

    /// What was written stays: the client is told of it.
    pub(super) fn settle(mut self) {
        self.leftover = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (Some(permit), Some(leftover)) = (self.permit.take(), self.leftover.take()) {
            permit.send(leftover);
        }
    }
}

/// Something that nobody waits with any more.
#[derive(Clone, Debug)]
pub(super) enum Leftover {
    /// A key, if its create revision relates so to this one.
    Key(Bytes, Relation, Revision),
    /// A lease made for the call, of which nobody knows.
    Lease(LeaseId),
}

impl Leftover {
    async fn remove(&self, store: &Store) -> Result<(), Error> {
        loop {
            let removed = match self {
                Self::Lease(id) => store.lease_revoke(*id).await.map(drop),
                Self::Key(key, relation, revision) => store
                    .txn(removal(key, *relation, *revision), None)
                    .await
                    .map(drop),
            };
            match removed {
                Err(Error::TooManyRequests) => tokio::time::sleep(RETRY).await,
                removed => return removed,
            }
        }
    }
}

/// Deletes the key, if it is the one that was meant.
pub(super) fn removal(key: &Bytes, relation: Relation, created: Revision) -> Txn {
    let keys = KeyRange::Key(key.clone());
    Txn {
        compares: vec![Compare {
            keys: keys.clone(),
            relation,
            target: CompareTarget::Create(created.0),
        }],
        success: vec![Op::Delete(Delete { keys, prev_kv: false })],
        failure: Vec::new(),
    }
}
