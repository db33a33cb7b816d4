//! The table of kinds, compared with upstream's OpenAPI document.

use serde_json::{Value, json};

use super::*;

fn corpus(path: &str) -> Option<Value> {
    let root = std::env::var_os("SETPOINT_CORPUS")
        .map(std::path::PathBuf::from)
        .unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"));
    let bytes = std::fs::read(root.join(path)).ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

#[test]
fn the_table_agrees_with_upstreams_openapi() {
    let Some(swagger) = corpus("kubernetes/openapi-v2.json") else {
        eprintln!("skipped: the corpus is not here");
        return;
    };
    for kind in reachable(TOP_LEVEL) {
        let Some(upstream) = swagger["definitions"].get(kind.openapi_name()) else {
            continue;
        };
        let ours = kind.openapi();
        let names = |schema: &Value| -> Vec<String> {
            let fields = schema["properties"].as_object().cloned().unwrap_or_default();
            fields
                .keys()
                .filter(|k| !matches!(&***k, "apiVersion" | "kind"))
                .cloned()
                .collect()
        };
        assert_eq!(names(&ours), names(upstream), "{}", kind.name);
        let sorted = |value: &Value| {
            let mut list: Vec<String> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect();
            list.sort();
            list
        };
        assert_eq!(
            sorted(&ours["required"]),
            sorted(&upstream["required"]),
            "{}",
            kind.name
        );
        for field in kind.fields {
            let (a, b) = (
                &ours["properties"][field.name],
                &upstream["properties"][field.name],
            );
            for key in [
                "x-kubernetes-list-type",
                "x-kubernetes-list-map-keys",
                "x-kubernetes-patch-strategy",
                "x-kubernetes-patch-merge-key",
            ] {
                assert_eq!(a.get(key), b.get(key), "{}.{} {key}", kind.name, field.name);
            }
            // Upstream refers to named types where the table writes them out.
            if b.get("type").is_some() {
                assert_eq!(a["type"], b["type"], "{}.{}", kind.name, field.name);
            }
        }
    }
}

#[test]
fn no_two_fields_share_a_name_or_a_number() {
    for kind in reachable(TOP_LEVEL) {
        for (i, field) in kind.fields.iter().enumerate() {
            for other in &kind.fields[..i] {
                assert!(
                    field.name != other.name && field.number != other.number,
                    "{}.{}",
                    kind.name,
                    field.name
                );
            }
        }
    }
}

#[test]
fn every_reference_in_openapi_has_its_component() {
    let components = components(TOP_LEVEL);
    for (name, schema) in &components {
        let text = schema.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(components.contains_key(target), "{name} refers to {target}");
        }
    }
}

#[test]
fn built_in_objects_are_pruned_as_gos_decoder_prunes_them() {
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "extra": 1, "immutable": null,
        "metadata": {"name": "a", "creationTimestamp": null, "wrong": {"x": 1}, "ownerReferences": [{"uid": "u", "y": 1}]},
    });
    let dropped = CONFIG_MAP.structural().prune(&mut object);
    assert_eq!(
        dropped,
        ["extra", "metadata.ownerReferences[0].y", "metadata.wrong"]
    );
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}, "metadata": {"name": "a", "ownerReferences": [{"uid": "u"}]}})
    );
}

#[test]
fn built_in_objects_are_checked_by_type() {
    let object =
        json!({"data": {"a": 1}, "binaryData": {"b": "*"}, "immutable": "yes", "metadata": {"labels": []}});
    let fields: Vec<String> = CONFIG_MAP
        .structural()
        .validate(&object)
        .into_iter()
        .map(|cause| cause.field)
        .collect();
    assert_eq!(fields, ["binaryData.b", "data.a", "immutable", "metadata.labels"]);
    assert!(CONFIG_MAP.decode_error(&object).is_some());
    assert_eq!(
        CONFIG_MAP.decode_error(&json!({"data": null, "metadata": {"name": "a"}})),
        None
    );
}

#[test]
fn a_definition_must_say_what_it_defines() {
    let object = json!({"metadata": {"name": "a"}, "spec": {"group": "g", "names": {"plural": "p"}}});
    let fields: Vec<String> = CUSTOM_RESOURCE_DEFINITION
        .structural()
        .validate(&object)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        fields,
        [
            "spec.scope: Required value",
            "spec.versions: Required value",
            "spec.names.kind: Required value"
        ]
    );
}
