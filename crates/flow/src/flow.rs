//! What all connections of a process share: how windows are set, the receive budget, and who is there.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use setpoint_telemetry::{DuplicateMetric, Metrics};

use crate::channel::{ChannelSnapshot, Channels};
use crate::connection_metrics::ConnectionMetrics;
use crate::core::budget::{Ledger, Taker};
use crate::gauges::Gauges;
use crate::options::FlowOptions;
use crate::snapshot::{BudgetSnapshot, FlowSnapshot};

/// Flow control of a process, shared by its fronts and clients. Cloning gives another handle.
#[derive(Clone, Default)]
pub struct Flow(Arc<Inner>);

struct Inner {
    options: FlowOptions,
    ledger: Mutex<Ledger>,
    /// What has arrived on all connections and is not read, in bytes.
    unread: AtomicI64,
    metrics: ConnectionMetrics,
    next: AtomicU64,
    /// Live connections, in slots that are used again.
    live: Mutex<Slots>,
    channels: Channels,
}

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Arc<Gauges>>>,
    free: Vec<usize>,
}

impl Default for Inner {
    fn default() -> Self {
        Self::new(FlowOptions::default())
    }
}

impl Inner {
    fn new(options: FlowOptions) -> Self {
        Self {
            options,
            ledger: Mutex::new(Ledger::new(options.budget_bytes)),
            unread: AtomicI64::new(0),
            metrics: ConnectionMetrics::new(options.budget_bytes),
            next: AtomicU64::new(1),
            live: Mutex::default(),
            channels: Channels::default(),
        }
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("options", &self.0.options)
            .finish_non_exhaustive()
    }
}

impl Flow {
    /// With these options.
    #[must_use]
    pub fn new(options: FlowOptions) -> Self {
        Self(Arc::new(Inner::new(options)))
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &FlowOptions {
        &self.0.options
    }

    /// Adds the metrics of connections and of channels.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register_metrics(&self, metrics: &Metrics) -> Result<(), DuplicateMetric> {
        self.0.metrics.register(metrics)?;
        self.0.channels.metrics.register(metrics)
    }

    pub(crate) fn channels(&self) -> &Channels {
        &self.0.channels
    }

    /// Every channel at this moment, the oldest first.
    #[must_use]
    pub fn channel_snapshots(&self) -> Vec<ChannelSnapshot> {
        self.0.channels.snapshot()
    }

    pub(crate) fn metrics(&self) -> &ConnectionMetrics {
        &self.0.metrics
    }

    /// Makes a connection known until what is returned is dropped. `front` says what serves it, or `client`.
    #[must_use]
    pub fn open(&self, front: &'static str, peer: &str) -> Live {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let gauges = Arc::new(Gauges::new(id, front, peer));
        let mut live = self.0.live.lock();
        let slot = match live.free.pop() {
            Some(slot) => {
                live.slots[slot] = Some(gauges.clone());
                slot
            }
            None => {
                live.slots.push(Some(gauges.clone()));
                live.slots.len() - 1
            }
        };
        drop(live);
        self.0.metrics.opened(front);
        Live {
            flow: self.clone(),
            gauges,
            slot,
        }
    }

    /// Every connection at this moment.
    #[must_use]
    pub fn snapshot(&self) -> FlowSnapshot {
        self.snapshot_of(&self.live())
    }

    /// The connections that matter most at this moment, so many at most, and how many there are. The others cost a glance each,
    /// however much they have to tell.
    pub(crate) fn snapshot_of_most(&self, most: usize) -> (usize, FlowSnapshot) {
        let mut live = self.live();
        let total = live.len();
        if total > most {
            live.sort_by_cached_key(|gauges| std::cmp::Reverse(gauges.weight()));
            live.truncate(most);
        }
        (total, self.snapshot_of(&live))
    }

    /// The lock is not held while the gauges are read.
    fn live(&self) -> Vec<Arc<Gauges>> {
        self.0.live.lock().slots.iter().flatten().cloned().collect()
    }

    fn snapshot_of(&self, live: &[Arc<Gauges>]) -> FlowSnapshot {
        let mut connections: Vec<_> = live.iter().map(|gauges| gauges.snapshot()).collect();
        connections.sort_unstable_by_key(|connection| connection.id);
        let ledger = self.0.ledger.lock();
        FlowSnapshot {
            budget: BudgetSnapshot {
                total_bytes: ledger.total(),
                wanted_bytes: ledger.wanted(),
                unread_bytes: self.unread(),
                pressed: self.is_pressed(),
            },
            connections,
        }
    }

    fn unread(&self) -> u64 {
        u64::try_from(self.0.unread.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether so much is unread that windows have to close: three quarters of the budget.
    pub(crate) fn is_pressed(&self) -> bool {
        self.unread() > self.0.options.budget_bytes / 4 * 3
    }

    /// What of the budget is left, in bytes.
    pub(crate) fn room(&self) -> u64 {
        self.0.options.budget_bytes.saturating_sub(self.unread())
    }

    /// A connection's part in the budget.
    pub(crate) fn lease(&self) -> Lease {
        Lease {
            flow: self.clone(),
            taker: None,
            unread: 0,
        }
    }
}

/// A connection that is known to its [`Flow`] until this is dropped.
#[derive(Debug)]
pub struct Live {
    flow: Flow,
    gauges: Arc<Gauges>,
    slot: usize,
}

impl Live {
    /// The flow control it is under.
    #[must_use]
    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// What is counted of it.
    #[must_use]
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.gauges
    }
}

impl Deref for Live {
    type Target = Gauges;

    fn deref(&self) -> &Gauges {
        &self.gauges
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = self.flow.0.live.lock();
        live.slots[self.slot] = None;
        live.free.push(self.slot);
        drop(live);
        self.flow.0.metrics.closed(self.gauges.front);
    }
}

/// A connection's part in the receive budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    flow: Flow,
    /// `None` as long as it needs no more than every connection has.
    taker: Option<Taker>,
    unread: i64,
}

impl Lease {
    /// Wants so many bytes; what it gets.
    pub(crate) fn want(&mut self, bytes: u64) -> u64 {
        let mut ledger = self.flow.0.ledger.lock();
        let taker = *self.taker.get_or_insert_with(|| ledger.join(1));
        let granted = ledger.want(taker, bytes);
        self.flow.0.metrics.wanted(ledger.wanted());
        granted
    }

    /// Needs no more than every connection has.
    pub(crate) fn rest(&mut self) {
        if let Some(taker) = self.taker.take() {
            let mut ledger = self.flow.0.ledger.lock();
            ledger.leave(taker);
            self.flow.0.metrics.wanted(ledger.wanted());
        }
    }

    /// The most it could get.
    pub(crate) fn most(&mut self) -> u64 {
        let mut ledger = self.flow.0.ledger.lock();
        let taker = *self.taker.get_or_insert_with(|| ledger.join(1));
        let wanted = ledger.wanted_by(taker);
        let total = ledger.total();
        let most = ledger.want(taker, total);
        ledger.want(taker, wanted);
        most
    }

    /// So many bytes of it have arrived and are not read.
    pub(crate) fn unread(&mut self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let more = bytes - std::mem::replace(&mut self.unread, bytes);
        if more != 0 {
            let all = self.flow.0.unread.fetch_add(more, Ordering::Relaxed) + more;
            self.flow.0.metrics.unread(all);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.unread(0);
        self.rest();
    }
}
