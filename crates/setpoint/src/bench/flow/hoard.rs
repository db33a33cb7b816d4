//! A thousand streams of which one is read: does it still get the link, and what do the others cost?

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use setpoint_base::{Stop, TaskGroup};
use setpoint_flow::impair::Setting;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::{Instant, sleep, timeout};

use super::contender::{Contender, Start};
use super::serve::HOLD;
use super::{Bench, GRACE, bounded};

const LINK_MBIT: u64 = 1_000;
const RTT_MS: u64 = 20;
/// What each stream that is not read has to send, in bytes.
const UNREAD_BYTES: u64 = 1 << 20;
/// How long they may take to open, and to send what they may.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(2);

/// One contender.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Hoard {
    pub(super) contender: Contender,
    pub(super) link_mbit: u64,
    pub(super) rtt_ms: u64,
    /// Streams that were opened and are not read.
    pub(super) unread: usize,
    /// The stream that is read, alone and beside the others, in megabits per second.
    pub(super) solo_mbit: f64,
    pub(super) beside_mbit: f64,
    /// What those that are not read could send, in MiB.
    pub(super) unread_sent_mib: f64,
    /// What the server's memory grew by meanwhile, in MiB.
    pub(super) server_grew_mib: Option<f64>,
}

pub(super) async fn measure(
    contender: Contender,
    start: &Start,
    quick: bool,
    hoards: &mut Vec<Hoard>,
) -> Result<()> {
    let streams = if quick { 99 } else { 999 };
    hoards.push(bounded(hoard(contender, start, streams)).await?);
    Ok(())
}

async fn hoard(contender: Contender, start: &Start, streams: usize) -> Result<Hoard> {
    let setting = Setting::symmetric(Duration::from_millis(RTT_MS), Some(LINK_MBIT * 1_000_000));
    let solo_mbit = solo(start, setting).await?;
    let bench = Bench::start(start, setting).await?;
    let before = bench.peer.rss_mib();
    let uploads = TaskGroup::new(&Stop::new());
    let unread = open_unread(&bench, streams, &uploads).await?;
    sleep(SETTLE).await;
    let live = bench
        .sender
        .upload(&uploads)
        .await
        .context("open the stream that is read");
    let beside_mbit = match live {
        Ok(live) => rate(&live).await,
        Err(_) => 0.0,
    };
    let grew = before.zip(bench.peer.rss_mib()).map(|(from, to)| to - from);
    let sent: u64 = unread.iter().map(|sent| sent.load(Ordering::Relaxed)).sum();
    let opened = unread.len();
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    Ok(Hoard {
        contender,
        link_mbit: LINK_MBIT,
        rtt_ms: RTT_MS,
        unread: opened,
        solo_mbit,
        beside_mbit,
        unread_sent_mib: sent as f64 / f64::from(1 << 20),
        server_grew_mib: grew,
    })
}

async fn solo(start: &Start, setting: Setting) -> Result<f64> {
    let bench = Bench::start(start, setting).await?;
    let uploads = TaskGroup::new(&Stop::new());
    let live = bench.sender.upload(&uploads).await?;
    let mbit = rate(&live).await;
    uploads.shutdown(GRACE).await;
    bench.stop().await?;
    Ok(mbit)
}

/// The rate of a stream once it has had time to find it.
async fn rate(sent: &AtomicU64) -> f64 {
    sleep(SETTLE).await;
    let (from, started) = (sent.load(Ordering::Relaxed), Instant::now());
    sleep(SETTLE).await;
    let bytes = sent.load(Ordering::Relaxed) - from;
    bytes as f64 * 8.0 / 1e6 / started.elapsed().as_secs_f64()
}

/// Opens streams and sends on each what it may.
async fn open_unread(
    bench: &Bench,
    streams: usize,
    uploads: &TaskGroup,
) -> Result<Vec<std::sync::Arc<AtomicU64>>> {
    let mut opening: FuturesUnordered<_> = (0..streams).map(|_| bench.sender.open(HOLD)).collect();
    let mut counts = Vec::new();
    let opened = async {
        while let Some(upload) = opening.next().await {
            let mut upload = upload?;
            counts.push(upload.sent.clone());
            let stop = uploads.stop().clone();
            uploads.spawn(async move {
                let sending = async {
                    let _ = upload.send(UNREAD_BYTES).await;
                    // Kept open: a stream that has ended holds nothing up.
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = stop.cancelled() => (),
                    () = sending => (),
                }
            });
        }
        anyhow::Ok(())
    };
    // A server that takes fewer streams at a time lets the others wait.
    if let Ok(opened) = timeout(OPEN_TIMEOUT, opened).await {
        opened?;
    }
    drop(opening);
    Ok(counts)
}
