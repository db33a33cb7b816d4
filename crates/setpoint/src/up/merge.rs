//! The three-way merge of `kubectl apply`, as far as a JSON merge patch expresses it. Pure.
//!
//! Upstream: `k8s.io/apimachinery/pkg/util/jsonmergepatch` `CreateThreeWayJSONMergePatch`.

use serde_json::{Map, Value};

/// Where the last applied manifest is kept; kubectl's own name, so that `kubectl apply` can take over.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The patch that turns `live` into what `wanted` says, deleting what `last` had and `wanted` no longer has. Fields
/// that neither names stay as they are. `None` when there is nothing to change.
pub(crate) fn three_way(last: &Value, wanted: &Value, live: &Value) -> Option<Value> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            let empty = Map::new();
            let last = last.as_object().unwrap_or(&empty);
            let mut patch = Map::new();
            for (key, value) in wanted {
                // A null in a manifest says nothing: kubectl drops it too.
                if value.is_null() {
                    continue;
                }
                let before = last.get(key).unwrap_or(&Value::Null);
                let change = match live.get(key) {
                    Some(live) => three_way(before, value, live),
                    None => Some(value.clone()),
                };
                if let Some(change) = change {
                    patch.insert(key.clone(), change);
                }
            }
            for key in last
                .keys()
                .filter(|key| !wanted.contains_key(*key) && live.contains_key(*key))
            {
                patch.insert(key.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (wanted != live).then(|| wanted.clone()),
    }
}

/// The manifest with itself noted as last applied, and the note.
pub(crate) fn noted(manifest: &Map<String, Value>) -> (Value, String) {
    let mut plain = manifest.clone();
    if let Some(Value::Object(annotations)) = plain
        .get_mut("metadata")
        .and_then(|meta| meta.get_mut("annotations"))
    {
        annotations.remove(LAST_APPLIED);
    }
    let plain = Value::Object(plain);
    let note = format!("{plain}\n");
    let mut object = plain;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata
            .entry("annotations")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(LAST_APPLIED.to_owned(), note.clone().into());
        }
    }
    (object, note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_says_what_the_manifest_changed_and_leaves_the_rest_alone() {
        for (name, last, wanted, live, patch) in [
            (
                "nothing",
                json!({"a": 1}),
                json!({"a": 1}),
                json!({"a": 1, "b": 2}),
                None,
            ),
            (
                "a change",
                json!({"a": 1}),
                json!({"a": 2}),
                json!({"a": 1, "b": 2}),
                Some(json!({"a": 2})),
            ),
            (
                "a field dropped",
                json!({"a": 1, "b": 2}),
                json!({"a": 1}),
                json!({"a": 1, "b": 2}),
                Some(json!({"b": null})),
            ),
            (
                "dropped, gone already",
                json!({"b": 2}),
                json!({}),
                json!({"a": 1}),
                None,
            ),
            (
                "inside",
                json!({"s": {"x": 1}}),
                json!({"s": {"y": 1}}),
                json!({"s": {"x": 1, "z": 9}}),
                Some(json!({"s": {"x": null, "y": 1}})),
            ),
            (
                "a list is one value",
                json!({"l": [1]}),
                json!({"l": [1, 2]}),
                json!({"l": [1]}),
                Some(json!({"l": [1, 2]})),
            ),
            (
                "a null says nothing",
                json!({}),
                json!({"a": null}),
                json!({"a": 1}),
                None,
            ),
            (
                "another type",
                json!({"a": 1}),
                json!({"a": {"b": 1}}),
                json!({"a": 1}),
                Some(json!({"a": {"b": 1}})),
            ),
        ] {
            assert_eq!(three_way(&last, &wanted, &live), patch, "{name}");
        }
    }

    #[test]
    fn a_manifest_is_noted_without_an_older_note() {
        let manifest =
            json!({"kind": "A", "metadata": {"name": "a", "annotations": {LAST_APPLIED: "old", "x": "y"}}});
        let (object, note) = noted(manifest.as_object().unwrap());
        assert!(!note.contains("old") && note.ends_with('\n'));
        assert_eq!(object["metadata"]["annotations"][LAST_APPLIED], note);
        assert_eq!(object["metadata"]["annotations"]["x"], "y");
    }
}
