//! What watch streams and watchers hold in memory while nothing happens.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};

use super::Bench;
use super::fanout::Seen;
use crate::bench::h2load::Connection;
use crate::bench::machine;
use crate::bench::requests::{Op, PREFIX, Template};
use crate::bench::table::Goal;
use crate::bench::target::Target;

const CONNECTIONS: usize = 50;
/// Time in which a server may come to rest.
const SETTLE: Duration = Duration::from_secs(2);
const SETUP: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// Watchers on a stream of many, for each stream of one.
const WATCHERS: usize = 20;

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let few = bench.pick(100, 10);
    for at in 0..bench.targets.len() {
        let (stream, watcher) = held(&bench.targets[at], few).await?;
        let (target, table) = (&bench.targets[at], &mut bench.table);
        let what = "idle watch stream with one watcher";
        table.add(target.name, what, "bytes", Goal::AtMost(8192.0), stream);
        let what = "idle watcher on a stream of many";
        table.add(target.name, what, "bytes", Goal::AtMost(200.0), watcher);
    }
    bench.table.note(format!(
        "{CONNECTIONS} connections with {few} streams of one watcher each; then as many with one stream of {} watchers; \
         growth of VmRSS over their number",
        WATCHERS * few
    ));
    Ok(())
}

/// Growth of resident memory for each stream, and for each watcher.
async fn held(target: &Target, few: usize) -> Result<(f64, f64)> {
    let pid = target
        .server
        .pid
        .context("find the server's process (give --pid)")?;
    // The connections themselves do not count.
    let (first, second) = (connect(target).await?, connect(target).await?);
    let (streams, watchers) = (Seen::new()?, Seen::new()?);
    let begin_second = Cell::new(false);
    let watching = async {
        let one_each = watch(first, (few, 1), &streams);
        let many = async {
            while !begin_second.get() {
                sleep(POLL).await;
            }
            watch(second, (1, WATCHERS * few), &watchers).await
        };
        tokio::try_join!(one_each, many)
    };
    let measure = async {
        created(&streams, CONNECTIONS * few).await?;
        let with_streams = machine::rss_mib(pid).context("read the server's memory")?;
        begin_second.set(true);
        created(&watchers, CONNECTIONS * WATCHERS * few).await?;
        let with_watchers = machine::rss_mib(pid).context("read the server's memory")?;
        anyhow::Ok((with_streams, with_watchers))
    };
    let before = machine::rss_mib(pid).context("read the server's memory")?;
    let (with_streams, with_watchers) = tokio::select! {
        ended = watching => { ended?; bail!("watchers were canceled") }
        measured = measure => measured?,
    };
    let each = |from: f64, to: f64, number: usize| (to - from) * 1024.0 * 1024.0 / number as f64;
    Ok((
        each(before, with_streams, CONNECTIONS * few),
        each(with_streams, with_watchers, CONNECTIONS * WATCHERS * few),
    ))
}

async fn connect(target: &Target) -> Result<Vec<Connection>> {
    let connections = (0..CONNECTIONS).map(|_| Connection::open(target.address, Op::Watch.path()));
    let mut connections = try_join_all(connections).await?;
    for connection in &mut connections {
        connection.hello().await?;
    }
    sleep(SETTLE).await;
    Ok(connections)
}

/// Keeps so many streams and watchers on each. Never ends well.
async fn watch(connections: Vec<Connection>, each: (usize, usize), seen: &Seen) -> Result<()> {
    let far = Instant::now() + Duration::from_secs(3600);
    try_join_all(connections.into_iter().map(|connection| {
        let message = |message: &[u8]| seen.message(message);
        connection.watch(each, Template::watch(PREFIX, 0), far, message)
    }))
    .await?;
    Ok(())
}

/// Waits until so many watchers are there, and for the server to come to rest.
async fn created(seen: &Seen, all: usize) -> Result<()> {
    let asked = Instant::now();
    while seen.created.get() < all {
        if asked.elapsed() > SETUP {
            bail!("{} of {all} watchers were made", seen.created.get());
        }
        sleep(POLL).await;
    }
    sleep(SETTLE).await;
    Ok(())
}
