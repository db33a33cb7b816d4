//! `kill -9` under load, again and again: no acknowledged write lost, no revision used twice, no gap for a watcher.
//!
//! Each writer owns its keys and has one request in flight, so that after a crash a key is exactly what was last
//! acknowledged or what was in flight. Two watchers live through all crashes, resuming where they were.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use setpoint::envtest::TempDir;
use setpoint_base::{Stop, TaskGroup};
use setpoint_proto::etcdserverpb::kv_client::KvClient;
use setpoint_proto::etcdserverpb::request_op::Request as Op;
use setpoint_proto::etcdserverpb::watch_client::WatchClient;
use setpoint_proto::etcdserverpb::watch_request::RequestUnion;
use setpoint_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
};
use setpoint_proto::mvccpb::event::EventType;
use tokio::sync::RwLock;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::harness::{PATIENCE, Server, channel};

const WRITERS: usize = 6;
const KEYS: u64 = 20;

/// What a write did to one key: `None` deleted it.
type Effect = (String, Option<String>);

/// Everything that was acknowledged, and the one thing that may have happened.
#[derive(Default)]
struct Writer {
    /// The state of each key as last acknowledged, with its revision.
    keys: BTreeMap<String, (i64, Option<String>)>,
    /// Effects of the request without an answer.
    in_flight: Vec<Effect>,
}

#[derive(Default)]
struct History {
    writers: Vec<Mutex<Writer>>,
    /// Acknowledged effects by revision.
    acknowledged: Mutex<BTreeMap<i64, Vec<Effect>>>,
    writes: AtomicU64,
    /// Held shared by a request and its record, and alone by a check, which so sees both or neither.
    gate: RwLock<()>,
}

