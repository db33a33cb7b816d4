//! One watcher of a cluster.
//!
//! etcd answers a progress request only when all watchers of the stream have everything, and from the member's own point
//! of view, which may be behind the revision somebody waits for. So the request is repeated until that revision has come.
//! Watchers that begin in the past have a stream of their own, where they hold up nobody.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use setpoint_proto::mvccpb;
use tokio::time::{Instant, Sleep};

use super::{Cluster, convert};
use crate::client::{Item, Overflow, WatchError, WatchOptions, Watcher};
use crate::error::Error;
use crate::types::{Revision, WatchSpec, WatchUpdate};

/// Between progress requests while somebody waits (apiserver `pkg/storage/cacher/progress` asks as often).
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A start further back than this is the past.
const PAST: i64 = 256;
/// The watcher's name in updates: there is one.
const ID: i64 = 0;

/// One watcher.
pub(crate) struct ClusterWatch {
    cluster: Cluster,
    watcher: Watcher,
    /// Everything up to here has been handed out.
    shown: Revision,
    /// Somebody waits for this revision; when to ask again.
    wanted: Option<(Revision, Pin<Box<Sleep>>)>,
}

impl Cluster {
    /// A watcher; it is being made when this returns.
    ///
    /// # Errors
    /// [`Error::EmptyWatchRange`].
    pub(crate) fn watch(&self, spec: &WatchSpec) -> Result<ClusterWatch, Error> {
        let (key, range_end) = self.0.space.range(&spec.keys);
        if range_end.len() > 1 && range_end <= key {
            return Err(Error::EmptyWatchRange);
        }
        let start = spec.start.map_or(0, |start| start.0.max(0));
        let mut options = WatchOptions::range(key, range_end).from(start);
        // Whoever watches here lists for itself.
        options.resync = false;
        options.prev_kv = spec.prev_kv;
        options.progress = spec.progress;
        options.no_put = spec.no_put;
        options.no_delete = spec.no_delete;
        options.overflow = Overflow::Park;
        let past = start > 0 && start + PAST < self.seen().0;
        let watcher = if past {
            self.0.past.watch(options)
        } else {
            self.0.client.watch(options)
        };
        Ok(ClusterWatch {
            cluster: self.clone(),
            watcher,
            shown: Revision(start - 1),
            wanted: None,
        })
    }
}

impl ClusterWatch {
    /// The next update. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<WatchUpdate, Error> {
        loop {
            let item = match &mut self.wanted {
                None => self.watcher.next().await,
                Some((_, ask)) => tokio::select! {
                    item = self.watcher.next() => item,
                    () = ask.as_mut() => {
                        ask.as_mut().reset(Instant::now() + ASK_EVERY);
                        self.watcher.request_progress();
                        continue;
                    }
                },
            };
            if let Some(update) = self.update(item)? {
                return Ok(update);
            }
        }
    }

    /// Asks for progress up to what has been seen of the log so far, until it has come.
    pub(crate) fn request_progress(&mut self) {
        let target = self.cluster.seen();
        match &mut self.wanted {
            Some((wanted, _)) => *wanted = (*wanted).max(target),
            None => {
                self.watcher.request_progress();
                self.wanted = Some((target, Box::pin(tokio::time::sleep(ASK_EVERY))));
            }
        }
    }

    /// What an item means, if it is news.
    fn update(&mut self, item: Result<Item, WatchError>) -> Result<Option<WatchUpdate>, Error> {
        match item {
            Ok(Item::Events(events)) => Ok(self.events(&events)),
            Ok(Item::Progress(revision)) => {
                let revision = Revision(revision);
                self.show(revision);
                Ok(Some(WatchUpdate::Progress { id: None, revision }))
            }
            // Not asked for, and not to be passed over: list again.
            Ok(Item::Resync(resync)) => Ok(Some(compacted(resync.revision))),
            Err(WatchError::Compacted { compacted: floor, .. }) => Ok(Some(compacted(floor))),
            Err(WatchError::Closed) => Err(Error::Stopped),
            Err(error @ WatchError::Unreachable { .. }) => Err(Error::Unavailable(error.to_string())),
            Err(error) => Err(Error::Refused(error.to_string())),
        }
    }

    fn events(&mut self, events: &[mvccpb::Event]) -> Option<WatchUpdate> {
        let space = &self.cluster.0.space;
        let events: Vec<_> = events
            .iter()
            .filter_map(|event| convert::event(space, event))
            .map(Arc::new)
            .collect();
        let revision = events.last()?.kv.mod_revision;
        self.show(revision);
        Some(WatchUpdate::Events {
            id: ID,
            revision,
            events,
        })
    }

    fn show(&mut self, revision: Revision) {
        self.shown = self.shown.max(revision);
        self.cluster.saw_revision(revision);
        if matches!(&self.wanted, Some((wanted, _)) if *wanted <= self.shown) {
            self.wanted = None;
        }
    }
}

fn compacted(floor: i64) -> WatchUpdate {
    WatchUpdate::Compacted {
        id: ID,
        floor: Revision(floor),
    }
}
