//! What all calls of a channel share: its endpoints, and the choice among them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use setpoint_base::TaskGroup;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::dial::{Dialer, Tls};
use super::endpoint::Endpoint;
use super::error::ChannelError;
use super::lease::Lease;
use super::metrics::Meters;
use super::options::ChannelOptions;
use super::origin::Origin;
use super::target::{Address, Target};
use crate::core::latency::two_of;
use crate::core::outlier::{Tally, outliers};
use crate::core::retry::Budget;
use crate::flow::Flow;

/// Shared by the handles, the calls and the tasks of a channel.
pub(super) struct Hub {
    pub(super) options: ChannelOptions,
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) tls: Option<Tls>,
    pub(super) origin: Origin,
    pub(super) dialer: Arc<dyn Dialer>,
    pub(super) tasks: TaskGroup,
    pub(super) flow: Flow,
    pub(super) meters: Meters,
    pub(super) budget: Budget,
    /// Something that calls wait for may have come: a slot, a connection, a failure.
    pub(super) changed: Notify,
    /// Addresses may have changed.
    pub(super) look_up: Notify,
    pub(super) endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    pub(super) lookup_failure: Mutex<Option<Arc<str>>>,
    /// Sequentially consistent with the links' slots: who waits sees the slot, or who frees it sees that somebody waits.
    pub(super) waiting: AtomicUsize,
    pub(super) closing: AtomicBool,
    grace: Mutex<Duration>,
    next_sweep: Mutex<Instant>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        for endpoint in self.endpoints.load().iter() {
            self.meters.forget(&endpoint.name);
        }
    }
}

/// What a channel lives in.
pub(super) struct Surroundings {
    pub(super) dialer: Arc<dyn Dialer>,
    pub(super) tasks: TaskGroup,
    pub(super) flow: Flow,
    pub(super) meters: Meters,
    pub(super) origin: Origin,
}

/// Why there is no slot at the moment.
enum NoSlot {
    /// Connections are up, but full.
    Full,
    /// The first connections are being made.
    Connecting,
    /// No endpoint can be reached.
    Failed(Arc<str>),
}

/// What a call asks the hub for.
pub(super) struct Want<'a> {
    pub(super) until: Instant,
    pub(super) wait_for_ready: bool,
    /// Endpoints that other attempts of the call are on, or have failed at: taken only if there is no other.
    pub(super) avoid: &'a [Arc<str>],
}

impl Hub {
    pub(super) fn new(
        options: ChannelOptions,
        name: String,
        target: Target,
        tls: Option<Tls>,
        surroundings: Surroundings,
    ) -> Self {
        let Surroundings {
            dialer,
            tasks,
            flow,
            meters,
            origin,
        } = surroundings;
        Self {
            budget: Budget::new(options.retry_tokens, options.retry_token_ratio),
            next_sweep: Mutex::new(Instant::now()),
            options,
            name,
            target,
            tls,
            origin,
            dialer,
            tasks,
            flow,
            meters,
            changed: Notify::new(),
            look_up: Notify::new(),
            endpoints: ArcSwap::default(),
            lookup_failure: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            grace: Mutex::new(Duration::ZERO),
        }
    }

    /// Ends the channel; calls in flight have this long.
    pub(super) fn close(&self, grace: Duration) {
        *self.grace.lock() = grace;
        self.closing.store(true, Ordering::Relaxed);
        self.tasks.stop().cancel();
        self.changed.notify_waiters();
    }

