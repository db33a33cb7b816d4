//! `cargo xtask`: what a developer and the continuous integration run, the same commands for both.

mod bench;
mod conformance;
mod fuzz;
mod lanes;
mod shell;
mod soak;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
Repository tasks. Run from anywhere inside the repository.

Usage: cargo xtask <COMMAND>

Commands:
  check                 the fast lane: format, tidy, clippy, unit tests (under 3 minutes when warm)
  ci                    everything: check, all tests, release build, stock clients against the binary
  tidy                  crate arrows, bans, file sizes, licences, links
  conformance [NAME…]   stock clients against the built binary; all of conformance/ without a name
  bench [ARGS…]         the side-by-side benchmarks, about 20 minutes; writes bench/results/
                        --only NAME,… (puts, reads, isolation, fanout, idle, size, leases, drop, official, api),
                        --quick (a smoke test), --allow-load (measure on a busy machine, marked)
  soak [ARGS…]          seeds, kills and differential runs, as long as one likes
  fuzz [TARGET…|all]    libfuzzer over all parsers of bytes from disk or network, on stable (--minutes N each)
  help                  this text

Examples:
  cargo xtask check
  cargo xtask conformance etcdctl
  cargo xtask bench --quick
  cargo xtask soak --minutes 60 --crashes 1000 --differential 1000000
  cargo xtask fuzz all --minutes 3
  cargo xtask bench --only isolation,fanout
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("check") => lanes::check(),
        Some("ci") => lanes::ci(),
        Some("tidy") => tidy::run(),
        Some("conformance") => conformance::run(&args[1..]),
        Some("bench") => bench::run_all(&args[1..]),
        Some("fuzz") => fuzz::fuzz(&args[1..]),
        Some("soak") => soak::soak(&args[1..]),
        Some("help" | "--help" | "-h") | None => {
            shell::say(HELP);
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            shell::say(&format!("unknown command {other:?}\n\n{HELP}"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
