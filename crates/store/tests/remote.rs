//! A log in a cluster whose answers get lost: what may be concluded, and that nothing happens twice.
//!
//! Our own front stands in for the cluster, behind a proxy. `half_open` lets a write arrive and its answer not; `freeze`
//! keeps the write back, and a cut afterwards makes sure that it never arrives.

use std::sync::Arc;
use std::time::Duration;

use setpoint_base::{FsDisk, Stop, SystemClock, TaskGroup};
use setpoint_flow::impair::Proxy;
use setpoint_store::etcd::{Front, FrontOptions};
use setpoint_store::types::{
    Compare, CompareTarget, Delete, KeyRange, KeyValue, Op, Put, Range, Relation, Revision, Txn, TxnResult,
    WatchSpec, WatchUpdate,
};
use setpoint_store::{ClusterOptions, Error, Log, Options, Store};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::TempDir;

struct Rig {
    _dir: TempDir,
    store: Store,
    log: Log,
    proxy: Proxy,
    tasks: TaskGroup,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

impl Rig {
    async fn start() -> Self {
        let dir = TempDir::new();
        let options = Options {
            prefill: false,
            ..Options::new(dir.path())
        };
        let store = Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let front_options = FrontOptions {
            workers: 1,
            ..FrontOptions::default()
        };
        let (front, tasks) = (
            Front::new(store.clone(), front_options),
            TaskGroup::new(&Stop::new()),
        );
        let stop = tasks.stop().clone();
        tasks.spawn(async move { front.serve(listener, stop).await.unwrap() });
        let mut options = ClusterOptions::new(vec![format!("http://{}", proxy.addr())]);
        options.attempt_timeout = Duration::from_millis(700);
        let log = Log::cluster(&options).unwrap();
        Self {
            _dir: dir,
            store,
            log,
            proxy,
            tasks,
        }
    }

    /// Writes past the proxy, as another server would.
    async fn put(&self, key: &'static str, value: &'static str) -> Revision {
        self.store.put(Put::new(key, value), None).await.unwrap().revision
    }

    fn read(&self, key: &'static str) -> Option<KeyValue> {
        self.store.range(&Range::key(key)).unwrap().kvs.pop()
    }

    /// What the proxy holds back goes nowhere; new connections are fine.
    async fn lose_what_is_held(&self) {
        self.proxy.cut();
        sleep(Duration::from_millis(100)).await;
        self.proxy.thaw();
    }

    /// Sends a transaction that arrives and whose answer is lost.
    async fn answer_lost(&self, txn: Txn) -> Result<TxnResult, Error> {
        let before = self.store.revision();
        self.log.revision().await.unwrap();
        self.proxy.half_open();
        let sent = self.send(txn);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.store.revision() == before {
            assert!(Instant::now() < deadline, "the write does not arrive");
            sleep(Duration::from_millis(5)).await;
        }
        self.lose_what_is_held().await;
        sent.await.unwrap()
    }

