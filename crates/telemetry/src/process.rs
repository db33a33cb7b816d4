//! What the system says of this process: the `process_*` metrics every Prometheus client library has, read from `/proc`
//! when asked.

use std::fmt::Write;
use std::fs;

/// Appends the metrics that can be read; where there is no `/proc` (not Linux) none.
pub(crate) fn encode(text: &mut String) {
    let mut put = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let _ = write!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        }
    };
    let stat = stat();
    let field = |number: usize| stat.field(number);
    #[allow(clippy::cast_precision_loss)]
    let (ticks, page) = (
        rustix::param::clock_ticks_per_second() as f64,
        rustix::param::page_size() as f64,
    );
    put(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        field(24).map(|pages| pages * page),
    );
    put(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        field(23),
    );
    put(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        field(14)
            .zip(field(15))
            .map(|(user, system)| (user + system) / ticks),
    );
    put("process_threads", "gauge", "Number of threads.", field(20));
    put(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        field(22)
            .zip(boot_time())
            .map(|(since_boot, boot)| boot + since_boot / ticks),
    );
    #[allow(clippy::cast_precision_loss)]
    let open = fs::read_dir("/proc/self/fd").map(|dir| dir.count() as f64).ok();
    put(
        "process_open_fds",
        "gauge",
        "Number of open file descriptors.",
        open,
    );
    put(
        "process_max_fds",
        "gauge",
        "Maximum number of open file descriptors.",
        max_fds(),
    );
}

/// `/proc/self/stat`.
struct Stat(String);

fn stat() -> Stat {
    Stat(fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

impl Stat {
    /// As proc_pid_stat(5) numbers them, from the third on.
    fn field(&self, number: usize) -> Option<f64> {
        // The second field is the program's name in parentheses and may contain spaces: count from behind it.
        let (_, rest) = self.0.rsplit_once(')')?;
        rest.split_whitespace().nth(number - 3)?.parse().ok()
    }
}

/// Bytes of the system's memory that the process has now; `None` where there is no `/proc`.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let pages = stat().field(24)?;
    // Never negative, and far below the precision's end.
    Some(pages as u64 * rustix::param::page_size() as u64)
}

/// How many files it may have open; `None` where there is no `/proc`.
#[must_use]
pub fn open_files_max() -> Option<u64> {
    max_fds().map(|max| max as u64)
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
