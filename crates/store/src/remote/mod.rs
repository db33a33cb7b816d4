//! The log in an etcd cluster: the same promises, kept by its members.
//!
//! - **Reads** of the present are linearizable: asked of the leader through whichever member answers. Reads of a revision
//!   this process has seen are served by the member that is asked, and by the leader when that one lags.
//! - **Writes** are transactions on the revisions that were read. One that got no answer is settled by what the log shows
//!   ([`intent`]), or reported as [`Error::OutcomeUnknown`]; it is never done twice.
//! - **Watches** ([`watch`]) go on after a member is gone, without gap or repetition.
//!
//! Every call ends within [`ClusterOptions::patience`]. The trace of a write stays here: etcd keeps keys and values.
//!
//! Reading order: [`options`], this file, `settle`, `watch`.

mod convert;
mod failure;
mod intent;
mod keyspace;
mod lease;
mod options;
mod settle;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use setpoint_base::{Backoff, BackoffPolicy};
use setpoint_proto::etcdserverpb as pb;
use setpoint_telemetry::{DuplicateMetric, Metrics};
use tokio::time::Instant;

use crate::client::outage::Outages;
use crate::client::{Client, ClientError, ClientOptions, ClientTls, Credentials, Watches};
use crate::error::Error;
use crate::types::*;
use failure::{Asked, Failure};
use keyspace::Keyspace;

pub use options::ClusterOptions;
pub(crate) use watch::ClusterWatch;

/// Keys in the first answer of a wide read; later ones follow the size of what came.
const PAGE_FIRST: usize = 100;
/// Most keys in one answer.
const PAGE_MAX: usize = 10_000;
/// Bytes an answer should have: the members hold each one in memory whole, and so does this process.
const PAGE_BYTES: usize = 2 << 20;
/// How long watch streams may take to end.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Between tries.
const RETRY: BackoffPolicy = BackoffPolicy {
    base: Duration::from_millis(25),
    max: Duration::from_millis(500),
    factor: 2.0,
    jitter: 0.5,
};

/// A log in a cluster. Cloning is cheap; all clones share connections.
#[derive(Clone)]
pub(crate) struct Cluster(Arc<Inner>);

struct Inner {
    client: Client,
    /// For watchers that read the past: etcd answers no progress request while one of the stream's watchers is behind.
    past: Watches,
    outages: Arc<Outages>,
    space: Keyspace,
    patience: Duration,
    /// The newest revision that any answer carried.
    seen: AtomicI64,
}

impl Cluster {
    /// A handle; nothing is connected yet.
    pub(crate) fn open(options: &ClusterOptions) -> Result<Self, Error> {
        options
            .validate()
            .map_err(|problems| Error::Refused(problems.join("; ")))?;
        let refused = |error: ClientError| Error::Refused(error.to_string());
        let outages = Arc::<Outages>::default();
        let mut client = client_options(options);
        client.outages = Some(Arc::clone(&outages));
        let client = Client::new(client).map_err(refused)?;
        Ok(Self(Arc::new(Inner {
            outages,
            past: client.watches(),
            client,
            space: Keyspace::new(&options.prefix),
            patience: options.patience,
            seen: AtomicI64::new(0),
        })))
    }

    /// Adds the metrics of this cluster's outages.
    pub(crate) fn register_metrics(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        self.0.outages.register(metrics)
    }

    pub(crate) fn seen(&self) -> Revision {
        Revision(self.0.seen.load(Ordering::Acquire))
    }

    fn saw(&self, header: Option<&pb::ResponseHeader>) {
        self.saw_revision(convert::revision(header));
    }

