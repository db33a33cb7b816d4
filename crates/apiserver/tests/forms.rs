//! The forms in which objects are written: tables, metadata alone, YAML, indented JSON.

use http::Method;
use serde_json::{Value, json};
use setpoint_apiserver::Identity;

use crate::harness::{Events, Plane};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

async fn plane() -> Plane {
    let plane = Plane::start().await;
    let map = json!({"metadata": {"name": "a", "labels": {"t": "1"}}, "data": {"x": "1", "y": "2"}});
    plane.post(MAPS, &map).await.expect(201);
    plane
}

async fn ask(plane: &Plane, path: &str, accept: &str) -> crate::harness::Answer {
    plane.send(Method::GET, path, &[("accept", accept)], "").await
}

#[tokio::test]
async fn tables_have_the_kinds_columns_and_what_was_asked_for_of_each_object() {
    let plane = plane().await;
    let one = format!("{MAPS}/a");
    let selected = format!("{MAPS}?labelSelector=t");
    for path in [&one, &selected] {
        let table = ask(&plane, path, TABLE).await.expect(200);
        let names: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            (&table["kind"], names),
            (&json!("Table"), vec!["Name", "Data", "Age"])
        );
        assert_eq!(table["rows"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&table["rows"][0]["cells"][0], &table["rows"][0]["cells"][1]),
            (&json!("a"), &json!("2"))
        );
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert!(
            table["metadata"]["resourceVersion"]
                .as_str()
                .is_some_and(|v| v.parse::<u64>().is_ok())
        );
    }
    let object = ask(&plane, &format!("{one}?includeObject=Object"), TABLE)
        .await
        .expect(200);
    assert_eq!(object["rows"][0]["object"]["data"]["x"], "1");
    let nothing = ask(&plane, &format!("{one}?includeObject=None"), TABLE)
        .await
        .expect(200);
    assert_eq!(nothing["rows"][0]["object"], Value::Null);
    ask(&plane, &format!("{one}?includeObject=Some"), TABLE)
        .await
        .expect(400);
    let missing = ask(&plane, &format!("{MAPS}/nope"), TABLE).await;
    assert_eq!(missing.expect(404)["kind"], "Status");
}

#[tokio::test]
async fn a_table_watch_describes_its_columns_once() {
    let plane = plane().await;
    let path = format!("{MAPS}?watch=1&labelSelector=t");
    let response = plane
        .open(
            Method::GET,
            &path,
            &[("accept", TABLE)],
            "",
            Some(Identity::loopback()),
        )
        .await;
    let mut events = Events::of(response);
    let first = events.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert!(first["object"]["columnDefinitions"].is_array());
    plane.delete(&format!("{MAPS}/a")).await.expect(200);
    let second = events.next().await.unwrap();
    assert_eq!(
        (&second["type"], &second["object"]["columnDefinitions"]),
        (&json!("DELETED"), &Value::Null)
    );
    assert_eq!(second["object"]["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn metadata_yaml_and_indented_json_say_what_plain_json_says() {
    let plane = plane().await;
    let path = format!("{MAPS}?labelSelector=t");
    let plain = plane.get(&path).await.expect(200);
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let metadata = ask(&plane, &path, partial).await.expect(200);
    assert_eq!(metadata["items"][0]["metadata"], plain["items"][0]["metadata"]);
    assert_eq!(metadata["items"][0].get("data"), None);
    let yaml = ask(&plane, &path, "application/yaml").await;
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    // The lists' own versions may differ: namespaces are still being provided for.
    let yaml: Value = serde_saphyr::from_str(&yaml.text).unwrap();
    assert_eq!((&yaml["items"], &yaml["kind"]), (&plain["items"], &plain["kind"]));
    let pretty = plane.get(&format!("{path}&pretty=true")).await;
    assert!(pretty.text.starts_with("{\n  \"kind\""), "{}", pretty.text);
    assert_eq!(pretty.json["items"], plain["items"]);
    assert_eq!(ask(&plane, &path, "text/html").await.code, 406);
}

#[tokio::test]
async fn an_error_about_a_secret_does_not_tell_the_secret() {
    let plane = plane().await;
    for (field, value) in [
        ("data", json!("hunter2!")),
        ("data", json!(4711)),
        ("stringData", json!(["hunter2", 4711])),
    ] {
        let secret = json!({"metadata": {"name": "s"}, field: {"user": value}});
        let refused = plane.post("/api/v1/namespaces/default/secrets", &secret).await;
        assert!(matches!(refused.code, 400 | 422), "{}", refused.text);
        let told = refused.text.contains("hunter2") || refused.text.contains("4711");
        assert!(refused.text.contains("user") && !told, "{}", refused.text);
    }
}
