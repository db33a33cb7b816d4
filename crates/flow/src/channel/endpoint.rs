//! One peer: its connections, kept at the number that is wanted, and what is known of its speed and health.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use h2::Reason;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use setpoint_base::{Backoff, Stop};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::hub::Hub;
use super::link::{Driver, Ended, Event, Link};
use super::options::ChannelOptions;
use super::target::Address;
use crate::core::keepalive::Pace;
use crate::core::latency::Latency;
use crate::core::outlier::Health;

/// One peer.
pub(super) struct Endpoint {
    pub(super) address: Address,
    /// The address as text, for errors and labels.
    pub(super) name: Arc<str>,
    /// Connections that take new streams.
    links: ArcSwap<Vec<Arc<Link>>>,
    /// All there are, with those that only finish their calls.
    driven: Mutex<Vec<Arc<Link>>>,
    /// How many there should be.
    wanted: AtomicUsize,
    /// Wakes the keeper.
    wake: Notify,
    /// Why there is no connection; none while the first one is being made.
    failure: Mutex<Option<Arc<str>>>,
    /// How and when the last connection ended, if that was before it was of use.
    cut_short: Mutex<Option<(Arc<str>, Instant)>>,
    pub(super) latency: Mutex<Latency>,
    pub(super) health: Mutex<Health>,
    pace: Mutex<Pace>,
    pub(super) in_flight: AtomicUsize,
    /// Calls that were given to it.
    pub(super) picks: Counter,
    pub(super) connects: AtomicU64,
    /// The target has it no longer.
    retired: Stop,
}

impl Endpoint {
    pub(super) fn new(address: Address, hub: &Hub) -> Self {
        let name: Arc<str> = address.to_string().into();
        Self {
            picks: hub.meters.picks(&name),
            name,
            address,
            links: ArcSwap::default(),
            driven: Mutex::default(),
            wanted: AtomicUsize::new(if hub.options.eager {
                hub.options.connections
            } else {
                0
            }),
            wake: Notify::new(),
            failure: Mutex::new(None),
            cut_short: Mutex::new(None),
            latency: Mutex::default(),
            health: Mutex::default(),
            pace: Mutex::new(hub.options.keepalive),
            in_flight: AtomicUsize::new(0),
            connects: AtomicU64::new(0),
            retired: hub.tasks.stop().child_token(),
        }
    }

    /// Takes a slot on the connection with the fewest calls. `None`: there is none.
    pub(super) fn take_slot(&self, streams_max: usize) -> Option<Arc<Link>> {
        let links = self.links.load();
        if let [only] = links.as_slice() {
            return only.take_slot(streams_max).then(|| Arc::clone(only));
        }
        let mut by_load: Vec<_> = links.iter().collect();
        by_load.sort_by_key(|link| link.in_flight());
        by_load
            .into_iter()
            .find(|link| link.take_slot(streams_max))
            .map(Arc::clone)
    }

    pub(super) fn is_up(&self) -> bool {
        !self.links.load().is_empty()
    }

    pub(super) fn connections(&self) -> usize {
        self.links.load().len()
    }

    /// Streams that the peer allows over all connections there are.
    pub(super) fn limit(&self) -> usize {
        let links = self.links.load();
        links.iter().fold(0, |sum, link| sum.saturating_add(link.limit()))
    }

    /// All connections, with those that only finish their calls; at most so many, and how many there are.
    pub(super) fn driven(&self, most: usize) -> (Vec<Arc<Link>>, usize) {
        let driven = self.driven.lock();
        (driven.iter().take(most).cloned().collect(), driven.len())
    }

