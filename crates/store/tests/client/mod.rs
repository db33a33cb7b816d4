//! The client against our own server, through a proxy that breaks what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use setpoint_base::{FsDisk, Stop, SystemClock, TaskGroup};
use setpoint_flow::impair::Proxy;
use setpoint_store::client::{Client, ClientOptions, Item, WatchOptions, Watcher, pb};
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_store::{Options, Store};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::support::TempDir;

mod calls;
mod chaos;
mod fate;
mod users;
mod watching;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server behind a proxy; the data outlives the server.
struct Rig {
    dir: TempDir,
    server: Option<Server>,
    proxy: Proxy,
    front: fn(&mut FrontOptions),
}

struct Server {
    store: Store,
    tasks: TaskGroup,
    addr: SocketAddr,
}

impl Server {
    async fn start(dir: &TempDir, front: fn(&mut FrontOptions)) -> Self {
        let options = Options {
            prefill: false,
            ..Options::new(dir.path())
        };
        let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tasks = TaskGroup::new(&Stop::new());
        let mut options = FrontOptions {
            workers: 1,
            ..FrontOptions::default()
        };
        front(&mut options);
        let served = Front::new(store.clone(), options);
        let stop = tasks.stop().clone();
        tasks.spawn(async move { served.serve(listener, stop).await.unwrap() });
        Self { store, tasks, addr }
    }

    async fn stop(self) {
        assert_eq!(self.tasks.shutdown(PATIENCE).await, 0);
        self.store.close().await.unwrap();
    }
}

impl Rig {
    async fn start() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(front: fn(&mut FrontOptions)) -> Self {
        let dir = TempDir::new();
        let server = Server::start(&dir, front).await;
        let proxy = Proxy::start(server.addr).await.unwrap();
        Self {
            dir,
            server: Some(server),
            proxy,
            front,
        }
    }

    fn store(&self) -> &Store {
        &self.server.as_ref().unwrap().store
    }

    fn options(&self) -> ClientOptions {
        ClientOptions::new([format!("http://{}", self.proxy.addr())])
    }

    fn client(&self) -> Client {
        Client::new(self.options()).unwrap()
    }

    /// Stops the server as an operator does, and starts it again with the same data.
    async fn restart(&mut self) {
        self.server.take().unwrap().stop().await;
        let server = Server::start(&self.dir, self.front).await;
        self.proxy.retarget(server.addr);
        self.server = Some(server);
    }

    async fn stop(mut self) {
        self.proxy.stop().await;
        self.server.take().unwrap().stop().await;
    }
}

/// Writes `key`, and the revision that made. A read goes before: it is repeated until the link stands, while a write on a
/// link that is being cut is rightly reported as of unknown outcome.
async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let read = pb::RangeRequest {
        key: Bytes::from_static(b"k"),
        ..Default::default()
    };
    client.range(read).await.unwrap();
    let request = pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    };
    let answer = client.put(request).await.unwrap();
    answer.header.unwrap().revision
}

async fn compact(client: &Client, revision: i64) {
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    client.compact(request).await.unwrap();
}

/// The next item that is not a bookmark.
async fn next(watcher: &mut Watcher) -> Item {
    loop {
        let item = timeout(PATIENCE, watcher.next())
            .await
            .expect("the watcher is not served")
            .unwrap();
        if !matches!(item, Item::Progress(_)) {
            return item;
        }
    }
}

/// Keys and revisions of the events up to `until`, which must come without anything between them.
async fn events(watcher: &mut Watcher, until: i64) -> Vec<(String, i64)> {
    let mut seen: Vec<(String, i64)> = Vec::new();
    while seen.last().is_none_or(|(_, revision)| *revision < until) {
        match next(watcher).await {
            Item::Events(events) => seen.extend(events.into_iter().map(|event| {
                let kv = event.kv.unwrap();
                (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision)
            })),
            other => panic!("{other:?}"),
        }
    }
    seen
}

/// A watcher from now on that the server knows.
async fn watch(client: &Client, options: WatchOptions) -> Watcher {
    let mut watcher = client.watch(options);
    settle(&mut watcher).await;
    watcher
}

/// Waits for the bookmark that says where "now" is.
async fn settle(watcher: &mut Watcher) {
    let first = timeout(PATIENCE, watcher.next()).await.expect("not created");
    assert!(matches!(first, Ok(Item::Progress(_))), "{first:?}");
}
