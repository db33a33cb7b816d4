//! OpenAPI v3 schemas from the table of kinds.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Field, Kind, List, Patch, Ty, reachable};
use crate::gvk::split_api_version;

/// The schema of one kind.
pub(super) fn schema(kind: &Kind) -> Value {
    let mut schema = Map::new();
    schema.insert("description".into(), kind.doc.into());
    schema.insert("type".into(), "object".into());
    let mut properties = Map::new();
    if let Some(api_version) = kind.api_version {
        properties.insert(
            "apiVersion".into(),
            string("Group and version of the schema of this object."),
        );
        properties.insert("kind".into(), string("Kind of this object."));
        let (group, version) = split_api_version(api_version);
        let gvk = json!([{"group": group, "version": version, "kind": kind.name}]);
        schema.insert("x-kubernetes-group-version-kind".into(), gvk);
    }
    for field in kind.fields {
        properties.insert(field.name.into(), property(field));
    }
    if !properties.is_empty() {
        schema.insert("properties".into(), properties.into());
    }
    let required: Vec<&str> = kind
        .fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    if !required.is_empty() {
        schema.insert("required".into(), required.into());
    }
    Value::Object(schema)
}

fn string(doc: &str) -> Value {
    json!({"description": doc, "type": "string"})
}

fn property(field: &Field) -> Value {
    let mut schema = match of_type(&field.ty) {
        // A reference may have no siblings, hence upstream's allOf around it.
        Value::Object(reference) if reference.contains_key("$ref") => {
            let mut schema = Map::new();
            schema.insert("allOf".into(), json!([reference]));
            if !field.pointer {
                schema.insert("default".into(), json!({}));
            }
            schema
        }
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.insert("description".into(), field.doc.into());
    match field.list {
        List::Unset => (),
        List::Atomic => insert(&mut schema, "x-kubernetes-list-type", "atomic".into()),
        List::Set => insert(&mut schema, "x-kubernetes-list-type", "set".into()),
        List::Map(keys) => {
            insert(&mut schema, "x-kubernetes-list-map-keys", keys.into());
            insert(&mut schema, "x-kubernetes-list-type", "map".into());
        }
    }
    match field.patch {
        Patch::Replace => (),
        Patch::Merge => insert(&mut schema, "x-kubernetes-patch-strategy", "merge".into()),
        Patch::MergeBy(key) => {
            insert(&mut schema, "x-kubernetes-patch-merge-key", key.into());
            insert(&mut schema, "x-kubernetes-patch-strategy", "merge".into());
        }
    }
    Value::Object(schema)
}

fn insert(schema: &mut Map<String, Value>, key: &str, value: Value) {
    schema.insert(key.to_owned(), value);
}

fn of_type(ty: &Ty) -> Value {
    match ty {
        Ty::String => json!({"type": "string"}),
        Ty::Bool => json!({"type": "boolean"}),
        Ty::Int32 => json!({"type": "integer", "format": "int32"}),
        Ty::Int64 => json!({"type": "integer", "format": "int64"}),
        Ty::Double => json!({"type": "number", "format": "double"}),
        Ty::Bytes => json!({"type": "string", "format": "byte"}),
        Ty::Time | Ty::MicroTime => json!({"type": "string", "format": "date-time"}),
        Ty::FieldsV1 | Ty::RawExtension => json!({"type": "object"}),
        Ty::Json | Ty::SchemaOrBool | Ty::SchemaOrArray | Ty::SchemaOrStrings => json!({}),
        Ty::Message(kind) => json!({"$ref": format!("#/components/schemas/{}", kind.openapi_name())}),
        Ty::List(item) => json!({"type": "array", "items": of_type(item)}),
        Ty::Map(value) => json!({"type": "object", "additionalProperties": of_type(value)}),
    }
}

/// The schemas of these kinds and of all they refer to, by name, for `components.schemas`.
#[must_use]
pub fn components(kinds: &[&'static Kind]) -> BTreeMap<String, Value> {
    reachable(kinds)
        .into_iter()
        .map(|kind| (kind.openapi_name(), schema(kind)))
        .collect()
}

/// The schema of the list of a kind, with its name.
#[must_use]
pub fn list_component(kind: &Kind) -> (String, Value) {
    let mut gvk = Map::new();
    let (group, version) = split_api_version(kind.api_version.unwrap_or_default());
    gvk.insert("group".into(), group.into());
    gvk.insert("version".into(), version.into());
    gvk.insert("kind".into(), format!("{}List", kind.name).into());
    let schema = json!({
        "description": format!("A list of {}.", kind.name),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": string("Group and version of the schema of this object."),
            "kind": string("Kind of this object."),
            "metadata": {"allOf": [of_type(&Ty::Message(&super::LIST_META))], "default": {}, "description": "What the list says of itself."},
            "items": {"description": "The objects.", "type": "array", "items": {"allOf": [{"$ref": format!("#/components/schemas/{}", kind.openapi_name())}], "default": {}}},
        },
        "x-kubernetes-group-version-kind": [gvk],
    });
    (format!("{}List", kind.openapi_name()), schema)
}
