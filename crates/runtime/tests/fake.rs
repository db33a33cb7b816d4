//! An API server small enough to be wrong on purpose: objects in a map, a log, and faults by script.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use kube_client::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use setpoint_runtime::{Client, Resource};
use tokio::sync::Notify;

use answers::*;

pub(crate) const MAPS: Resource = Resource::namespaced("", "v1", "ConfigMap", "configmaps");
pub(crate) const SITES: Resource = Resource::namespaced("demo.setpoint.dev", "v1", "Site", "sites");

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// The kinds of request that a fault can hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    List,
    /// A list that continues another.
    NextPage,
    Watch,
    WatchList,
    Get,
    Write,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// This status instead of an answer.
    Status(u16, &'static str, &'static str),
    /// The connection is refused.
    Refused,
    /// A watch that opens, and ends after so many events, the last one cut in half.
    Cut(usize),
    /// A watch that opens and delivers this status as an ERROR event.
    Event(u16, &'static str),
    /// No answer, ever.
    Hang,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    log: Vec<Logged>,
    /// Entries of the log below this are compacted.
    floor: usize,
    /// Watches opened in an earlier epoch are over.
    epoch: u64,
    requests: Vec<String>,
    faults: VecDeque<(On, Fault)>,
    no_watch_list: bool,
    ignores_watch_list: bool,
    no_watch_cache: bool,
    /// Frames are at most this long.
    frame: usize,
}

struct Logged {
    kind: &'static str,
    path: String,
    version: u64,
    object: Value,
    traceparent: Option<String>,
}

