//! Many watchers of one stream of 1 KB events: how many deliveries a second when puts come as fast as they can, and how
//! late they are when puts come at a rate that both servers can follow.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Bench, window};
use crate::bench::events;
use crate::bench::h2load::{Connection, histogram};
use crate::bench::requests::{Op, PREFIX, Template};
use crate::bench::table::Goal;
use crate::bench::target::Target;

const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 1_000;
/// Clients that put as fast as they can.
const WRITERS: usize = 4;
/// Deliveries a second while their lag is measured.
const STEADY: f64 = 30_000.0;
/// Seconds of that: a put is a burst of deliveries, all as late as it, so it takes hundreds of puts to say what is late in a
/// hundred of them.
const STEADY_SECONDS: f64 = 12.0;
/// How long watchers may take to be made.
const SETUP: Duration = Duration::from_secs(60);

/// Both sizes; or one, in so many rounds.
pub(super) async fn run(bench: &mut Bench, some: Option<(usize, usize)>) -> Result<()> {
    let rounds = some.map_or(bench.pick(3, 1), |(_, rounds)| rounds);
    let sizes = some.map_or(vec![1_000, 10_000], |(watchers, _)| vec![watchers]);
    for watchers in sizes {
        let connections = if watchers < 10_000 { 10 } else { 50 };
        for _ in 0..rounds {
            for at in 0..bench.targets.len() {
                round(bench, at, watchers, connections).await?;
            }
        }
    }
    Ok(())
}

/// What the watchers of a target have seen since it counts.
pub(super) struct Seen {
    pub(super) created: Cell<usize>,
    pub(super) events: Cell<u64>,
    pub(super) lag: RefCell<Histogram<u64>>,
    pub(super) counts: Cell<bool>,
    pub(super) epoch: Instant,
}

impl Seen {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            created: Cell::new(0),
            events: Cell::new(0),
            lag: RefCell::new(histogram()?),
            counts: Cell::new(false),
            epoch: Instant::now(),
        })
    }

    /// Takes a message; false once a watcher was canceled.
    pub(super) fn message(&self, message: &[u8]) -> bool {
        let (counts, now) = (self.counts.get(), self.epoch.elapsed().as_micros() as u64);
        let said = events::read(message, |event| {
            if let Some(stamp) = event.stamp.filter(|_| counts) {
                let lag = now.saturating_sub(stamp).max(1);
                self.lag.borrow_mut().saturating_record(lag);
            }
        });
        if said.created {
            self.created.set(self.created.get() + 1);
        }
        if counts {
            self.events.set(self.events.get() + said.events);
        }
        !said.canceled
    }
}

/// Keeps watchers on some connections, one stream on each, as etcd's own client does it. Never ends well.
async fn watch(target: &Target, watchers: usize, connections: usize, seen: &Seen) -> Result<()> {
    let far = Instant::now() + Duration::from_secs(3600);
    let streams = (0..connections).map(|_| async move {
        let connection = Connection::open(target.address, Op::Watch.path()).await?;
        let template = Template::watch(PREFIX, 0);
        let each = |message: &[u8]| seen.message(message);
        connection
            .watch((1, watchers / connections), template, far, each)
            .await
    });
    try_join_all(streams).await?;
    bail!("watchers were canceled")
}

async fn round(bench: &mut Bench, at: usize, watchers: usize, connections: usize) -> Result<()> {
    let (steady, seconds) = (bench.pick(STEADY_SECONDS, 1.0), bench.pick(3.0, 1.0));
    // As many on each connection.
    let watchers = watchers / connections * connections;
    let target = &bench.targets[at];
    let seen = Seen::new()?;
    let template = Template::of(Op::Put, VALUE_BYTES);
    let measure = async {
        let asked = Instant::now();
        while seen.created.get() < watchers {
            if asked.elapsed() > SETUP {
                bail!("{} of {watchers} watchers were made", seen.created.get());
            }
            sleep(Duration::from_millis(5)).await;
        }
        // First the lag at a steady rate; then as fast as it goes, which leaves a backlog behind.
        let rate = STEADY / watchers as f64;
        let load = async |time| {
            let paced = target.paced(&template, KEYS, rate, 1, seen.epoch, time);
            let (put, _) = tokio::join!(paced, count(&seen, time));
            put
        };
        let (_, steady_cost) = window(target, steady, load).await?;
        sleep(Duration::from_millis(200)).await;
        let lag = seen.lag.replace(histogram()?);
        seen.events.set(0);
        let load = async |time| {
            let call = (Op::Put.path(), &template);
            let puts = target.call(call, KEYS, WRITERS, 0, time);
            let (puts, _) = tokio::join!(puts, count(&seen, time));
            puts
        };
        let (puts, cost) = window(target, seconds, load).await?;
        Ok((lag, steady_cost, puts, cost, seen.events.get()))
    };
    let (lag, steady_cost, puts, cost, events) = tokio::select! {
        ended = watch(target, watchers, connections, &seen) => return ended,
        measured = measure => measured?,
    };
    let table = &mut bench.table;
    let (server, what) = (target.name, format!("{watchers} watchers"));
    let rate = events as f64 / seconds;
    let add = |what: &str, unit, goal, value| table.add(server, what, unit, goal, value);
    let mut add = add;
    add(
        &format!("{what}: deliveries"),
        "/s",
        Goal::RatioAtLeast(3.0),
        rate,
    );
    if let Some(cpu) = cost.server {
        let per_cpu = events as f64 / cpu.max(0.01);
        add(
            &format!("{what}: deliveries per CPU s"),
            "/CPUs",
            Goal::None,
            per_cpu,
        );
    }
    let put_rate = puts.latency.len() as f64 / seconds;
    add(&format!("{what}: puts meanwhile"), "/s", Goal::None, put_rate);
    for (name, quantile, goal) in [("p50", 0.5, Goal::None), ("p99", 0.99, Goal::RatioAtMost(0.333))] {
        let what = format!("{what}: lag {name} at {STEADY:.0} deliveries/s");
        add(&what, "ms", goal, lag.value_at_quantile(quantile) as f64 / 1000.0);
    }
    let expected = STEADY * steady;
    let share = lag.len() as f64 / expected;
    add(
        &format!("{what}: share delivered at that rate"),
        "",
        Goal::AtLeast(0.9),
        share,
    );
    table.foreign(&steady_cost);
    table.foreign(&cost);
    Ok(())
}

/// Has events count between two moments.
pub(super) async fn count(seen: &Seen, (start, end): (Instant, Instant)) {
    sleep_until(start).await;
    seen.counts.set(true);
    sleep_until(end).await;
    seen.counts.set(false);
}
