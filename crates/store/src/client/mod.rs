//! A client of etcd's v3 API, for ours and for theirs, with a watch that survives.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use setpoint_store::client::{Client, ClientOptions, Item, WatchOptions, pb};
//!
//! let client = Client::new(ClientOptions::new(["http://127.0.0.1:2379"]))?;
//! client.put(pb::PutRequest { key: "a".into(), value: "1".into(), ..Default::default() }).await?;
//! let mut watcher = client.watch(WatchOptions::prefix("a"));
//! loop {
//!     match watcher.next().await? {
//!         Item::Events(events) => println!("{} events, each revision whole and once", events.len()),
//!         Item::Progress(revision) => println!("nothing is missing up to {revision}"),
//!         Item::Resync(now) => println!("history was lost; {} keys at {}", now.snapshot.len(), now.revision),
//!     }
//! }
//! # }
//! ```
//!
//! - [`Client`]: unary calls: deadlines, retries as clientv3 makes them, failover, tokens. `call`, `link`.
//! - [`Watcher`]: reconnects, resumes at the right revision, drops what it has seen, reads the range again when
//!   history is gone. `watch` does what `core` decides.
//!
//! Wire types are re-exported as [`pb`] and [`mvccpb`]. A slice in an answer keeps the whole message alive.

pub(crate) mod core;
pub(crate) mod error;
pub(crate) mod outage;
pub(crate) mod stats;

mod call;
mod lease;
mod link;
mod options;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use setpoint_base::{Stop, TaskGroup};
pub use setpoint_proto::{etcdserverpb as pb, mvccpb};

pub use self::core::backoff::ReconnectPolicy;
pub use self::core::mailbox::{Overflow, Room};
pub use self::core::watcher::{Item, Resync, Tombstone};
pub use error::{ClientError, WatchError};
pub use lease::LeaseKeeper;
pub use options::{ClientOptions, ClientTls, Credentials};
pub use stats::{StreamStats, WatcherStats};
pub use watch::{WatchOptions, Watcher, Watches};

use call::Kind;
use link::Links;

/// A client of one store: cheap to clone, all clones share connections, token and the default watch stream.
///
/// Needs a tokio runtime. When the last clone is dropped, watchers end with [`WatchError::Closed`].
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    links: Arc<Links>,
    tasks: TaskGroup,
    watches: Mutex<Option<Watches>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.0.links.options.endpoints)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// [`ClientError::Options`] when the options cannot work.
    pub fn new(options: ClientOptions) -> Result<Self, ClientError> {
        Ok(Self(Arc::new(Inner {
            links: Arc::new(Links::new(options)?),
            tasks: TaskGroup::new(&Stop::new()),
            watches: Mutex::new(None),
        })))
    }

    /// Ends all watchers and waits for what runs, at most `grace`.
    pub async fn close(&self, grace: Duration) {
        self.0.tasks.shutdown(grace).await;
    }

    /// Reads keys.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all calls.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, ClientError> {
        self.call("/etcdserverpb.KV/Range", Kind::Read, request).await
    }

    /// Writes a key.
    ///
    /// # Errors
    /// [`ClientError::Unanswered`] leaves open whether it was written.
    pub async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, ClientError> {
        self.call("/etcdserverpb.KV/Put", Kind::Write, request).await
    }

    /// Deletes keys.
    ///
    /// # Errors
    /// [`ClientError::Unanswered`] leaves open whether they were deleted.
    pub async fn delete(
        &self,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, ClientError> {
        self.call("/etcdserverpb.KV/DeleteRange", Kind::Write, request)
            .await
    }

    /// Compares and does one thing or the other. One that only reads is retried as a read.
    ///
    /// # Errors
    /// [`ClientError::Unanswered`] leaves open whether it was done.
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, ClientError> {
        let kind = if writes(&request) { Kind::Write } else { Kind::Read };
        self.call("/etcdserverpb.KV/Txn", kind, request).await
    }

    /// Gives up history before a revision.
    ///
    /// # Errors
    /// [`ClientError::Unanswered`] leaves open whether it was done.
    pub async fn compact(
        &self,
        request: pb::CompactionRequest,
    ) -> Result<pb::CompactionResponse, ClientError> {
        self.call("/etcdserverpb.KV/Compact", Kind::Write, request).await
    }

    /// What the member that answers says of itself.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<pb::StatusResponse, ClientError> {
        let request = pb::StatusRequest {};
        self.call("/etcdserverpb.Maintenance/Status", Kind::Read, request)
            .await
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn members(&self, linearizable: bool) -> Result<pb::MemberListResponse, ClientError> {
        let request = pb::MemberListRequest { linearizable };
        self.call("/etcdserverpb.Cluster/MemberList", Kind::Read, request)
            .await
    }

    /// Watches on the stream that all watchers of this client share.
    #[must_use]
    pub fn watch(&self, options: WatchOptions) -> Watcher {
        let mut shared = self.0.watches.lock();
        shared.get_or_insert_with(|| self.watches()).watch(options)
    }

    /// Another watch stream, with a connection of its own.
    #[must_use]
    pub fn watches(&self) -> Watches {
        Watches::start(self.0.links.clone(), &self.0.tasks)
    }

    async fn call<Q, A>(&self, path: &'static str, kind: Kind, request: Q) -> Result<A, ClientError>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        if self.0.tasks.stop().is_cancelled() {
            return Err(ClientError::Closed);
        }
        self.0.links.unary(path, kind, request).await
    }
}

/// Whether a transaction may write, in either branch.
fn writes(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.any(|op| match &op.request {
        Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(inner)) => writes(inner),
        _ => false,
    })
}
