//! etcd's own load generator against both: a second opinion on puts and reads.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use super::Bench;
use crate::bench::table::Goal;
use crate::bench::target::Target;

/// What is run: a name, the tool's arguments, and the goals for rate and p99.
type Case = (&'static str, &'static [&'static str], [Goal; 2]);

const CASES: [Case; 4] = [
    (
        "put 256 B, 1 client",
        &[
            "put",
            "--clients=1",
            "--conns=1",
            "--val-size=256",
            "--total=3000",
        ],
        [Goal::RatioAtLeast(1.2), Goal::RatioAtMost(0.5)],
    ),
    (
        "put 256 B, 256 clients",
        &[
            "put",
            "--clients=256",
            "--conns=50",
            "--val-size=256",
            "--total=60000",
        ],
        [Goal::RatioAtLeast(3.0), Goal::RatioAtMost(0.25)],
    ),
    (
        "put 1 KB, 1000 clients",
        &[
            "put",
            "--clients=1000",
            "--conns=50",
            "--val-size=1024",
            "--total=60000",
        ],
        [Goal::RatioAtLeast(3.0), Goal::RatioAtMost(0.25)],
    ),
    (
        "get, linearizable, 256 clients",
        &[
            "range",
            "setpoint-bench",
            "--clients=256",
            "--conns=50",
            "--total=60000",
        ],
        [Goal::RatioAtLeast(10.0), Goal::RatioAtMost(0.1)],
    ),
];

pub(super) async fn run(bench: &mut Bench) -> Result<()> {
    let Some(tool) = bench.official.clone() else {
        bench
            .table
            .note("not run: give --official PROGRAM, built from bench/official".to_owned());
        return Ok(());
    };
    for (what, arguments, goals) in CASES {
        for _ in 0..bench.pick(3, 1) {
            for target in &bench.targets {
                let (rate, p99) = measure(&tool, target, arguments).await?;
                let table = &mut bench.table;
                table.add(target.name, what, "/s", goals[0], rate);
                table.add(target.name, &format!("{what}: p99"), "ms", goals[1], p99);
            }
        }
    }
    bench.table.note(
        "its clients are Go programs that take more of the two cores than the servers: ratios are flatter"
            .to_owned(),
    );
    Ok(())
}

/// Runs the tool once; requests per second and p99 in milliseconds.
async fn measure(tool: &Path, target: &Target, arguments: &[&str]) -> Result<(f64, f64)> {
    let mut command = Command::new(tool);
    command
        .arg(format!("--endpoints={}", target.address))
        .args(arguments)
        .args(
            ["--key-size=32", "--key-space-size=100000"]
                .iter()
                .filter(|_| arguments[0] == "put"),
        )
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?;
    let output = output.with_context(|| format!("start {}", tool.display()))?;
    read(&output).with_context(|| format!("read what {} printed", tool.display()))
}

fn read(output: &Output) -> Result<(f64, f64)> {
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("it ended with {}", output.status);
    }
    let rate = number_after(&text, "Requests/sec:").context("there is no rate")?;
    let p99 = number_after(&text, "99% in").context("there is no p99")?;
    Ok((rate, p99 * 1000.0))
}

fn number_after(text: &str, word: &str) -> Option<f64> {
    let rest = text.split_once(word)?.1.trim_start();
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_summary_is_read() {
        let text = "Summary:\n  Total:\t3.9 secs.\n  Requests/sec:\t2565.53\n\nLatency distribution:\n  99% in 0.0012 secs.\n  99.9% in 0.2 secs.\n";
        assert_eq!(number_after(text, "Requests/sec:"), Some(2565.53));
        assert_eq!(number_after(text, "99% in"), Some(0.0012));
        assert_eq!(number_after(text, "Nothing"), None);
    }
}
