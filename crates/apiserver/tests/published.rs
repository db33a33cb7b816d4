//! What the server says of itself: OpenAPI, discovery, version, health, metrics.

use http::Method;
use serde_json::{Value, json};
use setpoint_apiserver::Identity;

use crate::harness::Plane;

fn definition(columns: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "pages.press.example"},
        "spec": {
            "group": "press.example", "scope": "Namespaced", "names": {"plural": "pages", "kind": "Page"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "description": columns, "properties": {"title": {"type": "string"}}},
                }}},
            }],
        },
    })
}

async fn url_of(plane: &Plane, group: &str) -> Option<String> {
    let index = plane.get("/openapi/v3").await.expect(200);
    index["paths"][group]["serverRelativeURL"]
        .as_str()
        .map(str::to_owned)
}

#[tokio::test]
async fn openapi_has_what_kubectl_looks_for() {
    let plane = Plane::start().await;
    let url = url_of(&plane, "api/v1").await.unwrap();
    let answer = plane.get(&url).await;
    assert_eq!(answer.headers["cache-control"], "public, immutable");
    let document = answer.expect(200);
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/configmaps/{name}"]["patch"];
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "", "version": "v1", "kind": "ConfigMap"})
    );
    let named = |name: &str| {
        patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .any(|p| p["name"] == name)
    };
    assert!(
        named("fieldValidation") && named("dryRun") && named("fieldManager"),
        "{patch}"
    );
    let schema = &document["components"]["schemas"]["io.k8s.api.core.v1.ConfigMap"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "ConfigMap");
}

#[tokio::test]
async fn every_reference_in_openapi_leads_somewhere_and_operations_are_named_once() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => (),
        }
    }
    let plane = Plane::start().await;
    plane
        .post(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            &definition(""),
        )
        .await
        .expect(201);
    let index = plane.get("/openapi/v3").await.expect(200);
    for (group, entry) in index["paths"].as_object().unwrap() {
        let document = plane
            .get(entry["serverRelativeURL"].as_str().unwrap())
            .await
            .expect(200);
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{group}: {name}"
            );
        }
        let mut ids: Vec<&str> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| {
                path.as_object()
                    .unwrap()
                    .values()
                    .filter_map(|operation| operation["operationId"].as_str())
            })
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{group}");
    }
}

#[tokio::test]
async fn a_definition_is_published_at_once_and_its_hash_changes_with_it() {
    let plane = Plane::start().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let core = url_of(&plane, "api/v1").await;
    assert_eq!(url_of(&plane, "apis/press.example/v1").await, None);
    plane.post(crds, &definition("one")).await.expect(201);
    plane.get("/apis/press.example/v1").await.expect(200);
    let first = url_of(&plane, "apis/press.example/v1").await.unwrap();
    let answer = plane.get(&first).await;
    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
    let spec = &answer.json["components"]["schemas"]["example.press.v1.Page"]["properties"]["spec"];
    assert_eq!(spec["description"], "one");
    let again = plane
        .send(Method::GET, &first, &[("if-none-match", &etag)], "")
        .await;
    assert_eq!((again.code, again.text.as_str()), (304, ""));
    let change = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/description", "value": "two"}]);
    let path = format!("{crds}/pages.press.example");
    plane
        .send(
            Method::PATCH,
            &path,
            &[("content-type", "application/json-patch+json")],
            &change.to_string(),
        )
        .await
        .expect(200);
    let second = url_of(&plane, "apis/press.example/v1").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(
        url_of(&plane, "api/v1").await,
        core,
        "other groups keep their hash"
    );
    let moved = plane.get(&first).await;
    assert_eq!(
        (moved.code, moved.headers["location"].to_str().unwrap()),
        (301, second.as_str())
    );
}

#[tokio::test]
async fn health_and_version_are_for_everybody_and_the_rest_is_not() {
    let plane = Plane::start().await;
    for (path, code) in [
        ("/healthz", 200),
        ("/livez/etcd", 200),
        ("/readyz?verbose", 200),
        ("/readyz/nothing", 404),
        ("/version", 200),
        ("/api", 403),
        ("/openapi/v3", 403),
        ("/metrics", 403),
        ("/", 403),
    ] {
        assert_eq!(plane.send_as(None, path).await.code, code, "{path}");
    }
    let ann = Identity {
        user: "ann".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
    };
    assert_eq!(plane.send_as(Some(ann), "/api").await.code, 200);
    let verbose = plane.get("/readyz?verbose&exclude=ping&exclude=nope").await;
    assert_eq!(
        verbose.text,
        "[+]ping excluded: ok\n[+]etcd ok\n[+]shutdown ok\nwarn: some health checks cannot be excluded: no matches for \"nope\"\nreadyz check passed\n"
    );
    plane.server.drain();
    let draining = plane.get("/readyz").await;
    assert_eq!(
        (draining.code, draining.text.as_str()),
        (
            500,
            "[+]ping ok\n[+]etcd ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n"
        )
    );
    assert_eq!(plane.get("/livez").await.text, "ok");
}

#[tokio::test]
async fn metrics_count_requests_under_the_names_that_dashboards_know() {
    let plane = Plane::start().await;
    plane.get("/api/v1/namespaces/default").await.expect(200);
    let text = plane.get("/metrics").await.text;
    assert!(
        text.contains("apiserver_request_total{") && text.contains("resource=\"namespaces\""),
        "{text}"
    );
}