    /// A transaction through the proxy, under way.
    #[allow(clippy::disallowed_methods, reason = "each test awaits what it sent")]
    fn send(&self, txn: Txn) -> JoinHandle<Result<TxnResult, Error>> {
        let log = self.log.clone();
        tokio::spawn(async move { log.txn(txn, None).await })
    }
}

fn on(key: &'static str, revision: Revision, op: Op) -> Txn {
    Txn {
        compares: vec![Compare {
            keys: KeyRange::Key(key.into()),
            relation: Relation::Equal,
            target: CompareTarget::Mod(revision.0),
        }],
        success: vec![op],
        failure: Vec::new(),
    }
}

fn put(value: &'static str) -> Op {
    Op::Put(Put::new("k", value))
}

fn delete() -> Op {
    Op::Delete(Delete {
        keys: KeyRange::Key("k".into()),
        prev_kv: false,
    })
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_is_found_and_acknowledged_once() {
    let rig = Rig::start().await;
    let created = rig.answer_lost(on("k", Revision(0), put("uid-1"))).await.unwrap();
    let there = rig.read("k").unwrap();
    assert!(created.succeeded);
    assert_eq!((created.revision, there.version), (there.mod_revision, 1));
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_not_claimed_because_another_may_have_written_the_same() {
    let rig = Rig::start().await;
    let at = rig.put("k", "5").await;
    let updated = rig.answer_lost(on("k", at, put("6"))).await;
    assert!(matches!(updated, Err(Error::OutcomeUnknown(_))), "{updated:?}");
    let there = rig.read("k").unwrap();
    assert_eq!(
        (&there.value[..], there.version),
        (&b"6"[..], 2),
        "once, and no more"
    );
}

#[tokio::test]
async fn a_deletion_whose_answer_was_lost_is_of_unknown_outcome() {
    let rig = Rig::start().await;
    let at = rig.put("k", "5").await;
    let deleted = rig.answer_lost(on("k", at, delete())).await;
    assert!(matches!(deleted, Err(Error::OutcomeUnknown(_))), "{deleted:?}");
    assert_eq!(rig.read("k"), None);
}

#[tokio::test]
async fn a_write_without_a_condition_is_sent_once() {
    let rig = Rig::start().await;
    let blind = Txn {
        success: vec![put("1")],
        ..Txn::default()
    };
    let written = rig.answer_lost(blind).await;
    assert!(matches!(written, Err(Error::OutcomeUnknown(_))), "{written:?}");
    assert_eq!(rig.read("k").unwrap().version, 1);
}

#[tokio::test]
async fn an_update_that_never_arrived_is_made_after_all() {
    let rig = Rig::start().await;
    let at = rig.put("k", "5").await;
    rig.log.revision().await.unwrap();
    rig.proxy.freeze();
    let sent = rig.send(on("k", at, put("6")));
    sleep(Duration::from_millis(300)).await;
    rig.lose_what_is_held().await;
    let updated = sent.await.unwrap().unwrap();
    assert!(updated.succeeded);
    let there = rig.read("k").unwrap();
    assert_eq!((there.mod_revision, there.version), (updated.revision, 2));
}

#[tokio::test]
async fn an_update_that_came_too_late_is_a_lost_race_and_said_to_be() {
    let rig = Rig::start().await;
    let at = rig.put("k", "5").await;
    rig.log.revision().await.unwrap();
    rig.proxy.freeze();
    let sent = rig.send(on("k", at, put("6")));
    sleep(Duration::from_millis(300)).await;
    // Other servers go on, by more than one version.
    rig.put("k", "7").await;
    rig.put("k", "8").await;
    rig.lose_what_is_held().await;
    let updated = sent.await.unwrap().unwrap();
    assert!(!updated.succeeded, "others came first");
    assert_eq!(&rig.read("k").unwrap().value[..], b"8");
}

#[tokio::test]
async fn without_any_answer_a_call_ends_with_the_patience_and_says_what_is_known() {
    let rig = Rig::start().await;
    rig.log.revision().await.unwrap();
    rig.proxy.refuse();
    let started = Instant::now();
    let (read, write) = tokio::join!(
        rig.log.revision(),
        rig.log.txn(on("k", Revision(0), put("1")), None)
    );
    assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
    assert!(
        matches!(write, Err(Error::Unavailable(_) | Error::OutcomeUnknown(_))),
        "{write:?}"
    );
    assert!(
        started.elapsed() < Duration::from_secs(13),
        "{:?}",
        started.elapsed()
    );
    rig.proxy.thaw();
    assert!(rig.log.revision().await.is_ok(), "and all is well again");
}

#[tokio::test]
async fn a_watch_reports_the_revision_somebody_waits_for_although_nothing_of_its_own_happens() {
    let rig = Rig::start().await;
    let now = rig.log.revision().await.unwrap();
    let mut watch = rig
        .log
        .watch(WatchSpec::new(KeyRange::prefix(b"a/"), Some(now.next())))
        .unwrap();
    rig.put("b/1", "1").await;
    let target = rig.log.revision().await.unwrap();
    watch.request_progress();
    // Also over a link that breaks meanwhile.
    rig.proxy.cut();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        assert!(Instant::now() < deadline, "no progress up to {target}");
        match watch.next().await.unwrap() {
            WatchUpdate::Progress { revision, .. } if revision >= target => break,
            WatchUpdate::Progress { .. } => (),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn wide_reads_come_in_pages_of_one_revision() {
    let rig = Rig::start().await;
    for n in 0..250 {
        let key = format!("p/{n:03}");
        rig.store.put(Put::new(key, "v"), None).await.unwrap();
    }
    let all = rig.log.range(&Range::of(KeyRange::prefix(b"p/"))).await.unwrap();
    assert_eq!((all.kvs.len(), all.count, all.more), (250, 250, false));
    let mut some = Range::of(KeyRange::prefix(b"p/"));
    some.limit = 220;
    let some = rig.log.range(&some).await.unwrap();
    assert_eq!((some.kvs.len(), some.count, some.more), (220, 250, true));
    let keys: Vec<_> = all.kvs.iter().take(220).map(|kv| &kv.key).collect();
    assert_eq!(some.kvs.iter().map(|kv| &kv.key).collect::<Vec<_>>(), keys);
}
