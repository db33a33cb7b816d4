//! Events: what happened to an object, for `kubectl describe`.
//!
//! Recording never waits and never fails the caller. A background task writes; repeats become a count on
//! the Event that is already there; floods are cut (client-go `tools/record`).

mod correlator;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use setpoint_apimachinery::Encoded;
use setpoint_base::{Chain, Stop, SystemClock, TaskGroup, WallClock};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::Instant;

use self::correlator::{Correlator, Note, Verdict};
use crate::client::{Api, Client, Error, PatchKind, Resource};
use crate::metrics::RuntimeMetrics;

/// Where Events live.
const EVENTS: Resource = Resource::namespaced("", "v1", "Event", "events");
/// Events that wait to be written; beyond it they are dropped and counted (client-go's queue length).
const QUEUE: usize = 1000;
/// Tries to write one Event, 10 s apart (client-go retries twelve times; ours must not hold up the rest).
const TRIES: u32 = 3;

/// Whether an Event is news or trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Things go as they should.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Records Events. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    dropped: Counter,
}

impl Recorder {
    /// Starts the task that writes, under the name of a component.
    #[must_use]
    pub fn start(client: &Client, component: &str, metrics: &RuntimeMetrics, tasks: &TaskGroup) -> Self {
        Self::start_with_clock(client, component, metrics, tasks, SystemClock::shared())
    }

    /// As [`Recorder::start`], with a clock of the caller's.
    #[must_use]
    pub fn start_with_clock(
        client: &Client,
        component: &str,
        metrics: &RuntimeMetrics,
        tasks: &TaskGroup,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE);
        let dropped = metrics.events_dropped(component);
        let writer = Writer {
            api: client.api(&EVENTS).field_manager(component),
            component: component.to_owned(),
            correlator: Correlator::default(),
            clock,
            dropped: dropped.clone(),
        };
        tasks.spawn(writer.run(notes, tasks.stop().clone()));
        Self { queue, dropped }
    }

    /// Records that `reason` (one CamelCase word) happened to `object`. Does not wait; when too much is
    /// waiting already the Event is dropped and counted.
    pub fn event(&self, object: &Encoded, kind: EventKind, reason: &str, message: impl Into<String>) {
        let note = Note {
            regarding: object.clone(),
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            trace: crate::trace::current(),
        };
        match self.queue.try_send(note) {
            Ok(()) => (),
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
                self.dropped.inc();
            }
        }
    }
}

struct Writer {
    api: Api,
    component: String,
    correlator: Correlator,
    clock: Arc<dyn WallClock>,
    dropped: Counter,
}

impl Writer {
    /// Writes until `stop`, then what is queued, as far as two seconds suffice.
    async fn run(mut self, mut notes: mpsc::Receiver<Note>, stop: Stop) {
        while let Some(Some(note)) = stop.run_until_cancelled(notes.recv()).await {
            if stop.run_until_cancelled(self.write(note)).await.is_none() {
                break;
            }
        }
        notes.close();
        let rest = async {
            while let Some(note) = notes.recv().await {
                self.write(note).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), rest).await;
    }

    async fn write(&mut self, note: Note) {
        let trace = note.trace;
        let write = self.write_traced(note);
        match trace {
            Some(trace) => crate::trace::scope(trace, write).await,
            None => write.await,
        }
    }

    async fn write_traced(&mut self, note: Note) {
        let verdict = self.correlator.judge(&note, Instant::now());
        let (name, count, message) = match verdict {
            Verdict::Drop => {
                self.dropped.inc();
                return;
            }
            Verdict::New { message } => (None, 1, message),
            Verdict::Repeat { name, count, message } => (Some(name), count, message),
        };
        for attempt in 1..=TRIES {
            match self.send(&note, name.as_deref(), count, &message).await {
                Ok(written) => {
                    self.correlator.written(&note, written);
                    return;
                }
                // The server judged it: again would be judged the same.
                Err(error) if error.code().is_some_and(|code| code < 500 && code != 429) => {
                    tracing::debug!(error = %Chain(&error), reason = note.reason, "event refused");
                    break;
                }
                Err(error) if attempt == TRIES => {
                    tracing::info!(error = %Chain(&error), reason = note.reason, "event not written");
                }
                Err(_) => tokio::time::sleep(Duration::from_secs(10)).await,
            }
        }
        self.dropped.inc();
    }

    /// Returns the name of the Event written.
    async fn send(
        &self,
        note: &Note,
        name: Option<&str>,
        count: u32,
        message: &str,
    ) -> Result<String, Error> {
        let header = note.regarding.header();
        let namespace = if header.namespace.is_empty() {
            "default"
        } else {
            &header.namespace
        };
        let api = self.api.clone().namespace(namespace);
        let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(name) = name {
            let patch = json!({"count": count, "lastTimestamp": now, "message": message});
            match api.patch(name, PatchKind::Merge, &patch).await {
                // It has expired meanwhile: begin a new one.
                Err(error) if error.is_not_found() => (),
                result => return result.map(|_| name.to_owned()),
            }
        }
        let name = format!("{}.{:016x}", header.name, fastrand::u64(..));
        api.create(&self.body(note, &name, namespace, count, &now, message))
            .await?;
        Ok(name)
    }

    fn body(&self, note: &Note, name: &str, namespace: &str, count: u32, now: &str, message: &str) -> Value {
        let header = note.regarding.header();
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": note.regarding.api_version().unwrap_or_default(),
                "kind": note.regarding.kind().unwrap_or_default(),
                "namespace": &*header.namespace,
                "name": &*header.name,
                "uid": &*header.uid,
                "resourceVersion": header.resource_version.to_string(),
            },
            "type": match note.kind { EventKind::Normal => "Normal", EventKind::Warning => "Warning" },
            "reason": note.reason,
            "message": message,
            "count": count,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "reportingInstance": self.component,
        })
    }
}
