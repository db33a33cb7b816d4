//! What a channel costs beside tonic's own, against one server of the stock `h2` crate in this process, over the loopback.
//! `cargo bench -p setpoint-flow --bench channel -- 1000000 --json FILE` makes so many calls with each.
//!
//! Printed: connecting until the first answer, a call's mean and 99th percentile, and what must not grow with the number
//! of calls: connections, memory of the process, sockets in TIME_WAIT.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use setpoint_flow::Channel;
use setpoint_proto::etcdserverpb::RangeRequest;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Endpoint;

/// Callers at a time.
const CALLERS: usize = 64;
/// Channels made one after the other.
const CONNECTS: usize = 300;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let calls = args.iter().find_map(|arg| arg.parse().ok());
    let calls: usize = calls.unwrap_or(100_000);
    let file = args
        .iter()
        .position(|arg| arg == "--json")
        .and_then(|at| args.get(at + 1));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let accepted = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound port");
        let mut servers = JoinSet::new();
        servers.spawn(serve(listener, Arc::clone(&accepted)));
        println!("{calls} calls, {CALLERS} at a time; {CONNECTS} connections one after the other");
        // Warm: allocator and server.
        ours(address, 2_000, &accepted).await;
        let ours = ours(address, calls, &accepted).await;
        let theirs = tonics(address, calls, &accepted).await;
        ours.print("setpoint");
        theirs.print("tonic");
        println!(
            "ratio     connect p99 {:.2}, call mean {:.2}, call p99 {:.2}, CPU {:.2} (below 1 is better than tonic)",
            ours.connect_p99 / theirs.connect_p99,
            ours.mean / theirs.mean,
            ours.p99 / theirs.p99,
            ours.cpu / theirs.cpu,
        );
        if let Some(file) = file {
            let json = serde_json::json!({
                "calls": calls,
                "callers": CALLERS,
                "connects": CONNECTS,
                "setpoint": ours.json(),
                "tonic": theirs.json(),
            });
            std::fs::write(file, format!("{json:#}\n")).expect("the file can be written");
        }
        servers.shutdown().await;
    });
}

struct Outcome {
    connect_p99: f64,
    mean: f64,
    p99: f64,
    /// Of the whole process, the server's part included, for all calls.
    cpu: f64,
    calls: usize,
    connections: usize,
    /// After a tenth of the calls, and at the end, in KiB.
    memory: (u64, u64),
    /// Before the calls and after them.
    time_wait: (usize, usize),
}

impl Outcome {
    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "connect_p99_seconds": self.connect_p99,
            "call_mean_seconds": self.mean,
            "call_p99_seconds": self.p99,
            "cpu_seconds": self.cpu,
            "connections": self.connections,
            "reuse_per_cent": 100.0 * (1.0 - self.connections as f64 / self.calls as f64),
            "rss_kib_after_a_tenth": self.memory.0,
            "rss_kib_at_the_end": self.memory.1,
            "time_wait_before": self.time_wait.0,
            "time_wait_after": self.time_wait.1,
        })
    }

    fn print(&self, name: &str) {
        let reuse = 100.0 * (1.0 - self.connections as f64 / self.calls as f64);
        println!(
            "{name:9} connect p99 {:.2} ms, call mean {:.3} ms, p99 {:.3} ms, {:.1} us of CPU; {} connections \
             (reuse {reuse:.3} %), {} -> {} KiB, TIME_WAIT {} -> {}",
            self.connect_p99 * 1e3,
            self.mean * 1e3,
            self.p99 * 1e3,
            1e6 * self.cpu / self.calls as f64,
            self.connections,
            self.memory.0,
            self.memory.1,
            self.time_wait.0,
            self.time_wait.1,
        );
    }
}

async fn ours(address: SocketAddr, calls: usize, accepted: &AtomicUsize) -> Outcome {
    let make = || {
        let channel = Channel::to(format!("http://{address}"))
            .build()
            .expect("a channel");
        std::future::ready(KvClient::new(channel))
    };
    let mut connects = Vec::new();
    for _ in 0..CONNECTS {
        let began = Instant::now();
        make()
            .await
            .range(RangeRequest::default())
            .await
            .expect("an answer");
        connects.push(began.elapsed());
    }
    let client = make().await;
    measure(calls, accepted, connects, || {
        let mut client = client.clone();
        async move { client.range(RangeRequest::default()).await.map(drop) }
    })
    .await
}

async fn tonics(address: SocketAddr, calls: usize, accepted: &AtomicUsize) -> Outcome {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
    let endpoint = endpoint.tcp_nodelay(true);
    let mut connects = Vec::new();
    for _ in 0..CONNECTS {
        let began = Instant::now();
        let channel = endpoint.connect().await.expect("a connection");
        let mut client = KvClient::new(channel);
        client.range(RangeRequest::default()).await.expect("an answer");
        connects.push(began.elapsed());
    }
    let client = KvClient::new(endpoint.connect().await.expect("a connection"));
    measure(calls, accepted, connects, || {
        let mut client = client.clone();
        async move { client.range(RangeRequest::default()).await.map(drop) }
    })
    .await
}

async fn measure<F>(
    calls: usize,
    accepted: &AtomicUsize,
    connects: Vec<Duration>,
    call: impl Fn() -> F,
) -> Outcome
where
    F: Future<Output = Result<(), Status>>,
{
    call().await.expect("an answer");
    let connections = accepted.load(Ordering::Relaxed) - 1;
    let waiting = time_wait();
    let (mut took, cpu) = (Vec::with_capacity(calls), cpu_seconds());
    took.extend(run(calls / 10, &call).await);
    let early = memory();
    took.extend(run(calls - calls / 10, &call).await);
    Outcome {
        connect_p99: percentile(connects),
        mean: took.iter().map(Duration::as_secs_f64).sum::<f64>() / took.len() as f64,
        p99: percentile(took),
        cpu: cpu_seconds() - cpu,
        calls,
        connections: accepted.load(Ordering::Relaxed) - connections,
        memory: (early, memory()),
        time_wait: (waiting, time_wait()),
    }
}

async fn run<F>(calls: usize, call: &impl Fn() -> F) -> Vec<Duration>
where
    F: Future<Output = Result<(), Status>>,
{
    let callers = (0..CALLERS).map(|_| async {
        let mut took = Vec::with_capacity(calls / CALLERS);
        for _ in 0..calls / CALLERS {
            let began = Instant::now();
            call().await.expect("an answer");
            took.push(began.elapsed());
        }
        took
    });
    futures_util::future::join_all(callers).await.concat()
}

fn percentile(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took.get(took.len() * 99 / 100).map_or(0.0, Duration::as_secs_f64)
}

/// Resident memory of this process in KiB.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Processor time that this process has had.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Sockets of the machine that are in TIME_WAIT.
fn time_wait() -> usize {
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let state = |line: &str| line.split_whitespace().nth(3).map(str::to_owned);
    text.lines()
        .filter(|line| state(line).as_deref() == Some("06"))
        .count()
}

async fn serve(listener: TcpListener, accepted: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        accepted.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_nodelay(true);
        connections.spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            let mut calls = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(answer(request.into_body(), respond));
                while calls.try_join_next().is_some() {}
            }
        });
    }
}

/// Reads a request to its end and answers with an empty message.
async fn answer(mut body: RecvStream, mut respond: SendResponse<Bytes>) {
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.body(()).expect("fit headers");
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    let _ = stream.send_data(Bytes::from_static(&[0; 5]), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = stream.send_trailers(trailers);
}
