//! Client channels: what connecting costs, whether connections are used again, what many calls leave behind, and how soon
//! a peer that has died without a word is found out.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use serde::Serialize;
use setpoint_flow::Channel;
use setpoint_flow::impair::{Proxy, ProxyOptions};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::StdError;
use tonic::transport::Endpoint;
use tonic::{Request, Status};

use super::contender::{Contender, Peer, Start};
use super::serve::{ECHO, Raw};
use crate::bench::h2load::histogram;
use crate::bench::machine;

/// Callers at a time.
const CALLERS: usize = 64;
/// Channels made one after the other.
const CONNECTS: usize = 300;
/// Bytes of a call, and of its answer.
const CALL_BYTES: usize = 64;
/// What channels are given to find out that nobody is there: both ask after 10 s, and wait 3 s for an answer.
const ASK_AFTER: Duration = Duration::from_secs(10);
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// A dead peer that was not found by then is not found.
const DEAD_MAX: Duration = Duration::from_secs(25);
/// Other calls.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// All calls of a run take no longer.
const CALLS_TIMEOUT: Duration = Duration::from_secs(1_800);

/// One kind of channel.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Channels {
    pub(super) contender: Contender,
    /// From nothing to the first answer, in milliseconds.
    pub(super) connect_p50_ms: f64,
    pub(super) connect_p99_ms: f64,
    pub(super) calls: usize,
    /// Calls a second, so many at a time.
    pub(super) rate: f64,
    pub(super) callers: usize,
    pub(super) call_p50_ms: f64,
    pub(super) call_p99_ms: f64,
    /// Connections that all the calls were made on.
    pub(super) connections: u64,
    /// Calls that found a connection, in percent.
    pub(super) reuse_percent: f64,
    /// Memory of this program after a tenth of the calls, and after all, in MiB.
    pub(super) memory_mib: [f64; 2],
    /// Seconds until a call failed after its peer had fallen silent; none if that took longer than `DEAD_MAX`.
    pub(super) dead_found_seconds: Option<f64>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    calls: usize,
    quick: bool,
    all: &mut Vec<Channels>,
) -> Result<()> {
    let connects = if quick { CONNECTS / 10 } else { CONNECTS };
    let measured = run(contender, start, calls, connects);
    all.push(
        timeout(CALLS_TIMEOUT, measured)
            .await
            .context("took longer than half an hour")??,
    );
    Ok(())
}

/// A channel of either kind.
#[derive(Clone)]
enum AnyChannel {
    Ours(Channel),
    Tonics(tonic::transport::Channel),
}

impl AnyChannel {
    fn to(contender: Contender, address: SocketAddr) -> Result<Self> {
        let address = format!("http://{address}");
        match contender {
            // As it comes: 10 s and 3 s are its own.
            Contender::Setpoint => Ok(Self::Ours(
                Channel::to(address).build().context("build a channel")?,
            )),
            Contender::TonicDefault => {
                let endpoint = Endpoint::from_shared(address)
                    .context("make an endpoint")?
                    .tcp_nodelay(true);
                let endpoint = endpoint
                    .http2_keep_alive_interval(ASK_AFTER)
                    .keep_alive_timeout(ASK_TIMEOUT);
                Ok(Self::Tonics(endpoint.keep_alive_while_idle(true).connect_lazy()))
            }
            _ => bail!("{} has no channel here", contender.name()),
        }
    }

    async fn call(&self) -> Result<()> {
        self.call_within(CALL_TIMEOUT).await
    }

    async fn call_within(&self, time: Duration) -> Result<()> {
        match self {
            Self::Ours(channel) => echo(channel.clone(), time).await,
            Self::Tonics(channel) => echo(channel.clone(), time).await,
        }
    }
}

async fn run(contender: Contender, start: &Start, calls: usize, connects: usize) -> Result<Channels> {
    let peer = Peer::start(start).await?;
    let mut connecting = Vec::new();
    for _ in 0..connects {
        let began = Instant::now();
        AnyChannel::to(contender, peer.addr)?
            .call()
            .await
            .context("make a first call")?;
        connecting.push(began.elapsed());
    }
    // A proxy without limits counts the connections.
    let proxy = Proxy::listen(peer.addr, ProxyOptions::default())
        .await
        .context("start the proxy")?;
    let channel = AnyChannel::to(contender, proxy.addr())?;
    // What is kept of a call does not grow with their number: memory is what channels take.
    let (began, took) = (Instant::now(), Mutex::new(histogram()?));
    burst(&channel, calls / 10, &took).await?;
    let early = memory();
    burst(&channel, calls - calls / 10, &took).await?;
    let (elapsed, late) = (began.elapsed(), memory());
    let connections = proxy.traffic().accepted;
    proxy.stop().await;
    let dead_found_seconds = dead(contender, peer.addr).await?;
    peer.stop().await;
    let (connect, took) = (quantiles(&mut connecting), took.into_inner());
    let call = |quantile| took.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Channels {
        contender,
        connect_p50_ms: connect.0,
        connect_p99_ms: connect.1,
        calls,
        rate: calls as f64 / elapsed.as_secs_f64(),
        callers: CALLERS,
        call_p50_ms: call(0.5),
        call_p99_ms: call(0.99),
        connections,
        reuse_percent: 100.0 * (1.0 - connections as f64 / calls.max(1) as f64),
        memory_mib: [early, late],
        dead_found_seconds,
    })
}