    /// Ends the channel when what it lives in ends: calls that wait are answered.
    pub(super) async fn end_with_surroundings(self: Arc<Self>) {
        self.tasks.stop().cancelled().await;
        self.closing.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(super) fn grace(&self) -> Duration {
        *self.grace.lock()
    }

    /// The target has these addresses from now on.
    pub(super) fn set_addresses(self: &Arc<Self>, addresses: BTreeSet<Address>) {
        let mut left = addresses;
        while left.len() > self.options.endpoints_max {
            left.pop_last();
        }
        let before = self.endpoints.load_full();
        let mut after = Vec::with_capacity(left.len());
        let mut gone = Vec::new();
        for endpoint in before.iter() {
            if left.remove(&endpoint.address) {
                after.push(Arc::clone(endpoint));
            } else {
                gone.push(endpoint);
            }
        }
        let fresh: Vec<_> = left
            .into_iter()
            .map(|address| Arc::new(Endpoint::new(address, self)))
            .collect();
        after.extend(fresh.iter().cloned());
        self.endpoints.store(Arc::new(after));
        *self.lookup_failure.lock() = None;
        for endpoint in gone {
            endpoint.retire();
            self.meters.forget(&endpoint.name);
        }
        for endpoint in fresh {
            self.tasks.spawn(endpoint.keep(Arc::clone(self)));
        }
        self.changed.notify_waiters();
    }

    pub(super) fn lookup_failed(&self, why: &str) {
        *self.lookup_failure.lock() = Some(format!("look-up of {}: {why}", self.target.host).into());
        self.changed.notify_waiters();
    }

    /// A slot on an endpoint, as soon as there is one.
    ///
    /// # Errors
    /// There is none and there will be none in time. Nothing was sent.
    pub(super) async fn lease(self: &Arc<Self>, want: &Want<'_>) -> Result<Lease, ChannelError> {
        let now = Instant::now();
        self.sweep(now);
        if self.waiting.load(Ordering::SeqCst) == 0
            && let Ok(lease) = self.pick(want.avoid, now)
        {
            return Ok(lease);
        }
        // Who comes later does not overtake those that wait: a slot that is free now is theirs, and they are awake.
        let mut queue = self.enter_queue()?;
        let mut full_since = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            let called = changed.as_mut().enable();
            let now = Instant::now();
            let tried = if std::mem::take(&mut queue.others) && !called {
                Err(self.why_none(&self.endpoints.load()))
            } else {
                self.pick(want.avoid, now)
            };
            let refused = match tried {
                Ok(lease) => return Ok(lease),
                Err(refused) => refused,
            };
            let until = match refused {
                _ if self.closing.load(Ordering::Relaxed) => return Err(self.closed()),
                NoSlot::Failed(why) if !want.wait_for_ready => return Err(self.not_connected(why)),
                NoSlot::Failed(_) | NoSlot::Connecting => {
                    self.want();
                    full_since = None;
                    want.until
                }
                NoSlot::Full => {
                    let since = *full_since.get_or_insert(now);
                    if now - since >= self.options.queue_timeout {
                        return Err(ChannelError::NoStream {
                            target: self.target.text.clone(),
                            waited: now - since,
                        });
                    }
                    self.grow();
                    want.until.min(since + self.options.queue_timeout)
                }
            };
            if timeout_at(until, changed).await.is_err() && Instant::now() >= want.until {
                return Err(self.too_late());
            }
        }
    }

