//! WATCH: order, transitions, bookmarks, catching up, the end.

use serde_json::{Value, json};
use setpoint_apiserver::Options;
use std::time::Duration;

use crate::harness::Plane;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

async fn make(plane: &Plane, name: &str, label: &str) -> Value {
    let body = json!({ "metadata": { "name": name, "labels": { "l": label } } });
    plane.post(LEASES, &body).await.expect(201)
}

async fn relabel(plane: &Plane, name: &str, label: &str) -> Value {
    let path = format!("{LEASES}/{name}");
    let mut object = plane.get(&path).await.expect(200);
    object["metadata"]["labels"]["l"] = json!(label);
    plane.put(&path, &object).await.expect(200)
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

async fn now(plane: &Plane) -> String {
    version(&plane.get(LEASES).await.expect(200)).to_owned()
}

#[tokio::test]
async fn every_change_after_a_version_is_seen_once_and_in_order() {
    let plane = Plane::start().await;
    let start = now(&plane).await;
    let mut watch = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    make(&plane, "a", "1").await;
    relabel(&plane, "a", "2").await;
    make(&plane, "b", "1").await;
    plane.delete(&format!("{LEASES}/a")).await.expect(200);
    assert_eq!(watch.lines(3).await, ["ADDED a", "MODIFIED a", "ADDED b"]);
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    assert_eq!(
        deleted["object"]["metadata"]["labels"]["l"], "2",
        "the last state"
    );
    let seen: i64 = version(&deleted["object"]).parse().unwrap();
    assert_eq!(seen, plane.store.revision().0, "with the version of the deletion");
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let plane = Plane::start().await;
    make(&plane, "a", "x").await;
    let start = now(&plane).await;
    let query = format!("watch=1&resourceVersion={start}&labelSelector=l%3Dx");
    let mut watch = plane.watch(&format!("{LEASES}?{query}")).await;
    make(&plane, "other", "y").await;
    let left = relabel(&plane, "a", "y").await;
    relabel(&plane, "a", "z").await;
    relabel(&plane, "a", "x").await;
    plane.delete(&format!("{LEASES}/a")).await.expect(200);
    let event = watch.next().await.unwrap();
    assert_eq!(
        (&event["type"], version(&event["object"])),
        (&json!("DELETED"), version(&left))
    );
    assert_eq!(
        event["object"]["metadata"]["labels"]["l"], "x",
        "as it was when it matched"
    );
    assert_eq!(watch.lines(2).await, ["ADDED a", "DELETED a"]);
}

#[tokio::test]
async fn a_watch_list_ends_its_first_part_with_a_bookmark() {
    let plane = Plane::start().await;
    make(&plane, "a", "1").await;
    make(&plane, "b", "1").await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = plane.watch(&format!("{LEASES}?{query}")).await;
    assert_eq!(watch.lines(2).await, ["ADDED a", "ADDED b"]);
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["kind"], "Lease");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    make(&plane, "c", "1").await;
    assert_eq!(watch.line().await, "ADDED c");

    let mut one = plane
        .watch(&format!("{LEASES}?{query}&fieldSelector=metadata.name%3Db"))
        .await;
    assert_eq!(one.lines(2).await, ["ADDED b", "BOOKMARK"]);
    let mut legacy = plane.watch(&format!("{LEASES}?watch=1")).await;
    assert_eq!(legacy.lines(3).await, ["ADDED a", "ADDED b", "ADDED c"]);
}

