//! The etcd front over a real socket, through a stock gRPC client and through bytes no client would send.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use setpoint_base::{FsDisk, Stop, SystemClock, TaskGroup};
use setpoint_proto::etcdserverpb as pb;
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::lease_client::LeaseClient;
use setpoint_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use setpoint_store::etcd::{Front, FrontOptions, Listener};
use setpoint_store::simulation::Simulated;
use setpoint_store::types::{KeyRange, Range};
use setpoint_store::{Options, Store};
use setpoint_testkit::SimDisk;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::TempDir;

use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;

mod arriving;
mod auth;
mod bypass;
mod compaction;
mod gateway;
mod hostile;
mod kv;
mod leases;
mod maintenance;
mod progress;
mod raw;
mod refusals;
mod tls;
mod traps;
mod unread;
mod waiting;
mod watch;
mod websocket;
mod wide;

/// A front on a port of its own.
struct Server {
    addr: std::net::SocketAddr,
    store: Store,
    tasks: TaskGroup,
    _dir: TempDir,
}

impl Server {
    /// Waits until it has so many keys with a prefix, as contenders for a lock are.
    async fn has_keys(&self, prefix: &[u8], count: i64) {
        let mut range = Range::of(KeyRange::prefix(prefix));
        range.count_only = true;
        let arrived = async {
            while self.store.range(&range).unwrap().count != count {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let arrived = tokio::time::timeout(std::time::Duration::from_secs(20), arrived).await;
        arrived.unwrap_or_else(|_| panic!("never {count} keys"));
    }

    async fn start(change: impl FnOnce(&mut FrontOptions)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self::start_on(addr, change, vec![Listener::tcp(listener)]).await
    }

    async fn start_on(
        addr: std::net::SocketAddr,
        change: impl FnOnce(&mut FrontOptions),
        listeners: Vec<Listener>,
    ) -> Self {
        let dir = TempDir::new();
        let options = Options {
            prefill: false,
            ..Options::new(dir.path())
        };
        let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
        Self::over(dir, store, addr, change, listeners)
    }

    /// A front for a store whose threads do what the test says, when it says so. It ends with
    /// [`Server::end_before`] its store does.
    async fn simulated(change: impl FnOnce(&mut FrontOptions)) -> (Self, Simulated) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let options = Options {
            prefill: false,
            ..Options::new("/data")
        };
        let sim = Simulated::open(options, Arc::new(SimDisk::default())).unwrap();
        let (store, listener) = (sim.store().clone(), Listener::tcp(listener));
        (
            Self::over(TempDir::new(), store, addr, change, vec![listener]),
            sim,
        )
    }

    async fn end_before(self, sim: Simulated) {
        assert_eq!(self.tasks.shutdown(std::time::Duration::from_secs(10)).await, 0);
        sim.close();
    }

    /// A front for a store that is there.
    fn over(
        dir: TempDir,
        store: Store,
        addr: std::net::SocketAddr,
        change: impl FnOnce(&mut FrontOptions),
        listeners: Vec<Listener>,
    ) -> Self {
        let mut options = FrontOptions {
            workers: 1,
            ..FrontOptions::default()
        };
        change(&mut options);
        let tasks = TaskGroup::new(&Stop::new());
        let front = Front::new(store.clone(), options);
        let stop = tasks.stop().clone();
        tasks.spawn(async move { front.serve_all(listeners, stop).await.unwrap() });
        Self {
            addr,
            store,
            tasks,
            _dir: dir,
        }
    }

    async fn plain() -> Self {
        Self::start(|_| ()).await
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.addr)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    async fn watch(&self) -> Watching {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = WatchClient::new(self.channel().await);
        let responses = client.watch(ReceiverStream::new(receiver)).await.unwrap();
        Watching {
            requests,
            responses: responses.into_inner(),
        }
    }

    async fn stop(self) {
        assert_eq!(self.tasks.shutdown(std::time::Duration::from_secs(10)).await, 0);
        self.store.close().await.unwrap();
    }
}

struct Watching {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
}

impl Watching {
    async fn send(&self, request: RequestUnion) {
        let request = pb::WatchRequest {
            request_union: Some(request),
        };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> pb::WatchResponse {
        self.responses.message().await.unwrap().unwrap()
    }

    async fn create(&mut self, request: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn get(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, text));
}

const INVALID: Code = Code::InvalidArgument;
