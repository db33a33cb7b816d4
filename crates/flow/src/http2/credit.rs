//! A stream's wait for credit: how long, and who holds it up.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use tokio::time::{Instant, Sleep};

use super::pacing::Pace;
use crate::gauges::Holder;

/// One wait. Nothing is set up unless there is something to wait for.
pub(super) struct Stalled<'a> {
    pace: &'a Pace,
    wait: Option<Wait>,
}

struct Wait {
    stream: u32,
    since: Instant,
    holder: Holder,
    /// Until it is worth an event; `None` after that.
    event: Option<Pin<Box<Sleep>>>,
}

impl<'a> Stalled<'a> {
    pub(super) fn new(pace: &'a Pace) -> Self {
        Self { pace, wait: None }
    }

    pub(super) fn poll(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<usize>> {
        loop {
            let capacity = stream.capacity();
            if capacity > 0 {
                return Poll::Ready(Some(capacity));
            }
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => (),
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => {
                    self.waits(stream, cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn waits(&mut self, stream: &SendStream<Bytes>, cx: &mut Context<'_>) {
        let gauges = &self.pace.gauges;
        let after = self.pace.flow.options().stall_event_after;
        let wait = self.wait.get_or_insert_with(|| {
            let (stream, since) = (stream.stream_id().as_u32(), Instant::now());
            gauges.stall_begins(stream, since);
            Wait {
                stream,
                since,
                holder: gauges.holder(),
                event: Some(Box::pin(tokio::time::sleep(after))),
            }
        });
        let Some(event) = &mut wait.event else {
            return;
        };
        if event.as_mut().poll(cx).is_ready() {
            wait.event = None;
            wait.holder = gauges.holder();
            tracing::info!(
                front = gauges.front,
                peer = %gauges.peer,
                connection = gauges.id,
                stream = wait.stream,
                holder = wait.holder.name(),
                waited = ?wait.since.elapsed(),
                "a stream waits for its peer's credit"
            );
        }
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        let Some(wait) = &self.wait else {
            return;
        };
        let (gauges, took) = (&self.pace.gauges, wait.since.elapsed());
        if gauges.stall_ends(wait.stream, wait.holder, took) {
            self.pace.flow.metrics().stalled(gauges.front, wait.holder, took);
        }
    }
}
