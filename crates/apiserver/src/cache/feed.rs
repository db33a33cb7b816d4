//! Keeps a cache equal to the store: one list at R, then every event after R.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_apimachinery::encoded::Encoded;
use setpoint_base::{Backoff, BackoffPolicy, Chain, Stop};
use setpoint_store::types::{EventKind, KeyRange, Range, Revision, WatchSpec, WatchUpdate};
use setpoint_store::{Error, Log, LogWatch};
use tokio::time::Instant;

use super::{Cache, Incoming};
use crate::storage::Storage;

/// Objects read from the store at a time, between which other tasks run.
const LIST_PAGE: usize = 500;

/// A feed that followed for so long was well: the waits begin anew.
const WELL: Duration = Duration::from_secs(10);

const RETRY: BackoffPolicy = BackoffPolicy {
    base: Duration::from_millis(20),
    max: Duration::from_secs(5),
    factor: 2.0,
    jitter: 0.5,
};

/// Feeds the cache until `stop`. A log that fails is tried again; one that stops ends it.
pub(crate) async fn run(cache: Arc<Cache>, storage: Arc<Storage>, store: Log, stop: Stop) {
    let mut backoff = Backoff::new(RETRY, fastrand::u64(..));
    loop {
        let feed = Feed {
            cache: &cache,
            storage: &storage,
            store: &store,
        };
        let mut listed = None;
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            ended = feed.once(&mut listed) => ended,
        };
        // One that lists well and breaks at once, again and again, still waits longer each time.
        if listed.is_some_and(|at| at.elapsed() >= WELL) {
            backoff.reset();
        }
        match ended {
            Error::Stopped => return,
            error => {
                tracing::warn!(resource = %storage.prefix_text(), error = %Chain(&error), "object cache lists again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next_wait()) => (),
        }
    }
}

struct Feed<'a> {
    cache: &'a Cache,
    storage: &'a Storage,
    store: &'a Log,
}

impl Feed<'_> {
    /// Lists, then follows, until that ends. `listed` is when the following began.
    async fn once(&self, listed: &mut Option<Instant>) -> Error {
        match self.begin().await {
            Ok(mut watch) => {
                *listed = Some(Instant::now());
                self.follow(&mut watch).await
            }
            Err(error) => error,
        }
    }

    /// Shows what is there, and watches what comes.
    async fn begin(&self) -> Result<LogWatch, Error> {
        let (objects, revision) = self.list().await?;
        let keys = KeyRange::prefix(self.storage.prefix());
        let mut spec = WatchSpec::new(keys, Some(Revision(revision).next()));
        spec.prev_kv = false;
        let watch = self.store.watch(spec)?;
        self.cache.replace(objects, revision_u64(Revision(revision)));
        Ok(watch)
    }

    async fn list(&self) -> Result<(Vec<Encoded>, i64), Error> {
        let mut revision = None;
        let mut objects = Vec::new();
        let whole = KeyRange::prefix(self.storage.prefix());
        let mut start = whole.start().clone();
        loop {
            let mut range = Range::of(tail(&whole, start));
            range.limit = LIST_PAGE;
            range.revision = revision;
            let page = self.store.range(&range).await?;
            revision = revision.or(Some(page.revision));
            objects.extend(page.kvs.iter().filter_map(|kv| self.storage.read(kv, None)));
            let (true, Some(last)) = (page.more, page.kvs.last()) else {
                return Ok((objects, revision.unwrap_or(Revision::INITIAL).0));
            };
            start = after(&last.key);
            tokio::task::yield_now().await;
        }
    }

    async fn follow(&self, stream: &mut LogWatch) -> Error {
        loop {
            let update = tokio::select! {
                update = stream.next() => update,
                () = self.cache.progress.notified() => {
                    stream.request_progress();
                    continue;
                }
            };
            match update {
                Err(error) | Ok(WatchUpdate::Failed { error, .. }) => return error,
                Ok(WatchUpdate::Compacted { floor, .. }) => {
                    return Error::Compacted {
                        asked: Revision(i64::try_from(self.cache.shown()).unwrap_or(i64::MAX)),
                        floor,
                    };
                }
                Ok(WatchUpdate::Progress { revision, .. }) => {
                    self.cache.apply(Vec::new(), revision_u64(revision));
                }
                Ok(WatchUpdate::Events { events, .. }) => {
                    let shown = events
                        .last()
                        .map_or(0, |event| revision_u64(event.kv.mod_revision));
                    let changes = events.iter().filter_map(|event| {
                        let revision = revision_u64(event.kv.mod_revision);
                        let incoming = match event.kind {
                            EventKind::Put => Incoming::Put(self.storage.read(&event.kv, event.trace)?),
                            EventKind::Delete => {
                                let (namespace, name) = self.storage.split_key(&event.kv.key)?;
                                Incoming::Delete(namespace, name, event.trace)
                            }
                        };
                        Some((revision, incoming))
                    });
                    self.cache.apply(changes.collect(), shown);
                }
            }
        }
    }
}

/// The smallest key after this one.
pub(crate) fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// What is left of a range from `start` on.
pub(crate) fn tail(whole: &KeyRange, start: Bytes) -> KeyRange {
    match whole {
        KeyRange::Span(_, end) => KeyRange::Span(start, end.clone()),
        KeyRange::Key(_) | KeyRange::From(_) => KeyRange::From(start),
    }
}

/// Revisions are never negative.
pub(crate) fn revision_u64(revision: Revision) -> u64 {
    u64::try_from(revision.0).unwrap_or(0)
}
