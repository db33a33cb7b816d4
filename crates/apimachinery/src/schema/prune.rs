//! Pruning (apiextensions-apiserver `schema/pruning/algorithm.go`, `schema/objectmeta`).

use serde_json::Value;

use super::{Additional, Node, is_type_meta};
use crate::cause::Path;
use crate::kinds;

pub(super) fn prune(node: &Node, value: &mut Value, path: &mut Path, dropped: &mut Vec<String>) {
    let node = node.resolve();
    match value {
        Value::Object(fields) => {
            if node.drop_null {
                fields.retain(|_, value| !value.is_null());
            }
            fields.retain(|name, value| path.child(name, |path| field(node, name, value, path, dropped)));
        }
        Value::Array(items) => {
            let keep_all = node.preserve_unknown;
            for (i, item) in items.iter_mut().enumerate() {
                path.index(i, |path| match &node.items {
                    Some(node) => prune(node, item, path, dropped),
                    None if keep_all => (),
                    None => empty(item, path, dropped),
                });
            }
        }
        _ => (),
    }
}

/// Prunes below a field; false when the field itself is unknown.
fn field(node: &Node, name: &str, value: &mut Value, path: &mut Path, dropped: &mut Vec<String>) -> bool {
    if node.resource {
        if is_type_meta(name) {
            return true;
        }
        if name == "metadata" {
            prune(&kinds::OBJECT_META.structural().root, value, path, dropped);
            return true;
        }
    }
    if let Some(node) = node.properties.get(name) {
        prune(node, value, path, dropped);
        return true;
    }
    match &node.additional {
        Additional::Schema(node) => prune(node, value, path, dropped),
        // Nothing is known of what is inside, so only scalars stay (upstream: a nil schema).
        Additional::Any if !node.preserve_unknown => empty(value, path, dropped),
        _ if node.preserve_unknown => (),
        Additional::Any => (),
        Additional::None => {
            dropped.push(path.as_str().to_owned());
            return false;
        }
    }
    true
}

/// Drops every field: nothing is known of the value.
fn empty(value: &mut Value, path: &mut Path, dropped: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for name in fields.keys() {
                path.child(name, |path| dropped.push(path.as_str().to_owned()));
            }
            fields.clear();
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                path.index(i, |path| empty(item, path, dropped));
            }
        }
        _ => (),
    }
}