/// How many crashes: enough for a stranger's trust in CI, fewer while developing.
#[allow(
    clippy::disallowed_methods,
    reason = "a test is told by its caller how long it may run"
)]
fn crashes() -> usize {
    std::env::var("SETPOINT_CRASHES")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(25)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_no_revision_is_used_twice_over_many_kills() {
    let dir = TempDir::new().unwrap();
    // A port below the range that outgoing connections take theirs from.
    let port = (0..1000)
        .map(|_| fastrand::u16(10_000..30_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port");
    let listen = format!("--etcd-listen=127.0.0.1:{port}");
    let url = format!("http://127.0.0.1:{port}");
    let history = Arc::new(History {
        writers: (0..WRITERS).map(|_| Mutex::default()).collect(),
        ..History::default()
    });
    let load = TaskGroup::new(&Stop::new());
    let watchers = TaskGroup::new(&Stop::new());
    let seen: [Arc<Mutex<Vec<Seen>>>; 2] = Default::default();

    let mut server = Server::start(dir.path(), &[&listen]).await;
    let first = revision(&mut KvClient::new(channel(&url))).await;
    for seen in &seen {
        watchers.spawn(watch(
            url.clone(),
            first + 1,
            Arc::clone(seen),
            watchers.stop().clone(),
        ));
    }
    for writer in 0..WRITERS {
        load.spawn(write(
            url.clone(),
            writer,
            Arc::clone(&history),
            load.stop().clone(),
        ));
    }
    let (count, started) = (crashes(), Instant::now());
    for crash in 0..count {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
        server.kill();
        server = Server::start(dir.path(), &[&listen]).await;
        check_state(&url, &history, crash).await;
    }
    load.shutdown(PATIENCE).await;
    let last = revision(&mut KvClient::new(channel(&url))).await;
    let deadline = Instant::now() + PATIENCE;
    while seen
        .iter()
        .any(|seen| seen.lock().last().is_none_or(|event| event.revision < last))
    {
        assert!(Instant::now() < deadline, "the watchers do not catch up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    watchers.shutdown(PATIENCE).await;
    for seen in &seen {
        check_record(&seen.lock(), first + 1, last, &history);
    }
    assert_eq!(*seen[0].lock(), *seen[1].lock());
    let writes = history.writes.load(Ordering::Relaxed);
    println!(
        "{count} kills, {writes} acknowledged writes, revision {last}, {:?}",
        started.elapsed()
    );
    assert!(writes > count as u64, "hardly anything was written");
    server.stop().await;
}

async fn revision(kv: &mut KvClient<Channel>) -> i64 {
    let range = RangeRequest {
        key: "x".into(),
        ..Default::default()
    };
    let answer = kv.range(range).await.expect("read").into_inner();
    answer.header.expect("a header").revision
}

/// Writes until `stop`, through all crashes.
async fn write(url: String, index: usize, history: Arc<History>, stop: Stop) {
    let mut kv = KvClient::new(channel(&url));
    let mut sequence = 0_u64;
    while !stop.is_cancelled() {
        sequence += 1;
        let (request, effects) = plan(index, sequence);
        let guard = history.gate.read().await;
        history.writers[index].lock().in_flight = effects.clone();
        match kv.txn(request).await {
            Ok(answer) => {
                let revision = answer.into_inner().header.expect("a header").revision;
                let mut writer = history.writers[index].lock();
                for (key, value) in &effects {
                    writer.keys.insert(key.clone(), (revision, value.clone()));
                }
                writer.in_flight.clear();
                drop(writer);
                let before = history.acknowledged.lock().insert(revision, effects);
                assert_eq!(before, None, "revision {revision} was acknowledged twice");
                history.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                drop(guard);
                // It happened or it did not: the state after the restart tells. Wait until the check has read it.
                while !stop.is_cancelled() && !history.writers[index].lock().in_flight.is_empty() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }
}

/// A transaction of one or two writes to the writer's keys; at least one is a put, so that it makes a revision.
fn plan(index: usize, sequence: u64) -> (TxnRequest, Vec<Effect>) {
    let key = |offset| format!("w{index}/{:02}", (sequence.wrapping_mul(7) + offset) % KEYS);
    let value = format!("{index}:{sequence}:{}", "x".repeat(fastrand::usize(0..300)));
    let mut effects = vec![(key(0), Some(value))];
    match sequence % 5 {
        0 => effects.push((key(1), None)),
        1 => effects.push((key(1), Some(format!("{index}:{sequence}:second")))),
        _ => (),
    }
    let success = effects.iter().map(|(key, value)| {
        let request = match value {
            Some(value) => Op::RequestPut(PutRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                ..Default::default()
            }),
            None => Op::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone().into(),
                ..Default::default()
            }),
        };
        RequestOp {
            request: Some(request),
        }
    });
    (
        TxnRequest {
            success: success.collect(),
            ..Default::default()
        },
        effects,
    )
}

/// After a restart each key is what was acknowledged, or what was in flight; all of a transaction or nothing.
async fn check_state(url: &str, history: &History, crash: usize) {
    let _alone = history.gate.write().await;
    let mut kv = KvClient::new(channel(url));
    let range = RangeRequest {
        key: "w".into(),
        range_end: "x".into(),
        ..Default::default()
    };
    let answer = kv.range(range).await.expect("read after a restart").into_inner();
    let newest = answer.header.expect("a header").revision;
    let live: HashMap<String, (i64, String)> = answer
        .kvs
        .into_iter()
        .map(|kv| (text(&kv.key), (kv.mod_revision, text(&kv.value))))
        .collect();
    for writer in &history.writers {
        let mut writer = writer.lock();
        let happened: Vec<bool> = writer
            .in_flight
            .iter()
            .map(|(key, value)| match (value, live.get(key)) {
                (Some(value), Some((_, found))) => value == found,
                (None, None) => true,
                _ => false,
            })
            .collect();
        // Deletes of absent keys look done either way: the puts decide.
        let puts: Vec<bool> = (writer.in_flight.iter().zip(&happened))
            .filter(|((_, value), _)| value.is_some())
            .map(|(_, happened)| *happened)
            .collect();
        let applied = puts.first().copied().unwrap_or_default();
        assert!(
            puts.iter().all(|put| *put == applied),
            "crash {crash}: half a transaction"
        );
        if applied {
            assert!(
                happened.iter().all(|one| *one),
                "crash {crash}: half a transaction"
            );
            for (key, value) in std::mem::take(&mut writer.in_flight) {
                let revision = live.get(&key).map_or(newest, |(revision, _)| *revision);
                writer.keys.insert(key, (revision, value));
            }
        }
        for (key, (revision, value)) in &writer.keys {
            assert!(
                *revision <= newest,
                "crash {crash}: revision {revision} of {key} was acknowledged, newest is {newest}"
            );
            let found = live.get(key).map(|(_, value)| value);
            assert_eq!(
                found,
                value.as_ref(),
                "crash {crash}: {key}, acknowledged at {revision}"
            );
        }
        // The writer goes on.
        writer.in_flight.clear();
    }
}

/// One event as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    revision: i64,
    key: String,
    value: Option<String>,
}

/// Watches all keys from `next` on until `stop`, resuming after each crash.
async fn watch(url: String, mut next: i64, seen: Arc<Mutex<Vec<Seen>>>, stop: Stop) {
    while !stop.is_cancelled() {
        // What is taken has to be complete: a connection that breaks between two parts of a revision resumes at it.
        let follow = follow(&url, &mut next, &seen);
        if stop.run_until_cancelled(follow).await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn follow(url: &str, next: &mut i64, seen: &Mutex<Vec<Seen>>) {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        start_revision: *next,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let requests = futures_util::StreamExt::chain(
        futures_util::stream::iter([request]),
        futures_util::stream::pending(),
    );
    // A watch has no deadline.
    let Ok(endpoint) = tonic::transport::Endpoint::from_shared(url.to_owned()) else {
        return;
    };
    let Ok(channel) = endpoint.connect().await else {
        return;
    };
    let Ok(stream) = WatchClient::new(channel).watch(requests).await else {
        return;
    };
    let mut stream = stream.into_inner();
    while let Ok(Some(answer)) = stream.message().await {
        assert_eq!(answer.compact_revision, 0, "nothing is compacted here");
        assert!(!answer.canceled, "{}", answer.cancel_reason);
        let mut seen = seen.lock();
        for event in answer.events {
            let deleted = event.r#type == EventType::Delete as i32;
            let kv = event.kv.expect("an event has a key");
            seen.push(Seen {
                revision: kv.mod_revision,
                key: text(&kv.key),
                value: (!deleted).then(|| text(&kv.value)),
            });
            *next = kv.mod_revision + 1;
        }
    }
}

/// A watcher's record: every revision in order, none twice, and every acknowledged write in it as acknowledged.
fn check_record(seen: &[Seen], first: i64, last: i64, history: &History) {
    let mut expected = first;
    let mut by_revision: BTreeMap<i64, Vec<&Seen>> = BTreeMap::new();
    for event in seen {
        assert!(
            event.revision == expected || event.revision == expected - 1,
            "revision {} follows {}: a gap, a repeat or disorder",
            event.revision,
            expected - 1
        );
        expected = event.revision + 1;
        let revision = by_revision.entry(event.revision).or_default();
        assert!(
            revision.iter().all(|other| other.key != event.key),
            "{event:?} twice"
        );
        revision.push(event);
    }
    assert_eq!(expected, last + 1);
    for (revision, effects) in history.acknowledged.lock().iter() {
        let events = by_revision.get(revision).map(Vec::as_slice).unwrap_or_default();
        for (key, value) in effects {
            let event = events.iter().find(|event| event.key == *key);
            // Deleting what is not there makes no event.
            assert!(
                event.is_some_and(|event| event.value == *value) || (event.is_none() && value.is_none()),
                "revision {revision}: acknowledged {key}, watched {event:?}"
            );
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
