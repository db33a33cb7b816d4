//! A range read again because history is gone.

use setpoint_proto::etcdserverpb as pb;
use tokio::time::Instant;

use super::{Effect, Failure, Stream, WatcherId};
use crate::client::core::watcher::{Item, Phase, count};
use crate::client::error::{COMPACTED, WatchError};

impl Stream {
    /// Asks for the next page, if the watcher is listing.
    pub(super) fn list(&mut self, id: WatcherId) {
        if let Some(watched) = self.watchers.get(&id)
            && let Phase::Listing(listing) = &watched.phase
        {
            self.effects
                .push(Effect::List(id, listing.number, listing.request()));
        }
    }

    pub(super) fn page(&mut self, id: WatcherId, number: u64, page: pb::RangeResponse) {
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        let Phase::Listing(listing) = &mut watched.phase else {
            return;
        };
        if listing.number != number {
            return;
        }
        let Some((snapshot, revision)) = listing.page(page) else {
            return self.list(id);
        };
        let resync = watched.resync(snapshot, revision);
        count(&watched.spec.counters.resyncs, 1);
        self.effects.push(Effect::Deliver(id, Item::Resync(resync)));
        self.queue.push_back(id);
    }

    pub(super) fn page_failed(&mut self, id: WatcherId, number: u64, failure: &Failure, now: Instant) {
        use tonic::Code;
        let Some(watched) = self.watchers.get_mut(&id) else {
            return;
        };
        let Phase::Listing(listing) = &mut watched.phase else {
            return;
        };
        if listing.number != number {
            return;
        }
        let failed = listing.failed;
        listing.failed = failed.saturating_add(1);
        match failure.code {
            // The pages' revision was overtaken: a new listing pins a newer one.
            _ if failure.message.contains(COMPACTED) => watched.relist(),
            Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented | Code::InvalidArgument => {
                let reason = failure.message.clone();
                return self.finish(id, WatchError::Refused { reason });
            }
            _ => (),
        }
        let wait = self.config.reconnect.wait(failed, self.attempts.random());
        self.relists.insert(id, now + wait);
    }
}