#[tokio::test]
async fn a_watch_behind_the_ring_reads_history_and_comes_back_without_gap_or_repetition() {
    let options = Options {
        ring_events_max: 4,
        ..Options::default()
    };
    let plane = Plane::with(options, |_| ()).await;
    let start = now(&plane).await;
    let mut behind = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    for at in 0..40 {
        make(&plane, &format!("n{at:02}"), "1").await;
    }
    plane.delete(&format!("{LEASES}/n00")).await.expect(200);
    let mut late = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    for watch in [&mut behind, &mut late] {
        let lines = watch.lines(41).await;
        let want: Vec<_> = (0..40)
            .map(|at| format!("ADDED n{at:02}"))
            .chain(["DELETED n00".to_owned()])
            .collect();
        assert_eq!(lines, want);
    }
    make(&plane, "after", "1").await;
    assert_eq!(
        (behind.line().await, late.line().await),
        ("ADDED after".to_owned(), "ADDED after".to_owned())
    );
}

#[tokio::test]
async fn only_compaction_cuts_a_watch_off() {
    let options = Options {
        ring_events_max: 2,
        ..Options::default()
    };
    let plane = Plane::with(options, |_| ()).await;
    let start = now(&plane).await;
    for name in ["a", "b", "c", "d"] {
        make(&plane, name, "1").await;
    }
    plane.store.compact(plane.store.revision(), true).await.unwrap();
    let mut watch = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    let error = watch.next().await.unwrap();
    assert_eq!(error["type"], "ERROR");
    assert_eq!(
        (&error["object"]["code"], &error["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let message = error["object"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("too old resource version: {start} (")),
        "{message}"
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn watches_resume_from_any_version_after_a_restart() {
    let plane = Plane::start().await;
    let start = now(&plane).await;
    make(&plane, "a", "1").await;
    relabel(&plane, "a", "2").await;
    plane.delete(&format!("{LEASES}/a")).await.expect(200);
    let plane = plane.restart(Options::default()).await;
    let mut watch = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    assert_eq!(watch.lines(3).await, ["ADDED a", "MODIFIED a", "DELETED a"]);
    make(&plane, "b", "1").await;
    assert_eq!(watch.line().await, "ADDED b");
}

#[tokio::test]
async fn a_watch_ends_at_its_timeout_after_a_last_bookmark() {
    let plane = Plane::start().await;
    let options = "watch=1&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=5";
    let mut watch = plane.watch(&format!("{LEASES}?{options}")).await;
    assert_eq!(watch.line().await, "BOOKMARK");
    assert_eq!(watch.line().await, "END");
    let late = plane
        .get(&format!("{LEASES}?watch=1&resourceVersion=999999"))
        .await;
    assert!(
        late.message().contains("Too large resource version: 999999"),
        "{}",
        late.text
    );
    assert_eq!(
        late.expect(504)["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
}

#[tokio::test]
async fn the_trace_of_a_write_reaches_those_who_ask_for_it() {
    if crate::harness::over_a_cluster() {
        // A cluster keeps keys and values, no traces.
        return;
    }
    use http::Method;
    use setpoint_apiserver::Identity;
    let plane = Plane::start().await;
    let start = now(&plane).await;
    let path = format!("{LEASES}?watch=1&resourceVersion={start}");
    let asks = [("setpoint-trace", "1")];
    let response = plane
        .open(Method::GET, &path, &asks, "", Some(Identity::loopback()))
        .await;
    let mut traced = crate::harness::Events::of(response);
    let mut plain = plane.watch(&path).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = json!({ "metadata": { "name": "a" } }).to_string();
    plane
        .send(Method::POST, LEASES, &[("traceparent", trace)], &body)
        .await
        .expect(201);
    let event = traced.next().await.unwrap();
    let seen = event["traceparent"].as_str().unwrap();
    assert!(seen.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{seen}");
    assert!(plain.next().await.unwrap()["traceparent"].is_null());
}

#[tokio::test]
async fn draining_ends_watches() {
    let plane = Plane::start().await;
    let start = now(&plane).await;
    let mut watch = plane
        .watch(&format!("{LEASES}?watch=1&resourceVersion={start}"))
        .await;
    plane.server.drain();
    let ended = tokio::time::timeout(Duration::from_secs(2), watch.next())
        .await
        .unwrap();
    assert!(ended.is_none());
    plane.get(LEASES).await.expect(200);
}
