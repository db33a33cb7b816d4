//! What is done with a connection: callers that wait for their answers, watchers, and calls at a steady rate.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

use super::connection::{Connection, Happened};
use super::messages::whole_messages;
use super::{Measured, histogram};
use crate::bench::requests::Template;

/// Largest frame a peer has to take.
const FRAME_BYTES_MAX: usize = 16_384;
/// How long calls that were due may be late at the end before they count as failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Watchers of a stream that are asked for before the first is there.
const IN_FLIGHT: usize = 8;

/// What is known of each stream of a connection.
type Streams<T> = HashMap<u32, T, BuildHasherDefault<StreamHasher>>;

/// Stream numbers are our own and in a row, so that nobody can choose them to collide.
#[derive(Default)]
struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 over the golden ratio: neighbours end far from each other.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Connection {
    /// Runs `callers` callers, each with one call at a time, until `end` or until there are no more keys; calls begun
    /// by then are awaited. What lies between `start` and `end` counts.
    pub(in crate::bench) async fn run(
        mut self,
        callers: usize,
        mut template: Template,
        mut keys: impl Iterator<Item = u64>,
        (start, end): (Instant, Instant),
    ) -> Result<Measured> {
        let mut measured = Measured {
            latency: histogram()?,
            failed: 0,
        };
        // Calls in flight: when each began, and whether a message has come.
        let mut calls: Streams<(Instant, bool)> = Streams::default();
        let mut idle = callers;
        let mut no_more = false;
        let mut ended = Vec::with_capacity(callers);
        if template.len() > FRAME_BYTES_MAX {
            bail!(
                "a request of {} bytes does not fit a frame: use smaller values",
                template.len()
            );
        }
        loop {
            let now = Instant::now();
            while idle > 0 && now < end && self.window >= template.len() as i64 {
                let Some(n) = keys.next() else {
                    idle = 0;
                    no_more = true;
                    break;
                };
                idle -= 1;
                let stream = self.begin(template.len(), true, |out| template.write(n, 0, out));
                calls.insert(stream, (now, false));
            }
            if calls.is_empty() && (now >= end || no_more) {
                return Ok(measured);
            }
            self.flush().await?;
            self.receive(|happened| match happened {
                Happened::Data(stream, _) => {
                    if let Some((_, answered)) = calls.get_mut(&stream) {
                        *answered = true;
                    }
                }
                Happened::Ended(stream, well) => ended.push((stream, well)),
            })
            .await?;
            let now = Instant::now();
            for (stream, well) in ended.drain(..) {
                let Some((began, answered)) = calls.remove(&stream) else {
                    continue;
                };
                idle += 1;
                if !well || !answered {
                    measured.failed += 1;
                } else if began >= start && now <= end {
                    measured
                        .latency
                        .saturating_record((now - began).as_micros() as u64);
                }
            }
        }
    }

    /// Opens `streams` streams with `watchers` watchers each and hands every whole message to `each`, until `end` or
    /// until it says `false`.
    pub(in crate::bench) async fn watch(
        mut self,
        (streams, watchers): (usize, usize),
        mut template: Template,
        end: Instant,
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        // Of each stream: what is there of a message, and how many watchers are still to be asked for.
        let mut waiting: Streams<(Vec<u8>, usize)> = Streams::default();
        for _ in 0..streams {
            let stream = self.begin(template.len(), false, |out| template.write(0, 0, out));
            let more = IN_FLIGHT.min(watchers - 1);
            for _ in 0..more {
                self.more(stream, template.len(), |out| template.write(0, 0, out));
            }
            waiting.insert(stream, (Vec::new(), watchers - 1 - more));
        }
        let mut answered = Vec::new();
        let (mut broken, mut wanted) = (false, true);
        while Instant::now() < end && !broken && wanted {
            self.flush().await?;
            let received = self.receive(|happened| match happened {
                Happened::Data(stream, data) => {
                    if let Some((buffer, left)) = waiting.get_mut(&stream) {
                        whole_messages(buffer, data, &mut |message: &[u8]| wanted &= each(message));
                        // Much as etcd's client does it, which waits for each.
                        if *left > 0 && buffer.is_empty() {
                            *left -= 1;
                            answered.push(stream);
                        }
                    }
                }
                Happened::Ended(..) => broken = true,
            });
            match tokio::time::timeout_at(end, received).await {
                Ok(result) => result?,
                Err(_) => break,
            }
            for stream in answered.drain(..) {
                self.more(stream, template.len(), |out| template.write(0, 0, out));
            }
        }
        if broken {
            bail!("the server ended a watch stream");
        }
        Ok(())
    }

    /// Calls at a steady rate until `end`, each stamped with the microseconds since `epoch`. Calls go out whether
    /// or not those before were answered, so a server that stalls is charged for every call it keeps waiting, and for
    /// one that it never answers all the time until the end.
    pub(in crate::bench) async fn pace(
        mut self,
        mut template: Template,
        keys: u64,
        per_second: f64,
        epoch: Instant,
        (start, end): (Instant, Instant),
    ) -> Result<Measured> {
        let mut measured = Measured {
            latency: histogram()?,
            failed: 0,
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let gap = Duration::from_secs_f64(1.0 / per_second.max(1e-3));
        let mut due = Instant::now();
        let mut calls: Streams<Instant> = Streams::default();
        let mut ended = Vec::new();
        loop {
            let now = Instant::now();
            while due <= now && due < end && self.window >= template.len() as i64 {
                let stamp = now.saturating_duration_since(epoch).as_micros() as u64;
                let n = rng.u64(..keys);
                let stream = self.begin(template.len(), true, |out| template.write(n, stamp, out));
                calls.insert(stream, now);
                due += gap;
            }
            self.flush().await?;
            if now >= end && (calls.is_empty() || now >= end + PATIENCE) {
                break;
            }
            let wake = if now < end { due.min(end) } else { end + PATIENCE };
            let received = self.receive(|happened| {
                if let Happened::Ended(stream, well) = happened {
                    ended.push((stream, well));
                }
            });
            if let Ok(result) = tokio::time::timeout_at(wake, received).await {
                result?;
            }
            let now = Instant::now();
            for (stream, well) in ended.drain(..) {
                if let Some(began) = calls.remove(&stream) {
                    measured.failed += u64::from(!well);
                    measured.count(began, now, start);
                }
            }
        }
        let now = Instant::now();
        measured.failed += calls.len() as u64;
        calls
            .into_values()
            .for_each(|began| measured.count(began, now, start));
        Ok(measured)
    }
}
