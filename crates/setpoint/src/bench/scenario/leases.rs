//! Leases that end at once, each with a key: how long until all keys are gone, and whether they go in the order in
//! which their leases end.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

use super::Bench;
use crate::bench::events;
use crate::bench::h2load::Connection;
use crate::bench::requests::{Op, Template};
use crate::bench::table::Goal;
use crate::bench::target::Target;

const PREFIX: &[u8] = b"setpoint-lease/";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const CALLERS: usize = 32;
/// etcd ends a thousand leases a second, so it gets as many as it ends in some seconds.
const LEASES: [u64; 2] = [100_000, 10_000];
/// Granting and putting have to be over before the leases end.
const PREPARE: Duration = Duration::from_secs(15);
/// How long keys may take to go.
const PATIENCE: Duration = Duration::from_secs(60);
/// Leases live for whole seconds, and ends this close to each other count as at once.
const SLACK: Duration = Duration::from_millis(300);

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    for _ in 0..bench.pick(2, 1) {
        for at in 0..bench.targets.len() {
            let leases = LEASES[at.min(1)] / bench.pick(1, 20);
            round(bench, at, leases).await?;
        }
    }
    bench.table.note(format!(
        "{} leases for a, {} for b: it ends 1,000 a second; \"at once\" is within the one second to which leases can be timed",
        LEASES[0], LEASES[1]
    ));
    Ok(())
}

/// Deletions in the order in which they came.
#[derive(Default)]
struct Gone {
    keys: Vec<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
}

async fn round(bench: &mut Bench, at: usize, leases: u64) -> Result<()> {
    let target = &bench.targets[at];
    let until = Instant::now() + bench.pick(PREPARE, PREPARE / 4);
    let ends = prepare(target, leases, until).await?;
    if Instant::now() >= until {
        bail!(
            "{} took too long to grant {leases} leases",
            target.server.endpoint
        );
    }
    let gone = RefCell::new(Gone::default());
    let connection = Connection::open(target.address, Op::Watch.path()).await?;
    let each = |message: &[u8]| {
        let now = Instant::now();
        let gone = &mut *gone.borrow_mut();
        events::read(message, |event| {
            if let (true, Some(number)) = (event.deleted, event.number()) {
                gone.keys.push(number);
                gone.first.get_or_insert(now);
                gone.last = Some(now);
            }
        });
        (gone.keys.len() as u64) < leases
    };
    let template = Template::watch(PREFIX, 0);
    connection.watch((1, 1), template, until + PATIENCE, each).await?;
    let gone = gone.into_inner();
    let (Some(first), Some(last)) = (gone.first, gone.last) else {
        bail!("no key has gone within {PATIENCE:?}");
    };
    let (server, table) = (target.name, &mut bench.table);
    let missing = leases - gone.keys.len() as u64;
    table.add(server, "keys that stayed", "", Goal::AtMost(0.0), missing as f64);
    let early = until.saturating_duration_since(first).as_secs_f64();
    table.add(
        server,
        "first key gone before its time",
        "s",
        Goal::AtMost(0.0),
        early,
    );
    let took = last.saturating_duration_since(until).as_secs_f64();
    table.add(
        server,
        "from the first end to the last key gone",
        "s",
        Goal::AtMost(2.0),
        took,
    );
    let span = (last - first).as_secs_f64().max(1e-3);
    let rate = gone.keys.len() as f64 / span;
    table.add(server, "keys gone", "/s", Goal::None, rate);
    let out = out_of_order(&gone.keys, &ends);
    table.add(
        server,
        "keys gone out of order",
        "",
        Goal::AtMost(0.0),
        out as f64,
    );
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// Grants the leases and puts a key on each; when each will end.
async fn prepare(target: &Target, leases: u64, until: Instant) -> Result<Vec<Instant>> {
    let ends = RefCell::new(vec![until; leases as usize]);
    let far = Instant::now() + Duration::from_secs(3600);
    let template = Template::grant(until);
    // A number is drawn at the moment when its request is written.
    let numbers = (0..leases).inspect(|n| {
        let now = Instant::now();
        let ttl = until.saturating_duration_since(now).as_millis().div_ceil(1000);
        ends.borrow_mut()[*n as usize] = now + Duration::from_secs(ttl as u64);
    });
    let connection = Connection::open(target.address, GRANT).await?;
    let granted = connection
        .run(CALLERS * 8, template, numbers, (Instant::now(), far))
        .await?;
    if granted.failed > 0 {
        bail!("{} grants failed", granted.failed);
    }
    let puts = Template::put(PREFIX, 16, true);
    target.each(Op::Put.path(), &puts, 0..leases, CALLERS).await?;
    Ok(ends.into_inner())
}

/// Keys that went after one whose lease ended clearly later.
fn out_of_order(gone: &[u64], ends: &[Instant]) -> usize {
    let mut latest: Option<Instant> = None;
    let ends = gone.iter().filter_map(|number| ends.get(*number as usize));
    ends.filter(|end| {
        let late = latest.is_some_and(|latest| **end + SLACK < latest);
        latest = latest.max(Some(**end));
        late
    })
    .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_out_of_order_are_those_that_went_after_a_clearly_later_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let ends = [at(0), at(200), at(1_000), at(2_000)];
        for (gone, expect) in [
            (&[0, 1, 2, 3][..], 0),
            (&[1, 0, 2, 3], 0),
            (&[3, 0, 1, 2], 3),
            (&[2, 3, 0, 1], 2),
            (&[], 0),
        ] {
            assert_eq!(out_of_order(gone, &ends), expect, "{gone:?}");
        }
    }
}
