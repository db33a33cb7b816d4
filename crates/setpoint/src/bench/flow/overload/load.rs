//! Load on the service: callers that wait for their answers, and calls that come at a rate whatever becomes of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderValue, Method, Request};
use parking_lot::Mutex;
use setpoint_base::TaskGroup;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::sender::drive;
use super::Sample;

/// A client waits no longer for its answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);
/// More than can be open for `PATIENCE`.
const STREAMS_MAX: usize = 1 << 16;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Served,
    /// `RESOURCE_EXHAUSTED`.
    Refused,
    /// Its client had gone before.
    Late,
    /// Neither: the measurement is none.
    Failed,
}

/// One connection to the service.
#[derive(Clone)]
pub(super) struct Caller {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl Caller {
    pub(super) async fn connect(address: SocketAddr, tasks: &TaskGroup) -> Result<Self> {
        let socket = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true)?;
        let (requests, connection) = Builder::new()
            .initial_max_send_streams(STREAMS_MAX)
            .max_concurrent_reset_streams(STREAMS_MAX)
            .enable_push(false)
            .handshake(socket)
            .await
            .context("greet the server")?;
        drive(connection, tasks);
        Ok(Self {
            requests,
            authority: address.to_string(),
        })
    }

    async fn call(&self, path: &str) -> Fate {
        timeout(PATIENCE, self.ask(path))
            .await
            .unwrap_or(Ok(Fate::Late))
            .unwrap_or(Fate::Failed)
    }

    async fn ask(&self, path: &str) -> Result<Fate> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (answer, _) = requests.send_request(request, true)?;
        let answer = answer.await?;
        let status = answer.headers().get("grpc-status").map(HeaderValue::as_bytes);
        Ok(match status {
            Some(b"0") => Fate::Served,
            Some(b"8") => Fate::Refused,
            _ => Fate::Failed,
        })
    }
}

/// So many callers, each of which calls again when it has its answer.
pub(super) async fn closed(
    caller: &Caller,
    path: &'static str,
    callers: usize,
    time: Duration,
) -> Vec<Sample> {
    let began = Instant::now();
    let callers = (0..callers).map(|_| async {
        let mut samples = Vec::new();
        while began.elapsed() < time {
            let came = Instant::now();
            let fate = caller.call(path).await;
            samples.push(Sample::new(began, came, fate));
        }
        samples
    });
    futures_util::future::join_all(callers).await.concat()
}

/// Calls at rates that follow one another: (calls a second, for how long).
pub(super) async fn open(caller: &Caller, path: &'static str, phases: &[(f64, Duration)]) -> Vec<Sample> {
    let samples: Arc<Mutex<Vec<Sample>>> = Arc::default();
    let mut calls = JoinSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let began = Instant::now();
    let mut end = Duration::ZERO;
    for (rate, time) in phases {
        let (start, mut sent) = (end, 0.0);
        end += *time;
        while began.elapsed() < end {
            ticks.tick().await;
            // As many as are due, also when this thread had to wait.
            let due = rate * (began.elapsed().min(end) - start.min(began.elapsed())).as_secs_f64();
            while sent < due {
                sent += 1.0;
                let (caller, samples) = (caller.clone(), Arc::clone(&samples));
                calls.spawn(async move {
                    let came = Instant::now();
                    let fate = caller.call(path).await;
                    samples.lock().push(Sample::new(began, came, fate));
                });
            }
            while calls.try_join_next().is_some() {}
        }
    }
    while calls.join_next().await.is_some() {}
    std::mem::take(&mut *samples.lock())
}
