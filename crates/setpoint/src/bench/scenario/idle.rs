//! What watch streams and watchers hold in memory while nothing happens.

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

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let few = bench.pick(100, 10);
    for at in 0..bench.targets.len() {
        // One watcher a stream, then many on few streams: the difference is what a watcher costs.
        let streams = held(&bench.targets[at], few, 1).await?;
        let watchers = held(&bench.targets[at], 1, 20 * few).await?;
        let (target, table) = (&bench.targets[at], &mut bench.table);
        let what = "idle watch stream with one watcher";
        table.add(target.name, what, "bytes", Goal::AtMost(8192.0), streams);
        let what = "idle watcher on a stream of many";
        table.add(target.name, what, "bytes", Goal::AtMost(200.0), watchers);
    }
    bench.table.note(format!(
        "{CONNECTIONS} connections; {} streams, {} watchers; growth of VmRSS over their number",
        CONNECTIONS * few,
        CONNECTIONS * 20 * few
    ));
    Ok(())
}

/// Growth of resident memory for each watcher, with so many streams a connection and watchers a stream.
async fn held(target: &Target, streams: usize, watchers: usize) -> Result<f64> {
    let pid = target
        .server
        .pid
        .context("find the server's process (give --pid)")?;
    let seen = Seen::new()?;
    let all = CONNECTIONS * streams * watchers;
    // The connections themselves do not count.
    let connections = (0..CONNECTIONS).map(|_| Connection::open(target.address, Op::Watch.path()));
    let mut connections = try_join_all(connections).await?;
    for connection in &mut connections {
        connection.hello().await?;
    }
    sleep(SETTLE).await;
    let before = machine::rss_mib(pid).context("read the server's memory")?;
    let far = Instant::now() + Duration::from_secs(3600);
    let watching = try_join_all(connections.into_iter().map(|connection| {
        let each = |message: &[u8]| seen.message(message);
        connection.watch((streams, watchers), Template::watch(PREFIX, 0), far, each)
    }));
    let measure = async {
        let asked = Instant::now();
        while seen.created.get() < all {
            if asked.elapsed() > SETUP {
                bail!("{} of {all} watchers were made", seen.created.get());
            }
            sleep(Duration::from_millis(10)).await;
        }
        sleep(SETTLE).await;
        machine::rss_mib(pid).context("read the server's memory")
    };
    let after = tokio::select! {
        ended = watching => { ended?; bail!("watchers were canceled") }
        after = measure => after?,
    };
    Ok((after - before) * 1024.0 * 1024.0 / all as f64)
}