    /// Whether there is to be a connection.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) > 0
    }

    pub(super) fn pace(&self) -> Pace {
        *self.pace.lock()
    }

    /// Why there is no connection; none while one is being made for the first time.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.lock().clone()
    }

    /// A call waits for a connection. Where there is to be one anyway that is for nothing.
    pub(super) fn want(&self) {
        if self.wanted.fetch_max(1, Ordering::Relaxed) == 0 {
            self.wake.notify_one();
        }
    }

    /// Whether a call could begin.
    pub(super) fn has_room(&self, streams_max: usize) -> bool {
        let links = self.links.load();
        links.iter().any(|link| link.has_room(streams_max))
    }

    /// Nobody wants a connection any more, if they are made for calls that do: who is next finds no failure of the past.
    /// Who waits has to be told, and to want one again.
    fn rest(&self, hub: &Hub) {
        if !hub.options.eager && self.connections() == 0 {
            self.wanted.store(0, Ordering::Relaxed);
            *self.failure.lock() = None;
        }
    }

    /// Calls wait for streams: one more connection, unless one is being made or there are enough.
    pub(super) fn grow(&self, options: &ChannelOptions) {
        let links = self.links.load();
        // A connection that has come up since the call found none has room: it asks for no second one.
        if links.is_empty() || links.iter().any(|link| !link.is_full(options.streams_max)) {
            return;
        }
        let have = links.len();
        if have < options.connections_max {
            // Fewer may be wanted than there are: the others' end came as the last one was made.
            let one_more = |wanted: usize| (wanted <= have).then_some(have + 1);
            let grown = self
                .wanted
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            if grown.is_ok() {
                self.wake.notify_one();
            }
        }
    }

    /// No new calls; those in flight go on.
    pub(super) fn retire(&self) {
        self.retired.cancel();
        for link in self.links.swap(Arc::default()).iter() {
            link.retire();
        }
    }

    fn add(&self, link: &Arc<Link>) {
        self.links.rcu(|links| {
            let mut links = Vec::clone(links);
            links.push(Arc::clone(link));
            links
        });
        *self.failure.lock() = None;
        // Retired meanwhile: whoever did it has not seen this one.
        if self.retired.is_cancelled() {
            self.retire();
        }
    }

    /// False: it was removed before.
    fn remove(&self, link: &Arc<Link>) -> bool {
        let before = self.links.rcu(|links| {
            let mut links = Vec::clone(links);
            links.retain(|other| !Arc::ptr_eq(other, link));
            links
        });
        before.iter().any(|other| Arc::ptr_eq(other, link))
    }

    /// A connection takes no more calls. The keeper is woken when all about that is known.
    fn lose(&self, hub: &Hub, link: &Arc<Link>) {
        // One that was drained before has had its say: the next one may be wanted, and on its way, by now.
        if self.remove(link) {
            self.rest(hub);
        }
        self.wake.notify_one();
        hub.changed.notify_waiters();
    }

    /// Keeps the connections at the number that is wanted until the endpoint is retired or the channel stops.
    pub(super) async fn keep(self: Arc<Self>, hub: Arc<Hub>) {
        let mut backoff = Backoff::new(hub.options.reconnect, fastrand::u64(..));
        let work = async {
            loop {
                while self.connections() >= self.wanted.load(Ordering::Relaxed) {
                    self.wake.notified().await;
                }
                // The connections of a channel that ends may be gone before this is told to end.
                if hub.tasks.stop().is_cancelled() {
                    return;
                }
                let cut_short = self.cut_short.lock().take();
                match cut_short {
                    Some((why, at)) => self.fail(&hub, why, at, &mut backoff).await,
                    None if self.connections() == 0 && self.connects.load(Ordering::Relaxed) > 0 => {
                        backoff.reset();
                    }
                    None => (),
                }
                while let Err(why) = self.connect(&hub).await {
                    self.fail(&hub, why, Instant::now(), &mut backoff).await;
                    if !hub.options.eager {
                        self.rest(&hub);
                        hub.changed.notify_waiters();
                        break;
                    }
                }
            }
        };
        // Calls in flight on other connections go on: their drivers are tasks of their own.
        self.retired.run_until_cancelled(work).await;
    }

    /// Notes a failure and waits, unless so much time has passed since that it is a thing of the past.
    async fn fail(&self, hub: &Hub, why: Arc<str>, at: Instant, backoff: &mut Backoff) {
        let wait = backoff.next_wait();
        tracing::debug!(endpoint = %self.name, %why, ?wait, "no connection");
        hub.meters.connect_failed.inc();
        hub.look_up.notify_one();
        if at.elapsed() >= wait {
            return;
        }
        if !self.is_up() {
            *self.failure.lock() = Some(why);
        }
        hub.changed.notify_waiters();
        sleep_until(at + wait).await;
    }

    async fn connect(self: &Arc<Self>, hub: &Arc<Hub>) -> Result<(), Arc<str>> {
        let began = Instant::now();
        let pace = *self.pace.lock();
        let open = async {
            let tcp = OnceLock::new();
            let mut stream = hub.dialer.dial_and_tell(&self.address, &tcp).await?;
            if let Some(tls) = &hub.tls {
                stream = tls.wrap(stream, &self.address).await?;
            }
            let live = hub.flow.open("client", &self.name);
            if let Some(tcp) = tcp.into_inner() {
                live.is_over(tcp);
            }
            Driver::open(stream, &hub.options, pace, live).await
        };
        let driver = match timeout(hub.options.connect_timeout, open).await {
            Ok(Ok(driver)) => driver,
            Ok(Err(error)) => return Err(format!("{}: {error}", self.name).into()),
            Err(_) => return Err(format!("{}: the peer has not answered in time", self.name).into()),
        };
        let now = Instant::now();
        hub.meters.connected(now - began);
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.latency.lock().restart(driver.rtt.unwrap_or_default(), now);
        self.driven.lock().push(Arc::clone(&driver.link));
        self.add(&driver.link);
        hub.tasks.spawn(Arc::clone(self).drive(Arc::clone(hub), driver));
        hub.changed.notify_waiters();
        Ok(())
    }

    /// Moves a connection's bytes until its end. A channel that stops gives calls in flight their grace.
    async fn drive(self: Arc<Self>, hub: Arc<Hub>, mut driver: Driver) {
        hub.meters.connections.inc();
        let link = Arc::clone(&driver.link);
        let ended = tokio::select! {
            ended = self.drive_on(&hub, &mut driver) => ended,
            () = hub.tasks.stop().cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => Some(ended),
            None => {
                link.retire();
                let until = Instant::now() + hub.grace();
                let rest = async {
                    loop {
                        if let Event::Ended(ended) = driver.next().await {
                            return ended;
                        }
                    }
                };
                timeout_at(until, rest).await.ok()
            }
        };
        hub.meters.connections.dec();
        self.driven.lock().retain(|other| !Arc::ptr_eq(other, &link));
        self.gone(&hub, &link, ended.as_ref());
    }

    async fn drive_on(&self, hub: &Hub, driver: &mut Driver) -> Option<Ended> {
        loop {
            match driver.next().await {
                Event::Ended(ended) => return Some(ended),
                Event::Roomier => hub.changed.notify_waiters(),
                Event::Draining(reason) => {
                    tracing::debug!(endpoint = %self.name, %reason, "connection takes no more calls");
                    hub.meters.goaways.inc();
                    if reason == Reason::ENHANCE_YOUR_CALM {
                        self.calm_down(hub);
                    }
                    // Another one is made while the calls on this one go on.
                    self.note_short_life(&driver.link, "the peer said GOAWAY at once");
                    self.lose(hub, &driver.link);
                }
                Event::Idle(time) => self.shrink(hub, driver, time),
            }
        }
    }

    /// Closes a connection beyond the usual number that nobody has used for long.
    fn shrink(&self, hub: &Hub, driver: &Driver, idle: Duration) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let may = wanted > hub.options.connections
            && idle >= hub.options.connection_idle
            && !driver.link.is_draining();
        // Another one may be closed at the same time, or asked for: each is counted once.
        let fewer = |wanted: usize| {
            self.wanted
                .compare_exchange(wanted, wanted - 1, Ordering::Relaxed, Ordering::Relaxed)
        };
        if may && fewer(wanted).is_ok() {
            driver.link.retire();
            self.remove(&driver.link);
        }
    }

    fn gone(&self, hub: &Hub, link: &Arc<Link>, ended: Option<&Ended>) {
        if let Some(ended) = ended {
            tracing::debug!(endpoint = %self.name, why = %ended.why, "connection gone");
            if ended.dead {
                hub.meters.keepalive_failures.inc();
            }
            if ended.calm && !ended.drained {
                self.calm_down(hub);
            }
            if !ended.drained {
                self.note_short_life(link, &ended.why);
            }
        }
        link.retire();
        self.lose(hub, link);
    }

    /// Who drops connections as soon as they are made is not asked again at once.
    fn note_short_life(&self, link: &Link, why: &str) {
        if !link.is_proven() {
            let why = format!("{}: {why}", self.name).into();
            *self.cut_short.lock() = Some((why, Instant::now()));
        }
    }

    fn calm_down(&self, hub: &Hub) {
        let mut pace = self.pace.lock();
        *pace = pace.calmer();
        hub.meters.calmed.inc();
        tracing::info!(endpoint = %self.name, pace = ?*pace, "the peer finds pings a nuisance: fewer from now on");
    }
}
