#![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn corpus() -> std::path::PathBuf {
    std::env::var_os("SETPOINT_CORPUS")
        .map(std::path::PathBuf::from)
        .unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"))
}

/// JSON and protobuf of every kind of the table that upstream has a golden file of.
fn golden() -> Vec<(String, Value, Vec<u8>)> {
    let folder = corpus().join("kubernetes/golden");
    let mut found = Vec::new();
    for kind in TOP_LEVEL {
        let version = kind.api_version.unwrap_or_default();
        let version = if version == "v1" {
            "core.v1".to_owned()
        } else {
            version.replace('/', ".")
        };
        let path = folder.join(format!("{version}.{}.json", kind.name));
        let Ok(json) = std::fs::read(&path) else { continue };
        let proto = std::fs::read(path.with_extension("pb")).unwrap();
        found.push((
            kind.name.to_owned(),
            serde_json::from_slice(&json).unwrap(),
            proto,
        ));
    }
    if found.is_empty() {
        eprintln!("skipped: the corpus is not here");
    }
    found
}

#[test]
fn upstreams_golden_files_carry_over_both_ways() {
    for (name, json, proto) in golden() {
        let decoded = decode(&proto).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(Value::Object(decoded), json, "{name} from protobuf");
        let encoded = encode(json.as_object().unwrap()).unwrap();
        assert_eq!(encoded, proto, "{name} to protobuf");
    }
}

#[test]
fn every_kind_but_those_upstream_has_no_file_of_is_compared() {
    let names: Vec<String> = golden().into_iter().map(|(name, ..)| name).collect();
    if !names.is_empty() {
        expect_test::expect![[
            r#"["Namespace", "ConfigMap", "Secret", "ServiceAccount", "Event", "Event", "Lease", "Status", "DeleteOptions"]"#
        ]]
        .assert_eq(&format!("{names:?}"));
    }
}

#[test]
fn definitions_of_the_corpus_carry_over_both_ways() {
    let Ok(folder) = std::fs::read_dir(corpus().join("crds")) else {
        return;
    };
    let mut count = 0;
    for entry in folder {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for value in serde_saphyr::from_str_multiple::<Value, Vec<Value>>(&text).unwrap() {
            if value["kind"] == "CustomResourceDefinition" {
                let proto = encode(value.as_object().unwrap()).unwrap();
                assert_eq!(normal(Value::Object(decode(&proto).unwrap())), normal(value));
                count += 1;
            }
        }
    }
    assert!(count >= 30, "only {count} definitions");
}

/// Go's JSON has no empty lists, zero values or whole numbers with a fraction in these fields.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, value)| {
                let raw = matches!(name.as_str(), "default" | "example");
                raw || !(value.is_null() || *value == json!([]) || (*value == json!("") && name != "name"))
            })
            .map(|(name, value)| {
                if name == "default" {
                    (name, value)
                } else {
                    (name, normal(value))
                }
            })
            .filter(|(name, value)| {
                !(*value == json!({}) && matches!(name.as_str(), "annotations" | "labels" | "properties"))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(normal).collect(),
        other => other,
    }
}

#[test]
fn lists_and_events_carry_over() {
    let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": "7"},
        "items": [{"metadata": {"name": "a"}, "data": {"k": ""}}, {"metadata": {"name": "b"}}]});
    let list = list.as_object().unwrap();
    assert_eq!(&decode(&encode(list).unwrap()).unwrap(), list);
    let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "immutable": false});
    let frame = encode_event("ADDED", object.as_object().unwrap()).unwrap();
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    assert_eq!(
        decode_event(&frame[4..]).unwrap(),
        ("ADDED".to_owned(), object.as_object().unwrap().clone())
    );
}

#[test]
fn zero_values_follow_gos_rules() {
    // metadata {name "", generation 0}, immutable false: only the pointer is a value of its own.
    let message = [0x0a, 0x04, 0x0a, 0x00, 0x38, 0x00, 0x20, 0x00];
    let object = decode(&envelope("v1", "ConfigMap", &message)).unwrap();
    assert_eq!(
        Value::Object(object),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "immutable": false})
    );
}

#[test]
fn options_of_a_deletion_may_name_any_version() {
    let body = envelope(
        "coordination.k8s.io/v1",
        "DeleteOptions",
        &[0x22, 0x06, b'O', b'r', b'p', b'h', b'a', b'n'],
    );
    assert_eq!(decode(&body).unwrap()["propagationPolicy"], "Orphan");
}

#[test]
fn damaged_bodies_are_refused() {
    for body in [
        &b""[..],
        b"k8s",
        b"{}",
        b"k8s\0",
        b"k8s\0\x0a",
        b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ] {
        decode(body).unwrap_err();
    }
    decode(&envelope("v1", "Unheard", b"")).unwrap_err();
    decode(&envelope("v1", "ConfigMap", &[0x0a, 0x05, 0x00])).unwrap_err();
    decode(&envelope("v1", "ConfigMap", &[0x08, 0x01])).unwrap_err();
    let wrong = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": 1}});
    assert!(encode(wrong.as_object().unwrap()).is_err());
}

proptest! {
    #[test]
    fn mutated_bodies_never_panic(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        static ALL: std::sync::OnceLock<Vec<(String, Value, Vec<u8>)>> = std::sync::OnceLock::new();
        let all = ALL.get_or_init(golden);
        if all.is_empty() { return Ok(()) }
        let mut body = which.get(all).2.clone();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(object) = decode(&body) {
            let _ = encode(&object);
        }
    }
}
