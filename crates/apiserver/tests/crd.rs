//! Custom resource definitions and the objects they define.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Plane};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SITES: &str = "/apis/example.com/v1/namespaces/default/sites";

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage,
        "subresources": { "status": {}, "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
        } },
        "selectableFields": [{ "jsonPath": ".spec.host" }],
        "schema": { "openAPIV3Schema": { "type": "object", "properties": {
            "spec": { "type": "object", "required": ["host"], "properties": {
                "host": { "type": "string", "maxLength": 20 },
                "port": { "type": "integer", "default": 80, "minimum": 1 },
                "replicas": { "type": "integer" },
                "mode": { "type": "string", "enum": ["a", "b"] },
            } },
            "status": { "type": "object", "properties": {
                "phase": { "type": "string" }, "replicas": { "type": "integer" },
            } },
        } } },
    })
}

fn definition(versions: Vec<Value>) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "sites.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": { "plural": "sites", "kind": "Site", "shortNames": ["si"] },
        },
    })
}

fn site(name: &str) -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Site", "metadata": { "name": name },
        "spec": { "host": "h" },
    })
}

async fn with_sites() -> Plane {
    let plane = Plane::start().await;
    plane
        .post(CRDS, &definition(vec![version("v1", true)]))
        .await
        .expect(201);
    plane
}

fn condition(object: &Value, kind: &str) -> String {
    let list = object["status"]["conditions"].as_array().unwrap();
    list.iter()
        .find(|c| c["type"] == kind)
        .map_or(String::new(), |c| c["status"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_definition_is_in_force_when_its_creation_is_answered() {
    let plane = Plane::start().await;
    plane.get(SITES).await.expect(404);
    let made = plane
        .post(CRDS, &definition(vec![version("v1", true)]))
        .await
        .expect(201);
    assert_eq!(made["spec"]["names"]["listKind"], "SiteList");
    assert_eq!(made["spec"]["names"]["singular"], "site");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        (condition(&made, "Established"), condition(&made, "NamesAccepted")),
        ("True".into(), "True".into())
    );
    let list = plane.get(SITES).await.expect(200);
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("SiteList"), &json!("example.com/v1"))
    );
    let found = plane.get("/apis/example.com/v1").await.expect(200);
    assert!(
        found["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "sites/status"),
        "{found}"
    );
}

#[tokio::test]
async fn objects_get_defaults_lose_unknown_fields_and_are_checked() {
    let plane = with_sites().await;
    let mut body = site("a");
    body["spec"]["nobody"] = json!(1);
    let answer = plane.post(SITES, &body).await;
    assert_eq!(answer.warnings(), ["299 - \"unknown field \\\"spec.nobody\\\"\""]);
    let made = answer.expect(201);
    assert_eq!(made["spec"], json!({ "host": "h", "port": 80 }));
    assert_eq!(made["metadata"]["generation"], 1);

    let strict = plane
        .post(&format!("{SITES}?fieldValidation=Strict"), &body)
        .await;
    assert_eq!(
        strict.message(),
        "Site in version \"v1\" cannot be handled as a Site: strict decoding error: unknown field \"spec.nobody\""
    );
    strict.expect(400);
    let mut other = body.clone();
    other["metadata"]["name"] = json!("i");
    let ignored = plane
        .post(&format!("{SITES}?fieldValidation=Ignore&dryRun=All"), &other)
        .await;
    assert!(ignored.warnings().is_empty());
    let twice = r#"{"metadata":{"name":"t"},"spec":{"host":"h","host":"i"}}"#;
    let twice = plane
        .send(
            Method::POST,
            &format!("{SITES}?fieldValidation=Strict"),
            &[],
            twice,
        )
        .await;
    assert!(
        twice
            .message()
            .ends_with("strict decoding error: duplicate field \"spec.host\""),
        "{}",
        twice.text
    );

    let rows = [
        (json!({ "port": 1 }), "spec.host: Required value"),
        (json!({ "host": 1 }), "spec.host in body must be of type string"),
        (
            json!({ "host": "h", "port": 0 }),
            "spec.port in body should be greater than or equal to 1",
        ),
        (
            json!({ "host": "h", "mode": "c" }),
            "spec.mode: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({ "host": "x".repeat(21) }),
            "spec.host: Too long: may not be more than 20",
        ),
    ];
    for (spec, want) in rows {
        let mut body = site("bad");
        body["spec"] = spec;
        let answer = plane.post(SITES, &body).await;
        assert!(answer.message().contains(want), "{want}\n{}", answer.text);
        assert_eq!(answer.expect(422)["reason"], "Invalid");
    }
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_only_the_spec_moves_the_generation() {
    let plane = with_sites().await;
    let mut body = site("a");
    body["status"] = json!({ "phase": "early" });
    let made = plane.post(SITES, &body).await.expect(201);
    assert!(made["status"].is_null());
    let path = format!("{SITES}/a");

    let mut status = made.clone();
    status["status"] = json!({ "phase": "Ready" });
    status["spec"]["host"] = json!("ignored");
    let status = plane.put(&format!("{path}/status"), &status).await.expect(200);
    assert_eq!(
        (&status["status"]["phase"], &status["spec"]["host"]),
        (&json!("Ready"), &json!("h"))
    );
    assert_eq!(status["metadata"]["generation"], 1);

    let mut spec = status.clone();
    spec["spec"]["host"] = json!("new");
    spec["status"] = json!({ "phase": "ignored" });
    let spec = plane.put(&path, &spec).await.expect(200);
    assert_eq!(
        (&spec["status"]["phase"], &spec["spec"]["host"]),
        (&json!("Ready"), &json!("new"))
    );
    assert_eq!(spec["metadata"]["generation"], 2);

    let merged = plane
        .patch(
            &format!("{path}/status"),
            "merge",
            &json!({ "status": { "phase": "Done" } }),
        )
        .await;
    assert_eq!(merged.expect(200)["status"]["phase"], "Done");
    let unversioned = plane.put(&path, &site("a")).await;
    assert!(
        unversioned.message().contains("must be specified for an update"),
        "{}",
        unversioned.text
    );
    plane
        .patch(&path, "strategic-merge", &json!({}))
        .await
        .expect(415);
}

#[tokio::test]
async fn replicas_are_scaled_through_the_subresource() {
    let plane = with_sites().await;
    plane.post(SITES, &site("a")).await.expect(201);
    let path = format!("{SITES}/a/scale");
    let scale = plane.get(&path).await.expect(200);
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"]),
        (&json!("Scale"), &json!(0))
    );
    let scaled = plane
        .patch(&path, "merge", &json!({ "spec": { "replicas": 3 } }))
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert_eq!(
        plane.get(&format!("{SITES}/a")).await.expect(200)["spec"]["replicas"],
        3
    );
}

#[tokio::test]
async fn versions_without_conversion_differ_in_name_only() {
    let plane = Plane::start().await;
    plane
        .post(CRDS, &definition(vec![version("v1", true), version("v2", false)]))
        .await
        .expect(201);
    plane.post(SITES, &site("a")).await.expect(201);
    let v2 = SITES.replace("v1", "v2");
    let mut read = plane.get(&format!("{v2}/a")).await.expect(200);
    assert_eq!(read["apiVersion"], "example.com/v2");
    let list = plane.get(&v2).await.expect(200);
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]["apiVersion"]),
        (&read["apiVersion"], &read["apiVersion"])
    );
    read["spec"]["host"] = json!("two");
    plane.put(&format!("{v2}/a"), &read).await.expect(200);
    let back = plane.get(&format!("{SITES}/a")).await.expect(200);
    assert_eq!(
        (&back["apiVersion"], &back["spec"]["host"]),
        (&json!("example.com/v1"), &json!("two"))
    );
    let mut watch = plane.watch(&format!("{v2}?watch=1")).await;
    assert_eq!(
        watch.next().await.unwrap()["object"]["apiVersion"],
        "example.com/v2"
    );
}

