//! Watchers of each class, and what is measured of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use setpoint_base::Stop;
use setpoint_store::client::{
    Client, ClientOptions, Item, Overflow, Room, StreamStats, WatchError, WatchOptions, Watcher,
    WatcherStats, Watches, mvccpb,
};
use tokio::time::{Instant, sleep};

use super::check::Checker;
use super::fault::{Class, Faults};
use super::traffic::{Cursor, Layout};

/// How often a watcher that is told nothing looks whether all is over.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// How long one waits for the last writes that may have lost them.
pub(crate) const LAST_LOOK: Duration = Duration::from_secs(2);
/// A naive loop waits so long before it connects again.
const NAIVE_PAUSE: Duration = Duration::from_millis(50);
/// Longest latency that is told apart, in microseconds.
const LATENCY_MAX: u64 = 600_000_000;

/// How a watcher behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The resumable client.
    Resumable,
    /// The same, with an owner that stops reading now and then.
    Slow,
    /// etcd's own client, in a program of its own.
    Library,
    /// A receive loop as it is often written: connect, watch from now, and again after an error.
    Naive,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Resumable => "resumable",
            Self::Slow => "resumable, slow reader",
            Self::Library => "clientv3",
            Self::Naive => "naive loop",
        }
    }
}

/// One watcher's log.
pub(crate) struct Log {
    pub(crate) checker: Checker,
    pub(crate) timing: Timing,
    pub(crate) reconnects: u64,
    pub(crate) resyncs: u64,
    pub(crate) compacted: u64,
    pub(crate) timeouts: u64,
    pub(crate) dropped: u64,
    pub(crate) ended: Option<String>,
}

/// How long deliveries took.
pub(crate) struct Timing {
    pub(crate) stable: Histogram<u64>,
    pub(crate) after_drop: Histogram<u64>,
    /// From the end of a fault to the first delivery of something sent after it, by class.
    pub(crate) recovery: Vec<(Class, Histogram<u64>)>,
    faults_seen: usize,
}

pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LATENCY_MAX, 3).context("make a histogram")
}

impl Timing {
    fn new() -> Result<Self> {
        let recovery = Class::ALL.into_iter().map(|class| Ok((class, histogram()?)));
        Ok(Self {
            stable: histogram()?,
            after_drop: histogram()?,
            recovery: recovery.collect::<Result<_>>()?,
            faults_seen: 0,
        })
    }

    /// A write that was sent at `sent` has come at `now`.
    fn delivered(&mut self, sent: u64, now: u64, faults: &Faults) {
        let took = now.saturating_sub(sent) / 1_000;
        match faults.weather(sent, now) {
            super::fault::Weather::Calm => self.stable.saturating_record(took),
            super::fault::Weather::AfterDrop => self.after_drop.saturating_record(took),
            super::fault::Weather::Rough => (),
        }
        while let Some((class, over)) = faults.get(self.faults_seen) {
            if sent < over {
                break;
            }
            self.faults_seen += 1;
            if let Some((_, recovery)) = self.recovery.iter_mut().find(|(other, _)| *other == class) {
                recovery.saturating_record(now.saturating_sub(over) / 1_000);
            }
        }
    }
}

impl Log {
    fn new(layout: &Layout, prev_kv: bool) -> Result<Self> {
        Ok(Self {
            checker: Checker::new(layout.clone(), prev_kv),
            timing: Timing::new()?,
            reconnects: 0,
            resyncs: 0,
            compacted: 0,
            timeouts: 0,
            dropped: 0,
            ended: None,
        })
    }

    pub(crate) fn events(&mut self, events: &[mvccpb::Event], faults: &Faults) {
        let timing = &mut self.timing;
        let now = faults.nanos();
        self.checker.batch(events, |cursor: &Cursor| {
            timing.delivered(cursor.sent, now, faults);
        });
    }

    fn item(&mut self, item: &Item, faults: &Faults) {
        match item {
            Item::Events(events) => self.events(events, faults),
            Item::Progress(revision) => self.checker.progress(*revision),
            Item::Resync(resync) => self.checker.resync(resync),
        }
    }

    fn add(&mut self, stats: WatcherStats) {
        self.reconnects += stats.reconnects;
        self.resyncs += stats.resyncs;
        self.compacted += stats.compactions;
        self.dropped += stats.duplicates;
    }
}

/// A watcher at work.
pub(crate) struct Follower {
    pub(crate) kind: Kind,
    pub(crate) log: Arc<Mutex<Log>>,
}