/// The server. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self::default();
        // A cluster is never at version 0.
        fake.state.lock().version = 100;
        fake
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        Client::from_service(tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { fake.answer(request).await }
        }))
    }

    /// From here on watch-lists are refused, as by an old server.
    pub(crate) fn without_watch_list(self) -> Self {
        self.state.lock().no_watch_list = true;
        self
    }

    /// Watch-lists are taken for plain watches, as by a server that has never heard of them.
    pub(crate) fn ignoring_watch_list(self) -> Self {
        self.state.lock().ignores_watch_list = true;
        self
    }

    /// Lists at version 0 are served in pages too.
    pub(crate) fn without_watch_cache(self) -> Self {
        self.state.lock().no_watch_cache = true;
        self
    }

    /// Answers are cut into frames of this many bytes.
    pub(crate) fn with_frames(self, bytes: usize) -> Self {
        self.state.lock().frame = bytes;
        self
    }

    /// The next request of this kind fails so.
    pub(crate) fn fail(&self, on: On, fault: Fault) {
        self.state.lock().faults.push_back((on, fault));
    }

    /// From here on nothing fails.
    pub(crate) fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Requests so far, `verb path?query` without timeoutSeconds.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    /// Lists and watches so far, as `list rv=0 limit=500` or `watch rv=5`.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.requests()
            .iter()
            .filter_map(|request| read_of(request))
            .collect()
    }

    /// Ends every watch.
    pub(crate) fn drop_watches(&self) {
        self.state.lock().epoch += 1;
        self.changed.notify_waiters();
    }

    /// Forgets the history: watches from before get 410.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        state.floor = state.log.len();
    }

    /// Creates or replaces.
    pub(crate) fn put(&self, resource: &Resource, namespace: &str, name: &str, fields: Value) {
        self.put_traced(resource, namespace, name, fields, None);
    }

    pub(crate) fn put_traced(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        fields: Value,
        traceparent: Option<String>,
    ) {
        let mut object = json!({
            "apiVersion": resource.api_version(),
            "kind": resource.kind(),
            "metadata": {"name": name, "namespace": namespace},
        });
        merge(&mut object, &fields);
        let path = resource.path(Some(namespace), Some(name));
        self.store(&path, object, traceparent);
    }

    pub(crate) fn delete(&self, resource: &Resource, namespace: &str, name: &str) {
        self.remove(&resource.path(Some(namespace), Some(name)), None);
    }

    /// An object disappears without a trace in the log, as if its event had been lost.
    pub(crate) fn delete_silently(&self, resource: &Resource, namespace: &str, name: &str) {
        let path = resource.path(Some(namespace), Some(name));
        self.state.lock().objects.remove(&path);
    }

    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Value> {
        let path = resource.path(Some(namespace), Some(name));
        self.state.lock().objects.get(&path).cloned()
    }

    /// `namespace/name` to version of everything in a resource.
    pub(crate) fn versions(&self, resource: &Resource) -> BTreeMap<String, u64> {
        let state = self.state.lock();
        state
            .of(&resource.path(None, None), resource.plural())
            .map(|(_, object)| (name_of(object), version_of(object)))
            .collect()
    }

    fn store(&self, path: &str, mut object: Value, traceparent: Option<String>) -> Value {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version;
        let known = state.objects.get(path);
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        let uid = known.map_or_else(
            || json!(format!("uid-{version}")),
            |known| known["metadata"]["uid"].clone(),
        );
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        state.log(kind, path, object.clone(), traceparent);
        drop(state);
        self.changed.notify_waiters();
        object
    }

    fn remove(&self, path: &str, traceparent: Option<String>) {
        let mut state = self.state.lock();
        if let Some(mut object) = state.objects.remove(path) {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            state.log("DELETED", path, object, traceparent);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    async fn answer(&self, request: Request<Body>) -> Result<Answer, io::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let on = kind_of(&parts.method, &path, &query);
        let traceparent = parts
            .headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let fault = self.record(on, &parts.method, &path, &query);
        match fault {
            Some(Fault::Status(code, reason, message)) => return Ok(status(code, reason, message)),
            Some(Fault::Refused) => return Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Hang) => std::future::pending().await,
            _ => (),
        }
        let body = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        Ok(match on {
            On::List | On::NextPage => self.list(&path, &query),
            On::Watch | On::WatchList => self.watch(&path, &query, on == On::WatchList, fault),
            On::Get => self.state.lock().objects.get(&path).map_or_else(
                || status(404, "NotFound", "not found"),
                |object| ok(&object.clone()),
            ),
            On::Write => self.write(&parts.method, &path, &body, traceparent),
        })
    }

    fn record(&self, on: On, method: &Method, path: &str, query: &BTreeMap<String, String>) -> Option<Fault> {
        let mut state = self.state.lock();
        let query: Vec<String> = query
            .iter()
            .filter(|(key, _)| *key != "timeoutSeconds")
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        state
            .requests
            .push(format!("{method} {path}?{}", query.join("&")));
        let at = state.faults.iter().position(|(kind, _)| *kind == on)?;
        state.faults.remove(at).map(|(_, fault)| fault)
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let state = self.state.lock();
        let from_cache =
            query.get("resourceVersion").is_some_and(|version| version == "0") && !state.no_watch_cache;
        let limit: usize = query
            .get("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(0);
        let limit = if from_cache || limit == 0 {
            usize::MAX
        } else {
            limit
        };
        let after = query.get("continue").cloned().unwrap_or_default();
        let plural = path.rsplit('/').next().unwrap_or_default();
        let mut items: Vec<(&String, &Value)> = state
            .of(path, plural)
            .filter(|(key, _)| hex(key) > after)
            .take(limit.saturating_add(1))
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let token = items
            .last()
            .filter(|_| more)
            .map(|(key, _)| hex(key))
            .unwrap_or_default();
        ok(&json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": state.version.to_string(), "continue": token},
            "items": items.into_iter().map(|(_, object)| object).collect::<Vec<_>>(),
        }))
    }

    fn watch(
        &self,
        path: &str,
        query: &BTreeMap<String, String>,
        initial: bool,
        fault: Option<Fault>,
    ) -> Answer {
        let state = self.state.lock();
        if initial && state.no_watch_list {
            return status(
                422,
                "Invalid",
                "sendInitialEvents is forbidden for watch unless the WatchList feature is on",
            );
        }
        let plural = path.rsplit('/').next().unwrap_or_default().to_owned();
        let mut first = VecDeque::new();
        let mut at = state.log.len();
        if initial {
            for (_, object) in state.of(path, &plural) {
                first.push_back(json!({"type": "ADDED", "object": object}));
            }
            let end = json!({"type": "BOOKMARK", "object": {"metadata": {
                "resourceVersion": state.version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"},
            }}});
            first.extend(Some(end).filter(|_| !state.ignores_watch_list));
        } else {
            let from: u64 = query
                .get("resourceVersion")
                .and_then(|version| version.parse().ok())
                .unwrap_or(0);
            at = state.log.partition_point(|logged| logged.version <= from);
            if at < state.floor {
                return status(410, "Expired", "too old resource version");
            }
        }
        if let Some(Fault::Event(code, reason)) = fault {
            first.push_front(json!({"type": "ERROR", "object": status_json(code, reason, "by script")}));
        }
        let cut = match fault {
            Some(Fault::Cut(events)) => Some(events),
            _ => None,
        };
        let frame = if state.frame == 0 { usize::MAX } else { state.frame };
        let epoch = state.epoch;
        drop(state);
        let watch = Watch {
            fake: self.clone(),
            path: path.to_owned(),
            plural,
            first,
            at,
            epoch,
            left: cut,
        };
        let frames = stream::unfold(watch, Watch::next).flat_map(move |line| {
            let pieces: Vec<Result<Frame<Bytes>, io::Error>> = line
                .chunks(frame.min(line.len().max(1)))
                .map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))))
                .collect();
            stream::iter(pieces)
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn write(&self, method: &Method, path: &str, body: &[u8], traceparent: Option<String>) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let path = path.strip_suffix("/status").unwrap_or(path);
        let known = self.state.lock().objects.get(path).cloned();
        let sent_version = body["metadata"]["resourceVersion"].as_str();
        if let (Some(known), Some(sent)) = (&known, sent_version)
            && known["metadata"]["resourceVersion"].as_str() != Some(sent)
        {
            return status(409, "Conflict", "the object has been modified");
        }
        let object = match (method.as_str(), known) {
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                if self.state.lock().objects.contains_key(&path) {
                    return status(409, "AlreadyExists", "already exists");
                }
                return ok(&self.store(&path, body, traceparent));
            }
            (_, None) => return status(404, "NotFound", "not found"),
            ("DELETE", Some(mut known)) if has_finalizers(&known) => {
                known["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                known
            }
            ("DELETE", Some(_)) => {
                self.remove(path, traceparent);
                return ok(&status_json(200, "", ""));
            }
            ("PATCH", Some(mut known)) => {
                merge(&mut known, &body);
                known
            }
            (_, Some(_)) => body,
        };
        if object["metadata"]["deletionTimestamp"].is_string() && !has_finalizers(&object) {
            self.remove(path, traceparent);
            return ok(&object);
        }
        ok(&self.store(path, object, traceparent))
    }
}

