//! What makes a schema structural (apiextensions-apiserver `schema/{validation,complete}.go`).

use serde_json::{Map, Value};

use super::parse::{Level, Parser};
use super::{Additional, Checks, List, Node, Type};
use crate::cause::{Cause, Path};

impl Parser {
    /// Rules for a schema that says what there is.
    pub(super) fn invariants(&mut self, schema: &Map<String, Value>, node: &Node, level: Level) {
        self.type_rules(schema, node, level);
        self.extension_rules(schema, node);
        self.list_rules(schema, node);
        if level == Level::Root {
            self.root_rules(schema, node);
        }
        if level == Level::Root || node.resource {
            for field in ["apiVersion", "kind"] {
                if node
                    .properties
                    .get(field)
                    .is_some_and(|node| node.ty != Some(Type::String))
                {
                    self.invalid(
                        &format!("properties[{field}].type"),
                        &type_of(schema, field),
                        "must be string",
                    );
                }
            }
            if node
                .properties
                .get("metadata")
                .is_some_and(|node| node.ty != Some(Type::Object))
            {
                self.invalid(
                    "properties[metadata].type",
                    &type_of(schema, "metadata"),
                    "must be object",
                );
            }
        }
    }

    fn type_rules(&mut self, schema: &Map<String, Value>, node: &Node, level: Level) {
        if node.ty == Some(Type::Array) && node.items.is_none() {
            self.require("items", "must be specified");
        }
        let said = schema.get("type").is_some_and(|ty| ty.as_str() != Some(""));
        if node.resource && level != Level::Root && node.ty != Some(Type::Object) {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            match schema.get("type") {
                Some(ty) if said => self.invalid("type", ty, why),
                _ => self.require("type", why),
            }
        } else if !said && !node.int_or_string && !node.preserve_unknown {
            self.require(
                "type",
                match level {
                    Level::Root => "must not be empty at the root",
                    Level::Item => "must not be empty for specified array items",
                    _ => "must not be empty for specified object fields",
                },
            );
        }
    }

    fn root_rules(&mut self, schema: &Map<String, Value>, node: &Node) {
        if let Some(ty) = schema
            .get("type")
            .filter(|_| node.ty.is_some_and(|ty| ty != Type::Object))
        {
            self.invalid("type", ty, "must be object at the root");
        }
        if !matches!(node.additional, Additional::None) {
            self.forbid("additionalProperties", "must not be used at the root");
        }
        if node.nullable {
            self.forbid("nullable", "nullable cannot be true at the root");
        }
        let metadata = schema
            .get("properties")
            .and_then(|fields| fields.get("metadata"))
            .and_then(Value::as_object);
        if let Some(metadata) = metadata {
            let known = |name: &str| matches!(name, "type" | "properties" | "description" | "default");
            let names = metadata.get("properties").and_then(Value::as_object);
            let only_names =
                names.is_none_or(|names| names.keys().all(|name| name == "name" || name == "generateName"));
            if !only_names || !metadata.keys().all(|name| known(name)) {
                self.forbid(
                    "properties[metadata]",
                    "must not specify anything other than name and generateName, but metadata is implicitly specified",
                );
            }
        }
    }

