//! Reads: of one key, of keys in a row, and the count of very many.

use anyhow::Result;

use super::{Bench, window};
use crate::bench::requests::{Op, PREFIX, Template};
use crate::bench::table::Goal;

const KEYS: u64 = 100_000;
/// Keys that are counted.
const COUNTED: u64 = 1_000_000;
const COUNTED_PREFIX: &[u8] = b"setpoint-count/";

/// What is read, by how many clients, and the goals for rate and p99.
type Case = (&'static str, Template, usize, [Goal; 3]);

fn cases() -> [Case; 8] {
    let point = |name, op, clients, rate| {
        let goals = if clients == 1 {
            [Goal::None; 3]
        } else {
            [Goal::RatioAtLeast(rate), Goal::None, Goal::RatioAtMost(0.1)]
        };
        (name, Template::of(op, 0), clients, goals)
    };
    let range = |name, keys, clients, rate| {
        let goals = [Goal::RatioAtLeast(rate), Goal::None, Goal::None];
        (name, Template::range(keys), clients, goals)
    };
    [
        point("get, serializable, 1 client", Op::Get, 1, 0.0),
        point("get, linearizable, 1 client", Op::GetLinearizable, 1, 0.0),
        point("get, serializable, 256 clients", Op::Get, 256, 8.0),
        point("get, linearizable, 256 clients", Op::GetLinearizable, 256, 10.0),
        range("range of 500 keys, 1 client", 500, 1, 4.0),
        range("range of 500 keys, 16 clients", 500, 16, 4.0),
        range("range of 10,000 keys, 1 client", 10_000, 1, 6.0),
        range("range of 10,000 keys, 4 clients", 10_000, 4, 6.0),
    ]
}

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, seconds) = (bench.pick(5, 1), bench.pick(1.5, 0.5));
    for target in &bench.targets {
        target.fill(&Template::of(Op::Put, 256), KEYS).await?;
    }
    for (what, template, clients, goals) in cases() {
        for round in 0..rounds {
            for target in &bench.targets {
                let call = (Op::Get.path(), &template);
                // A range begins where there are enough keys behind it.
                let keys = KEYS - 10_000;
                let load = async |time| target.call(call, keys, clients, round, time).await;
                let measured = window(target, seconds, load).await?;
                bench.table.closed_loop(target, what, goals, &measured, seconds);
            }
        }
    }
    count(bench, rounds).await
}

/// A count must not walk the keys: its time may not grow with their number.
async fn count(bench: &mut Bench, rounds: usize) -> Result<()> {
    let counted = bench.pick(COUNTED, COUNTED / 20);
    for target in &bench.targets {
        target
            .fill(&Template::put(COUNTED_PREFIX, 16, false), counted)
            .await?;
    }
    for round in 0..rounds {
        for target in &bench.targets {
            let mut times = Vec::new();
            for prefix in [COUNTED_PREFIX, PREFIX] {
                let template = Template::all(prefix, true);
                let call = (Op::Get.path(), &template);
                let load = async |time| target.call(call, 1, 1, round, time).await;
                let (measured, cost) = window(target, 1.0, load).await?;
                times.push(measured.latency.value_at_quantile(0.5) as f64 / 1000.0);
                bench.table.foreign(&cost);
            }
            let what = format!("count of {counted} keys: p50");
            bench
                .table
                .add(target.name, &what, "ms", Goal::RatioAtMost(0.1), times[0]);
            let growth = times[0] / times[1].max(1e-6);
            let what = format!("{what}, times that of {KEYS}");
            bench
                .table
                .add(target.name, &what, "×", Goal::AtMost(1.5), growth);
        }
    }
    Ok(())
}
