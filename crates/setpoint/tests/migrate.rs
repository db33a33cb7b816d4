//! A plane moves from its data directory to a cluster and back. Our own etcd front stands in for the cluster.

mod killed;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::json;
use setpoint::envtest::TempDir;
use setpoint::migrate::{MigrateError, Migration, Progress};
use setpoint_base::{FsDisk, SystemClock};
use setpoint_store::types::{
    KeyRange, KeyValue, LeaseId, Op, Put, PutLease, Range, Revision, Txn, WatchSpec,
};
use setpoint_store::{ClusterOptions, Error, Log, Store};

use crate::harness::{self, Server, call, eventually};

fn open(dir: &Path) -> Store {
    let mut options = setpoint_store::Options::new(dir.join("store"));
    options.prefill = false;
    options.segment_bytes = 16 << 20;
    Store::open(options, Arc::new(FsDisk), SystemClock::shared()).unwrap()
}

/// A server with the store alone: what it serves is an etcd.
async fn etcd(dir: &TempDir, name: &str) -> (Server, String) {
    let dir = dir.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let server = Server::start(&dir, &["--roles=store"]).await;
    let url = server.text("etcd").to_owned();
    (server, url)
}

fn cluster(url: &str) -> Log {
    Log::cluster(&ClusterOptions::new(vec![url.to_owned()])).unwrap()
}

