//! Keeps a delta queue fed from one collection of one server.
//!
//! [`core`] decides, this shell calls the server. A full queue stops the reading of the watch, which the
//! server sees as HTTP/2 or TCP back-pressure.

pub mod core;

use std::sync::Arc;
use std::time::Duration;

use setpoint_apimachinery::Encoded;
use setpoint_base::{Chain, Stop};
use tokio::time::Instant;

pub use self::core::ReflectorOptions;
use self::core::{Action, Core, Effect, Input};
use crate::client::{Api, Error, Failure, ListParams, WatchEvent, WatchParams, WatchStream};
use crate::metrics::InformerMetrics;
use crate::object::key_of;
use crate::queue::{Change, Delta, DeltaQueue};

/// How long a watch-list may be silent before its end until somebody is told (upstream's ticker).
const SILENCE: Duration = Duration::from_secs(10);
/// After so many of them it is taken for a plain watch.
const SILENCES_MAX: u32 = 3;

/// A watch-list neither went on nor ended.
struct Silent;

/// Lists and watches for ever.
#[derive(Debug)]
pub(crate) struct Reflector {
    api: Api,
    label_selector: String,
    field_selector: String,
    core: Core<Encoded>,
    queue: Arc<DeltaQueue<Encoded>>,
    metrics: InformerMetrics,
    /// When the list or watch-list under way began.
    began: Instant,
}

impl Reflector {
    pub(crate) fn new(
        api: Api,
        (label_selector, field_selector): (String, String),
        options: ReflectorOptions,
        queue: Arc<DeltaQueue<Encoded>>,
        metrics: InformerMetrics,
    ) -> Self {
        Self {
            api,
            label_selector,
            field_selector,
            core: Core::new(options),
            queue,
            metrics,
            began: Instant::now(),
        }
    }

    /// Runs until `stop`, at whatever point it is; an open watch is closed.
    pub(crate) async fn run(mut self, stop: Stop) {
        stop.run_until_cancelled(self.cycle()).await;
    }

    async fn cycle(&mut self) {
        loop {
            match self.core.next(Instant::now()) {
                Action::Wait(wait) => tokio::time::sleep(wait).await,
                Action::List {
                    resource_version,
                    limit,
                    continue_token,
                } => self.list(resource_version, limit, continue_token).await,
                Action::Watch {
                    resource_version,
                    initial,
                    timeout,
                } => {
                    let params = WatchParams {
                        label_selector: self.label_selector.clone(),
                        field_selector: self.field_selector.clone(),
                        resource_version,
                        send_initial_events: initial,
                        timeout,
                    };
                    self.watch(&params).await;
                }
            }
        }
    }

    async fn list(&mut self, resource_version: Option<u64>, limit: u32, continue_token: String) {
        if continue_token.is_empty() {
            self.began = Instant::now();
        }
        let params = ListParams {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            limit,
            continue_token,
            resource_version,
        };
        let answer = self.api.list(&params).await;
        let now = Instant::now();
        match answer {
            Ok(list) => {
                let effect = self
                    .core
                    .listed(list.items, list.resource_version, list.continue_token, now);
                if let Some(effect) = effect {
                    self.take(effect).await;
                }
            }
            Err(error) => {
                self.report("list failed", &error);
                self.core.list_failed(error.failure(), now);
            }
        }
    }

    async fn watch(&mut self, params: &WatchParams) {
        self.began = Instant::now();
        let mut stream = match self.api.watch(params).await {
            Ok(stream) => stream,
            Err(error) => {
                self.report("watch refused", &error);
                self.core.watch_failed(error.failure(), Instant::now());
                return;
            }
        };
        self.metrics.watches.inc();
        self.core.watch_opened(Instant::now());
        let failure = loop {
            let next = if self.core.awaits_initial_events() {
                self.initial(&mut stream).await
            } else {
                Ok(stream.next().await)
            };
            let Ok(next) = next else {
                break Some(Failure::Other);
            };
            let input = match next {
                None => break None,
                Some(Ok(event)) => input(event),
                Some(Err(error @ Error::Decode { .. })) => {
                    // One event that makes no sense does not end the stream (upstream's watch handler).
                    self.report("event skipped", &error);
                    continue;
                }
                Some(Err(error)) => {
                    self.report("watch failed", &error);
                    // A connection that breaks mid-stream is an end like any other: watch again.
                    break match error {
                        Error::Transport { .. } => None,
                        error => Some(error.failure()),
                    };
                }
            };
            if let Some(effect) = self.core.event(input, Instant::now()) {
                self.take(effect).await;
            }
        };
        drop(stream);
        self.ended(failure);
    }

    /// The next of the initial events. A stream that falls silent before their end comes from a server
    /// that does not know what was asked of it: then it is listed instead.
    async fn initial(&self, stream: &mut WatchStream) -> Result<Option<Result<WatchEvent, Error>>, Silent> {
        for _ in 0..SILENCES_MAX {
            match tokio::time::timeout(SILENCE, stream.next()).await {
                Ok(next) => return Ok(next),
                Err(_) => tracing::warn!(
                    resource = %self.api.resource(),
                    began = ?self.began.elapsed(),
                    "the watch-list has not sent the bookmark that ends its initial events"
                ),
            }
        }
        Err(Silent)
    }

    fn ended(&mut self, failure: Option<Failure>) {
        let now = Instant::now();
        if self.core.is_short_watch(now) {
            self.metrics.short_watches.inc();
        }
        self.core.watch_ended(failure, now);
    }

    async fn take(&mut self, effect: Effect<Encoded>) {
        let change = |change, object: Encoded| Delta::Object {
            key: key_of(&object),
            change,
            object,
        };
        let delta = match effect {
            Effect::Add(object) => change(Change::Added, object),
            Effect::Update(object) => change(Change::Updated, object),
            Effect::Delete(object) => change(Change::Deleted, object),
            Effect::Bookmark(resource_version) => Delta::Bookmark { resource_version },
            Effect::Replace {
                resource_version,
                objects,
            } => {
                self.metrics.lists.inc();
                self.metrics.list_items.observe(objects.len() as f64);
                self.metrics
                    .list_seconds
                    .observe(self.began.elapsed().as_secs_f64());
                Delta::ReplacedAll {
                    resource_version,
                    objects: objects
                        .into_iter()
                        .map(|object| (key_of(&object), object))
                        .collect(),
                }
            }
        };
        self.queue.push(delta).await;
        let version = self.core.last_resource_version();
        self.metrics
            .resource_version
            .set(i64::try_from(version).unwrap_or(i64::MAX));
        self.metrics
            .queued
            .set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }

    fn report(&self, what: &str, error: &Error) {
        self.metrics.watch_errors.inc();
        let (resource, error) = (self.api.resource(), Chain(error));
        match self.core.last_resource_version() {
            // Before the first list a refusal is news for a human; later ones repair themselves.
            0 => tracing::warn!(%resource, %error, "{what}"),
            _ => tracing::info!(%resource, %error, "{what}"),
        }
    }
}

fn input(event: WatchEvent) -> Input<Encoded> {
    match event {
        WatchEvent::Added(object) => {
            let version = object.header().resource_version;
            Input::Added(object, version)
        }
        WatchEvent::Modified(object) => {
            let version = object.header().resource_version;
            Input::Modified(object, version)
        }
        WatchEvent::Deleted(object) => {
            let version = object.header().resource_version;
            Input::Deleted(object, version)
        }
        WatchEvent::Bookmark {
            resource_version,
            initial_events_end,
        } => Input::Bookmark(resource_version, initial_events_end),
    }
}
