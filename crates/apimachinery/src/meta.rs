//! Accessors on decoded objects, and the rules for `metadata` (apimachinery `api/validation/objectmeta.go`).

use serde_json::{Map, Value};

use crate::Object;
use crate::cause::Cause;
use crate::encoded::Labels;
use crate::names::{self, NameRule};

/// Most bytes of all annotations of an object together, keys and values: 256 KiB.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Reads and writes the fields every object has.
pub trait Meta {
    /// `apiVersion`, or empty.
    fn api_version(&self) -> &str;
    /// `kind`, or empty.
    fn kind(&self) -> &str;
    /// `metadata`, when it is an object.
    fn metadata(&self) -> Option<&Map<String, Value>>;
    /// `metadata`, made when it is not an object.
    fn metadata_mut(&mut self) -> &mut Map<String, Value>;

    /// A string in `metadata`, or empty.
    fn meta_str(&self, field: &str) -> &str {
        self.metadata()
            .and_then(|m| m.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
    /// Sets a string in `metadata`; an empty one removes the field.
    fn set_meta_str(&mut self, field: &str, value: &str) {
        if value.is_empty() {
            self.metadata_mut().remove(field);
        } else {
            self.metadata_mut().insert(field.into(), value.into());
        }
    }

    /// `metadata.name`, or empty.
    fn name(&self) -> &str {
        self.meta_str("name")
    }
    /// `metadata.generateName`, or empty.
    fn generate_name(&self) -> &str {
        self.meta_str("generateName")
    }
    /// `metadata.namespace`, or empty.
    fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }
    /// `metadata.uid`, or empty.
    fn uid(&self) -> &str {
        self.meta_str("uid")
    }
    /// `metadata.resourceVersion` as sent, or empty.
    fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }
    /// `metadata.creationTimestamp`, or empty.
    fn creation_timestamp(&self) -> &str {
        self.meta_str("creationTimestamp")
    }
    /// `metadata.deletionTimestamp`, when it is set.
    fn deletion_timestamp(&self) -> Option<&str> {
        Some(self.meta_str("deletionTimestamp")).filter(|text| !text.is_empty())
    }
    /// `metadata.generation`, or 0.
    fn generation(&self) -> i64 {
        self.metadata()
            .and_then(|m| m.get("generation"))
            .and_then(Value::as_i64)
            .unwrap_or(0)
    }
    /// Sets `metadata.generation`.
    fn set_generation(&mut self, generation: i64) {
        self.metadata_mut().insert("generation".into(), generation.into());
    }
    /// `metadata.finalizers`.
    fn finalizers(&self) -> Vec<&str> {
        let list = self
            .metadata()
            .and_then(|m| m.get("finalizers"))
            .and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).collect()
    }
    /// Sets `metadata.finalizers`; none removes the field.
    fn set_finalizers(&mut self, finalizers: &[String]) {
        if finalizers.is_empty() {
            self.metadata_mut().remove("finalizers");
        } else {
            self.metadata_mut().insert("finalizers".into(), finalizers.into());
        }
    }
    /// `metadata.labels`.
    fn labels(&self) -> Labels {
        let map = self
            .metadata()
            .and_then(|m| m.get("labels"))
            .and_then(Value::as_object);
        Labels::from_pairs(
            map.into_iter()
                .flatten()
                .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))),
        )
    }
    /// The annotation `key`.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("annotations")?.get(key)?.as_str()
    }
}

