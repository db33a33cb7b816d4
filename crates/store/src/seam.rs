//! The log wherever it lies: the seam between what serves objects and what keeps them.
//!
//! [`Log`] is what everything above the store holds. Behind it is the embedded [`Store`], whose reads are ready at once and
//! cost no allocation, or an etcd cluster ([`crate::remote`]); nothing above can tell. The etcd front stays with the
//! embedded store: clients of a cluster talk to its members.

use futures_util::future::BoxFuture;
use setpoint_base::TraceContext;
use setpoint_telemetry::{DuplicateMetric, Metrics};

use crate::error::Error;
use crate::handle::Store;
use crate::remote::{Cluster, ClusterOptions, ClusterWatch};
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
    Cluster(Cluster),
}

/// One watcher of a [`Log`]. Dropping it removes the watcher.
pub struct LogWatch(Source);

enum Source {
    Embedded(Box<WatchStream>),
    Cluster(Box<ClusterWatch>),
}

impl From<Store> for Log {
    fn from(store: Store) -> Self {
        Self(Place::Embedded(store))
    }
}

impl Log {
    /// A log in an etcd cluster. Nothing is connected yet; needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Refused`] when the options cannot work.
    pub fn cluster(options: &ClusterOptions) -> Result<Self, Error> {
        Cluster::open(options).map(|cluster| Self(Place::Cluster(cluster)))
    }

    /// Reads keys at one revision; without a revision, at one no older than the call.
    ///
    /// # Errors
    /// As [`Store::range`]; with a cluster also [`Error::Unavailable`], [`Error::Refused`].
    pub async fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        match &self.0 {
            Place::Embedded(store) => store.range(range),
            Place::Cluster(cluster) => boxed(cluster.range(range)).await,
        }
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// As [`Store::txn`]; with a cluster also [`Error::Unavailable`], [`Error::Refused`], [`Error::OutcomeUnknown`].
    pub async fn txn(&self, txn: Txn, trace: Option<TraceContext>) -> Result<TxnResult, Error> {
        match &self.0 {
            Place::Embedded(store) => store.txn(txn, trace).await,
            Place::Cluster(cluster) => boxed(cluster.txn(txn)).await,
        }
    }

    /// Grants a lease of `ttl` seconds, under an id that the log chooses.
    ///
    /// # Errors
    /// As [`Store::lease_grant`].
    pub async fn lease_grant(&self, ttl: i64) -> Result<LeaseId, Error> {
        match &self.0 {
            Place::Embedded(store) => {
                let LeaseInfo { id, .. } = store.lease_grant(None, ttl).await?;
                Ok(id)
            }
            Place::Cluster(cluster) => boxed(cluster.lease_grant(ttl)).await,
        }
    }

    /// Grants a lease of `ttl` seconds under this id; one that is there already will do.
    ///
    /// # Errors
    /// As [`Store::lease_grant`].
    pub async fn lease_keep(&self, id: LeaseId, ttl: i64) -> Result<(), Error> {
        let granted = match &self.0 {
            Place::Embedded(store) => store.lease_grant(Some(id), ttl).await.map(drop),
            Place::Cluster(cluster) => boxed(cluster.lease_grant_as(id, ttl)).await,
        };
        match granted {
            Err(Error::LeaseExists(_)) => Ok(()),
            granted => granted,
        }
    }

    /// Restarts a lease's time.
    ///
    /// # Errors
    /// As [`Store::lease_keep_alive`].
    pub async fn lease_renew(&self, id: LeaseId) -> Result<(), Error> {
        match &self.0 {
            Place::Embedded(store) => store.lease_keep_alive(id).await.map(drop),
            Place::Cluster(cluster) => boxed(cluster.lease_renew(id)).await,
        }
    }

