//! What a measurement ran on, what it cost, and what else was running.

use std::fs;
use std::net::SocketAddr;

use serde::Serialize;
use tokio::time::Instant;

/// Ticks of `/proc` times in a second. Linux has had 100 for user space on every architecture since 2.6.
const TICKS_PER_SECOND: f64 = 100.0;

/// The machine, for the head of a report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Facts {
    /// The processor's model name.
    pub(super) cpu: String,
    /// Logical processors.
    pub(super) cores: usize,
    /// Kernel release.
    pub(super) kernel: String,
    /// What decides how fast TCP sends, unless a socket says otherwise.
    pub(super) congestion_control: String,
    /// Memory, in MiB.
    pub(super) memory_mib: u64,
    /// Version of this program.
    pub(super) setpoint: &'static str,
}

impl Facts {
    /// Reads what `/proc` tells; empty where there is none.
    pub(super) fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            congestion_control: congestion.trim().to_owned(),
            memory_mib: field(&meminfo, "MemTotal").map_or(0, kibibytes) / 1024,
            setpoint: env!("CARGO_PKG_VERSION"),
        }
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map(str::trim)
}

fn kibibytes(value: &str) -> u64 {
    value.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// CPU seconds a process has used; `None` when it is gone or not ours to see.
pub(super) fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain spaces; user and system time are fields 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Resident memory of a process, in MiB.
pub(crate) fn rss_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(kibibytes(field(&status, "VmRSS")?) as f64 / 1024.0)
}

/// CPU seconds the whole machine has been busy.
pub(super) fn busy_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let mut fields = stat.lines().next()?.split_ascii_whitespace().skip(1);
    let mut times = [0.0; 8];
    for time in &mut times {
        *time = fields.next()?.parse().ok()?;
    }
    let [user, nice, system, _idle, _iowait, irq, softirq, _steal] = times;
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

/// The local process that listens at `address`, as far as we may look.
pub(super) fn listener(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, address.port()))?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))
            .then_some(pid)
    })
}

/// Columns of `/proc/net/tcp`: local address as hex `IP:PORT` second, state fourth (0A is LISTEN), inode tenth.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1)?.ends_with(&port) && *fields.get(3)? == "0A")
            .then(|| fields.get(9).map(ToString::to_string))?
    })
}

/// Cores that may be busy with something else before a run is refused, or a report marked.
pub(super) const FOREIGN_CORES_MAX: f64 = 0.25;

/// CPU times at a moment, to be compared with later ones.
pub(super) struct Usage {
    at: Instant,
    busy: Option<f64>,
    own: f64,
    servers: Vec<(u32, f64)>,
}

impl Usage {
    pub(super) fn now(pids: &[u32]) -> Self {
        Self {
            at: Instant::now(),
            busy: busy_seconds(),
            own: cpu_seconds(std::process::id()).unwrap_or(0.0),
            servers: pids
                .iter()
                .filter_map(|pid| Some((*pid, cpu_seconds(*pid)?)))
                .collect(),
        }
    }

    fn own_since(&self) -> f64 {
        cpu_seconds(std::process::id()).unwrap_or(0.0) - self.own
    }

    fn servers_since(&self) -> f64 {
        self.servers
            .iter()
            .map(|(pid, before)| cpu_seconds(*pid).unwrap_or(*before) - before)
            .sum()
    }

    /// Cores that neither we nor the servers kept busy since.
    pub(super) fn foreign_cores(&self) -> Option<f64> {
        let busy = busy_seconds()? - self.busy?;
        let ours = self.own_since() + self.servers_since();
        Some(((busy - ours) / self.at.elapsed().as_secs_f64()).max(0.0))
    }
}

/// What a measurement cost.
pub(super) struct Cost {
    /// CPU seconds of the servers; `None` when they are not known.
    pub(super) server: Option<f64>,
    /// CPU seconds of this process.
    pub(super) client: f64,
    /// Cores something else kept busy.
    pub(super) foreign: Option<f64>,
}

/// Waits until `end`; what the time since `start` cost.
pub(super) async fn cost_between(pids: &[u32], start: Instant, end: Instant) -> Cost {
    tokio::time::sleep_until(start).await;
    let usage = Usage::now(pids);
    tokio::time::sleep_until(end).await;
    let known = !usage.servers.is_empty();
    Cost {
        server: known.then(|| usage.servers_since()),
        client: usage.own_since(),
        foreign: usage.foreign_cores().filter(|_| known),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(super::listener(address), Some(std::process::id()));
        drop(listener);
        assert_eq!(super::listener(address), None);
    }

    #[test]
    fn our_own_process_has_a_size_and_a_cost() {
        let pid = std::process::id();
        assert!(rss_mib(pid).unwrap() > 1.0);
        assert!(cpu_seconds(pid).is_some());
        assert!(busy_seconds().unwrap() > 0.0);
        assert!(!Facts::read().kernel.is_empty());
    }
}