impl Meta for Object {
    fn api_version(&self) -> &str {
        self.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    fn kind(&self) -> &str {
        self.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    fn metadata(&self) -> Option<&Map<String, Value>> {
        self.get("metadata").and_then(Value::as_object)
    }

    fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        let entry = self.entry("metadata").or_insert(Value::Null);
        if !entry.is_object() {
            *entry = Value::Object(Map::new());
        }
        entry.as_object_mut().expect("the line above made it an object")
    }
}

/// What is wrong with the metadata of an object about to be created (`ValidateObjectMeta`). Types must have
/// been checked before; a field of a wrong type is passed over.
#[must_use]
pub fn validate_meta(object: &Object, namespaced: bool, rule: NameRule) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut wrong = |field: &str, value: &str, errors: Vec<String>| {
        causes.extend(
            errors
                .iter()
                .map(|e| Cause::invalid(format!("metadata.{field}"), &value.into(), e)),
        );
    };
    if !object.generate_name().is_empty() {
        wrong(
            "generateName",
            object.generate_name(),
            rule.check(object.generate_name(), true),
        );
    }
    if !object.name().is_empty() {
        wrong("name", object.name(), rule.check(object.name(), false));
    }
    if namespaced && !object.namespace().is_empty() {
        wrong(
            "namespace",
            object.namespace(),
            names::dns_label(object.namespace()),
        );
    }
    if object.name().is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    }
    if namespaced && object.namespace().is_empty() {
        causes.push(Cause::required("metadata.namespace", ""));
    }
    if !namespaced && !object.namespace().is_empty() {
        causes.push(Cause::forbidden("metadata.namespace", "not allowed on this type"));
    }
    if object.generation() < 0 {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid(
            "metadata.generation",
            &object.generation().into(),
            why,
        ));
    }
    common(object, &mut causes);
    for finalizer in object.finalizers() {
        let errors = names::qualified_name(finalizer);
        causes.extend(
            errors
                .iter()
                .map(|e| Cause::invalid("metadata.finalizers", &finalizer.into(), e)),
        );
    }
    let finalizers = object.finalizers();
    if ["orphan", "foregroundDeletion"]
        .iter()
        .all(|f| finalizers.contains(f))
    {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.push(Cause::invalid("metadata.finalizers", &finalizers.into(), why));
    }
    causes
}

/// What is wrong with the metadata of an update (`ValidateObjectMetaUpdate`), `old` being the stored object.
/// The caller has filled in what clients may leave out (uid, creation time, version).
#[must_use]
pub fn validate_meta_update(new: &Object, old: &Object) -> Vec<Cause> {
    let mut causes = Vec::new();
    if old.deletion_timestamp().is_some() {
        let (before, after) = (old.finalizers(), new.finalizers());
        let mut added: Vec<&str> = after.into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            added.sort_unstable();
            let list: Vec<String> = added.iter().map(|f| crate::cause::quote(f)).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            causes.push(Cause::forbidden("metadata.finalizers", &why));
        }
    }
    if new.generation() < old.generation() {
        let value = new.generation().into();
        causes.push(Cause::invalid(
            "metadata.generation",
            &value,
            "must not be decremented",
        ));
    }
    const IMMUTABLE: &[&str] = &[
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    for field in IMMUTABLE {
        let get = |object: &Object| object.metadata().and_then(|m| m.get(*field)).cloned();
        let value = get(new).unwrap_or(Value::Null);
        if value != get(old).unwrap_or(Value::Null) {
            causes.push(Cause::invalid(
                format!("metadata.{field}"),
                &value,
                "field is immutable",
            ));
        }
    }
    common(new, &mut causes);
    causes
}

/// Labels, annotations, owners and field managers: checked on create and on update.
fn common(object: &Object, causes: &mut Vec<Cause>) {
    let map = |field: &str| {
        object
            .metadata()
            .and_then(|m| m.get(field))
            .and_then(Value::as_object)
    };
    let list = |field: &str| {
        object
            .metadata()
            .and_then(|m| m.get(field))
            .and_then(Value::as_array)
    };
    for (key, value) in map("labels").into_iter().flatten() {
        let mut wrong = |value: &str, errors: Vec<String>| {
            causes.extend(
                errors
                    .iter()
                    .map(|e| Cause::invalid("metadata.labels", &value.into(), e)),
            );
        };
        wrong(key, names::qualified_name(key));
        wrong(
            value.as_str().unwrap_or_default(),
            names::label_value(value.as_str().unwrap_or_default()),
        );
    }
    let mut bytes = 0;
    for (key, value) in map("annotations").into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        let errors = names::qualified_name(&key.to_lowercase());
        causes.extend(
            errors
                .iter()
                .map(|e| Cause::invalid("metadata.annotations", &key.as_str().into(), e)),
        );
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        causes.push(Cause::too_long("metadata.annotations", ANNOTATIONS_BYTES_MAX));
    }
    if let Some(owners) = list("ownerReferences") {
        owner_references(owners, causes);
    }
    for (i, entry) in list("managedFields").into_iter().flatten().enumerate() {
        managed_fields(i, entry, causes);
    }
}

fn owner_references(owners: &[Value], causes: &mut Vec<Cause>) {
    let path = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        for (field, value, why) in [
            (
                "apiVersion",
                crate::gvk::split_api_version(text("apiVersion")).1,
                "version must not be empty",
            ),
            ("kind", text("kind"), "must not be empty"),
            ("name", text("name"), "must not be empty"),
            ("uid", text("uid"), "must not be empty"),
        ] {
            if value.is_empty() {
                causes.push(Cause::invalid(
                    format!("{path}.{field}"),
                    &text(field).into(),
                    why,
                ));
            }
        }
        if text("apiVersion") == "v1" && text("kind") == "Event" {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            causes.push(Cause::invalid(path, owner, why));
        }
        if owner["controller"] == true {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(this),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    causes.push(Cause::invalid(path, &owners.into(), &why));
                }
            }
        }
    }
}