    fn extension_rules(&mut self, schema: &Map<String, Value>, node: &Node) {
        let preserve = "x-kubernetes-preserve-unknown-fields";
        if let Some(value @ Value::Bool(false)) = schema.get(preserve) {
            self.invalid(preserve, value, "must be true or undefined");
        }
        if node.int_or_string && node.preserve_unknown {
            self.invalid(
                preserve,
                &true.into(),
                "must be false if x-kubernetes-int-or-string is true",
            );
        }
        if node.int_or_string && node.resource {
            let why = "must be false if x-kubernetes-int-or-string is true";
            self.invalid("x-kubernetes-embedded-resource", &true.into(), why);
        }
        if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            if !matches!(node.additional, Additional::None) {
                let why = "must not be used if x-kubernetes-embedded-resource is set";
                self.forbid("additionalProperties", why);
            }
            if !node.preserve_unknown && node.properties.is_empty() {
                self.require(
                    "properties",
                    "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
                );
            }
        }
        if let Some(kind) = schema.get("x-kubernetes-map-type") {
            self.typed(
                schema,
                node,
                Type::Object,
                "must be object if x-kubernetes-map-type is specified",
            );
            if !matches!(kind.as_str(), Some("atomic" | "granular")) {
                self.unsupported("x-kubernetes-map-type", kind, &["atomic", "granular"]);
            }
        }
    }

    fn typed(&mut self, schema: &Map<String, Value>, node: &Node, ty: Type, why: &str) {
        match schema.get("type") {
            _ if node.ty == Some(ty) => (),
            Some(value) => self.invalid("type", value, why),
            None => self.require("type", why),
        }
    }

    fn unsupported(&mut self, name: &str, value: &Value, known: &[&str]) {
        self.at(name, |p| {
            p.causes.push(Cause::not_supported(p.path.as_str(), value, known));
        });
    }

    fn list_rules(&mut self, schema: &Map<String, Value>, node: &Node) {
        let (kind_name, keys_name) = ("x-kubernetes-list-type", "x-kubernetes-list-map-keys");
        let keys = schema
            .get(keys_name)
            .and_then(Value::as_array)
            .filter(|keys| !keys.is_empty());
        let kind = schema.get(kind_name);
        if let Some(kind) = kind {
            self.typed(
                schema,
                node,
                Type::Array,
                "must be array if x-kubernetes-list-type is specified",
            );
            if !matches!(kind.as_str(), Some("atomic" | "set" | "map")) {
                self.unsupported(kind_name, kind, &["atomic", "set", "map"]);
            }
        }
        if keys.is_some() && kind.and_then(Value::as_str) != Some("map") {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            match kind {
                Some(kind) => self.invalid(kind_name, kind, why),
                None => self.require(kind_name, why),
            }
        }
        if let List::Map(names) = &node.list {
            if keys.is_none() {
                self.require(keys_name, "must not be empty if x-kubernetes-list-type is map");
            }
            match node.items.as_deref() {
                None => self.require("items", "must have a schema if x-kubernetes-list-type is map"),
                Some(items) => self.key_rules(schema, items, names),
            }
        }
        if matches!(node.list, List::Set | List::Map(_))
            && node.items.as_ref().is_some_and(|items| items.nullable)
        {
            let kind = kind.and_then(Value::as_str).unwrap_or_default();
            self.forbid(
                "items.nullable",
                &format!("cannot be nullable when x-kubernetes-list-type is {kind}"),
            );
        }
    }

    fn key_rules(&mut self, schema: &Map<String, Value>, items: &Node, keys: &[Box<str>]) {
        let keys_name = "x-kubernetes-list-map-keys";
        let all = schema.get(keys_name).cloned().unwrap_or_default();
        if items.ty != Some(Type::Object) {
            let ty = schema["items"].get("type").cloned().unwrap_or_else(|| "".into());
            self.invalid(
                "items.type",
                &ty,
                "must be object if parent array's x-kubernetes-list-type is map",
            );
        }
        for (i, key) in keys.iter().enumerate() {
            let Some(node) = items.properties.get(key) else {
                self.invalid(keys_name, &all, "entries must all be names of item properties");
                continue;
            };
            if matches!(node.ty, Some(Type::Object | Type::Array)) {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.invalid(
                    &format!("items.properties[{key}].type"),
                    &type_of_items(schema, key),
                    why,
                );
            }
            if keys[..i].contains(key) {
                self.invalid(keys_name, &all, "must not contain duplicate entries");
            }
            let required = items
                .checks
                .as_deref()
                .is_some_and(|checks| checks.required.contains(key));
            if node.default.is_none() && !required {
                self.require(
                    &format!("items.properties[{key}].default"),
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                );
            }
            if node.nullable {
                self.forbid(
                    &format!("items.properties[{key}].nullable"),
                    "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
                );
            }
        }
    }

    /// Rules for a schema inside a junctor: it limits, it does not say what there is.
    pub(super) fn nested(&mut self, schema: &Map<String, Value>) {
        // `type` is let through in the one pattern upstream lets through: integer or string.
        let is_set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false)) && value != "";
        for (name, why) in [
            ("default", "must be undefined to be structural"),
            ("title", "must be empty to be structural"),
            ("description", "must be empty to be structural"),
            ("nullable", "must be false to be structural"),
            ("additionalProperties", "must be undefined to be structural"),
            (
                "x-kubernetes-preserve-unknown-fields",
                "must be false to be structural",
            ),
            ("x-kubernetes-embedded-resource", "must be false to be structural"),
            ("x-kubernetes-int-or-string", "must be false to be structural"),
            ("x-kubernetes-list-map-keys", "must be empty to be structural"),
            ("x-kubernetes-list-type", "must be undefined to be structural"),
            ("x-kubernetes-map-type", "must be undefined to be structural"),
        ] {
            if schema.get(name).is_some_and(is_set) {
                self.forbid(name, why);
            }
        }
        if schema
            .get("properties")
            .is_some_and(|fields| fields.get("metadata").is_some())
        {
            self.forbid(
                "properties[metadata]",
                "must not be specified in a nested context",
            );
        }
    }
}

