//! A million keys of 64 bytes with 256 bytes each: memory, and how long a start takes.

use anyhow::{Context, Result, bail};
use setpoint_proto::etcdserverpb::RangeRequest;
use tokio::time::{Duration, sleep};

use super::Bench;
use crate::bench::machine;
use crate::bench::requests::Template;
use crate::bench::spawn::Spawned;
use crate::bench::table::Goal;
use crate::bench::target::Target;

const KEYS: u64 = 1_000_000;
/// With the digits of a number, 64 bytes.
const PREFIX: &[u8] = b"setpoint-size/registry/pods/namespace-0007/app-serv/";
const VALUE_BYTES: usize = 256;
/// Puts before a kill, so that it has something to lose.
const LATE: u64 = 20_000;
/// Time in which a server may come to rest.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    if bench.servers.is_empty() {
        bail!("this scenario stops and starts servers: give --spawn");
    }
    let keys = bench.pick(KEYS, KEYS / 20);
    for at in 0..bench.targets.len() {
        let target = &bench.targets[at];
        target.fill(&template(), keys).await?;
        sleep(SETTLE).await;
        let rss = rss(target)?;
        let name = target.name;
        let what = format!("memory with {keys} keys of 64 B and 256 B");
        bench.table.add(name, &what, "MiB", Goal::AtMost(250.0), rss);
        let rounds = if name == "a" { bench.pick(5, 1) } else { 1 };
        for round in 0..rounds {
            restart(bench, at, keys, true).await?;
            if round == 0 {
                sleep(SETTLE).await;
                let rss = self::rss(&bench.targets[at])?;
                let what = "memory after a start";
                bench.table.add(name, what, "MiB", Goal::AtMost(250.0), rss);
            }
            bench.targets[at].fill(&template(), keys.min(LATE)).await?;
            restart(bench, at, keys, false).await?;
        }
    }
    bench
        .table
        .note("a start is timed from making the process to the answer to a linearizable read".to_owned());
    Ok(())
}

fn template() -> Template {
    Template::put(PREFIX, VALUE_BYTES, false)
}

fn rss(target: &Target) -> Result<f64> {
    let pid = target.server.pid.context("find the server's process")?;
    machine::rss_mib(pid).context("read the server's memory")
}

/// Ends a server and starts it again; everything must be there.
async fn restart(bench: &mut Bench, at: usize, keys: u64, orderly: bool) -> Result<()> {
    let server: &mut Spawned = &mut bench.servers[at];
    server.end(orderly).await?;
    let took = server.begin().await?;
    bench.targets[at] = server.target().await?;
    let (what, goal) = if orderly {
        ("start after an orderly stop, to the first read", 300.0)
    } else {
        ("start after kill -9, to the first read", 1000.0)
    };
    let (target, table) = (&bench.targets[at], &mut bench.table);
    let ms = took.as_secs_f64() * 1000.0;
    table.add(target.name, what, "ms", Goal::AtMost(goal), ms);
    let request = RangeRequest {
        key: PREFIX.into(),
        range_end: [&PREFIX[..PREFIX.len() - 1], b"0"].concat().into(),
        count_only: true,
        ..Default::default()
    };
    let answer = target.kv().await?.range(request).await;
    let count = answer.context("count the keys after a start")?.into_inner().count;
    if u64::try_from(count) != Ok(keys) {
        bail!(
            "{}: {count} of {keys} keys are there after a start",
            target.server.endpoint
        );
    }
    Ok(())
}