fn managed_fields(i: usize, entry: &Value, causes: &mut Vec<Cause>) {
    let path = |field: &str| format!("metadata.managedFields[{i}].{field}");
    if !matches!(entry["operation"].as_str(), Some("Apply" | "Update")) {
        let value = entry["operation"].as_str().unwrap_or_default();
        causes.push(Cause::invalid(
            path("operation"),
            &value.into(),
            "must be `Apply` or `Update`",
        ));
    }
    if let Some(kind) = entry["fieldsType"]
        .as_str()
        .filter(|kind| !kind.is_empty() && *kind != "FieldsV1")
    {
        causes.push(Cause::invalid(
            path("fieldsType"),
            &kind.into(),
            "must be `FieldsV1`",
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

    use serde_json::json;

    use super::*;

    fn object(metadata: Value) -> Object {
        Object::from_iter([("metadata".to_owned(), metadata)])
    }

    #[track_caller]
    fn check(metadata: Value, namespaced: bool, expect: &[&str]) {
        let causes = validate_meta(&object(metadata), namespaced, NameRule::Subdomain);
        let texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), expect.len(), "{texts:#?}");
        for (text, start) in texts.iter().zip(expect) {
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn metadata_follows_upstreams_rules() {
        check(json!({"name": "a", "namespace": "n"}), true, &[]);
        check(
            json!({"name": "a"}),
            true,
            &["metadata.namespace: Required value"],
        );
        check(
            json!({"name": "a", "namespace": "n"}),
            false,
            &["metadata.namespace: Forbidden: not allowed on this type"],
        );
        check(
            json!({}),
            false,
            &["metadata.name: Required value: name or generateName is required"],
        );
        check(
            json!({"name": "A"}),
            false,
            &["metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain"],
        );
        check(
            json!({"name": "a", "labels": {"a": "-"}}),
            false,
            &["metadata.labels: Invalid value: \"-\": a valid label"],
        );
        check(
            json!({"name": "a", "annotations": {"a": "x".repeat(ANNOTATIONS_BYTES_MAX)}}),
            false,
            &["metadata.annotations: Too long: may not be more than 262144 bytes"],
        );
        check(
            json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n"}]}),
            false,
            &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        );
        let owner = json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u", "controller": true});
        check(
            json!({"name": "a", "ownerReferences": [owner, owner]}),
            false,
            &["metadata.ownerReferences: Invalid value: [{"],
        );
        check(
            json!({"name": "a", "finalizers": ["b c", "orphan", "foregroundDeletion"]}),
            false,
            &[
                "metadata.finalizers: Invalid value: \"b c\"",
                "metadata.finalizers: Invalid value: [",
            ],
        );
        check(
            json!({"name": "a", "managedFields": [{"operation": "Steal"}]}),
            false,
            &["metadata.managedFields[0].operation: Invalid value: \"Steal\": must be `Apply` or `Update`"],
        );
    }

    #[test]
    fn an_update_keeps_identity() {
        let old = object(json!({"name": "a", "uid": "u", "generation": 2, "deletionTimestamp": "t"}));
        let new = object(
            json!({"name": "a", "uid": "v", "generation": 1, "deletionTimestamp": "t", "finalizers": ["x/y"]}),
        );
        let texts: Vec<String> = validate_meta_update(&new, &old)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.generation: Invalid value: 1: must not be decremented",
                "metadata.uid: Invalid value: \"v\": field is immutable",
            ]
        );
        assert_eq!(validate_meta_update(&old, &old), []);
    }

    #[test]
    fn accessors_read_and_write_metadata() {
        let mut object = Object::new();
        assert_eq!(
            (object.name(), object.generation(), object.deletion_timestamp()),
            ("", 0, None)
        );
        object.set_meta_str("name", "a");
        object.set_generation(3);
        object.set_finalizers(&["x".to_owned()]);
        assert_eq!(
            (object.name(), object.generation(), object.finalizers()),
            ("a", 3, vec!["x"])
        );
        object.set_finalizers(&[]);
        object.set_meta_str("name", "");
        assert_eq!(object.metadata().unwrap().len(), 1);
    }
}
