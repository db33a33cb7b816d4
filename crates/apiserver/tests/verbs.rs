//! Create, read, update, delete, and everything that is refused.

use http::Method;
use serde_json::{Value, json};

use crate::harness::Plane;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "k": value } })
}

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let plane = Plane::start().await;
    let made = plane.post(MAPS, &map("a", "1")).await.expect(201);
    assert_eq!(made["metadata"]["namespace"], "default");
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        assert!(
            made["metadata"][field]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{field}: {made}"
        );
    }
    let path = format!("{MAPS}/a");
    assert_eq!(plane.get(&path).await.expect(200), made);

    let mut next = made.clone();
    next["data"]["k"] = json!("2");
    let changed = plane.put(&path, &next).await.expect(200);
    assert_eq!(changed["data"]["k"], "2");
    assert_ne!(
        changed["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    assert_eq!(changed["metadata"]["uid"], made["metadata"]["uid"]);

    let same = plane.put(&path, &changed).await.expect(200);
    assert_eq!(same, changed, "an update without a change writes nothing");

    let late = plane.put(&path, &next).await;
    assert_eq!(
        late.message(),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(late.expect(409)["reason"], "Conflict");

    let gone = plane.delete(&path).await.expect(200);
    assert_eq!(
        (&gone["kind"], &gone["status"]),
        (&json!("Status"), &json!("Success"))
    );
    assert_eq!(gone["details"]["kind"], "configmaps");
    let missing = plane.get(&path).await;
    assert_eq!(missing.message(), "configmaps \"a\" not found");
    assert_eq!(missing.expect(404)["reason"], "NotFound");
}

#[tokio::test]
async fn an_update_without_a_version_overwrites_where_the_kind_allows_it() {
    let plane = Plane::start().await;
    plane.post(MAPS, &map("a", "1")).await.expect(201);
    let changed = plane.put(&format!("{MAPS}/a"), &map("a", "2")).await.expect(200);
    assert_eq!(changed["data"]["k"], "2");

    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "x" } });
    let path = format!("{leases}/l");
    plane.put(&path, &lease).await.expect(201);
    let refused = plane.put(&path, &lease).await;
    assert_eq!(
        refused.message(),
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    );
    refused.expect(422);
}