#[tokio::test]
async fn unacceptable_definitions_are_refused_with_causes() {
    let plane = Plane::start().await;
    let edit = |change: fn(&mut Value)| {
        let mut body = definition(vec![version("v1", true)]);
        change(&mut body);
        body
    };
    let rows = [
        (
            edit(|b| b["metadata"]["name"] = json!("x.example.com")),
            "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            edit(|b| b["spec"]["scope"] = json!("Town")),
            "spec.scope: Unsupported value: \"Town\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            edit(|b| b["spec"]["versions"][0]["storage"] = json!(false)),
            "must have exactly one version marked as storage version",
        ),
        (
            edit(|b| b["spec"]["versions"][0]["schema"] = json!({})),
            "spec.validation.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            edit(|b| b["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["type"] = json!("string")),
            "spec.validation.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root",
        ),
        (
            edit(|b| {
                b["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
                    .as_object_mut()
                    .unwrap()
                    .remove("type");
            }),
            "spec.validation.openAPIV3Schema.properties[spec].type: Required value",
        ),
        (
            edit(|b| b["spec"]["names"]["kind"] = json!("Not_Kind")),
            "spec.names.kind: Invalid value: \"Not_Kind\": may have mixed case, but should otherwise match",
        ),
        (
            edit(|b| {
                b["metadata"]["name"] = json!("sites.x.k8s.io");
                b["spec"]["group"] = json!("x.k8s.io");
            }),
            "protected groups must have approval annotation",
        ),
        (
            edit(|b| b["spec"]["conversion"] = json!({ "strategy": "Other" })),
            "spec.conversion.strategy: Unsupported value: \"Other\"",
        ),
    ];
    for (body, want) in rows {
        let answer = plane.post(CRDS, &body).await;
        assert!(answer.message().contains(want), "wanted {want}\n{}", answer.text);
        assert_eq!(answer.expect(422)["reason"], "Invalid");
    }
}

