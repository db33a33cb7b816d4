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
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_store::{Options, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::TempDir;

use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;

/// A front on a port of its own.
struct Server {
    addr: std::net::SocketAddr,
    store: Store,
    tasks: TaskGroup,
    _dir: TempDir,
}

impl Server {
    async fn start(change: impl FnOnce(&mut FrontOptions)) -> Self {
        let dir = TempDir::new();
        let options = Options {
            prefill: false,
            ..Options::new(dir.path())
        };
        let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
        let mut options = FrontOptions {
            workers: 1,
            ..FrontOptions::default()
        };
        change(&mut options);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let tasks = TaskGroup::new(&Stop::new());
        let front = Front::new(store.clone(), options);
        let stop = tasks.stop().clone();
        tasks.spawn(async move { front.serve(listener, stop).await.unwrap() });
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

#[tokio::test]
async fn reads_that_make_no_sense_get_etcds_errors() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    for (request, code, text) in [
        (get("", ""), INVALID, "etcdserver: key is not provided"),
        (
            pb::RangeRequest {
                sort_order: 9,
                ..get("a", "")
            },
            INVALID,
            "etcdserver: invalid sort option",
        ),
        (
            pb::RangeRequest {
                sort_target: -1,
                ..get("a", "")
            },
            INVALID,
            "etcdserver: invalid sort option",
        ),
        (
            pb::RangeRequest {
                revision: 3,
                ..get("a", "")
            },
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
    ] {
        refused(kv.range(request).await, code, text);
    }
    kv.put(put("a", "2")).await.unwrap();
    kv.compact(pb::CompactionRequest {
        revision: 3,
        physical: true,
    })
    .await
    .unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let past = pb::RangeRequest {
        revision: 2,
        ..get("a", "")
    };
    refused(kv.range(past).await, Code::OutOfRange, compacted);
    for (revision, text) in [
        (3, compacted),
        (4, "etcdserver: mvcc: required revision is a future revision"),
    ] {
        let request = pb::CompactionRequest {
            revision,
            physical: false,
        };
        refused(kv.compact(request).await, Code::OutOfRange, text);
    }
    server.stop().await;
}

#[tokio::test]
async fn writes_that_make_no_sense_get_etcds_errors() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for (request, code, text) in [
        (put("", "v"), INVALID, "etcdserver: key is not provided"),
        (
            pb::PutRequest {
                ignore_value: true,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: value is provided",
        ),
        (
            pb::PutRequest {
                ignore_lease: true,
                lease: 1,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: lease is provided",
        ),
        (
            pb::PutRequest {
                ignore_value: true,
                ..put("a", "")
            },
            INVALID,
            "etcdserver: key not found",
        ),
        (
            pb::PutRequest {
                ignore_lease: true,
                ..put("a", "v")
            },
            INVALID,
            "etcdserver: key not found",
        ),
        (
            pb::PutRequest {
                lease: 77,
                ..put("a", "v")
            },
            Code::NotFound,
            "etcdserver: requested lease not found",
        ),
        (
            put("a", &"v".repeat(1536 << 10)),
            INVALID,
            "etcdserver: request is too large",
        ),
        (
            put("a", &"v".repeat(2 << 20)),
            Code::ResourceExhausted,
            "grpc: received message larger than max (2097160 vs. 2097152)",
        ),
    ] {
        refused(kv.put(request).await, code, text);
    }
    let empty = pb::DeleteRangeRequest::default();
    refused(
        kv.delete_range(empty).await,
        INVALID,
        "etcdserver: key is not provided",
    );
    assert_eq!(server.store.revision().0, 1, "nothing was written");
    server.stop().await;
}

#[tokio::test]
async fn a_transaction_of_ten_thousand_steps_is_too_large_and_one_of_128_is_not() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let puts = |n: usize| {
        txn((0..n)
            .map(|i| op(Op::RequestPut(put(&format!("k{i}"), "v"))))
            .collect())
    };
    refused(
        kv.txn(puts(10_000)).await,
        INVALID,
        "etcdserver: too many operations in txn request",
    );
    let response = kv.txn(puts(128)).await.unwrap().into_inner();
    assert_eq!(
        (response.responses.len(), response.header.unwrap().revision),
        (128, 2)
    );
    let twice = txn(vec![
        op(Op::RequestPut(put("a", "1"))),
        op(Op::RequestPut(put("a", "2"))),
    ]);
    refused(
        kv.txn(twice).await,
        INVALID,
        "etcdserver: duplicate key given in txn request",
    );
    let nothing = txn(vec![pb::RequestOp { request: None }]);
    refused(kv.txn(nothing).await, INVALID, "etcdserver: key not found");
    server.stop().await;
}

#[tokio::test]
async fn headers_tell_who_answered_and_nested_ones_only_when() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    let header = kv.range(get("a", "")).await.unwrap().into_inner().header.unwrap();
    assert_eq!(header.revision, 1, "of a store that is empty");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    kv.put(put("a", "1")).await.unwrap();
    kv.put(put("a", "2")).await.unwrap();
    let old = pb::RangeRequest {
        revision: 2,
        ..get("a", "")
    };
    let old = kv.range(old).await.unwrap().into_inner();
    assert_eq!(
        (old.kvs[0].value.as_ref(), old.header.unwrap().revision),
        (&b"1"[..], 3)
    );
    let inner = op(Op::RequestTxn(txn(vec![op(Op::RequestRange(get("a", "")))])));
    let response = kv
        .txn(txn(vec![inner, op(Op::RequestPut(put("b", "")))]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.header.unwrap().revision, 4);
    let [nested, put] = &response.responses[..] else {
        panic!("{:?}", response.responses)
    };
    let only = |revision| pb::ResponseHeader {
        revision,
        ..Default::default()
    };
    match (&nested.response, &put.response) {
        (
            Some(pb::response_op::Response::ResponseTxn(nested)),
            Some(pb::response_op::Response::ResponsePut(put)),
        ) => {
            assert_eq!((nested.header, put.header), (Some(only(0)), Some(only(4))));
        }
        other => panic!("{other:?}"),
    }
    let gone = pb::DeleteRangeRequest {
        key: "nothing".into(),
        ..Default::default()
    };
    let gone = kv.delete_range(gone).await.unwrap().into_inner();
    assert_eq!((gone.deleted, gone.header.unwrap().revision), (0, 4));
    server.stop().await;
}

#[tokio::test]
async fn reversed_and_empty_ranges_hold_no_keys() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("b", "1")).await.unwrap();
    for (key, end, count) in [
        ("c", "a", 0),
        ("b", "b", 0),
        ("b", "c", 1),
        ("a", "\0", 1),
        ("\0", "\0", 1),
        ("c", "\0", 0),
    ] {
        let response = kv.range(get(key, end)).await.unwrap().into_inner();
        assert_eq!(
            (response.count, response.kvs.len() as i64),
            (count, count),
            "{key:?}..{end:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn large_answers_arrive_whole_as_one_message_and_as_a_stream() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..300 {
        let len = [10, 5_000, 20_000, 60_000][n % 4];
        kv.put(put(&format!("k{n:03}"), &"v".repeat(len))).await.unwrap();
    }
    let whole = kv.range(get("k", "l")).await.unwrap().into_inner();
    assert_eq!((whole.count, whole.kvs.len()), (300, 300));
    let lens: usize = whole.kvs.iter().map(|kv| kv.value.len()).sum();
    assert_eq!(lens, 75 * (10 + 5_000 + 20_000 + 60_000));

    let mut parts = kv
        .range_stream(pb::RangeRequest {
            limit: 250,
            ..get("k", "l")
        })
        .await
        .unwrap()
        .into_inner();
    let mut joined = Vec::new();
    let mut last = None;
    while let Some(part) = parts.message().await.unwrap() {
        let part = part.range_response.unwrap();
        assert!(
            last.replace(part.header.is_some()) != Some(true),
            "the header comes last"
        );
        joined.extend(part.kvs);
        if part.header.is_some() {
            assert_eq!((part.count, part.more), (300, true));
        }
    }
    assert_eq!(last, Some(true));
    assert!(joined == whole.kvs[..250]);
    let sorted = pb::RangeRequest {
        sort_target: 3,
        ..get("k", "l")
    };
    refused(
        kv.range_stream(sorted).await,
        Code::Unimplemented,
        "RangeStream does not support custom sort orders",
    );
    server.stop().await;
}

#[tokio::test]
async fn watch_ids_begin_at_zero_and_are_used_once() {
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    let on = |key: &'static str| pb::WatchCreateRequest {
        key: key.into(),
        ..Default::default()
    };
    for (request, id, reason) in [
        (on("a"), 0, ""),
        (on("b"), 1, ""),
        (
            pb::WatchCreateRequest {
                watch_id: 7,
                ..on("c")
            },
            7,
            "",
        ),
        (
            pb::WatchCreateRequest {
                watch_id: 7,
                ..on("c")
            },
            -1,
            "mvcc: duplicate watch ID provided on the WatchStream",
        ),
        (
            pb::WatchCreateRequest {
                range_end: "a".into(),
                ..on("b")
            },
            -1,
            "mvcc: watcher range is empty",
        ),
        (
            pb::WatchCreateRequest {
                start_revision: -1,
                ..on("a")
            },
            -1,
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ] {
        let response = watch.create(request).await;
        assert!(response.created);
        assert_eq!(
            (response.watch_id, response.canceled, &response.cancel_reason[..]),
            (id, id < 0, reason)
        );
        assert_eq!(response.header.unwrap().revision, 1);
    }
    // An unknown id has no answer, so the next one is that of a known id.
    for watch_id in [99, 1] {
        watch
            .send(RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
            .await;
    }
    let canceled = watch.next().await;
    assert_eq!(
        (canceled.watch_id, canceled.canceled, canceled.created),
        (1, true, false)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_watch_sees_each_revision_once_with_what_it_asked_for() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    kv.put(put("a", "1")).await.unwrap();
    let mut watch = server.watch().await;
    let created = watch
        .create(pb::WatchCreateRequest {
            key: "a".into(),
            start_revision: 2,
            prev_kv: true,
            ..Default::default()
        })
        .await;
    assert!(
        created.created && created.events.is_empty(),
        "created comes before the first event"
    );
    kv.put(put("a", "2")).await.unwrap();
    kv.put(put("b", "x")).await.unwrap();
    kv.delete_range(pb::DeleteRangeRequest {
        key: "a".into(),
        ..Default::default()
    })
    .await
    .unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        for event in watch.next().await.events {
            let (kv, prev) = (event.kv.unwrap(), event.prev_kv.map(|kv| kv.value));
            seen.push((event.r#type, kv.mod_revision, kv.value, prev));
        }
    }
    let b = Bytes::from_static;
    assert_eq!(
        seen,
        [
            (0, 2, b(b"1"), None),
            (0, 3, b(b"2"), Some(b(b"1"))),
            (1, 5, b(b""), Some(b(b"2")))
        ]
    );
    watch
        .send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
        .await;
    let progress = watch.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, 5));
    server.stop().await;
}

#[tokio::test]
async fn a_watch_below_the_floor_ends_with_the_floor_and_no_revision() {
    let server = Server::plain().await;
    let mut kv = server.kv().await;
    for n in 0..4 {
        kv.put(put("a", &n.to_string())).await.unwrap();
    }
    kv.compact(pb::CompactionRequest {
        revision: 4,
        physical: false,
    })
    .await
    .unwrap();
    let mut watch = server.watch().await;
    let from = pb::WatchCreateRequest {
        key: "a".into(),
        start_revision: 2,
        ..Default::default()
    };
    assert!(watch.create(from).await.created);
    let ended = watch.next().await;
    assert!(ended.canceled);
    assert_eq!(
        (
            ended.compact_revision,
            ended.header.unwrap().revision,
            &ended.cancel_reason[..]
        ),
        (4, 0, "")
    );
    server.stop().await;
}

#[tokio::test]
async fn answers_too_large_are_cut_for_watchers_that_allow_it() {
    let server = Server::start(|options| options.request_bytes_max = 10_000).await;
    let mut kv = server.kv().await;
    let puts = (0..4)
        .map(|n| op(Op::RequestPut(put(&format!("a{n}"), &"v".repeat(2_000)))))
        .collect();
    kv.txn(txn(puts)).await.unwrap();
    kv.put(put("a0", &"w".repeat(8_000))).await.unwrap();
    let mut watch = server.watch().await;
    let all = pb::WatchCreateRequest {
        key: "a".into(),
        range_end: "b".into(),
        start_revision: 2,
        fragment: true,
        ..Default::default()
    };
    watch.create(all).await;
    let (first, second) = (watch.next().await, watch.next().await);
    assert_eq!((first.events.len(), first.fragment), (4, true));
    assert_eq!((second.events.len(), second.fragment), (1, false));
    server.stop().await;
}

#[tokio::test]
async fn a_lease_that_is_gone_is_told_in_band_and_revoked_with_an_error() {
    let server = Server::plain().await;
    let mut lease = LeaseClient::new(server.channel().await);
    let granted = lease
        .lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 5 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!((granted.id, granted.ttl), (5, 2), "raised to the minimum");
    let again = pb::LeaseGrantRequest { ttl: 60, id: 5 };
    refused(
        lease.lease_grant(again).await,
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
    );
    let long = pb::LeaseGrantRequest {
        ttl: 9_000_000_001,
        id: 6,
    };
    refused(
        lease.lease_grant(long).await,
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
    );
    let revoke = pb::LeaseRevokeRequest { id: 6 };
    refused(
        lease.lease_revoke(revoke).await,
        Code::NotFound,
        "etcdserver: requested lease not found",
    );
    let ask = pb::LeaseTimeToLiveRequest { id: 6, keys: true };
    let gone = lease.lease_time_to_live(ask).await.unwrap().into_inner();
    assert_eq!((gone.id, gone.ttl, gone.granted_ttl), (6, -1, 0));
    let requests = tokio_stream::iter([5, 6].map(|id| pb::LeaseKeepAliveRequest { id }));
    let mut answers = lease.lease_keep_alive(requests).await.unwrap().into_inner();
    for expect in [(5, 2), (6, 0)] {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), expect);
    }
    assert!(answers.message().await.unwrap().is_none());
    server.stop().await;
}

#[tokio::test]
async fn keys_that_an_api_server_owns_are_read_only() {
    let server = Server::start(|options| options.read_only_prefix = Some("/registry/".into())).await;
    let mut kv = server.kv().await;
    let text = "etcdserver: permission denied: keys under /registry/ are written by the API server of this process; \
                write through it, or start with --etcd-writes-registry";
    let denied = Code::PermissionDenied;
    refused(kv.put(put("/registry/pods/a", "v")).await, denied, text);
    let delete = pb::DeleteRangeRequest {
        key: "/".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    refused(kv.delete_range(delete.clone()).await, denied, text);
    let nested = op(Op::RequestTxn(pb::TxnRequest {
        failure: vec![op(Op::RequestDeleteRange(delete))],
        ..Default::default()
    }));
    refused(kv.txn(txn(vec![nested])).await, denied, text);
    kv.put(put("/registryx", "v")).await.unwrap();
    kv.range(get("/registry/", "/registry0")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_streams_with_unavailable() {
    let server = Server::plain().await;
    let mut watch = server.watch().await;
    watch
        .create(pb::WatchCreateRequest {
            key: "a".into(),
            ..Default::default()
        })
        .await;
    server.tasks.stop().cancel();
    refused(
        watch.responses.message().await,
        Code::Unavailable,
        "etcdserver: server stopped",
    );
    server.stop().await;
}

#[tokio::test]
async fn status_names_the_etcd_release_whose_api_this_is() {
    let server = Server::plain().await;
    let mut maintenance = MaintenanceClient::new(server.channel().await);
    let status = maintenance
        .status(pb::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.version, setpoint_store::etcd::ETCD_VERSION);
    assert_eq!(status.leader, status.header.unwrap().member_id);
    refused(
        maintenance.hash(pb::HashRequest {}).await,
        Code::Unimplemented,
        "method Hash not implemented",
    );
    server.stop().await;
}

/// Sends bytes as the body of a call; the code and text that come back.
async fn raw(server: &Server, body: &[u8]) -> (String, String) {
    let socket = TcpStream::connect(server.addr).await.unwrap();
    let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
    let tasks = TaskGroup::new(&Stop::new());
    tasks.spawn(connection);
    let request = Request::post("http://etcd/etcdserverpb.KV/Txn").header("content-type", "application/grpc");
    let (response, mut stream) = client.send_request(request.body(()).unwrap(), false).unwrap();
    stream.send_data(Bytes::copy_from_slice(body), true).unwrap();
    let response = response.await.unwrap();
    let mut headers = response.headers().clone();
    let mut body = response.into_body();
    while body.data().await.is_some() {}
    headers.extend(body.trailers().await.unwrap().unwrap_or_default());
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    (text("grpc-status"), text("grpc-message"))
}

/// A transaction inside a transaction, and so on, as its bytes: built from the inside, as no encoder goes that deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut message = Vec::new();
    for _ in 0..depth {
        // RequestOp.request_txn is field 4, TxnRequest.success field 2.
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            prost::encode_length_delimiter(message.len(), &mut outer).unwrap();
            outer.append(&mut message);
            message = outer;
        }
    }
    framed(&message)
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&(message.len() as u32).to_be_bytes());
    out.extend_from_slice(message);
    out
}

#[tokio::test]
async fn hostile_bytes_end_the_call_and_nothing_else() {
    let server = Server::plain().await;
    let (ok, unimplemented, exhausted, internal, invalid) = ("0", "12", "8", "13", "3");
    for (what, body, code) in [
        ("an empty transaction", framed(b""), ok),
        ("no message", vec![], internal),
        ("half a frame header", vec![0, 0, 0], internal),
        ("less than the length says", vec![0, 0, 0, 0, 9, 1, 2], internal),
        ("a length of 4 GiB", vec![0, 255, 255, 255, 255], exhausted),
        ("a compressed message", vec![1, 0, 0, 0, 1, 0], unimplemented),
        ("no protobuf", framed(&[0xff; 40]), internal),
        (
            "a field longer than its message",
            framed(&[0x0a, 0xff, 0xff, 0xff, 0x7f]),
            internal,
        ),
        ("nesting within the budget", nested(20), ok),
        ("nesting without end", nested(3_000), internal),
        ("a step of nothing", framed(&[0x12, 0]), invalid),
    ] {
        assert_eq!(raw(&server, &body).await.0, code, "{what}");
    }
    let mut kv = server.kv().await;
    assert_eq!(
        kv.put(put("still", "here"))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision,
        2
    );
    server.stop().await;
}

/// One HTTP/1 request; status line and body.
async fn http(server: &Server, request: &str) -> (String, String) {
    let mut socket = TcpStream::connect(server.addr).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn the_http_endpoints_answer_on_the_same_port() {
    let server = Server::start(|options| options.metrics = Some(setpoint_telemetry::Metrics::new())).await;
    server.kv().await.put(put("a", "1")).await.unwrap();
    for (request, status, body) in [
        ("GET /health", "200", r#"{"health":"true","reason":""}"#),
        ("GET /health?exclude=NOSPACE&serializable=true", "200", "true"),
        ("POST /health", "405", "Method Not Allowed\n"),
        ("GET /livez", "200", "ok\n"),
        ("GET /livez?verbose", "200", "[+]serializable_read ok\nok\n"),
        (
            "GET /readyz/linearizable_read?verbose",
            "200",
            "[+]linearizable_read ok\nok\n",
        ),
        ("GET /readyz/nope", "404", "404 page not found\n"),
        ("GET /version", "200", r#"{"etcdserver":"3."#),
        (
            "GET /metrics",
            "200",
            "grpc_server_handled_total{grpc_service=\"etcdserverpb.KV\",grpc_method=\"Put\",grpc_type=\"unary\",grpc_code=\"OK\"} 1",
        ),
        ("GET /", "404", "404 page not found\n"),
    ] {
        let (line, text) = http(&server, request).await;
        assert!(
            line.contains(status) && text.contains(body),
            "{request}: {line} {text}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let server = Server::start(|options| options.connections_max = 1).await;
    let mut first = server.kv().await;
    first.range(get("a", "")).await.unwrap();
    let mut second = TcpStream::connect(server.addr).await.unwrap();
    assert!(matches!(second.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    first.range(get("a", "")).await.unwrap();
    server.stop().await;
}