#[tokio::test]
async fn names_are_generated_with_five_characters() {
    let plane = Plane::start().await;
    let body = json!({ "metadata": { "generateName": "x-" } });
    let made = plane.post(MAPS, &body).await.expect(201);
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("x-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn bad_requests_are_refused_with_the_proper_status() {
    let plane = Plane::start().await;
    plane.post(MAPS, &map("taken", "1")).await.expect(201);
    let long = "x".repeat(4 << 20);
    let taken = map("taken", "1").to_string();
    let bad_name = map("Not_A_Name", "1").to_string();
    let versioned = json!({ "metadata": { "name": "v", "resourceVersion": "1" } }).to_string();
    let elsewhere = json!({ "metadata": { "name": "e", "namespace": "other" } }).to_string();
    let other_kind = json!({ "kind": "Secret", "apiVersion": "v1", "metadata": { "name": "e" } }).to_string();
    let bad_key = json!({ "metadata": { "name": "e" }, "data": { "a/b": "" } }).to_string();
    let fine = map("fine", "1").to_string();
    let post = |path: &'static str, kind: &'static str| (Method::POST, path, kind);
    let nowhere = "/api/v1/namespaces/nowhere/configmaps";
    let strange = "/apis/none.example/v1/things";
    let typo = "/api/v1/namespaces/default/configmaps?dryRun=Some";
    let json_type = "application/json";
    #[rustfmt::skip]
    #[expect(clippy::type_complexity, reason = "a table: request, body, code, part of the message")]
    let rows: Vec<((Method, &str, &str), &str, u16, &str)> = vec![
        (post(MAPS, json_type), "{", 400, "json parse error"),
        (post(MAPS, json_type), "[]", 400, "not an object"),
        (post(MAPS, json_type), "", 400, "json parse error"),
        (post(MAPS, "application/yaml"), "a: [", 400, "yaml parse error"),
        (post(MAPS, "text/html"), &fine, 415, "application/json"),
        (post(MAPS, "application/cbor"), &fine, 415, "application/json"),
        (post(MAPS, json_type), &long, 413, "Request entity too large: limit is 3145728"),
        (post(MAPS, json_type), &taken, 409, "configmaps \"taken\" already exists"),
        (post(MAPS, json_type), &bad_name, 422, "ConfigMap \"Not_A_Name\" is invalid: metadata.name: Invalid value: \"Not_A_Name\": a lowercase RFC 1123 subdomain"),
        (post(MAPS, json_type), "{\"metadata\":{}}", 422, "name or generateName is required"),
        (post(MAPS, json_type), &versioned, 400, "resourceVersion should not be set on objects to be created"),
        (post(MAPS, json_type), &elsewhere, 400, "the namespace of the provided object does not match the namespace sent on the request"),
        (post(MAPS, json_type), &other_kind, 400, "cannot be handled as a ConfigMap"),
        (post(MAPS, json_type), "{\"metadata\":{\"name\":1}}", 400, "metadata.name"),
        (post(MAPS, json_type), &bad_key, 422, "data[a/b]: Invalid value: \"a/b\""),
        (post(nowhere, json_type), &fine, 404, "namespaces \"nowhere\" not found"),
        (post("/api/v1/configmaps", json_type), &fine, 405, "create is not supported on resources of kind \"configmaps\""),
        (post(strange, json_type), &fine, 404, "the server could not find the requested resource"),
        (post(typo, json_type), &fine, 422, "dryRun: Unsupported value: \"Some\": supported values: \"All\""),
        ((Method::GET, "/api/v1/namespaces/default/configmaps/a?resourceVersion=abc", json_type), "", 400, "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ((Method::GET, "/api/v1/namespaces/default/configmaps?resourceVersion=999999", json_type), "", 504, "Too large resource version: 999999, current:"),
        ((Method::GET, "/api/v1/namespaces/default/configmaps?labelSelector=%3D%3D", json_type), "", 400, "unable to parse requirement"),
        ((Method::GET, "/api/v1/namespaces/default/configmaps?fieldSelector=spec.x%3D1", json_type), "", 400, "field label not supported: spec.x"),
        ((Method::PUT, "/api/v1/namespaces/default/configmaps/other", json_type), &fine, 400, "the name of the object (fine) does not match the name on the URL (other)"),
        ((Method::PUT, "/api/v1/namespaces/default/configmaps", json_type), &fine, 405, "not supported"),
        ((Method::DELETE, "/api/v1/namespaces", json_type), "", 405, "not supported"),
        ((Method::TRACE, "/api/v1/namespaces/default/configmaps", json_type), "", 405, "this method is not supported"),
        ((Method::DELETE, "/api/v1/namespaces/default", json_type), "", 403, "this namespace may not be deleted"),
        ((Method::PATCH, "/api/v1/namespaces/default/configmaps/taken", "application/apply-patch+yaml"), "a: 1", 415, "server-side apply is not served yet"),
        ((Method::GET, "/nothing", json_type), "", 404, "404 page not found"),
    ];
    for ((method, path, kind), body, code, text) in rows {
        let answer = plane
            .send(method.clone(), path, &[("content-type", kind)], body)
            .await;
        let about = format!("{method} {path} {}: {}", &body[..body.len().min(60)], answer.text);
        assert_eq!(answer.code, code, "{about}");
        assert!(
            answer.text.replace("\\\"", "\"").contains(text),
            "{about}\nwanted {text}"
        );
        if answer.json["kind"] == "Status" {
            assert_eq!(answer.json["code"], code, "{about}");
        }
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let plane = Plane::start().await;
    let dry = format!("{MAPS}?dryRun=All");
    let would = plane.post(&dry, &map("a", "1")).await.expect(201);
    assert!(would["metadata"]["uid"].is_string() && would["metadata"]["resourceVersion"].is_null());
    plane.get(&format!("{MAPS}/a")).await.expect(404);
    let made = plane.post(MAPS, &map("a", "1")).await.expect(201);
    let would = plane
        .put(&format!("{MAPS}/a?dryRun=All"), &map("a", "2"))
        .await
        .expect(200);
    assert_eq!(would["data"]["k"], "2");
    assert_eq!(
        would["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
    plane.delete(&format!("{MAPS}/a?dryRun=All")).await.expect(200);
    assert_eq!(plane.get(&format!("{MAPS}/a")).await.expect(200), made);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let plane = Plane::start().await;
    let mut object = map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    plane.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/a");
    let marked = plane.delete(&path).await.expect(200);
    assert_eq!(marked["kind"], "ConfigMap");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = plane.delete(&path).await.expect(200);
    assert_eq!(again, marked);

    let mut more = marked.clone();
    more["metadata"]["finalizers"] = json!(["example.com/hold", "example.com/more"]);
    let refused = plane.put(&path, &more).await;
    assert!(
        refused.message().contains("no new finalizers can be added"),
        "{}",
        refused.text
    );
    refused.expect(422);

    let mut free = marked.clone();
    free["metadata"]["finalizers"] = json!([]);
    plane.put(&path, &free).await.expect(200);
    plane.get(&path).await.expect(404);
}

#[tokio::test]
async fn preconditions_guard_a_deletion() {
    let plane = Plane::start().await;
    plane.post(MAPS, &map("a", "1")).await.expect(201);
    let path = format!("{MAPS}/a");
    let options = |field: &str, value: &str| json!({ "preconditions": { field: value } }).to_string();
    for field in ["uid", "resourceVersion"] {
        let answer = plane
            .send(Method::DELETE, &path, &[], &options(field, "other"))
            .await;
        assert!(
            answer.message().contains("Precondition failed"),
            "{}",
            answer.text
        );
        answer.expect(409);
    }
    let odd = json!({ "propagationPolicy": "Sideways" }).to_string();
    plane.send(Method::DELETE, &path, &[], &odd).await.expect(422);
    let usual = json!({ "propagationPolicy": "Background" }).to_string();
    plane.send(Method::DELETE, &path, &[], &usual).await.expect(200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let plane = Plane::start().await;
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut object = map(name, "1");
        object["metadata"]["labels"] = json!({ "l": label });
        plane.post(MAPS, &object).await.expect(201);
    }
    let deleted = plane
        .delete(&format!("{MAPS}?labelSelector=l%3Dx"))
        .await
        .expect(200);
    assert_eq!(deleted["kind"], "ConfigMapList");
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = plane.get(MAPS).await.expect(200);
    let names: Vec<_> = left["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["metadata"]["name"])
        .collect();
    assert!(
        names.contains(&&json!("b")) && !names.contains(&&json!("a")),
        "{names:?}"
    );
}

#[tokio::test]
async fn namespaces_go_through_terminating() {
    let plane = Plane::start().await;
    let body = json!({ "metadata": { "name": "team" } });
    let made = plane.post("/api/v1/namespaces", &body).await.expect(201);
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    let marked = plane.delete("/api/v1/namespaces/team").await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let late = plane
        .post("/api/v1/namespaces/team/configmaps", &map("a", "1"))
        .await;
    if late.code != 404 {
        assert_eq!(
            late.json["details"]["causes"][0]["reason"], "NamespaceTerminating",
            "{}",
            late.text
        );
        late.expect(403);
    }
}

#[tokio::test]
async fn secrets_and_config_maps_keep_their_rules() {
    let plane = Plane::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let body = json!({ "metadata": { "name": "s" }, "stringData": { "a": "hello" } });
    let made = plane.post(secrets, &body).await.expect(201);
    assert_eq!(
        (&made["data"]["a"], &made["type"]),
        (&json!("aGVsbG8="), &json!("Opaque"))
    );
    assert!(made["stringData"].is_null());
    let odd = json!({ "metadata": { "name": "t" }, "data": { "a": "%%" } });
    plane.post(secrets, &odd).await.expect(422);
    let tls = json!({ "metadata": { "name": "t" }, "type": "kubernetes.io/tls" });
    let refused = plane.post(secrets, &tls).await;
    assert!(
        refused.message().contains("data[tls.crt]: Required value"),
        "{}",
        refused.text
    );

    let mut fixed = map("fixed", "1");
    fixed["immutable"] = json!(true);
    let mut made = plane.post(MAPS, &fixed).await.expect(201);
    made["data"]["k"] = json!("2");
    let refused = plane.put(&format!("{MAPS}/fixed"), &made).await;
    assert!(
        refused
            .message()
            .contains("data: Forbidden: field is immutable when `immutable` is set"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn those_who_may_not_are_told_so() {
    use setpoint_apiserver::Identity;
    let plane = Plane::start().await;
    let user = Identity {
        user: "jane".to_owned(),
        groups: vec!["system:authenticated".to_owned()],
    };
    let refused = plane.send_as(Some(user.clone()), &format!("{MAPS}/a")).await;
    assert_eq!(
        refused.message(),
        "configmaps \"a\" is forbidden: User \"jane\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    refused.expect(403);
    let refused = plane.send_as(None, "/api").await;
    assert_eq!(
        refused.message(),
        "forbidden: User \"system:anonymous\" cannot get path \"/api\""
    );
    refused.expect(403);
    assert_eq!(plane.send_as(Some(user), "/api").await.code, 200);
    assert_eq!(plane.send_as(None, "/version").await.code, 200);
}

#[tokio::test]
async fn creation_is_atomic_under_concurrency() {
    let plane = Plane::start().await;
    let (one, two, object) = (map("a", "1"), map("a", "2"), map("b", "0"));
    let (a, b) = tokio::join!(plane.post(MAPS, &one), plane.post(MAPS, &two));
    let mut codes = [a.code, b.code];
    codes.sort_unstable();
    assert_eq!(codes, [201, 409]);
    let made = plane.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/b");
    let (mut x, mut y) = (made.clone(), made);
    x["data"]["k"] = json!("x");
    y["data"]["k"] = json!("y");
    let (a, b) = tokio::join!(plane.put(&path, &x), plane.put(&path, &y));
    let mut codes = [a.code, b.code];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
}

#[tokio::test]
async fn patches_of_every_kind_are_applied() {
    let plane = Plane::start().await;
    let mut object = map("a", "1");
    object["metadata"]["labels"] = json!({ "x": "1" });
    let made = plane.post(MAPS, &object).await.expect(201);
    let path = format!("{MAPS}/a");
    let merged = plane
        .patch(&path, "merge", &json!({ "data": { "k": null, "m": "2" } }))
        .await
        .expect(200);
    assert_eq!(merged["data"], json!({ "m": "2" }));
    let ops = json!([{ "op": "test", "path": "/data/m", "value": "2" }, { "op": "add", "path": "/data/j", "value": "3" }]);
    let patched = plane.patch(&path, "json", &ops).await.expect(200);
    assert_eq!(patched["data"], json!({ "m": "2", "j": "3" }));
    let strategic =
        json!({ "metadata": { "labels": { "y": "2" } }, "data": { "$patch": "replace", "s": "4" } });
    let patched = plane
        .patch(&path, "strategic-merge", &strategic)
        .await
        .expect(200);
    assert_eq!(patched["data"], json!({ "s": "4" }));
    assert_eq!(patched["metadata"]["labels"], json!({ "x": "1", "y": "2" }));
    let same = plane
        .patch(&path, "merge", &json!({ "data": { "s": "4" } }))
        .await
        .expect(200);
    assert_eq!(
        same["metadata"]["resourceVersion"],
        patched["metadata"]["resourceVersion"]
    );

    let old = json!({ "metadata": { "resourceVersion": made["metadata"]["resourceVersion"] }, "data": { "k": "9" } });
    plane.patch(&path, "merge", &old).await.expect(409);
    let failed = json!([{ "op": "test", "path": "/data/s", "value": "no" }]);
    plane.patch(&path, "json", &failed).await.expect(422);
    plane
        .patch(&path, "merge", &json!({ "metadata": { "name": "b" } }))
        .await
        .expect(422);
    plane
        .patch(&path, "merge", &json!({ "kind": "Secret" }))
        .await
        .expect(400);
    let strict = format!("{path}?fieldValidation=Strict");
    let refused = plane.patch(&strict, "merge", &json!({ "dada": 1 })).await;
    assert!(
        refused
            .message()
            .contains("strict decoding error: unknown field \"dada\""),
        "{}",
        refused.text
    );
    refused.expect(422);
    let warned = plane.patch(&path, "merge", &json!({ "dada": 1 })).await;
    assert_eq!(warned.warnings(), ["299 - \"unknown field \\\"dada\\\"\""]);
    plane
        .patch(&format!("{MAPS}/none"), "merge", &json!({}))
        .await
        .expect(404);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let plane = Plane::start().await;
    plane.post(MAPS, &map("a", "1")).await.expect(201);
    let path = format!("{MAPS}/a");
    let patch = |at: usize| {
        let (plane, path) = (&plane, &path);
        async move {
            plane
                .patch(path, "merge", &json!({ "data": { format!("k{at}"): "v" } }))
                .await
                .expect(200)
        }
    };
    tokio::join!(patch(0), patch(1), patch(2));
    let data = plane.get(&path).await.expect(200)["data"]
        .as_object()
        .unwrap()
        .len();
    assert_eq!(data, 4);
}

#[tokio::test]
async fn bodies_may_be_yaml_or_protobuf() {
    let plane = Plane::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yam\ndata:\n  k: \"1\"\n";
    let kind = [("content-type", "application/yaml")];
    let made = plane.send(Method::POST, MAPS, &kind, yaml).await.expect(201);
    assert_eq!(made["data"]["k"], "1");

    let Value::Object(object) = map("p", "1") else {
        unreachable!()
    };
    let bytes = setpoint_apimachinery::transcode::encode(&object).unwrap();
    let kind = [("content-type", "application/vnd.kubernetes.protobuf")];
    let text = String::from_utf8(bytes).expect("this message happens to be text");
    let made = plane.send(Method::POST, MAPS, &kind, &text).await.expect(201);
    assert_eq!(
        (&made["metadata"]["name"], &made["data"]["k"]),
        (&json!("p"), &json!("1"))
    );
    for broken in [&text[..text.len() / 2], "k8s", "{}"] {
        plane.send(Method::POST, MAPS, &kind, broken).await.expect(400);
    }
}

#[tokio::test]
async fn many_writers_without_a_version_all_get_through() {
    let plane = Plane::start().await;
    plane.post(MAPS, &map("busy", "0")).await.expect(201);
    let path = format!("{MAPS}/busy");
    let bodies: Vec<Value> = (0..64).map(|n| map("busy", &n.to_string())).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| plane.put(&path, body))).await;
    let mut versions: Vec<String> = Vec::new();
    for answer in answers {
        let object = answer.expect(200);
        versions.push(object["metadata"]["resourceVersion"].to_string());
    }
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 64, "each write has a revision of its own");
}