    fn saw_revision(&self, revision: Revision) {
        self.0.seen.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// The newest committed revision.
    pub(crate) async fn revision(&self) -> Result<Revision, Error> {
        // Any key will do: every answer says how far the log is. This one is below the prefix, which may be all that the
        // cluster's user can read.
        let mut range = Range::key("/");
        range.count_only = true;
        Ok(self.range(&range).await?.revision)
    }

    pub(crate) async fn range(&self, range: &Range) -> Result<RangeResult, Error> {
        let whole = range.limit > 0 && range.limit <= PAGE_FIRST;
        let one = matches!(range.keys, KeyRange::Key(_)) || range.count_only;
        let plain = range.sort.is_none() && range.mod_bounds == (0, 0) && range.create_bounds == (0, 0);
        if whole || one || !plain {
            return self.page(range).await;
        }
        self.pages(range).await
    }

    /// A wide range, answer by answer, at the revision of the first.
    async fn pages(&self, range: &Range) -> Result<RangeResult, Error> {
        let mut step = range.clone();
        step.limit = PAGE_FIRST;
        let mut result = RangeResult::default();
        loop {
            let left = range.limit.saturating_sub(result.kvs.len());
            if range.limit > 0 {
                step.limit = step.limit.min(left);
            }
            let page = self.page(&step).await?;
            if step.revision.is_none() || result.revision == Revision::default() {
                step.revision = step.revision.or(Some(page.revision));
                (result.revision, result.count) = (page.revision, page.count);
            }
            step.limit = next_limit(step.limit, &page.kvs);
            let last = page.kvs.last().map(|kv| kv.key.clone());
            result.kvs.extend(page.kvs);
            result.more = page.more;
            match last {
                Some(last) if page.more && (range.limit == 0 || result.kvs.len() < range.limit) => {
                    let start = [&last[..], b"\0"].concat().into();
                    step.keys = match &range.keys {
                        KeyRange::Span(_, end) => KeyRange::Span(start, end.clone()),
                        KeyRange::Key(_) | KeyRange::From(_) => KeyRange::From(start),
                    };
                }
                _ => return Ok(result),
            }
        }
    }

    /// One answer.
    async fn page(&self, range: &Range) -> Result<RangeResult, Error> {
        let mut request = convert::range(&self.0.space, range);
        // What is past does not change: a member that has it may say it.
        request.serializable = range.revision.is_some_and(|revision| revision <= self.seen());
        let mut tries = Tries::new(self.0.patience);
        loop {
            let asked = Asked {
                revision: range.revision,
                lease: None,
                seen: self.seen(),
            };
            let error = match self.0.client.range(request.clone()).await {
                Ok(answer) => {
                    self.saw(answer.header.as_ref());
                    return Ok(convert::range_result(&self.0.space, &answer));
                }
                Err(error) => error,
            };
            let why = match failure::of_read(&error, asked) {
                Failure::Final(Error::FutureRevision { .. }) if request.serializable => {
                    request.serializable = false;
                    continue;
                }
                Failure::Final(error) => return Err(error),
                Failure::NotYet(why) | Failure::Unsure(why) => why,
            };
            if !tries.again().await {
                return Err(Error::Unavailable(why));
            }
        }
    }

    /// Ends all watches and connections.
    pub(crate) async fn close(&self) {
        self.0.client.close(CLOSE_GRACE).await;
    }
}

fn client_options(options: &ClusterOptions) -> ClientOptions {
    let mut client = ClientOptions::new(options.endpoints.clone());
    client.tls = options.ca.as_ref().map(|ca| ClientTls {
        ca: ca.to_vec(),
        identity: options
            .identity
            .as_ref()
            .map(|(cert, key)| (cert.to_vec(), key.to_vec())),
        server_name: None,
    });
    client.credentials = options.credentials.as_ref().map(|(user, password)| Credentials {
        user: user.clone(),
        password: password.clone(),
    });
    client.flow.clone_from(&options.flow);
    client.request_timeout = options.attempt_timeout;
    client.connect_timeout = client.connect_timeout.min(options.attempt_timeout);
    client
}

/// How many keys to ask for next, after an answer with these.
fn next_limit(limit: usize, kvs: &[KeyValue]) -> usize {
    let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    if bytes < PAGE_BYTES / 2 {
        (limit * 2).min(PAGE_MAX)
    } else if bytes > PAGE_BYTES {
        (limit / 2).max(1)
    } else {
        limit
    }
}

/// Tries of one call, until the patience ends.
struct Tries {
    until: Instant,
    backoff: Backoff,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self {
            until: Instant::now() + patience,
            backoff: Backoff::new(RETRY, fastrand::u64(..)),
        }
    }

    /// Waits for the next try; `false` when there is no time for one.
    async fn again(&mut self) -> bool {
        let wait = self.backoff.next_wait();
        if Instant::now() + wait >= self.until {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}
