//! The latency of puts while something else goes on: at a steady rate, so that a stall is charged with every put that
//! it keeps waiting.

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::disturb::{self, BULK, Disturbance, Done};
use super::{Bench, window};
use crate::bench::h2load::Measured;
use crate::bench::requests::{Op, Template};
use crate::bench::table::{Goal, Table, median};
use crate::bench::target::Target;

/// Puts a second, and the connections that make them.
const RATE: f64 = 1_000.0;
const CONNECTIONS: usize = 4;
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 10_000;
/// Keys that are listed, and how often each is written: so many revisions are compacted, and watched from behind.
const LISTED: u64 = 50_000;
const VERSIONS: u64 = 10;
const P99_MS_MAX: f64 = 10.0;
/// Of its quiet value.
const P99_TIMES_MAX: f64 = 2.0;

/// What can be asked for by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Beside {
    Lists,
    Watcher,
    Snapshot,
    Leases,
    Reconnects,
    Compaction,
}

impl Beside {
    fn is(self, what: Disturbance) -> bool {
        let of = match what {
            // What the others are compared with.
            Disturbance::Quiet => return true,
            Disturbance::Lists => Self::Lists,
            Disturbance::Watcher { .. } => Self::Watcher,
            Disturbance::Snapshot => Self::Snapshot,
            Disturbance::Leases => Self::Leases,
            Disturbance::Reconnects => Self::Reconnects,
            Disturbance::Compaction { .. } => Self::Compaction,
        };
        self == of
    }
}

/// `some` are the only disturbances, in so many rounds.
pub(super) async fn run(bench: &mut Bench, some: Option<(&[Beside], usize)>) -> Result<()> {
    let rounds = some.map_or(bench.pick(2, 1), |(_, rounds)| rounds);
    let wanted = |what| some.is_none_or(|(some, _)| some.iter().any(|beside| beside.is(what)));
    let versions = bench.pick(VERSIONS, 1);
    for _ in 0..rounds {
        for at in 0..bench.targets.len() {
            let (from, head) = fill(&bench.targets[at], versions).await?;
            let events = LISTED * versions;
            // The compaction takes the history away, so it is the last that wants it.
            for what in [
                Disturbance::Quiet,
                Disturbance::Lists,
                Disturbance::Watcher { from, events },
                Disturbance::Snapshot,
                Disturbance::Leases,
                Disturbance::Reconnects,
                Disturbance::Compaction { at: head },
            ] {
                if wanted(what) {
                    disturbed(bench, at, what).await?;
                }
            }
        }
    }
    Ok(())
}

/// Writes every key so often; the revisions of the first and of the last write.
async fn fill(target: &Target, versions: u64) -> Result<(i64, i64)> {
    let template = Template::put(BULK, 256, false);
    target.fill(&Template::of(Op::Put, VALUE_BYTES), KEYS).await?;
    let before = revision(target).await?;
    for _ in 0..versions {
        target.fill(&template, LISTED).await?;
    }
    Ok((before + 1, revision(target).await?))
}

async fn revision(target: &Target) -> Result<i64> {
    let request = setpoint_proto::etcdserverpb::RangeRequest {
        key: BULK.into(),
        ..Default::default()
    };
    let answer = target
        .kv()
        .await?
        .range(request)
        .await
        .context("ask for the revision")?;
    answer
        .into_inner()
        .header
        .map(|header| header.revision)
        .context("an answer has a header")
}

/// One window of puts with one disturbance.
async fn disturbed(bench: &mut Bench, at: usize, what: Disturbance) -> Result<()> {
    let target = &bench.targets[at];
    // etcd prunes half a million revisions for many seconds.
    let seconds = match what {
        Disturbance::Compaction { .. } => bench.pick(8.0, 1.0),
        _ => bench.pick(4.0, 1.0),
    };
    let template = Template::of(Op::Put, VALUE_BYTES);
    let load = async |(start, end)| {
        let thread = disturb::start(what, target.address, start, end)?;
        let measured = target
            .paced(&template, KEYS, RATE, CONNECTIONS, Instant::now(), (start, end))
            .await?;
        let done = tokio::task::spawn_blocking(move || thread.join()).await?;
        let done = done.map_err(|_| anyhow::anyhow!("the disturbance panicked"))?;
        Ok((measured, done))
    };
    let ((measured, done), cost) = window(target, seconds, load).await?;
    bench.table.foreign(&cost);
    let name = target.name;
    match done {
        Ok(done) => {
            rows(&mut bench.table, name, what, &measured);
            say_done(&mut bench.table, name, what, done);
        }
        Err(error) => bench
            .table
            .note(format!("server {name}, {what:?}: not measured: {error:#}")),
    }
    Ok(())
}

fn title(what: Disturbance) -> &'static str {
    match what {
        Disturbance::Quiet => "put alone",
        Disturbance::Lists => "put beside LISTs of 50,000 keys",
        Disturbance::Watcher { .. } => "put beside a watcher 500,000 events behind",
        Disturbance::Compaction { .. } => "put beside a compaction of 500,000 revisions",
        Disturbance::Snapshot => "put beside a snapshot",
        Disturbance::Leases => "put beside a storm of leases",
        Disturbance::Reconnects => "put beside a storm of connections",
    }
}

fn rows(table: &mut Table, server: &str, what: Disturbance, measured: &Measured) {
    let title = title(what);
    let ms = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1000.0;
    table.add(server, &format!("{title}: p50"), "ms", Goal::None, ms(0.5));
    let p99 = format!("{title}: p99");
    table.add(server, &p99, "ms", Goal::AtMost(P99_MS_MAX), ms(0.99));
    if what != Disturbance::Quiet {
        let quiet = format!("{}: p99", self::title(Disturbance::Quiet));
        let row = table.rows.iter().find(|row| row.what == quiet);
        let quiet = row.map_or(0.0, |row| median(if server == "a" { &row.a } else { &row.b }));
        let times = ms(0.99) / quiet.max(1e-3);
        let what = format!("{title}: p99 over that alone");
        table.add(server, &what, "×", Goal::AtMost(P99_TIMES_MAX), times);
    }
    table.add(server, &format!("{title}: max"), "ms", Goal::None, ms(1.0));
    if measured.failed > 0 {
        table.note(format!(
            "{title}, server {server}: {} puts failed",
            measured.failed
        ));
    }
}

/// How fast the disturbance itself went: calm puts are worth little if it was held up for them.
fn say_done(table: &mut Table, server: &str, what: Disturbance, done: Done) {
    let seconds = done.took.as_secs_f64().max(1e-3);
    let rate = done.amount as f64 / seconds;
    match what {
        Disturbance::Quiet => (),
        Disturbance::Lists => table.add(server, "LISTs meanwhile", "/s", Goal::None, rate),
        Disturbance::Watcher { .. } => {
            table.add(server, "events of the watcher behind", "/s", Goal::None, rate);
        }
        Disturbance::Compaction { .. } => {
            table.add(server, "the compaction itself", "s", Goal::None, seconds);
        }
        Disturbance::Snapshot => {
            table.add(server, "bytes of the snapshot", "MB/s", Goal::None, rate / 1e6);
        }
        Disturbance::Leases => table.add(server, "leases granted meanwhile", "/s", Goal::None, rate),
        Disturbance::Reconnects => table.add(server, "connections meanwhile", "/s", Goal::None, rate),
    }
}
