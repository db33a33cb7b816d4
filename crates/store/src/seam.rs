//! The log wherever it lies: the seam between what serves objects and what keeps them.
//!
//! [`Log`] is what everything above the store holds. Behind it is the embedded [`Store`], whose reads are ready at once;
//! nothing above can tell. The etcd front stays with the embedded store, whose types it takes.

use setpoint_base::TraceContext;

use crate::error::Error;
use crate::handle::Store;
use crate::types::{
    LeaseId, LeaseInfo, Range, RangeResult, Revision, Txn, TxnResult, WatchSpec, WatchUpdate,
};
use crate::watch::WatchStream;

/// A log. Cloning is cheap; all clones are the same log.
#[derive(Clone)]
pub struct Log(Place);

#[derive(Clone)]
enum Place {
    Embedded(Store),
}

/// One watcher of a [`Log`]. Dropping it removes the watcher.
pub struct LogWatch(Source);

enum Source {
    Embedded(Box<WatchStream>),
}

impl From<Store> for Log {
    fn from(store: Store) -> Self {
        Self(Place::Embedded(store))
    }
}

impl Log {
    /// Reads keys at one revision; without a revision, at one no older than the call.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub async fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        match &self.0 {
            Place::Embedded(store) => store.range(range),
        }
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// As [`Store::txn`].
    pub async fn txn(&self, txn: Txn, trace: Option<TraceContext>) -> Result<TxnResult, Error> {
        match &self.0 {
            Place::Embedded(store) => store.txn(txn, trace).await,
        }
    }

    /// Grants a lease of `ttl` seconds, under an id that the log chooses.
    ///
    /// # Errors
    /// As [`Store::lease_grant`].
    pub async fn lease_grant(&self, ttl: i64) -> Result<LeaseId, Error> {
        let LeaseInfo { id, .. } = match &self.0 {
            Place::Embedded(store) => store.lease_grant(None, ttl).await?,
        };
        Ok(id)
    }

    /// The newest committed revision: nothing acknowledged before the call is above it.
    ///
    /// # Errors
    /// When the log does not answer; the embedded one always does.
    pub async fn revision(&self) -> Result<Revision, Error> {
        match &self.0 {
            Place::Embedded(store) => Ok(store.revision()),
        }
    }

    /// The newest revision this handle has heard of, without asking.
    #[must_use]
    pub fn seen(&self) -> Revision {
        match &self.0 {
            Place::Embedded(store) => store.revision(),
        }
    }

    /// A watcher. What the log refuses later comes out of [`LogWatch::next`].
    ///
    /// # Errors
    /// What is wrong with the specification itself.
    pub fn watch(&self, spec: WatchSpec) -> Result<LogWatch, Error> {
        match &self.0 {
            Place::Embedded(store) => {
                let mut stream = store.watch();
                stream.create(spec)?;
                Ok(LogWatch(Source::Embedded(Box::new(stream))))
            }
        }
    }
}

impl LogWatch {
    /// The next update. Cancel-safe. After [`WatchUpdate::Compacted`] and after an error there is none.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the log ends; anything else can be tried again with a new watcher.
    pub async fn next(&mut self) -> Result<WatchUpdate, Error> {
        match &mut self.0 {
            Source::Embedded(stream) => stream.next().await.ok_or(Error::Stopped),
        }
    }

    /// Asks for a [`WatchUpdate::Progress`] at or above [`Log::seen`], sent once everything up to it has been delivered.
    /// Asking again before the answer asks once.
    pub fn request_progress(&mut self) {
        match &mut self.0 {
            Source::Embedded(stream) => stream.request_progress(),
        }
    }
}
