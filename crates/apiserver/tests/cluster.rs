//! Servers that share one log over the network, as they share an etcd cluster. Ours stands in for it here; the real one,
//! with members that die, is in `conformance/cluster`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use setpoint_base::{Stop, TaskGroup};
use setpoint_store::{ClusterOptions, Store};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::harness::{LOG, PATIENCE, Plane, over_a_cluster, serve, store};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A log that servers reach at an address, and that can go away.
struct Shared {
    store: Store,
    dir: PathBuf,
    addr: SocketAddr,
    front: TaskGroup,
}

impl Shared {
    async fn start() -> Self {
        let (store, dir) = store(|_| ());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, front) = (listener.local_addr().unwrap(), TaskGroup::new(&Stop::new()));
        serve(&store, listener, &front);
        Self {
            store,
            dir,
            addr,
            front,
        }
    }

    async fn server(&self, change: impl FnOnce(&mut ClusterOptions)) -> Plane {
        let mut options = ClusterOptions::new(vec![format!("http://{}", self.addr)]);
        options.attempt_timeout = Duration::from_secs(1);
        options.patience = Duration::from_secs(2);
        change(&mut options);
        Plane::over_cluster(self.store.clone(), &options).await
    }

    /// Nobody answers any more.
    async fn go(&self) {
        self.front.shutdown(Duration::from_millis(200)).await;
    }

    /// Somebody answers again, at the same address.
    async fn come_back(&mut self) {
        self.front = TaskGroup::new(&Stop::new());
        let deadline = Instant::now() + PATIENCE;
        let listener = loop {
            match TcpListener::bind(self.addr).await {
                Ok(listener) => break listener,
                Err(error) if Instant::now() > deadline => panic!("{error}"),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        serve(&self.store, listener, &self.front);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.front.stop().cancel();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn map(name: &str, n: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string()}})
}

/// All other tests of this binary, with the log on the other side of a socket.
#[test]
fn nothing_above_the_log_can_tell_that_it_is_elsewhere() {
    if over_a_cluster() {
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "cluster::"])
        .env(LOG, "cluster")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains(" 0 passed"), "it ran nothing: {text}");
}

#[tokio::test]
async fn what_one_server_wrote_the_other_reads_at_once() {
    let shared = Shared::start().await;
    let (a, b) = (shared.server(|_| ()).await, shared.server(|_| ()).await);
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let made = writer.post(MAPS, &map(&format!("m{n}"), n)).await.expect(201);
        let read = reader.get(&format!("{MAPS}/m{n}")).await.expect(200);
        assert_eq!(
            read["metadata"]["resourceVersion"],
            made["metadata"]["resourceVersion"]
        );
        // A list without a version is as new as a read, although it comes out of the other server's cache.
        let list = reader.get(MAPS).await.expect(200);
        let names = list["items"].as_array().unwrap();
        let found = names
            .iter()
            .any(|item| item["metadata"]["name"] == format!("m{n}"));
        assert!(found, "m{n} is not listed");
    }
}

#[tokio::test]
async fn of_two_updates_of_one_version_one_wins_whatever_the_server() {
    let shared = Shared::start().await;
    let (a, b) = (shared.server(|_| ()).await, shared.server(|_| ()).await);
    a.post(MAPS, &map("m", 0)).await.expect(201);
    let path = format!("{MAPS}/m");
    for n in 1..20 {
        let read = a.get(&path).await.expect(200);
        let mut new = map("m", n);
        new["metadata"]["resourceVersion"] = read["metadata"]["resourceVersion"].clone();
        // The same bytes: that they are there does not mean that both put them there.
        let (one, other) = tokio::join!(a.put(&path, &new), b.put(&path, &new));
        let mut codes = [one.code, other.code];
        codes.sort_unstable();
        assert_eq!(codes, [200, 409]);
    }
}

