//! Events end by themselves: their keys hang on store leases, one lease for all events of a minute, so that
//! leases stay few (as upstream's lease manager, apiserver `pkg/storage/etcd3/lease_manager.go`).

use std::time::Duration;

use parking_lot::Mutex;
use setpoint_apimachinery::Status;
use setpoint_store::Log;
use setpoint_store::types::LeaseId;
use tokio::time::Instant;

use crate::commit;

/// How long a lease is given to new events.
const REUSE: Duration = Duration::from_secs(60);
/// Events of one lease: their deletion is one revision.
const EVENTS_MAX: u32 = 1000;

/// The lease given out at present.
#[derive(Debug, Default)]
pub(crate) struct EventLeases(Mutex<Option<(LeaseId, Instant, u32)>>);

impl EventLeases {
    /// A lease that lives at least `ttl` from now.
    ///
    /// # Errors
    /// What the store refuses.
    pub(crate) async fn get(&self, store: &Log, ttl: Duration) -> Result<LeaseId, Status> {
        let now = Instant::now();
        if let Some((lease, granted, used)) = &mut *self.0.lock()
            && now < *granted + REUSE
            && *used < EVENTS_MAX
        {
            *used += 1;
            return Ok(*lease);
        }
        let lease = commit::lease(store, (ttl + REUSE).as_secs()).await?;
        *self.0.lock() = Some((lease, now, 1));
        Ok(lease)
    }
}
