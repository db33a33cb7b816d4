//! How namespaces begin and end.

use http::Method;
use serde_json::{Value, json};
use setpoint_apiserver::Options;

use crate::harness::{PATIENCE, Plane};

async fn start() -> Plane {
    let options = Options {
        root_ca: Some("PEM".into()),
        ..Options::default()
    };
    Plane::with(options, |_| ()).await
}

/// Asks until the answer has the code and satisfies `holds`.
async fn eventually(plane: &Plane, path: &str, code: u16, holds: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let answer = plane.get(path).await;
            if answer.code == code && holds(&answer.json) {
                return answer.json;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("{path} is never {code}"))
}

async fn make(plane: &Plane, name: &str) {
    let namespace = json!({"metadata": {"name": name}});
    plane.post("/api/v1/namespaces", &namespace).await.expect(201);
}

#[tokio::test]
async fn every_namespace_has_its_account_and_root_ca_and_gets_them_back() {
    let plane = start().await;
    make(&plane, "shop").await;
    for namespace in ["default", "kube-system", "shop"] {
        eventually(
            &plane,
            &format!("/api/v1/namespaces/{namespace}/serviceaccounts/default"),
            200,
            |_| true,
        )
        .await;
    }
    let ca = "/api/v1/namespaces/shop/configmaps/kube-root-ca.crt";
    eventually(&plane, ca, 200, |map| map["data"]["ca.crt"] == "PEM").await;
    plane
        .delete("/api/v1/namespaces/shop/serviceaccounts/default")
        .await
        .expect(200);
    plane.delete(ca).await.expect(200);
    eventually(
        &plane,
        "/api/v1/namespaces/shop/serviceaccounts/default",
        200,
        |_| true,
    )
    .await;
    eventually(&plane, ca, 200, |_| true).await;
    plane
        .patch(ca, "merge", &json!({"data": {"ca.crt": "other", "extra": "x"}}))
        .await
        .expect(200);
    eventually(&plane, ca, 200, |map| map["data"] == json!({"ca.crt": "PEM"})).await;
}

#[tokio::test]
async fn a_deleted_namespace_goes_with_its_content_once_nothing_is_held() {
    let plane = start().await;
    make(&plane, "shop").await;
    let maps = "/api/v1/namespaces/shop/configmaps";
    plane
        .post(maps, &json!({"metadata": {"name": "free"}}))
        .await
        .expect(201);
    plane
        .post(
            maps,
            &json!({"metadata": {"name": "held", "finalizers": ["demo.example/hold"]}}),
        )
        .await
        .expect(201);
    plane.delete("/api/v1/namespaces/shop").await.expect(200);
    let refused = plane.post(maps, &json!({"metadata": {"name": "late"}})).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    let remaining = |namespace: &Value| {
        let conditions = namespace["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c["type"] == "NamespaceFinalizersRemaining" && c["status"] == "True")
    };
    let waiting = eventually(&plane, "/api/v1/namespaces/shop", 200, remaining).await;
    assert_eq!(waiting["status"]["phase"], "Terminating");
    plane.get(&format!("{maps}/free")).await.expect(404);
    let release = json!([{"op": "remove", "path": "/metadata/finalizers"}]);
    plane
        .send(
            Method::PATCH,
            &format!("{maps}/held"),
            &[("content-type", "application/json-patch+json")],
            &release.to_string(),
        )
        .await
        .expect(200);
    eventually(&plane, "/api/v1/namespaces/shop", 404, |_| true).await;
}
