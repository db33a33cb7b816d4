//! Durable puts to random keys, each client with one at a time.

use anyhow::Result;

use super::{Bench, window};
use crate::bench::h2load::Measured;
use crate::bench::requests::{Op, Template};
use crate::bench::table::{Goal, Table};

const CLIENTS: [usize; 5] = [1, 16, 100, 256, 1000];
const KEYS: u64 = 10_000;

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let (rounds, seconds) = (bench.pick(5, 1), bench.pick(1.5, 0.5));
    for value_bytes in [256, 1024] {
        let template = Template::of(Op::Put, value_bytes);
        for target in &bench.targets {
            target.fill(&template, KEYS).await?;
        }
        for clients in CLIENTS {
            for round in 0..rounds {
                for target in &bench.targets {
                    let call = (Op::Put.path(), &template);
                    let load = async |time| target.call(call, KEYS, clients, round, time).await;
                    let measured = window(target, seconds, load).await?;
                    let what = format!("put {value_bytes} B, {clients} clients");
                    bench
                        .table
                        .closed_loop(target, &what, goals(clients), &measured, seconds);
                    if value_bytes == 256 {
                        bars(&mut bench.table, target.name, clients, &measured.0, seconds);
                    }
                }
            }
        }
    }
    Ok(())
}

fn goals(clients: usize) -> [Goal; 3] {
    match clients {
        1 => [Goal::RatioAtLeast(1.2), Goal::None, Goal::RatioAtMost(0.5)],
        256 | 1000 => [
            Goal::RatioAtLeast(3.0),
            Goal::RatioAtLeast(4.0),
            Goal::RatioAtMost(0.25),
        ],
        _ => [Goal::None; 3],
    }
}

/// What clients were promised whatever etcd does.
fn bars(table: &mut Table, server: &str, clients: usize, measured: &Measured, seconds: f64) {
    let (rate, p99) = match clients {
        100 => (4_290.0, 11.0),
        1000 => (8_630.0, 29.0),
        _ => return,
    };
    let what = format!("the bar of {clients} clients");
    let per_second = measured.latency.len() as f64 / seconds;
    table.add(server, &what, "/s", Goal::AtLeast(rate), per_second);
    let took = measured.latency.value_at_quantile(0.99) as f64 / 1000.0;
    table.add(server, &format!("{what}: p99"), "ms", Goal::AtMost(p99), took);
}
