//! LIST: pages, selectors, versions.

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use setpoint_apiserver::Identity;
use setpoint_store::types::Revision;

use crate::harness::Plane;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(plane: &Plane, namespace: &str, name: &str, labels: Value) -> Value {
    let body = json!({ "metadata": { "name": name, "labels": labels } });
    plane
        .post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &body)
        .await
        .expect(201)
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .filter(|name| *name != "kube-root-ca.crt")
        .collect()
}

fn next(list: &Value) -> &str {
    list["metadata"]["continue"].as_str().unwrap_or_default()
}

/// A namespace without anybody else's objects.
async fn quiet(plane: &Plane) -> &'static str {
    plane
        .post(
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            &json!({ "metadata": { "name": "x" } }),
        )
        .await;
    "/apis/coordination.k8s.io/v1/namespaces/default/leases"
}

#[tokio::test]
async fn pages_show_one_revision_whatever_is_written_between_them() {
    let plane = Plane::start().await;
    let leases = quiet(&plane).await;
    for name in ["a", "b", "c", "d"] {
        plane
            .post(leases, &json!({ "metadata": { "name": name } }))
            .await
            .expect(201);
    }
    let first = plane.get(&format!("{leases}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    plane.delete(&format!("{leases}/c")).await.expect(200);
    plane
        .post(leases, &json!({ "metadata": { "name": "cc" } }))
        .await
        .expect(201);
    let second = plane
        .get(&format!("{leases}?limit=2&continue={}", next(&first)))
        .await
        .expect(200);
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let third = plane
        .get(&format!("{leases}?limit=2&continue={}", next(&second)))
        .await
        .expect(200);
    assert_eq!((names(&third), next(&third)), (vec!["x"], ""));
}

#[tokio::test]
async fn a_page_whose_revision_is_gone_goes_on_inconsistently_when_asked_to() {
    let plane = Plane::start().await;
    let leases = quiet(&plane).await;
    for name in ["a", "b", "c"] {
        plane
            .post(leases, &json!({ "metadata": { "name": name } }))
            .await
            .expect(201);
    }
    let first = plane.get(&format!("{leases}?limit=1")).await.expect(200);
    plane.delete(&format!("{leases}/b")).await.expect(200);
    plane.store.compact(plane.store.revision(), true).await.unwrap();
    let expired = plane
        .get(&format!("{leases}?limit=1&continue={}", next(&first)))
        .await;
    assert!(
        expired
            .message()
            .starts_with("The provided continue parameter is too old"),
        "{}",
        expired.text
    );
    let expired = expired.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let rest = plane
        .get(&format!("{leases}?continue={}", next(&expired)))
        .await
        .expect(200);
    assert_eq!(names(&rest), ["c", "x"]);
}

#[tokio::test]
async fn selectors_narrow_by_label_field_and_namespace() {
    let plane = Plane::start().await;
    plane
        .post(
            "/api/v1/namespaces",
            &json!({ "metadata": { "name": "default-b" } }),
        )
        .await
        .expect(201);
    make(&plane, "default", "a", json!({ "app": "x", "tier": "1" })).await;
    make(&plane, "default", "b", json!({ "app": "y" })).await;
    make(&plane, "default-b", "a", json!({ "app": "x" })).await;
    let all = "/api/v1/configmaps";
    let rows: [(&str, &str, &[&str]); 9] = [
        (all, "labelSelector=app", &["a", "a", "b"]),
        (all, "labelSelector=app%3Dx", &["a", "a"]),
        (all, "labelSelector=app+in+(x,y),!tier", &["a", "b"]),
        (all, "labelSelector=app%3Dx,tier%3D1", &["a"]),
        (all, "labelSelector=app!%3Dx,app", &["b"]),
        (MAPS, "labelSelector=app%3Dx", &["a"]),
        (MAPS, "fieldSelector=metadata.name%3Db", &["b"]),
        (
            all,
            "fieldSelector=metadata.name%3Da,metadata.namespace%3Ddefault-b",
            &["a"],
        ),
        (MAPS, "labelSelector=app%3Dnone", &[]),
    ];
    for (path, query, want) in rows {
        let list = plane.get(&format!("{path}?{query}")).await.expect(200);
        assert_eq!(names(&list), want, "{path}?{query}");
    }
    let page = plane
        .get(&format!("{all}?labelSelector=app&limit=2"))
        .await
        .expect(200);
    assert_eq!(names(&page).len(), 2);
    assert!(page["metadata"]["remainingItemCount"].is_null());
    let rest = plane
        .get(&format!(
            "{all}?labelSelector=app&limit=2&continue={}",
            next(&page)
        ))
        .await
        .expect(200);
    assert_eq!(names(&rest).len(), 1);
}

#[tokio::test]
async fn secrets_and_events_are_selected_by_their_fields() {
    let plane = Plane::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    plane
        .post(secrets, &json!({ "metadata": { "name": "a" }, "type": "x/y" }))
        .await
        .expect(201);
    plane
        .post(secrets, &json!({ "metadata": { "name": "b" } }))
        .await
        .expect(201);
    let list = plane
        .get(&format!("{secrets}?fieldSelector=type%3Dx/y"))
        .await
        .expect(200);
    assert_eq!(names(&list), ["a"]);
    let events = "/api/v1/namespaces/default/events";
    for name in ["one", "two"] {
        let about = json!({ "kind": "ConfigMap", "name": name, "namespace": "default" });
        let event = json!({ "metadata": { "name": name }, "involvedObject": about, "reason": "Tested" });
        plane.post(events, &event).await.expect(201);
    }
    let query = "fieldSelector=involvedObject.name%3Dtwo,involvedObject.namespace%3Ddefault,reason%3DTested";
    let list = plane.get(&format!("{events}?{query}")).await.expect(200);
    assert_eq!(names(&list), ["two"]);
}

#[tokio::test]
async fn a_list_is_as_old_as_asked_and_never_older() {
    let plane = Plane::start().await;
    let first = make(&plane, "default", "a", json!({})).await;
    make(&plane, "default", "b", json!({})).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let exact = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    let list = plane.get(&exact).await.expect(200);
    assert_eq!(
        (names(&list), list["metadata"]["resourceVersion"].as_str()),
        (vec!["a"], Some(version))
    );
    let list = plane
        .get(&format!("{MAPS}?resourceVersion={version}"))
        .await
        .expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    plane.get(&format!("{MAPS}?resourceVersion=0")).await.expect(200);
    let Revision(now) = plane.store.revision();
    let list = plane.get(MAPS).await.expect(200);
    assert!(
        list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<i64>()
            .unwrap()
            >= now
    );
    plane.store.compact(Revision(now), true).await.unwrap();
    let expired = plane.get(&exact).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
}

#[tokio::test]
async fn a_large_list_comes_in_frames_of_bounded_size() {
    let plane = Plane::start().await;
    let blob = "x".repeat(2000);
    for at in 0..300 {
        let body = json!({ "metadata": { "name": format!("m{at:03}") }, "data": { "blob": blob } });
        plane.post(MAPS, &body).await.expect(201);
    }
    let response = plane
        .open(http::Method::GET, MAPS, &[], "", Some(Identity::loopback()))
        .await;
    let mut body = response.into_body();
    let (mut whole, mut frames) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() < 64 << 10, "{}", data.len());
        whole.extend_from_slice(&data);
        frames += 1;
    }
    assert!(frames > 10, "{frames}");
    let list: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(names(&list).len(), 300);
}