    /// All leases.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        match &self.0 {
            Place::Embedded(store) => Ok(store.leases()),
            Place::Cluster(cluster) => boxed(cluster.leases()).await,
        }
    }

    /// The seconds a lease was granted for; `None` when there is no such lease.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn lease_ttl(&self, id: LeaseId) -> Result<Option<i64>, Error> {
        match &self.0 {
            Place::Embedded(store) => Ok(store.lease(id, false).map(|lease| lease.granted_ttl)),
            Place::Cluster(cluster) => boxed(cluster.lease_ttl(id)).await,
        }
    }

    /// Forgets history below `at`; the state at `at` stays. Done already is done.
    ///
    /// # Errors
    /// As [`Store::compact`].
    pub async fn compact(&self, at: Revision) -> Result<(), Error> {
        let compacted = match &self.0 {
            Place::Embedded(store) => store.compact(at, true).await.map(drop),
            Place::Cluster(cluster) => boxed(cluster.compact(at)).await,
        };
        match compacted {
            Err(Error::Compacted { .. }) => Ok(()),
            compacted => compacted,
        }
    }

    /// Adds what a cluster's handle measures: whether it answers, and outages. The embedded store's metrics are added by its
    /// front.
    ///
    /// # Errors
    /// When they are there already.
    pub fn register_metrics(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        match &self.0 {
            Place::Embedded(_) => Ok(()),
            Place::Cluster(cluster) => cluster.register_metrics(metrics),
        }
    }

    /// Whether this process alone writes it.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Place::Embedded(_))
    }

    /// What tells this log from others: etcd's cluster id.
    ///
    /// # Errors
    /// When the log does not answer.
    pub async fn identity(&self) -> Result<u64, Error> {
        match &self.0 {
            Place::Embedded(store) => Ok(store.status().cluster_id),
            Place::Cluster(cluster) => boxed(cluster.identity()).await,
        }
    }

    /// The newest committed revision: nothing acknowledged before the call is above it.
    ///
    /// # Errors
    /// When the log does not answer; the embedded one always does.
    pub async fn revision(&self) -> Result<Revision, Error> {
        match &self.0 {
            Place::Embedded(store) => Ok(store.revision()),
            Place::Cluster(cluster) => boxed(cluster.revision()).await,
        }
    }

    /// The newest revision this handle has heard of, without asking.
    #[must_use]
    pub fn seen(&self) -> Revision {
        match &self.0 {
            Place::Embedded(store) => store.revision(),
            Place::Cluster(cluster) => cluster.seen(),
        }
    }

    /// Ends it: the embedded store as [`Store::close`], a cluster's watches and connections.
    ///
    /// # Errors
    /// As [`Store::close`].
    pub async fn close(&self) -> Result<(), Error> {
        match &self.0 {
            Place::Embedded(store) => store.close().await,
            Place::Cluster(cluster) => {
                cluster.close().await;
                Ok(())
            }
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
            Place::Cluster(cluster) => {
                let watch = cluster.watch(&spec)?;
                Ok(LogWatch(Source::Cluster(Box::new(watch))))
            }
        }
    }
}

/// A call over the network: its size and type are no business of those who read an embedded log.
fn boxed<'a, T>(call: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(call)
}

impl LogWatch {
    /// The next update. Cancel-safe. After [`WatchUpdate::Compacted`] and after an error there is none.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the log ends; anything else can be tried again with a new watcher.
    pub async fn next(&mut self) -> Result<WatchUpdate, Error> {
        match &mut self.0 {
            Source::Embedded(stream) => match stream.next().await.ok_or(Error::Stopped)? {
                WatchUpdate::Failed { error, .. } => Err(error),
                update => Ok(update),
            },
            Source::Cluster(watch) => watch.next().await,
        }
    }

    /// Asks for a [`WatchUpdate::Progress`] at or above [`Log::seen`], sent once everything up to it has been delivered.
    /// Asking again before the answer asks once.
    pub fn request_progress(&mut self) {
        match &mut self.0 {
            Source::Embedded(stream) => stream.request_progress(),
            Source::Cluster(watch) => watch.request_progress(),
        }
    }
}
