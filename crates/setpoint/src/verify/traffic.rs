//! Numbered writes, each exactly once, whatever happens to the link.
//!
//! A write compares the revision of its writer's cursor. If no answer comes it is simply sent again: when it had been
//! done after all, the comparison fails and the cursor shows its number. So nothing is ever written twice, and how
//! often it had to be tried does not show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use setpoint_base::Stop;
use setpoint_store::client::{Client, ClientError, mvccpb, pb};
use tokio::time::{Instant, sleep, sleep_until};

use pb::request_op::Request;

/// Keys of one writer, its cursor aside.
const KEYS: u64 = 48;
/// Before a write is sent again.
const AGAIN: Duration = Duration::from_millis(20);
/// A server that has been away for so long does not come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where keys are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) prefix: String,
    pub(crate) writers: usize,
}

/// The value of a writer's cursor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cursor {
    pub(crate) writer: usize,
    /// Counts from 1 without a gap.
    pub(crate) number: u64,
    /// How many other keys the write touches.
    pub(crate) keys: usize,
    /// When it was sent, in nanoseconds since the start.
    pub(crate) sent: u64,
}

impl Layout {
    fn cursor_key(&self, writer: usize) -> Bytes {
        format!("{}w{writer:04}/cursor", self.prefix).into()
    }

    fn key(&self, writer: usize, number: u64) -> Bytes {
        format!("{}w{writer:04}/k{number:04}", self.prefix).into()
    }

    /// The writer that a key belongs to.
    pub(crate) fn writer(&self, key: &[u8]) -> Option<usize> {
        let rest = key.strip_prefix(self.prefix.as_bytes())?;
        let number = std::str::from_utf8(rest.get(1..5)?).ok()?.parse().ok()?;
        (number < self.writers).then_some(number)
    }

    /// The cursor, if this is one.
    pub(crate) fn cursor(&self, kv: &mvccpb::KeyValue) -> Option<Cursor> {
        if !kv.key.ends_with(b"/cursor") {
            return None;
        }
        let text = std::str::from_utf8(&kv.value).ok()?;
        let mut fields = text.split(' ');
        let mut next = || fields.next()?.parse::<u64>().ok();
        Some(Cursor {
            writer: self.writer(&kv.key)?,
            number: next()?,
            keys: usize::try_from(next()?).ok()?,
            sent: next()?,
        })
    }
}

/// What all writers share.
pub(crate) struct Pace {
    pub(crate) epoch: Instant,
    /// Writes each second, of all writers together; 0 is as fast as they go.
    pub(crate) rate: f64,
    /// Events still to be made.
    pub(crate) events_left: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) again: AtomicU64,
    pub(crate) stop: Stop,
}

impl Pace {
    /// Nanoseconds since the start.
    pub(crate) fn nanos(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes `events` out of those to be made; whether there was anything left.
    fn take(&self, events: u64) -> bool {
        let left = |left: u64| Some(left.saturating_sub(events));
        let before = self
            .events_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        before.is_ok_and(|before| before > 0)
    }
}

/// One writer's life: the number of its last write.
///
/// # Errors
/// When the store is away for good, refuses, or somebody else writes our keys.
pub(crate) async fn write(
    layout: Layout,
    writer: usize,
    client: Client,
    pace: Arc<Pace>,
    seed: u64,
) -> Result<u64> {
    let mut rng = fastrand::Rng::with_seed(seed ^ (writer as u64) << 32);
    let (mut number, mut cursor) = (0, 0);
    let mut alive = [false; KEYS as usize];
    let every = (pace.rate > 0.0).then(|| Duration::from_secs_f64(layout.writers as f64 / pace.rate));
    let mut due = Instant::now();
    while !pace.stop.is_cancelled() {
        let touched = touched(&alive, &mut rng);
        let ops: Vec<_> = touched
            .iter()
            .map(|(key, put)| (layout.key(writer, *key as u64), *put))
            .collect();
        if !pace.take(ops.len() as u64 + 1) {
            break;
        }
        if let Some(every) = every {
            due += every;
            sleep_until(due).await;
        }
        match once(&layout, writer, number + 1, cursor, &ops, &client, &pace).await? {
            Some(revision) => cursor = revision,
            None => break,
        }
        for (key, put) in touched {
            alive[key] = put;
        }
        number += 1;
        pace.writes.fetch_add(1, Ordering::Relaxed);
    }
    Ok(number)
}

/// Keys, and whether each is put or deleted: mostly one put; now and then a delete, or several keys at once. Only what
/// is there is deleted, because nothing else makes an event.
fn touched(alive: &[bool], rng: &mut fastrand::Rng) -> Vec<(usize, bool)> {
    let first = rng.usize(..alive.len());
    let (count, delete) = match rng.u8(..10) {
        0..8 => (1, false),
        8 => (1, true),
        _ => (rng.usize(2..6), rng.bool()),
    };
    let key = |step: usize| (first + step) % alive.len();
    let put = |step: usize| step > 0 || !delete || !alive[key(step)];
    (0..count).map(|step| (key(step), put(step))).collect()
}

/// One write until it is known to be done: its revision. `None` when there is no time left to find out.
async fn once(
    layout: &Layout,
    writer: usize,
    number: u64,
    cursor: i64,
    ops: &[(Bytes, bool)],
    client: &Client,
    pace: &Pace,
) -> Result<Option<i64>> {
    let started = Instant::now();
    loop {
        let request = transaction(layout, writer, number, cursor, ops, pace.nanos());
        let answer = match client.txn(request).await {
            Ok(answer) => answer,
            Err(error) if worth_another(&error) && started.elapsed() < PATIENCE => {
                pace.again.fetch_add(1, Ordering::Relaxed);
                sleep(AGAIN).await;
                continue;
            }
            Err(_) if pace.stop.is_cancelled() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if answer.succeeded {
            return Ok(answer.header.map(|header| header.revision));
        }
        return match answer.responses.first().and_then(|op| found(op, layout)) {
            Some((seen, revision)) if seen.number == number => Ok(Some(revision)),
            _ => bail!("somebody else writes below {}", layout.prefix),
        };
    }
}

fn worth_another(error: &ClientError) -> bool {
    use tonic::Code;
    match error {
        ClientError::Refused { code, .. } => {
            matches!(
                code,
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown
            )
        }
        error => error.may_have_happened() || matches!(error, ClientError::Unreachable { .. }),
    }
}

fn found(op: &pb::ResponseOp, layout: &Layout) -> Option<(Cursor, i64)> {
    let Some(pb::response_op::Response::ResponseRange(range)) = &op.response else {
        return None;
    };
    let kv = range.kvs.first()?;
    Some((layout.cursor(kv)?, kv.mod_revision))
}

fn transaction(
    layout: &Layout,
    writer: usize,
    number: u64,
    cursor: i64,
    ops: &[(Bytes, bool)],
    now: u64,
) -> pb::TxnRequest {
    let key = layout.cursor_key(writer);
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let put = |key: &Bytes, value: String| {
        op(Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.into(),
            ..Default::default()
        }))
    };
    let mut success = Vec::with_capacity(ops.len() + 1);
    for (key, is_put) in ops {
        success.push(if *is_put {
            put(key, number.to_string())
        } else {
            op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            }))
        });
    }
    success.push(put(&key, format!("{number} {} {now}", ops.len())));
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(cursor)),
            ..Default::default()
        }],
        success,
        failure: vec![op(Request::RequestRange(pb::RangeRequest {
            key,
            ..Default::default()
        }))],
    }
}