    fn enter_queue(&self) -> Result<Waiting<'_>, ChannelError> {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst);
        self.meters.waiting.inc();
        let entered = Waiting {
            hub: self,
            others: waiting > 0,
        };
        if waiting >= self.options.queue_max {
            return Err(ChannelError::QueueFull {
                target: self.target.text.clone(),
                waiting,
            });
        }
        Ok(entered)
    }

    /// Whether calls can go to one endpoint or another.
    pub(super) fn has_choice(&self) -> bool {
        self.endpoints.load().len() > 1
    }

    /// The better of two endpoints with room, or any with room.
    fn pick(self: &Arc<Self>, avoid: &[Arc<str>], now: Instant) -> Result<Lease, NoSlot> {
        if self.closing.load(Ordering::Relaxed) {
            return Err(NoSlot::Failed("the channel is closed".into()));
        }
        let endpoints = self.endpoints.load();
        let avoided = |endpoint: &Endpoint| avoid.contains(&endpoint.name);
        if let [only] = endpoints.as_slice() {
            return self.take(only, now).ok_or_else(|| self.why_none(&endpoints));
        }
        // Endpoints that fail more than others are better than none.
        for strict in [2, 1, 0] {
            if strict == 2 && avoid.is_empty() {
                continue;
            }
            let fit: Vec<_> = endpoints
                .iter()
                .filter(|endpoint| endpoint.is_up())
                .filter(|endpoint| strict < 2 || !avoided(endpoint))
                .filter(|endpoint| strict < 1 || !endpoint.health.lock().is_ejected(now))
                .collect();
            if let Some(lease) = self.pick_of(&fit, now) {
                return Ok(lease);
            }
        }
        Err(self.why_none(&endpoints))
    }

    fn pick_of(self: &Arc<Self>, fit: &[&Arc<Endpoint>], now: Instant) -> Option<Lease> {
        let (a, b) = two_of(fit.len(), fastrand::u64(..))?;
        let cost = |endpoint: &Endpoint| {
            let in_flight = endpoint.in_flight.load(Ordering::Relaxed);
            endpoint
                .latency
                .lock()
                .cost(in_flight, now, self.options.latency_decay)
        };
        let (better, worse) = if cost(fit[a]) <= cost(fit[b]) {
            (a, b)
        } else {
            (b, a)
        };
        self.take(fit[better], now)
            .or_else(|| self.take(fit[worse], now))
            .or_else(|| fit.iter().find_map(|endpoint| self.take(endpoint, now)))
    }

    fn take(self: &Arc<Self>, endpoint: &Arc<Endpoint>, now: Instant) -> Option<Lease> {
        let link = endpoint.take_slot(self.options.streams_max)?;
        Some(Lease::new(Arc::clone(self), Arc::clone(endpoint), link, now))
    }

    fn why_none(&self, endpoints: &[Arc<Endpoint>]) -> NoSlot {
        if endpoints.iter().any(|endpoint| endpoint.is_up()) {
            return NoSlot::Full;
        }
        let failures: Vec<_> = endpoints.iter().map(|endpoint| endpoint.failure()).collect();
        if failures.iter().any(Option::is_none) {
            return NoSlot::Connecting;
        }
        let lookup = self.lookup_failure.lock().clone();
        match failures.into_iter().flatten().last().or(lookup) {
            Some(why) => NoSlot::Failed(why),
            // Nothing was looked up yet.
            None => NoSlot::Connecting,
        }
    }

    /// Whether a call could begin.
    fn has_room(&self) -> bool {
        let endpoints = self.endpoints.load();
        let most = self.options.streams_max;
        endpoints.iter().any(|endpoint| endpoint.has_room(most))
    }

    fn want(&self) {
        for endpoint in self.endpoints.load().iter() {
            endpoint.want();
        }
    }

    fn grow(&self) {
        for endpoint in self.endpoints.load().iter() {
            endpoint.grow(&self.options);
        }
    }

    /// A slot is free: the one that has waited longest may have it.
    pub(super) fn slot_freed(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_one();
        }
    }

    /// A call ended at an endpoint, well or not.
    pub(super) fn record(&self, endpoint: &Endpoint, succeeded: bool, now: Instant) {
        let Some(policy) = &self.options.outlier else {
            return;
        };
        let mut health = endpoint.health.lock();
        if !health.record(succeeded, policy) || health.is_ejected(now) {
            return;
        }
        drop(health);
        self.eject(endpoint, now);
    }

    fn eject(&self, endpoint: &Endpoint, now: Instant) {
        let Some(policy) = &self.options.outlier else {
            return;
        };
        let endpoints = self.endpoints.load();
        let is_out = |endpoint: &&Arc<Endpoint>| endpoint.health.lock().is_ejected(now);
        let ejected = endpoints.iter().filter(is_out).count();
        if policy.may_eject(ejected, endpoints.len()) {
            let lasts = endpoint.health.lock().eject(policy, now);
            self.meters.ejections.inc();
            tracing::info!(endpoint = %endpoint.name, ?lasts, "endpoint fails more than it should: left out");
        }
    }

    /// Compares the endpoints, when it is time to.
    fn sweep(&self, now: Instant) {
        let Some(policy) = &self.options.outlier else {
            return;
        };
        {
            let Some(mut next) = self.next_sweep.try_lock() else {
                return;
            };
            if now < *next {
                return;
            }
            *next = now + policy.interval;
        }
        let endpoints = self.endpoints.load();
        let end = |endpoint: &Arc<Endpoint>| endpoint.health.lock().end_interval(now);
        let tallies: Vec<Tally> = endpoints.iter().map(end).collect();
        for index in outliers(&tallies, policy) {
            if !endpoints[index].health.lock().is_ejected(now) {
                self.eject(&endpoints[index], now);
            }
        }
    }

    fn closed(&self) -> ChannelError {
        ChannelError::Closed {
            target: self.target.text.clone(),
        }
    }

    fn not_connected(&self, why: Arc<str>) -> ChannelError {
        ChannelError::NotConnected {
            target: self.target.text.clone(),
            why,
        }
    }

    /// A deadline passed while waiting; the call makes its own error of it.
    fn too_late(&self) -> ChannelError {
        let failure = self
            .endpoints
            .load()
            .iter()
            .find_map(|endpoint| endpoint.failure());
        let lookup = self.lookup_failure.lock().clone();
        self.not_connected(failure.or(lookup).unwrap_or_else(|| "not in time".into()))
    }

    /// What a call that is too late was kept waiting by, if no endpoint can be reached.
    pub(super) fn trouble(&self) -> Option<Arc<str>> {
        let endpoints = self.endpoints.load();
        if endpoints.iter().any(|endpoint| endpoint.is_up()) {
            return None;
        }
        let failure = endpoints.iter().find_map(|endpoint| endpoint.failure());
        failure.or_else(|| self.lookup_failure.lock().clone())
    }
}

/// A call that waits.
struct Waiting<'a> {
    hub: &'a Hub,
    /// Others waited when it came.
    others: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let hub = self.hub;
        let others = hub.waiting.fetch_sub(1, Ordering::SeqCst) > 1;
        hub.meters.waiting.dec();
        // Slots that become free together wake one call, or none if it is on its way out: each that goes wakes the next.
        if others && hub.has_room() {
            hub.changed.notify_one();
        }
    }
}
