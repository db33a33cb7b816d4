//! How many requests are answered at once. A full server says 429 with Retry-After instead of queueing.

use std::sync::Arc;

use setpoint_apimachinery::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::options::Options;

/// Permits for reads and for writes. Watches hold none while they are open.
#[derive(Debug)]
pub(crate) struct Inflight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
}

impl Inflight {
    /// As many as the options say.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            reads: Arc::new(Semaphore::new(options.inflight_reads_max)),
            writes: Arc::new(Semaphore::new(options.inflight_writes_max)),
        }
    }

    /// A permit for one request.
    ///
    /// # Errors
    /// 429 when all are taken.
    pub(crate) fn enter(&self, mutating: bool) -> Result<OwnedSemaphorePermit, Status> {
        let permits = if mutating { &self.writes } else { &self.reads };
        Arc::clone(permits)
            .try_acquire_owned()
            .map_err(|_| Status::too_many_requests(1))
    }
}
