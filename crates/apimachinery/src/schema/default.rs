//! Defaulting (apiextensions-apiserver `schema/defaulting`).

use serde_json::Value;

use super::{Additional, Node};

/// Drops null fields that are neither nullable nor have a default (`PruneNonNullableNullsWithoutDefaults`).
pub(super) fn drop_nulls(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let Some(node) = child(node, name) else {
                return true;
            };
            if value.is_null() {
                return node.nullable || node.default.is_some() || node.resolve().preserve_unknown;
            }
            drop_nulls(node, value);
            true
        }),
        Value::Array(items) => {
            if let Some(node) = &node.items {
                items.iter_mut().for_each(|item| drop_nulls(node, item));
            }
        }
        _ => (),
    }
}

/// Fills in defaults, also inside of what was filled in.
pub(super) fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, node) in &node.properties {
                if let Some(default) = &node.default
                    && !fields.contains_key(&**name)
                {
                    fields.insert(name.to_string(), Value::clone(default));
                }
            }
            for (name, value) in fields {
                let Some(node) = child(node, name) else { continue };
                if let Some(default) = &node.default {
                    replace_null(node, value, default);
                }
                fill(node, value);
            }
        }
        Value::Array(items) => {
            let Some(node) = &node.items else { return };
            for item in items {
                if let Some(default) = &node.default {
                    replace_null(node, item, default);
                }
                fill(node, item);
            }
        }
        _ => (),
    }
}

fn child<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    match (node.properties.get(name), &node.additional) {
        (Some(node), _) => Some(node),
        (None, Additional::Schema(node)) => Some(node),
        _ => None,
    }
}

fn replace_null(node: &Node, value: &mut Value, default: &Value) {
    if value.is_null() && !node.nullable {
        *value = default.clone();
    }
}
