//! The schemas a document refers to: built-in kinds from their table, custom resources from their definition.

use serde_json::{Map, Value, json};
use setpoint_apimachinery::kinds::{self, BUILTIN, Kind};

use super::paths::{meta, reference};
use crate::resources::ResourceInfo;
use crate::schema::ResourceSchema;

/// Names of a resource's definitions.
pub(super) struct Names {
    /// Of one object.
    pub(super) object: String,
    /// Of a list.
    pub(super) list: String,
}

/// The kind of a built-in resource.
pub(super) fn builtin(info: &ResourceInfo) -> Option<&'static Kind> {
    let found = BUILTIN.iter().find(|one| {
        (one.plural, one.group(), one.version()) == (&*info.plural, &*info.group, &*info.version)
    });
    found.map(|one| one.kind)
}

/// What a document's hash has to change with.
pub(super) fn fingerprint(info: &ResourceInfo) -> Vec<u8> {
    defined(info)
        .map(|schema| schema.to_string().into_bytes())
        .unwrap_or_default()
}

/// The schema in a custom resource's definition, decoded anew each time: nobody looks often.
fn defined(info: &ResourceInfo) -> Option<Value> {
    match &info.schema {
        ResourceSchema::Builtin(_) => None,
        ResourceSchema::Custom(version) => version.openapi(),
    }
}

/// Adds a resource's schemas and what they refer to.
pub(super) fn add(info: &ResourceInfo, out: &mut Map<String, Value>) -> Names {
    out.extend(kinds::components(&[
        &kinds::STATUS,
        &kinds::DELETE_OPTIONS,
        &kinds::LIST_META,
        &kinds::OBJECT_META,
    ]));
    out.insert(
        meta("Patch"),
        json!({"description": "A patch, by its media type.", "type": "object"}),
    );
    match builtin(info) {
        Some(kind) => {
            out.extend(kinds::components(&[kind]));
            let (list, schema) = kinds::list_component(kind);
            out.insert(list.clone(), schema);
            Names {
                object: kind.openapi_name(),
                list,
            }
        }
        None => {
            let names = custom_names(info);
            out.insert(names.object.clone(), custom(info));
            out.insert(names.list.clone(), custom_list(info, &names.object));
            names
        }
    }
}

/// Upstream's names: the group's labels in reverse, version, kind.
fn custom_names(info: &ResourceInfo) -> Names {
    let group: Vec<&str> = info.group.rsplit('.').collect();
    let prefix = format!("{}.{}", group.join("."), info.version);
    Names {
        object: format!("{prefix}.{}", info.kind),
        list: format!("{prefix}.{}", info.list_kind),
    }
}

fn text(doc: &str) -> Value {
    json!({"description": doc, "type": "string"})
}

fn embedded(name: &str, doc: &str) -> Value {
    json!({"allOf": [reference(&meta(name))], "description": doc})
}

fn gvk(info: &ResourceInfo, kind: &str) -> Value {
    json!([{"group": info.group, "version": info.version, "kind": kind}])
}

/// The definition's schema of this version, with what every object has
/// (apiextensions `pkg/controller/openapi/builder/builder.go`).
fn custom(info: &ResourceInfo) -> Value {
    let schema = defined(info).filter(Value::is_object);
    let mut schema = schema.unwrap_or_else(|| json!({"type": "object"}));
    let standard = [
        (
            "apiVersion",
            text("Group and version of the schema of this object."),
        ),
        ("kind", text("Kind of this object.")),
        ("metadata", embedded("ObjectMeta", "Metadata of the object.")),
    ];
    // A schema without fields that keeps everything describes everything: properties would say less.
    let opaque = schema["x-kubernetes-preserve-unknown-fields"] == true && schema["properties"].is_null();
    if !opaque {
        for (name, property) in standard {
            schema["properties"][name] = property;
        }
    }
    schema["x-kubernetes-group-version-kind"] = gvk(info, &info.kind);
    schema
}

fn custom_list(info: &ResourceInfo, object: &str) -> Value {
    json!({
        "description": format!("A list of {}.", info.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("Group and version of the schema of this object."),
            "kind": text("Kind of this object."),
            "metadata": embedded("ListMeta", "What the list says of itself."),
            "items": {"description": "The objects.", "type": "array", "items": reference(object)},
        },
        "x-kubernetes-group-version-kind": gvk(info, &info.list_kind),
    })
}
