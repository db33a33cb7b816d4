//! What is done to the watchers' links and to the server, when, and in what order: a seed says it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use setpoint_base::Stop;
use setpoint_flow::impair::Proxy;
use setpoint_store::client::{Client, pb};
use tokio::time::{Instant, sleep};

use super::server::Host;

/// Held for so long a link is given up by a client that probes; one that does not would wait for ever.
const FREEZE: Duration = Duration::from_millis(5_500);
/// The server stands still for so long.
const STALL: Duration = Duration::from_millis(1_000);
/// Nobody gets in for so long after a drop that refuses.
const REFUSAL: Duration = Duration::from_millis(300);
/// A write counts as sent after a drop for so long.
const AFTER: u64 = 500_000_000;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Class {
    /// Every watcher's connection is reset
    Drop,
    /// The same, and nobody gets in for a while
    Refuse,
    /// Connections stay open and nothing moves
    Freeze,
    /// What the server says does not arrive
    HalfOpen,
    /// History up to the present revision is given up, while the links are down
    Compact,
    /// The server's process stands still for a second
    Stall,
    /// The server is killed and started again
    Restart,
}

impl Class {
    pub(crate) const ALL: [Self; 7] = [
        Self::Drop,
        Self::Refuse,
        Self::Freeze,
        Self::HalfOpen,
        Self::Compact,
        Self::Stall,
        Self::Restart,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Refuse => "refuse",
            Self::Freeze => "freeze",
            Self::HalfOpen => "half-open",
            Self::Compact => "compact",
            Self::Stall => "stall",
            Self::Restart => "restart",
        }
    }

    /// How often it comes, of a hundred.
    fn weight(self) -> u32 {
        match self {
            Self::Drop => 56,
            Self::Refuse => 16,
            Self::Compact => 16,
            Self::Stall => 4,
            Self::Restart => 4,
            Self::Freeze | Self::HalfOpen => 2,
        }
    }
}

/// Whether a delivery was disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Calm,
    AfterDrop,
    Rough,
}

/// The faults so far.
pub(crate) struct Faults {
    epoch: Instant,
    /// Class and when it was over.
    over: Mutex<Vec<(Class, u64)>>,
    active: AtomicBool,
    last_over: AtomicU64,
    last_drop: AtomicU64,
}

impl Faults {
    pub(crate) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            over: Mutex::new(Vec::new()),
            active: AtomicBool::new(false),
            last_over: AtomicU64::new(0),
            last_drop: AtomicU64::new(0),
        }
    }

    /// Nanoseconds since the start.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The fault of this number, when it is over.
    pub(crate) fn get(&self, number: usize) -> Option<(Class, u64)> {
        self.over.lock().get(number).copied()
    }

    /// How many of a class there were.
    pub(crate) fn count(&self, class: Class) -> usize {
        self.over
            .lock()
            .iter()
            .filter(|(other, _)| *other == class)
            .count()
    }

    /// Whether something sent at `sent`, and there at `now`, met a fault.
    pub(crate) fn weather(&self, sent: u64, now: u64) -> Weather {
        let drop = self.last_drop.load(Ordering::Relaxed);
        let over = self.last_over.load(Ordering::Relaxed);
        if drop > 0 && drop == over && (drop..drop + AFTER).contains(&sent) {
            Weather::AfterDrop
        } else if !self.active.load(Ordering::Relaxed) && sent > over + AFTER && now > over {
            Weather::Calm
        } else {
            Weather::Rough
        }
    }

    fn began(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    fn ended(&self, class: Class, at: u64) {
        self.over.lock().push((class, at));
        if class == Class::Drop {
            self.last_drop.store(at, Ordering::Relaxed);
        }
        self.last_over.store(at, Ordering::Relaxed);
        self.active.store(false, Ordering::Relaxed);
    }
}

/// Who does it.
pub(crate) struct Trouble {
    pub(crate) classes: Vec<Class>,
    pub(crate) every: Duration,
    pub(crate) proxies: Vec<Arc<Proxy>>,
    pub(crate) host: Host,
    pub(crate) client: Client,
    pub(crate) prefix: String,
    pub(crate) faults: Arc<Faults>,
}

impl Trouble {
    /// Makes trouble until `stop`, each class once before any comes twice; leaves everything whole.
    ///
    /// # Errors
    /// When a server of ours does not come back.
    pub(crate) async fn make(mut self, stop: Stop, seed: u64) -> Result<Host> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut first = self.classes.clone();
        rng.shuffle(&mut first);
        while !self.classes.is_empty() {
            let wait = self.every.mul_f64(0.5 + rng.f64());
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(wait) => (),
            }
            let class = first.pop().unwrap_or_else(|| self.choose(&mut rng));
            self.faults.began();
            let over = self.cause(class).await;
            for proxy in &self.proxies {
                proxy.thaw();
            }
            self.faults.ended(class, over?);
        }
        Ok(self.host)
    }

    fn choose(&self, rng: &mut fastrand::Rng) -> Class {
        let all: u32 = self.classes.iter().map(|class| class.weight()).sum();
        let mut left = rng.u32(..all);
        let mut classes = self.classes.iter().copied();
        classes
            .find(|class| {
                let hit = left < class.weight();
                left = left.saturating_sub(class.weight());
                hit
            })
            .unwrap_or(Class::Drop)
    }

    /// Causes one fault; when it was over.
    async fn cause(&mut self, class: Class) -> Result<u64> {
        match class {
            Class::Drop => {
                let at = self.faults.nanos();
                self.each(Proxy::cut);
                return Ok(at);
            }
            Class::Refuse => {
                self.each(Proxy::refuse);
                sleep(REFUSAL).await;
            }
            Class::Freeze | Class::HalfOpen => {
                self.each(if class == Class::Freeze {
                    Proxy::freeze
                } else {
                    Proxy::half_open
                });
                sleep(FREEZE).await;
            }
            Class::Compact => {
                self.each(Proxy::refuse);
                self.compact().await;
            }
            Class::Stall => {
                self.host.pause()?;
                sleep(STALL).await;
                self.host.go_on()?;
            }
            Class::Restart => {
                self.host.restart().await.context("start the server again")?;
            }
        }
        self.each(Proxy::thaw);
        Ok(self.faults.nanos())
    }

    fn each(&self, act: fn(&Proxy)) {
        for proxy in &self.proxies {
            act(proxy);
        }
    }

    /// At the present revision: whoever is away has lost its place. A refusal changes nothing.
    async fn compact(&self) {
        // A moment in which the writers go on and the watchers are away.
        sleep(Duration::from_millis(30)).await;
        let request = pb::RangeRequest {
            key: self.prefix.clone().into(),
            ..Default::default()
        };
        if let Ok(answer) = self.client.range(request).await {
            let request = pb::CompactionRequest {
                revision: answer.header.map_or(0, |header| header.revision),
                physical: false,
            };
            if let Err(error) = self.client.compact(request).await {
                tracing::debug!(%error, "not compacted");
            }
        }
    }
}
