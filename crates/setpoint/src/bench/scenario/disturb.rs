//! What goes on beside the puts whose latency is measured. Each disturbance has a thread and a runtime of its own, so
//! that what the generator does for it does not delay the puts.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use setpoint_proto::etcdserverpb::{CompactionRequest, SnapshotRequest};
use tokio::time::{Instant, sleep, sleep_until};

use crate::bench::events;
use crate::bench::h2load::Connection;
use crate::bench::requests::{Op, Template};

/// Keys that LISTs read, compaction prunes and the watcher far behind has to see.
pub(super) const BULK: &[u8] = b"setpoint-bulk/";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
/// Callers that grant leases.
const GRANTERS: usize = 32;
/// Connections that come and go together.
const STORM: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Disturbance {
    /// Nothing.
    Quiet,
    /// All keys of [`BULK`] are read, again and again.
    Lists,
    /// A watcher starts at a revision and reads so many events.
    Watcher { from: i64, events: u64 },
    /// Everything below a revision is compacted.
    Compaction { at: i64 },
    /// A snapshot is fetched.
    Snapshot,
    /// Leases are granted as fast as it goes, and end.
    Leases,
    /// Connections are made, watch, and are dropped.
    Reconnects,
}

/// Starts a disturbance that lasts until `end` at most. It comes back with what it has done: calls, events or bytes,
/// and the time that took.
pub(super) fn start(
    what: Disturbance,
    address: SocketAddr,
    begin: Instant,
    end: Instant,
) -> Result<JoinHandle<Result<Done>>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a disturbance")?;
    let run = move || runtime.block_on(disturb(what, address, begin, end));
    std::thread::Builder::new()
        .name("disturbance".to_owned())
        .spawn(run)
        .context("start a disturbance")
}

/// What a disturbance did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) amount: u64,
    pub(super) took: Duration,
}

async fn disturb(what: Disturbance, address: SocketAddr, begin: Instant, end: Instant) -> Result<Done> {
    sleep_until(begin).await;
    let url = format!("http://{address}");
    let amount = match what {
        Disturbance::Quiet => 0,
        Disturbance::Lists => lists(address, end).await?,
        Disturbance::Watcher { from, events } => watcher(address, from, events, end).await?,
        Disturbance::Compaction { at } => {
            let request = CompactionRequest {
                revision: at,
                physical: true,
            };
            KvClient::connect(url).await?.compact(request).await?;
            1
        }
        Disturbance::Snapshot => {
            let mut client = MaintenanceClient::connect(url)
                .await?
                .max_decoding_message_size(usize::MAX);
            let mut pieces = client.snapshot(SnapshotRequest {}).await?.into_inner();
            let mut bytes = 0;
            while let Some(piece) = pieces.message().await? {
                bytes += piece.blob.len() as u64;
            }
            bytes
        }
        Disturbance::Leases => leases(address, end).await?,
        Disturbance::Reconnects => reconnects(address, end).await?,
    };
    Ok(Done {
        amount,
        took: begin.elapsed(),
    })
}

async fn lists(address: SocketAddr, end: Instant) -> Result<u64> {
    let connection = Connection::open(address, Op::Get.path()).await?;
    let time = (Instant::now(), end + Duration::from_secs(60));
    let until_end = std::iter::repeat_with(|| 0).take_while(move |_| Instant::now() < end);
    let measured = connection
        .run(1, Template::all(BULK, false), until_end, time)
        .await?;
    if measured.failed > 0 {
        bail!("{} LISTs failed", measured.failed);
    }
    Ok(measured.latency.len())
}

async fn watcher(address: SocketAddr, from: i64, events: u64, end: Instant) -> Result<u64> {
    let connection = Connection::open(address, Op::Watch.path()).await?;
    let (mut seen, mut canceled) = (0, false);
    let each = |message: &[u8]| {
        let said = events::read(message, |_| ());
        seen += said.events;
        canceled |= said.canceled;
        seen < events && !canceled
    };
    connection
        .watch((1, 1), Template::watch(BULK, from), end, each)
        .await?;
    if canceled {
        bail!("the watcher far behind was canceled");
    }
    Ok(seen)
}

async fn leases(address: SocketAddr, end: Instant) -> Result<u64> {
    let connection = Connection::open(address, GRANT).await?;
    let numbers = 10_000_000..;
    // The shortest lease there is, so that the first end while the last are granted.
    let template = Template::grant(Instant::now());
    let measured = connection
        .run(GRANTERS, template, numbers, (Instant::now(), end))
        .await?;
    Ok(measured.latency.len())
}

async fn reconnects(address: SocketAddr, end: Instant) -> Result<u64> {
    let mut made = 0;
    while Instant::now() < end {
        let streams = (0..STORM).map(|_| async move {
            let connection = Connection::open(address, Op::Watch.path()).await?;
            let until = Instant::now() + Duration::from_secs(5);
            // The first message says that the watcher is there.
            connection
                .watch((1, 1), Template::watch(BULK, 0), until, |_| false)
                .await
        });
        try_join_all(streams).await?;
        made += STORM as u64;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(made)
}
