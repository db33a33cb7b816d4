//! What the server says on the stream.

use std::sync::atomic::Ordering;

use setpoint_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::{Effect, Failure, Link, REFUSALS_MAX, RequestUnion, Stream, WatcherId};
use crate::client::core::mailbox::Overflow;
use crate::client::core::watcher::{Item, Phase, Watched, count};
use crate::client::error::{NO_LEADER, WatchError, token_refused};

/// Who an answer without a watcher of its own is meant for.
const NO_ID: i64 = -1;

impl Stream {
    pub(super) fn message(&mut self, message: pb::WatchResponse, now: Instant) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.link = Link::Open;
        self.hear(now);
        count(&self.counters.messages, 1);
        if self.another_cluster(&message) {
            return;
        }
        if message.created {
            self.created(&message, now);
        } else if message.canceled {
            self.canceled(&message, now);
        } else if message.events.is_empty() && !message.fragment {
            self.progress(&message);
        } else {
            self.events(message);
        }
    }

    /// Revisions of one cluster mean nothing in another: everybody has to read its range again.
    fn another_cluster(&mut self, message: &pb::WatchResponse) -> bool {
        let Some(id) = message.header.as_ref().map(|header| header.cluster_id) else {
            return false;
        };
        if id == 0 || *self.cluster.get_or_insert(id) == id {
            return false;
        }
        self.cluster = Some(id);
        // Whoever has not been created anywhere yet has no past to lose.
        let mut ids: Vec<_> = self
            .watchers
            .iter()
            .filter(|(_, it)| it.has_past)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        // The stream goes too: answers on it belong to creates that are not wanted any more.
        self.drop_link(self.heard);
        for id in ids {
            self.queue.retain(|queued| *queued != id);
            self.history_lost(id, 0);
        }
        true
    }

    /// The answer to the oldest create request.
    fn created(&mut self, message: &pb::WatchResponse, now: Instant) {
        let Some(slot) = self.in_flight.pop_front() else {
            self.cancel(message.watch_id);
            return;
        };
        let Some(id) = slot else {
            if !message.canceled {
                self.cancel(message.watch_id);
            }
            return;
        };
        if message.canceled || message.watch_id == NO_ID {
            self.refused(id, &message.cancel_reason, now);
            return;
        }
        self.attempts.succeeded();
        self.unreachable = None;
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        watched.phase = Phase::Active(message.watch_id);
        watched.refusals = 0;
        let revision = message.header.as_ref().map_or(0, |header| header.revision);
        let from_now = watched.position.pin(revision);
        let counters = &watched.spec.counters;
        counters.head.fetch_max(revision, Ordering::Relaxed);
        if watched.resumed {
            count(&counters.reconnects, 1);
        } else {
            counters.seen.store(watched.position.next - 1, Ordering::Relaxed);
        }
        watched.resumed = true;
        watched.has_past = true;
        let park = watched.full && watched.spec.overflow != Overflow::Pause;
        // An id that the server uses again is not the one that was cancelled.
        self.cancelled.remove(&message.watch_id);
        self.by_id.insert(message.watch_id, id);
        if from_now {
            self.effects.push(Effect::Deliver(id, Item::Progress(revision)));
        }
        if park {
            self.park(id, message.watch_id);
        }
    }

    fn refused(&mut self, id: WatcherId, reason: &str, now: Instant) {
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        if reason == NO_LEADER {
            return self.broken(&failure(reason), now);
        }
        watched.refusals += 1;
        if token_refused(reason) && watched.refusals <= REFUSALS_MAX {
            // The token is the stream's: a new one needs a new stream.
            self.effects.push(Effect::RenewToken);
            return self.broken(&failure(reason), now);
        }
        self.finish(
            id,
            WatchError::Refused {
                reason: reason.to_owned(),
            },
        );
    }

    fn canceled(&mut self, message: &pb::WatchResponse, now: Instant) {
        if self.cancelled.remove(&message.watch_id) {
            return;
        }
        let Some(id) = self.by_id.remove(&message.watch_id) else {
            return;
        };
        if message.compact_revision != 0 {
            self.let_go(message.watch_id);
            return self.history_lost(id, message.compact_revision);
        }
        if message.cancel_reason == NO_LEADER {
            return self.broken(&failure(&message.cancel_reason), now);
        }
        self.finish(
            id,
            WatchError::Refused {
                reason: message.cancel_reason.clone(),
            },
        );
    }

    /// etcd keeps a watcher that compaction has ended on its stream, and answers no progress request of anybody there, until
    /// it is cancelled (`server/storage/mvcc/watchable_store.go`, `progressIfSync`). The answer, where there is one, finds
    /// nobody.
    fn let_go(&mut self, server_id: i64) {
        self.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id: server_id,
        }));
    }

    /// Events between the watcher's position and `compacted` are gone for good.
    fn history_lost(&mut self, id: WatcherId, compacted: i64) {
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        count(&watched.spec.counters.compactions, 1);
        if watched.spec.resync {
            watched.relist();
            self.relists.remove(&id);
            return self.list(id);
        }
        let error = if compacted == 0 {
            WatchError::AnotherCluster
        } else {
            WatchError::Compacted {
                asked: watched.position.next,
                compacted,
            }
        };
        self.finish(id, error);
    }

    fn progress(&mut self, message: &pb::WatchResponse) {
        let revision = message.header.as_ref().map_or(0, |header| header.revision);
        if revision == 0 {
            return;
        }
        if message.watch_id != NO_ID {
            if let Some(id) = self.by_id.get(&message.watch_id).copied() {
                self.bookmark(id, revision);
            }
            return;
        }
        let mut ids: Vec<_> = self.by_id.values().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.bookmark(id, revision);
        }
    }

    fn bookmark(&mut self, id: WatcherId, revision: i64) {
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        let counters = watched.spec.counters.clone();
        counters.head.fetch_max(revision, Ordering::Relaxed);
        if watched.partial.is_empty() && watched.position.bookmark(revision) {
            counters.seen.store(revision, Ordering::Relaxed);
            self.effects.push(Effect::Deliver(id, Item::Progress(revision)));
        }
    }

    fn events(&mut self, message: pb::WatchResponse) {
        let Some(id) = self.by_id.get(&message.watch_id).copied() else {
            // Of a watcher that nobody has: said once, or known to be on its way out.
            self.cancel(message.watch_id);
            return;
        };
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        if let Some(header) = &message.header {
            watched
                .spec
                .counters
                .head
                .fetch_max(header.revision, Ordering::Relaxed);
        }
        if let Some(events) = assemble(watched, message) {
            let fresh = watched.admit(events);
            if !fresh.is_empty() {
                self.effects.push(Effect::Deliver(id, Item::Events(fresh)));
            }
        }
    }
}

/// The whole answer, when this was its last part.
fn assemble(watched: &mut Watched, message: pb::WatchResponse) -> Option<Vec<setpoint_proto::mvccpb::Event>> {
    if message.fragment {
        watched.partial.extend(message.events);
        return None;
    }
    if watched.partial.is_empty() {
        return Some(message.events);
    }
    let mut whole = std::mem::take(&mut watched.partial);
    whole.extend(message.events);
    Some(whole)
}

fn failure(reason: &str) -> Failure {
    Failure {
        code: tonic::Code::Unavailable,
        message: reason.to_owned(),
    }
}