/// What followers have in common.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) layout: Layout,
    pub(crate) options: ClientOptions,
    pub(crate) faults: Arc<Faults>,
    /// The writers have written their last, and what that was.
    pub(crate) written: tokio::sync::watch::Receiver<Option<Arc<Vec<u64>>>>,
    pub(crate) stop: Stop,
    pub(crate) seed: u64,
}

impl Scene {
    /// Nothing more will be written. Whoever may lose the last writes waits for them only so long.
    pub(crate) fn all_written(&self) -> bool {
        self.written.borrow().is_some()
    }

    pub(crate) fn done(&self, log: &Mutex<Log>) -> bool {
        self.stop.is_cancelled()
            || self
                .written
                .borrow()
                .as_ref()
                .is_some_and(|written| log.lock().checker.numbers().eq(written.iter().copied()))
    }

    pub(crate) fn log(&self, prev_kv: bool) -> Result<Arc<Mutex<Log>>> {
        Ok(Arc::new(Mutex::new(Log::new(&self.layout, prev_kv)?)))
    }

    fn everything(&self, prev_kv: bool) -> WatchOptions {
        let mut options = WatchOptions::prefix(self.layout.prefix.clone());
        options.prev_kv = prev_kv;
        options.progress = true;
        options
    }

    /// The resumable client, watching from `start`.
    pub(crate) async fn resumable(self, watches: Watches, start: i64, prev_kv: bool, log: Arc<Mutex<Log>>) {
        let watcher = watches.watch(self.everything(prev_kv).from(start));
        self.follow(watcher, &watches, &log, || None).await;
    }

    /// The same with an owner who looks away for a while again and again.
    pub(crate) async fn slow(self, watches: Watches, start: i64, log: Arc<Mutex<Log>>) {
        let mut options = self.everything(false).from(start);
        options.overflow = Overflow::Park;
        options.room = Room {
            events: 500,
            bytes: 256 << 10,
        };
        let watcher = watches.watch(options);
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let pause = || (rng.u8(..100) == 0).then(|| Duration::from_millis(rng.u64(50..500)));
        self.follow(watcher, &watches, &log, pause).await;
    }

    async fn follow(
        &self,
        mut watcher: Watcher,
        watches: &Watches,
        log: &Mutex<Log>,
        mut pause: impl FnMut() -> Option<Duration>,
    ) {
        while !self.done(log) {
            // The end is looked for also when nothing comes any more.
            let next = tokio::time::timeout(LOOK, watcher.next()).await;
            match next {
                Ok(Ok(item)) => log.lock().item(&item, &self.faults),
                Ok(Err(error)) => {
                    log.lock().ended = Some(error.to_string());
                    break;
                }
                Err(_) => (),
            }
            if let Some(pause) = pause() {
                sleep(pause).await;
            }
        }
        let mut log = log.lock();
        log.add(watcher.stats());
        let StreamStats { dead_links, .. } = watches.stats();
        log.timeouts += dead_links;
    }

    /// A loop that starts again from now whenever something breaks.
    pub(crate) async fn naive(self, log: Arc<Mutex<Log>>) -> Result<()> {
        let mut options = self.options.clone();
        // The first break is the end: nothing is resumed.
        options.give_up_after = Some(Duration::ZERO);
        let mut last = Instant::now();
        while !self.done(&log) {
            let client = Client::new(options.clone()).context("make a client")?;
            let mut watch = self.everything(false);
            watch.resync = false;
            let mut watcher = client.watch(watch);
            while !self.done(&log) {
                let look = if self.all_written() { LAST_LOOK } else { LOOK };
                match tokio::time::timeout(look, watcher.next()).await {
                    Ok(Ok(item)) => log.lock().item(&item, &self.faults),
                    Ok(Err(error)) => {
                        log.lock().naive_break(&error);
                        break;
                    }
                    Err(_) if self.all_written() => return Ok(()),
                    Err(_) => (),
                }
            }
            log.lock().add(watcher.stats());
            tokio::time::sleep_until(last + NAIVE_PAUSE).await;
            last = Instant::now();
        }
        Ok(())
    }
}

impl Log {
    fn naive_break(&mut self, error: &WatchError) {
        self.reconnects += 1;
        match error {
            WatchError::Compacted { .. } => self.compacted += 1,
            WatchError::Unreachable { last } if last.starts_with("the link is dead") => self.timeouts += 1,
            _ => (),
        }
    }
}
