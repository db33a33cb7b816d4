//! A server in this process and short ways to ask it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use setpoint_apiserver::{ApiBody, ApiServer, ApiService, Identity, Options};
use setpoint_base::{FsDisk, Stop, SystemClock, TaskGroup};
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_store::{ClusterOptions, Log, Store};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Set to "cluster", servers reach their store as they would a cluster: over the network, through its etcd front.
pub(crate) const LOG: &str = "SETPOINT_TEST_LOG";

/// A server over a store in a directory of its own.
pub(crate) struct Plane {
    pub store: Store,
    pub server: ApiServer,
    tasks: TaskGroup,
    /// Removed with the plane, unless another one goes on in it.
    dir: Option<PathBuf>,
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// `Null` when the body is not JSON.
    pub json: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.json
    }

    pub(crate) fn message(&self) -> &str {
        self.json["message"].as_str().unwrap_or_default()
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers
            .get_all("warning")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect()
    }
}

impl Plane {
    pub(crate) async fn start() -> Self {
        Self::with(Options::default(), |_| ()).await
    }

    pub(crate) async fn with(options: Options, change: impl FnOnce(&mut setpoint_store::Options)) -> Self {
        let (store, dir) = store(change);
        Self::over(store, options, dir).await
    }

    async fn over(store: Store, options: Options, dir: PathBuf) -> Self {
        Self::choose(store, options, dir, over_a_cluster()).await
    }

    /// Over a cluster that somebody else serves. `store` is what it keeps.
    pub(crate) async fn over_cluster(store: Store, options: &ClusterOptions) -> Self {
        let (log, tasks) = (Log::cluster(options).unwrap(), TaskGroup::new(&Stop::new()));
        let server = ApiServer::open(log, Options::default(), SystemClock::shared(), &tasks);
        Self {
            server: server.await.unwrap(),
            store,
            tasks,
            dir: None,
        }
    }

    async fn choose(store: Store, options: Options, dir: PathBuf, cluster: bool) -> Self {
        let tasks = TaskGroup::new(&Stop::new());
        let log = if cluster {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            serve(&store, listener, &tasks);
            Log::cluster(&ClusterOptions::new(vec![endpoint])).unwrap()
        } else {
            Log::from(store.clone())
        };
        let server = ApiServer::open(log, options, SystemClock::shared(), &tasks)
            .await
            .unwrap();
        Self {
            store,
            server,
            tasks,
            dir: Some(dir),
        }
    }

    /// Stops the server and starts another one over the same store.
    pub(crate) async fn restart(mut self, options: Options) -> Self {
        assert_eq!(self.tasks.shutdown(PATIENCE).await, 0);
        let dir = self
            .dir
            .take()
            .expect("a plane has its directory until it is dropped");
        Self::over(self.store.clone(), options, dir).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[], &body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[], &body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}-patch+json");
        self.send(Method::PATCH, path, &[("content-type", &kind)], &body.to_string())
            .await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let response = self
            .open(method, path, headers, body, Some(Identity::loopback()))
            .await;
        read(response).await
    }

    pub(crate) async fn send_as(&self, identity: Option<Identity>, path: &str) -> Answer {
        read(self.open(Method::GET, path, &[], "", identity).await).await
    }

    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
        identity: Option<Identity>,
    ) -> Response<ApiBody> {
        let service: ApiService = self.server.service();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(identity) = identity {
            request = request.extension(identity);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
            .unwrap();
        tokio::time::timeout(PATIENCE * 3, service.oneshot(request))
            .await
            .expect("no answer in time")
            .unwrap()
    }

    /// A watch; its events are read one by one.
    pub(crate) async fn watch(&self, path: &str) -> Events {
        let response = self
            .open(Method::GET, path, &[], "", Some(Identity::loopback()))
            .await;
        assert_eq!(response.status(), 200, "{path}");
        Events::of(response)
    }
}

/// A store in a directory of its own.
pub(crate) fn store(change: impl FnOnce(&mut setpoint_store::Options)) -> (Store, PathBuf) {
    let name = format!("setpoint-api-{}-{:016x}", std::process::id(), fastrand::u64(..));
    let dir = std::env::temp_dir().join(name);
    let mut options = setpoint_store::Options::new(&dir);
    options.prefill = false;
    options.segment_bytes = 16 << 20;
    change(&mut options);
    let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
    (store, dir)
}

/// Whether servers reach their store over the network.
#[allow(
    clippy::disallowed_methods,
    reason = "a test may be told by the one that starts it"
)]
pub(crate) fn over_a_cluster() -> bool {
    std::env::var(LOG).is_ok_and(|log| log == "cluster")
}

/// Serves the store to etcd clients until the tasks end.
pub(crate) fn serve(store: &Store, listener: TcpListener, tasks: &TaskGroup) {
    let options = FrontOptions {
        workers: 1,
        ..FrontOptions::default()
    };
    let (front, stop) = (Front::new(store.clone(), options), tasks.stop().clone());
    tasks.spawn(async move { front.serve(listener, stop).await.unwrap() });
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

async fn read(response: Response<ApiBody>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        json: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    }
}

/// The events of one watch.
pub(crate) struct Events {
    body: ApiBody,
    buffer: BytesMut,
}

impl Events {
    /// Of a response.
    pub(crate) fn of(response: Response<ApiBody>) -> Self {
        Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    /// The next event; `None` at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("no event in time")?;
            self.buffer
                .extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// `TYPE name` of the next event.
    pub(crate) async fn line(&mut self) -> String {
        let Some(event) = self.next().await else {
            return "END".to_owned();
        };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default())
            .trim_end()
            .to_owned()
    }

    /// Several of them.
    pub(crate) async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }
}