async fn all(log: &Log) -> Vec<KeyValue> {
    log.range(&Range::of(KeyRange::From("\0".into())))
        .await
        .unwrap()
        .kvs
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Op {
    Op::Put(Put {
        lease: PutLease::Set(lease),
        ..Put::new(key.to_owned(), value.to_owned())
    })
}

async fn write(log: &Log, ops: Vec<Op>) -> Revision {
    let txn = Txn {
        success: ops,
        ..Txn::default()
    };
    log.txn(txn, None).await.unwrap().revision
}

/// Keys written in another order than their names have, some together, one on a lease, some several times.
async fn fill(log: &Log) {
    let lease = log.lease_grant(3600).await.unwrap();
    for n in (0..50).rev() {
        write(log, vec![put(&format!("/registry/k{n:02}"), "old", None)]).await;
    }
    for n in [7, 3, 40] {
        write(
            log,
            vec![put(&format!("/registry/k{n:02}"), &format!("new {n}"), None)],
        )
        .await;
    }
    write(
        log,
        vec![put("/registry/b", "1", None), put("/registry/a", "1", None)],
    )
    .await;
    write(log, vec![put("/registry/events/e", "1", Some(lease))]).await;
    let txn = (0..90)
        .map(|n| put(&format!("/registry/big/{n}"), "x", None))
        .collect();
    write(log, txn).await;
}

/// Keys in the order in which they were last written.
fn order(mut kvs: Vec<KeyValue>) -> Vec<String> {
    kvs.sort_by_key(|kv| (kv.mod_revision, kv.key.clone()));
    kvs.iter()
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect()
}

#[tokio::test]
async fn order_leases_and_content_arrive_and_old_versions_are_gone() {
    let dir = TempDir::new().unwrap();
    let source: Log = open(&dir.path().join("source")).into();
    fill(&source).await;
    let at = source.revision().await.unwrap();
    let (server, url) = etcd(&dir, "target").await;
    let migration = Migration {
        from: source.clone(),
        to: cluster(&url),
        force: false,
    };
    let mut told = Vec::new();
    let report = migration.run(|progress| told.push(progress)).await.unwrap();
    assert_eq!(report.content.keys, 143);
    assert_eq!((report.copied, report.leases, report.source), (143, 1, at));
    assert!(told.contains(&Progress::Copying(143, 143)) && told.contains(&Progress::Verifying));

    let to = &migration.to;
    assert_eq!(order(all(to).await), order(all(&source).await));
    for kv in all(to).await {
        assert!(kv.mod_revision > at, "a new version with an old number: {kv:?}");
    }
    let event = &to.range(&Range::key("/registry/events/e")).await.unwrap().kvs[0];
    assert_eq!(to.lease_ttl(event.lease.unwrap()).await.unwrap(), Some(3600));
    // Whoever comes with a version of before has to list again.
    let mut old = Range::key("/registry/a");
    old.revision = Some(at);
    assert!(matches!(to.range(&old).await, Err(Error::Compacted { .. })));
    let spec = WatchSpec::new(KeyRange::prefix(b"/registry/"), Some(at.next()));
    let update = to.watch(spec).unwrap().next().await.unwrap();
    assert!(
        matches!(update, setpoint_store::types::WatchUpdate::Compacted { .. }),
        "{update:?}"
    );

    // Once more: there is nothing to do, and nothing is written.
    let before = to.revision().await.unwrap();
    let again = migration.run(|_| ()).await.unwrap();
    assert!(again.nothing_to_do);
    assert_eq!(
        (again.content, to.revision().await.unwrap()),
        (report.content, before)
    );
    source.close().await.unwrap();
    server.stop().await;
}

/// Revisions behind those at which a run is cut off.
const MORE: usize = 1000;

#[tokio::test]
async fn a_run_that_was_cut_off_goes_on_where_it_stopped_also_when_the_source_changed() {
    let dir = TempDir::new().unwrap();
    let source: Log = open(&dir.path().join("source")).into();
    fill(&source).await;
    // A long way from where it is cut off to the end, which it must not reach meanwhile.
    for n in 0..MORE {
        write(&source, vec![put(&format!("/registry/more{n:04}"), "1", None)]).await;
    }
    let target: Log = open(&dir.path().join("target")).into();
    let migration = Migration {
        from: source.clone(),
        to: target.clone(),
        force: false,
    };
    // Cut off in the middle: the future is dropped once half is there.
    for want in [30, 60] {
        let halfway = async {
            loop {
                let count = target
                    .range(&Range::of(KeyRange::prefix(b"/registry/")))
                    .await
                    .unwrap()
                    .count;
                if count >= want {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = halfway => (),
            done = migration.run(|_| ()) => panic!("too fast to be cut off: {done:?}"),
        }
    }
    let delete = |key: &'static str| {
        Op::Delete(setpoint_store::types::Delete {
            keys: KeyRange::Key(key.into()),
            prev_kv: false,
        })
    };
    // What the run had on its way when it was cut off is done before this: a killed process has none left.
    write(&target, vec![delete("/nothing")]).await;
    write(
        &source,
        vec![
            delete("/registry/k45"),
            put("/registry/k44", "changed", None),
            put("/registry/late", "1", None),
        ],
    )
    .await;
    let report = migration.run(|_| ()).await.unwrap();
    assert_eq!(report.content.keys, 143 + MORE);
    assert!(
        report.copied < 143 + MORE,
        "it began from the beginning: {}",
        report.copied
    );
    assert_eq!(order(all(&target).await), order(all(&source).await));
    for log in [source, target] {
        log.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_target_with_other_keys_and_a_source_that_is_written_to_are_refused() {
    let dir = TempDir::new().unwrap();
    let (from, to) = (etcd(&dir, "from").await, etcd(&dir, "to").await);
    let (source, target) = (cluster(&from.1), cluster(&to.1));
    fill(&source).await;
    write(&target, vec![put("/other", "1", None)]).await;
    let mut migration = Migration {
        from: source.clone(),
        to: target.clone(),
        force: false,
    };
    let refused = migration.run(|_| ()).await.unwrap_err();
    assert!(matches!(refused, MigrateError::NotEmpty { keys: 1 }), "{refused}");
    migration.force = true;
    // Somebody writes between the reading and the end.
    let mut writes = 0;
    let written = migration.run(|progress| {
        if progress == Progress::Copying(143, 143) && writes == 0 {
            writes += 1;
            let url = from.1.clone();
            let late = move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    write(&cluster(&url), vec![put("/registry/late", "1", None)]).await;
                });
            };
            std::thread::spawn(late).join().unwrap();
        }
    });
    let refused = written.await.unwrap_err();
    assert_eq!(writes, 1);
    assert!(matches!(refused, MigrateError::Written { .. }), "{refused}");
    let report = migration.run(|_| ()).await.unwrap();
    assert_eq!((report.copied, report.content.keys), (1, 144));
    assert_eq!(order(all(&target).await), order(all(&source).await));
    let same = Migration {
        from: source.clone(),
        to: source,
        force: true,
    };
    assert!(matches!(same.run(|_| ()).await, Err(MigrateError::SameLog)));
    from.0.stop().await;
    to.0.stop().await;
}

fn migrate(args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_setpoint"))
        .args(["store", "migrate"])
        .args(args)
        .output()
        .unwrap()
}

#[track_caller]
fn success(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn a_plane_moves_to_a_cluster_and_back_and_its_clients_go_on() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir_all(&home).unwrap();
    let data = home.join("data").to_string_lossy().into_owned();
    let maps = "/api/v1/namespaces/default/configmaps";
    let plane = Server::start(&home, &[]).await;
    let made = call(
        &plane.kube().await,
        "POST",
        maps,
        Some((
            "application/json",
            json!({"metadata": {"name": "m"}, "data": {"a": "1"}}),
        )),
    )
    .await
    .unwrap();
    let (cluster, url) = etcd(&dir, "cluster").await;
    // Not while it runs.
    let refused = migrate(&["--from", &data, "--to", &url]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("in use by another process") && said.contains("--from") && !said.contains("--data-dir"),
        "{said}"
    );
    plane.stop().await;
    let text = success(&migrate(&["--from", &data, "--to", &url]));
    assert!(
        text.contains("410 Gone") && text.contains("The CA moved along"),
        "{text}"
    );

    // A server with a new data directory, and a client with the old kubeconfig but for the address.
    let away = dir.path().join("away");
    std::fs::create_dir_all(&away).unwrap();
    let plane = Server::start(&away, &["--engine=etcd", "--etcd-endpoints", &url]).await;
    let client = moved(&home.join("data/admin.kubeconfig"), plane.text("api"), &dir).await;
    let read = call(&client, "GET", &format!("{maps}/m"), None).await.unwrap();
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(read["data"], made["data"]);
    let number = |object: &serde_json::Value| {
        object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(number(&read) > number(&made));
    // Work goes on there.
    let patch = Some(("application/merge-patch+json", json!({"data": {"b": "2"}})));
    call(&client, "PATCH", &format!("{maps}/m"), patch).await.unwrap();
    plane.stop().await;

    // And back, into a third place.
    let back = dir.path().join("back");
    std::fs::create_dir_all(&back).unwrap();
    let data = back.join("data").to_string_lossy().into_owned();
    let text = success(&migrate(&["--from", &url, "--to", &data]));
    assert!(text.contains("The CA moved along"), "{text}");
    assert!(success(&migrate(&["--from", &url, "--to", &data])).starts_with("nothing to do"));
    let plane = Server::start(&back, &[]).await;
    let client = moved(&home.join("data/admin.kubeconfig"), plane.text("api"), &dir).await;
    let read = eventually("served again", async || {
        call(&client, "GET", &format!("{maps}/m"), None).await.ok()
    })
    .await;
    assert_eq!(read["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    plane.stop().await;
    cluster.stop_by(Signal::TERM).await;
}

/// A client with this kubeconfig, at another address.
async fn moved(kubeconfig: &Path, api: &str, dir: &TempDir) -> kube_client::Client {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let server = text
        .lines()
        .find(|line| line.trim_start().starts_with("server:"))
        .unwrap();
    let text = text.replace(server, &format!("    server: {api}"));
    let path: PathBuf = dir.path().join("moved.kubeconfig");
    std::fs::write(&path, text).unwrap();
    harness::kube(&path).await
}