/// A call on a connection that has just frozen: how long until it fails.
async fn dead(contender: Contender, address: SocketAddr) -> Result<Option<f64>> {
    let proxy = Proxy::listen(address, ProxyOptions::default())
        .await
        .context("start the proxy")?;
    let channel = AnyChannel::to(contender, proxy.addr())?;
    channel.call().await.context("call before the peer dies")?;
    proxy.freeze();
    let began = Instant::now();
    let found = timeout(DEAD_MAX, channel.call_within(DEAD_MAX * 2)).await;
    let seconds = found.is_ok().then(|| began.elapsed().as_secs_f64());
    drop(channel);
    proxy.stop().await;
    Ok(seconds)
}

/// Makes so many calls; what each took is noted in microseconds.
async fn burst(channel: &AnyChannel, calls: usize, took: &Mutex<Histogram<u64>>) -> Result<()> {
    let callers = (0..CALLERS).map(|n| async move {
        let own = calls / CALLERS + usize::from(n < calls % CALLERS);
        for _ in 0..own {
            let began = Instant::now();
            channel.call().await.context("make a call")?;
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            took.lock().saturating_record(micros);
        }
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(callers).await?;
    Ok(())
}

async fn echo<C>(channel: C, within: Duration) -> Result<()>
where
    C: GrpcService<Body>,
    C::Error: Into<StdError>,
    C::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    let mut grpc = Grpc::new(channel);
    let ready = grpc
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.into().to_string()));
    ready.context("wait for the channel")?;
    let mut request = Request::new(Bytes::from_static(&[1; CALL_BYTES]));
    request.set_timeout(within);
    let answer = grpc.unary(request, PathAndQuery::from_static(ECHO), Raw).await;
    let length = answer.context("wait for an answer")?.into_inner().len();
    if length != CALL_BYTES {
        bail!("an answer of {length} bytes");
    }
    Ok(())
}

/// The result for people.
pub(super) fn write(all: &[Channels], out: &mut String) -> fmt::Result {
    let Some(first) = all.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "\nchannels: {} calls of {CALL_BYTES} B, {} at a time (goal: connect p99 <= 9 ms, reuse >= 91 %, memory flat, \
         dead <= 13 s)",
        first.calls, first.callers
    )?;
    writeln!(
        out,
        "{:<14} {:>18} {:>9} {:>15} {:>12} {:>9} {:>16} {:>10}",
        "",
        "connect p50/p99 ms",
        "calls/s",
        "call p50/p99 ms",
        "connections",
        "reuse",
        "memory MiB",
        "dead after"
    )?;
    for it in all {
        let dead = it
            .dead_found_seconds
            .map_or("never".to_owned(), |seconds| format!("{seconds:.1} s"));
        writeln!(
            out,
            "{:<14} {:>18} {:>9.0} {:>15} {:>12} {:>7.3} % {:>16} {dead:>10}",
            it.contender.name(),
            format!("{:.2}/{:.2}", it.connect_p50_ms, it.connect_p99_ms),
            it.rate,
            format!("{:.2}/{:.2}", it.call_p50_ms, it.call_p99_ms),
            it.connections,
            it.reuse_percent,
            format!("{:.1} -> {:.1}", it.memory_mib[0], it.memory_mib[1]),
        )?;
    }
    Ok(())
}

/// The middle and the slowest of a hundred, in milliseconds.
fn quantiles(took: &mut [Duration]) -> (f64, f64) {
    took.sort_unstable();
    let at = |part: usize| {
        took.get(took.len() * part / 100)
            .map_or(0.0, Duration::as_secs_f64)
            * 1e3
    };
    (at(50), at(99))
}

fn memory() -> f64 {
    machine::rss_mib(std::process::id()).unwrap_or(f64::NAN)
}