#[tokio::test]
async fn names_belong_to_those_who_came_first_until_they_leave() {
    let plane = with_sites().await;
    let mut other = definition(vec![version("v1", true)]);
    other["metadata"]["name"] = json!("places.example.com");
    other["spec"]["names"] = json!({ "plural": "places", "kind": "Site" });
    let made = plane.post(CRDS, &other).await.expect(201);
    assert_eq!(
        (condition(&made, "Established"), condition(&made, "NamesAccepted")),
        ("False".into(), "False".into())
    );
    plane.get("/apis/example.com/v1/places").await.expect(404);
    plane
        .delete(&format!("{CRDS}/sites.example.com"))
        .await
        .expect(200);
    eventually(&plane, "/apis/example.com/v1/places", 200).await;
}

async fn eventually(plane: &Plane, path: &str, code: u16) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while plane.get(path).await.code != code {
        assert!(tokio::time::Instant::now() < end, "{path} is never {code}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects_first() {
    let plane = with_sites().await;
    plane.post(SITES, &site("a")).await.expect(201);
    let mut held = site("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    plane.post(SITES, &held).await.expect(201);
    let mut watch = plane.watch(&format!("{SITES}?watch=1&resourceVersion=0")).await;
    watch.lines(2).await;
    let path = format!("{CRDS}/sites.example.com");
    let marked = plane.delete(&path).await.expect(200);
    assert_eq!(condition(&marked, "Terminating"), "True");
    assert_eq!(
        marked["metadata"]["finalizers"],
        json!(["customresourcecleanup.apiextensions.k8s.io"])
    );
    eventually(&plane, &format!("{SITES}/a"), 404).await;
    let refused = plane.post(SITES, &site("late")).await;
    assert_eq!(
        refused.message(),
        "create not allowed while custom resource definition is terminating"
    );
    refused.expect(405);
    plane
        .patch(
            &format!("{SITES}/held"),
            "merge",
            &json!({ "metadata": { "finalizers": null } }),
        )
        .await
        .expect(200);
    eventually(&plane, &path, 404).await;
    eventually(&plane, SITES, 404).await;
    let mut last = String::new();
    loop {
        match watch.line().await {
            line if line == "END" => break,
            line => last = line,
        }
    }
    assert_eq!(last, "DELETED held");
}

#[tokio::test]
async fn definitions_are_served_again_after_a_restart() {
    let plane = with_sites().await;
    plane.post(SITES, &site("a")).await.expect(201);
    let plane = plane.restart(setpoint_apiserver::Options::default()).await;
    let read = plane.get(&format!("{SITES}/a")).await.expect(200);
    assert_eq!(read["spec"]["port"], 80);
    let list = plane
        .get(&format!("{SITES}?fieldSelector=spec.host%3Dh"))
        .await
        .expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_new_default_shows_in_objects_stored_before_it() {
    let plane = with_sites().await;
    plane.post(SITES, &site("a")).await.expect(201);
    let path = format!("{CRDS}/sites.example.com");
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode/default";
    plane
        .patch(
            &path,
            "json",
            &json!([{ "op": "add", "path": schema, "value": "b" }]),
        )
        .await
        .expect(200);
    assert_eq!(
        plane.get(&format!("{SITES}/a")).await.expect(200)["spec"]["mode"],
        "b"
    );
    let list = plane.get(SITES).await.expect(200);
    assert_eq!(list["items"][0]["spec"]["mode"], "b");
}

/// Files of a folder of the corpus, or none when the corpus is not there.
#[expect(
    clippy::disallowed_methods,
    reason = "tests find the corpus by an environment variable"
)]
fn corpus(folder: &str) -> Vec<std::path::PathBuf> {
    let root = std::env::var("SETPOINT_CORPUS").unwrap_or_else(|_| "../../../shared/corpus".to_owned());
    let Ok(dir) = std::fs::read_dir(std::path::Path::new(&root).join(folder)) else {
        println!("skipped: no corpus in {root}");
        return Vec::new();
    };
    let mut files: Vec<_> = dir.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

#[tokio::test]
async fn definitions_of_well_known_projects_are_accepted_and_served() {
    let plane = Plane::start().await;
    let kind = [("content-type", "application/yaml")];
    for file in corpus("crds") {
        let text = std::fs::read_to_string(&file).unwrap();
        for document in text
            .split("\n---\n")
            .filter(|part| part.contains("kind: CustomResourceDefinition"))
        {
            let answer = plane
                .send(
                    Method::POST,
                    &format!("{CRDS}?fieldValidation=Strict"),
                    &kind,
                    document,
                )
                .await;
            let about = format!(
                "{}: {}",
                file.display(),
                &answer.text[..answer.text.len().min(600)]
            );
            assert_eq!(answer.code, 201, "{about}");
            let spec = &answer.json["spec"];
            for version in spec["versions"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|v| v["served"] == true)
            {
                let path = format!(
                    "/apis/{}/{}/{}",
                    spec["group"].as_str().unwrap(),
                    version["name"].as_str().unwrap(),
                    spec["names"]["plural"].as_str().unwrap()
                );
                plane.get(&path).await.expect(200);
            }
        }
    }
}