#[tokio::test]
async fn a_watch_on_one_server_sees_the_writes_of_both_once_and_in_order() {
    let shared = Shared::start().await;
    let (a, b) = (shared.server(|_| ()).await, shared.server(|_| ()).await);
    let version = a.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].clone();
    let version = version.as_str().unwrap();
    let path = format!("{MAPS}?watch=true&resourceVersion={version}");
    let mut watches = [a.watch(&path).await, b.watch(&path).await];
    for n in 0..40 {
        let writer = if n % 3 == 0 { &a } else { &b };
        writer.post(MAPS, &map(&format!("m{n}"), n)).await.expect(201);
    }
    let expected: Vec<String> = (0..40).map(|n| format!("ADDED m{n}")).collect();
    for watch in &mut watches {
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let line = watch.line().await;
            // The namespace loop makes one of its own.
            if !line.ends_with("kube-root-ca.crt") {
                seen.push(line);
            }
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn two_servers_end_a_namespace_together() {
    let shared = Shared::start().await;
    let (a, b) = (shared.server(|_| ()).await, shared.server(|_| ()).await);
    a.post("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}))
        .await
        .expect(201);
    for n in 0..10 {
        b.post("/api/v1/namespaces/shop/configmaps", &map(&format!("m{n}"), n))
            .await
            .expect(201);
    }
    b.delete("/api/v1/namespaces/shop").await.expect(200);
    for server in [&a, &b] {
        gone(server, "/api/v1/namespaces/shop").await;
        let left = server.get("/api/v1/namespaces/shop/configmaps").await.expect(200);
        assert_eq!(left["items"], json!([]));
    }
}

#[tokio::test]
async fn a_definition_made_on_one_server_is_served_and_ended_by_all() {
    let shared = Shared::start().await;
    let (a, b) = (shared.server(|_| ()).await, shared.server(|_| ()).await);
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "sites.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "sites", "kind": "Site"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    });
    a.post(crds, &crd).await.expect(201);
    let sites = "/apis/example.com/v1/namespaces/default/sites";
    let site = json!({"apiVersion": "example.com/v1", "kind": "Site", "metadata": {"name": "s"}});
    let deadline = Instant::now() + PATIENCE;
    while b.post(sites, &site).await.code != 201 {
        assert!(Instant::now() < deadline, "the other server never serves it");
        sleep(Duration::from_millis(5)).await;
    }
    a.get(&format!("{sites}/s")).await.expect(200);
    b.delete(&format!("{crds}/sites.example.com")).await.expect(200);
    for server in [&a, &b] {
        gone(server, &format!("{crds}/sites.example.com")).await;
        gone(server, sites).await;
    }
    let left = setpoint_store::types::KeyRange::prefix(b"/registry/example.com/");
    assert_eq!(
        shared
            .store
            .range(&setpoint_store::types::Range::of(left))
            .unwrap()
            .count,
        0
    );
}

#[tokio::test]
async fn planes_with_different_prefixes_do_not_see_each_other() {
    let shared = Shared::start().await;
    let blue = shared.server(|options| options.prefix = "/blue".to_owned()).await;
    let red = shared.server(|options| options.prefix = "/red".to_owned()).await;
    blue.post(MAPS, &map("m", 1)).await.expect(201);
    red.get(&format!("{MAPS}/m")).await.expect(404);
    assert_eq!(blue.get(&format!("{MAPS}/m")).await.expect(200)["data"]["n"], "1");
    let outside = setpoint_store::types::KeyRange::prefix(b"/registry/");
    assert_eq!(
        shared
            .store
            .range(&setpoint_store::types::Range::of(outside))
            .unwrap()
            .count,
        0
    );
}

#[tokio::test]
async fn without_the_log_requests_fail_in_time_and_all_is_well_when_it_is_back() {
    let mut shared = Shared::start().await;
    let server = shared.server(|_| ()).await;
    server.post(MAPS, &map("before", 1)).await.expect(201);
    server.get("/readyz").await.expect(200);
    let version = server.get(MAPS).await.expect(200)["metadata"]["resourceVersion"].clone();
    let version = version.as_str().unwrap();
    let mut watch = server
        .watch(&format!("{MAPS}?watch=true&resourceVersion={version}"))
        .await;

    shared.go().await;
    let started = Instant::now();
    let answer = server.get(&format!("{MAPS}/before")).await;
    assert_eq!(answer.code, 503, "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    let write = server.post(MAPS, &map("lost", 1)).await;
    assert!(matches!(write.code, 503 | 504), "{}", write.text);
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(server.get("/readyz").await.code, 500);
    // What the cache has can still be read by whom any version serves.
    server.get(&format!("{MAPS}?resourceVersion=0")).await.expect(200);

    shared.come_back().await;
    let deadline = Instant::now() + PATIENCE;
    while server.get("/readyz").await.code != 200 {
        assert!(Instant::now() < deadline, "never ready again");
        sleep(Duration::from_millis(50)).await;
    }
    server.post(MAPS, &map("after", 2)).await.expect(201);
    assert_eq!(
        watch.line().await,
        "ADDED after",
        "the watch goes on where it was"
    );
}

#[tokio::test]
async fn events_of_a_shared_log_end_by_themselves() {
    let shared = Shared::start().await;
    let server = shared.server(|_| ()).await;
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "reason": "r", "message": "m",
    });
    server
        .post("/api/v1/namespaces/default/events", &event)
        .await
        .expect(201);
    let kv = shared
        .store
        .range(&setpoint_store::types::Range::key("/registry/events/default/e"))
        .unwrap();
    let lease = kv.kvs[0].lease.expect("an event hangs on a lease");
    assert!(shared.store.lease(lease, false).unwrap().granted_ttl >= 3600);
}

async fn gone(server: &Plane, path: &str) {
    let deadline = Instant::now() + PATIENCE;
    while server.get(path).await.code != 404 {
        assert!(Instant::now() < deadline, "{path} stays");
        sleep(Duration::from_millis(20)).await;
    }
}