fn type_of(schema: &Map<String, Value>, field: &str) -> Value {
    schema["properties"][field]
        .get("type")
        .cloned()
        .unwrap_or_else(|| "".into())
}

fn type_of_items(schema: &Map<String, Value>, field: &str) -> Value {
    schema["items"]["properties"][field]
        .get("type")
        .cloned()
        .unwrap_or_else(|| "".into())
}

/// Junctors may name only fields that the schema around them has, and say no types of their own.
pub(super) fn completeness(node: &Node, path: &mut Path, causes: &mut Vec<Cause>) {
    if let Some(checks) = &node.checks {
        let outer = path.as_str().to_owned();
        junctors(checks, node, &outer, path, int_or_string(node), causes);
    }
    for (name, child) in &node.properties {
        path.child("properties", |path| {
            path.key(name, |path| completeness(child, path, causes));
        });
    }
    if let Some(items) = &node.items {
        path.child("items", |path| completeness(items, path, causes));
    }
    if let Additional::Schema(child) = &node.additional {
        path.child("additionalProperties", |path| completeness(child, path, causes));
    }
}

/// Where upstream lets `anyOf: [{type: integer}, {type: string}]` pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IntOrString {
    Nowhere,
    AnyOf,
    FirstAllOf,
}

fn is_pattern(nodes: &[Node]) -> bool {
    let only_type = |node: &Node, ty| {
        node.ty == Some(ty) && node.checks.is_none() && node.properties.is_empty() && node.items.is_none()
    };
    matches!(nodes, [a, b] if only_type(a, Type::Integer) && only_type(b, Type::String))
}

fn int_or_string(node: &Node) -> IntOrString {
    let Some(checks) = node.checks.as_deref().filter(|_| node.int_or_string) else {
        return IntOrString::Nowhere;
    };
    if is_pattern(&checks.any_of) {
        return IntOrString::AnyOf;
    }
    match checks.all_of.first().and_then(|first| first.checks.as_deref()) {
        Some(first) if is_pattern(&first.any_of) => IntOrString::FirstAllOf,
        _ => IntOrString::Nowhere,
    }
}

fn junctors(
    checks: &Checks,
    outer: &Node,
    outer_path: &str,
    path: &mut Path,
    allowed: IntOrString,
    causes: &mut Vec<Cause>,
) {
    for (name, nodes) in [
        ("allOf", &checks.all_of),
        ("anyOf", &checks.any_of),
        ("oneOf", &checks.one_of),
    ] {
        for (i, node) in nodes.iter().enumerate() {
            let typed = name == "anyOf" && allowed == IntOrString::AnyOf;
            let below = match allowed {
                IntOrString::FirstAllOf if name == "allOf" && i == 0 => IntOrString::AnyOf,
                _ => IntOrString::Nowhere,
            };
            path.child(name, |path| {
                path.index(i, |path| {
                    nested(node, outer, outer_path, path, typed, below, causes);
                });
            });
        }
    }
    if let Some(node) = &checks.not {
        path.child("not", |path| {
            nested(node, outer, outer_path, path, false, IntOrString::Nowhere, causes);
        });
    }
}

fn nested(
    node: &Node,
    outer: &Node,
    outer_path: &str,
    path: &mut Path,
    typed: bool,
    allowed: IntOrString,
    causes: &mut Vec<Cause>,
) {
    if node.ty.is_some() && !typed {
        path.child("type", |path| {
            causes.push(Cause::forbidden(path.as_str(), "must be empty to be structural"));
        });
    }
    if let Some(checks) = &node.checks {
        junctors(checks, outer, outer_path, path, allowed, causes);
    }
    let missing = |outer_path: String, path: &Path| {
        Cause::required(outer_path, &format!("because it is defined in {}", path.as_str()))
    };
    for (name, child) in &node.properties {
        let below = join(outer_path, &format!("properties[{name}]"));
        path.child("properties", |path| {
            path.key(name, |path| match outer.properties.get(name) {
                Some(outer) => nested(child, outer, &below, path, false, IntOrString::Nowhere, causes),
                None => causes.push(missing(below, path)),
            });
        });
    }
    if let Some(child) = &node.items {
        let below = join(outer_path, "items");
        path.child("items", |path| match outer.items.as_deref() {
            Some(outer) => nested(child, outer, &below, path, false, IntOrString::Nowhere, causes),
            None => causes.push(missing(below, path)),
        });
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