impl State {
    /// The objects under a collection's path, in one namespace or in all.
    fn of<'a>(&'a self, path: &'a str, plural: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.objects
            .iter()
            .filter(move |(key, _)| is_in(key, path, plural))
    }

    fn log(&mut self, kind: &'static str, path: &str, object: Value, traceparent: Option<String>) {
        self.log.push(Logged {
            kind,
            path: path.to_owned(),
            version: self.version,
            object,
            traceparent,
        });
    }
}

struct Watch {
    fake: Fake,
    path: String,
    plural: String,
    first: VecDeque<Value>,
    at: usize,
    epoch: u64,
    /// Events until the cut.
    left: Option<usize>,
}

impl Watch {
    async fn next(mut self) -> Option<(Vec<u8>, Self)> {
        if self.left == Some(usize::MAX) {
            return None;
        }
        let fake = self.fake.clone();
        loop {
            let changed = fake.changed.notified();
            let event = match self.first.pop_front() {
                Some(event) => Some(event),
                None => self.logged()?,
            };
            let Some(event) = event else {
                changed.await;
                continue;
            };
            let mut line = event.to_string().into_bytes();
            line.push(b'\n');
            match &mut self.left {
                Some(0) => {
                    line.truncate(line.len() / 2);
                    self.left = Some(usize::MAX);
                }
                Some(left) => *left -= 1,
                None => (),
            }
            return Some((line, self));
        }
    }

    /// `None`: the end. `Some(None)`: nothing yet.
    fn logged(&mut self) -> Option<Option<Value>> {
        let state = self.fake.state.lock();
        if state.epoch != self.epoch {
            return None;
        }
        while let Some(logged) = state.log.get(self.at) {
            if self.at < state.floor {
                self.at = usize::MAX;
                return Some(Some(
                    json!({"type": "ERROR", "object": status_json(410, "Expired", "compacted")}),
                ));
            }
            self.at += 1;
            if is_in(&logged.path, &self.path, &self.plural) {
                let mut event = json!({"type": logged.kind, "object": logged.object});
                if let Some(traceparent) = &logged.traceparent {
                    event["traceparent"] = json!(traceparent);
                }
                return Some(Some(event));
            }
        }
        Some(None)
    }
}

/// Waits for a condition that other tasks bring about; virtual time passes meanwhile.
#[track_caller]
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    let what = what.to_owned();
    let at = std::panic::Location::caller();
    async move {
        for _ in 0..20_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{at}: never came true: {what}");
    }
}
