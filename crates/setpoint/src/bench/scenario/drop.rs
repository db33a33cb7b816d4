//! The lag of a hundred watchers at a steady rate of puts, undisturbed and while their connections are cut again and
//! again: the client comes back with the revision that it saw last.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};

use super::fanout::{Seen, count};
use super::{Bench, window};
use crate::bench::events;
use crate::bench::h2load::Connection;
use crate::bench::requests::{Op, PREFIX, Template};
use crate::bench::table::Goal;
use crate::bench::target::Target;

const WATCHERS: usize = 100;
const RATE: f64 = 100.0;
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 1_000;
/// A connection lives so long while connections are cut.
const LIFE: Duration = Duration::from_millis(700);

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    for _ in 0..bench.pick(3, 1) {
        for (what, cut, goal) in [
            ("watch lag, undisturbed: p95", false, 42.0),
            ("watch lag, connections cut: p95", true, 67.0),
        ] {
            for at in 0..bench.targets.len() {
                let seconds = bench.pick(3.0, 1.0);
                let target = &bench.targets[at];
                let seen = Seen::new()?;
                let template = Template::of(Op::Put, VALUE_BYTES);
                let load = async |time: (Instant, Instant)| {
                    let watchers = (0..WATCHERS).map(|n| watch(target, &seen, n, cut, time.1));
                    let puts = target.paced(&template, KEYS, RATE, 1, seen.epoch, time);
                    let (watched, put, ()) = tokio::join!(try_join_all(watchers), puts, count(&seen, time));
                    watched?;
                    put
                };
                let (_, cost) = window(target, seconds, load).await?;
                let p95 = seen.lag.borrow().value_at_quantile(0.95) as f64 / 1000.0;
                bench.table.add(target.name, what, "ms", Goal::AtMost(goal), p95);
                let share = seen.events.get() as f64 / (RATE * seconds * WATCHERS as f64);
                let what = format!("{what}: share of events seen");
                bench
                    .table
                    .add(target.name, &what, "", Goal::AtLeast(0.95), share);
                bench.table.foreign(&cost);
            }
        }
    }
    Ok(())
}

/// One watcher on a connection of its own, which is cut and made again where `cut` says so.
async fn watch(target: &Target, seen: &Seen, number: usize, cut: bool, end: Instant) -> Result<()> {
    let next = Cell::new(0);
    // Not all at the same moment.
    let mut life = LIFE.mul_f64(0.2 + number as f64 / WATCHERS as f64);
    while Instant::now() < end {
        let until = if cut {
            (Instant::now() + life).min(end)
        } else {
            end
        };
        life = LIFE;
        let each = |message: &[u8]| {
            events::read(message, |event| next.set(event.revision as i64 + 1));
            seen.message(message)
        };
        let connection = Connection::open(target.address, Op::Watch.path()).await?;
        let template = Template::watch(PREFIX, next.get());
        connection.watch((1, 1), template, until, each).await?;
    }
    sleep_until(end).await;
    Ok(())
}
