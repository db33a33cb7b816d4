//! From `openAPIV3Schema` to [`Structural`], with everything upstream refuses
//! (apiextensions `validation/validation.go`, apiextensions-apiserver `schema/{convert,validation}.go`).

use serde_json::{Map, Value};

use super::{Additional, Bound, Checks, List, Node, Pattern, Rule, Structural, Type, invariants, validate};
use crate::cause::{Cause, Path};

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Item,
    Field,
    /// Inside `anyOf`, `oneOf`, `allOf` or `not`: may limit values but not say what there is.
    Nested,
}

pub(super) fn parse(schema: &Value, path: &str) -> Result<Structural, Vec<Cause>> {
    let mut parser = Parser {
        path: Path::new(path),
        causes: Vec::new(),
        rules: 0,
    };
    let root = parser.node(schema, Level::Root);
    let Parser {
        mut path,
        mut causes,
        rules,
    } = parser;
    invariants::completeness(&root, &mut path, &mut causes);
    if causes.is_empty() {
        defaults(&root, &mut path, &mut causes);
    }
    if !causes.is_empty() {
        causes.sort_by_cached_key(ToString::to_string);
        causes.dedup();
        return Err(causes);
    }
    let mut warnings = Vec::new();
    if rules > 0 {
        warnings.push(format!(
            "the schema has {rules} x-kubernetes-validations rules: they are stored, but this server does not enforce them yet"
        ));
    }
    Ok(Structural { root, warnings })
}

/// A default must itself be valid.
fn defaults(node: &Node, path: &mut Path, causes: &mut Vec<Cause>) {
    if let Some(default) = &node.default {
        path.child("default", |path| {
            let mut value = Value::clone(default);
            super::default::drop_nulls(node, &mut value);
            super::default::fill(node, &mut value);
            validate::validate(node, &value, path, causes);
        });
    }
    path.child("properties", |path| {
        for (name, node) in &node.properties {
            path.key(name, |path| defaults(node, path, causes));
        }
    });
    if let Some(node) = &node.items {
        path.child("items", |path| defaults(node, path, causes));
    }
    if let Additional::Schema(node) = &node.additional {
        path.child("additionalProperties", |path| defaults(node, path, causes));
    }
}

pub(super) struct Parser {
    pub(super) path: Path,
    pub(super) causes: Vec<Cause>,
    rules: usize,
}

/// Keywords of JSON schema that definitions may not use.
const UNSUPPORTED: &[&str] = &[
    "id",
    "additionalItems",
    "patternProperties",
    "definitions",
    "dependencies",
    "$ref",
];

impl Parser {
    pub(super) fn at<T>(&mut self, name: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let path = std::mem::take(&mut self.path);
        let (mut result, mut path) = (None, path);
        path.child(name, |path| {
            self.path = std::mem::take(path);
            result = Some(run(self));
            *path = std::mem::take(&mut self.path);
        });
        self.path = path;
        result.expect("child runs its closure once")
    }

    fn at_key<T>(&mut self, key: &str, run: impl FnOnce(&mut Self) -> T) -> T {
        let path = std::mem::take(&mut self.path);
        let (mut result, mut path) = (None, path);
        path.key(key, |path| {
            self.path = std::mem::take(path);
            result = Some(run(self));
            *path = std::mem::take(&mut self.path);
        });
        self.path = path;
        result.expect("key runs its closure once")
    }

    pub(super) fn forbid(&mut self, name: &str, why: &str) {
        self.at(name, |p| p.causes.push(Cause::forbidden(p.path.as_str(), why)));
    }

    pub(super) fn require(&mut self, name: &str, why: &str) {
        self.at(name, |p| p.causes.push(Cause::required(p.path.as_str(), why)));
    }

    pub(super) fn invalid(&mut self, name: &str, value: &Value, why: &str) {
        self.at(name, |p| {
            p.causes.push(Cause::invalid(p.path.as_str(), value, why));
        });
    }

    fn node(&mut self, schema: &Value, level: Level) -> Node {
        let Some(schema) = schema.as_object() else {
            self.causes.push(Cause::type_invalid(
                self.path.as_str(),
                schema,
                "must be a schema",
            ));
            return Node::default();
        };
        let mut node = self.shape(schema, level);
        node.checks = self.checks(schema).map(Box::new);
        self.rules_of(schema, &mut node);
        for keyword in UNSUPPORTED
            .iter()
            .filter(|keyword| schema.contains_key(**keyword))
        {
            self.forbid(keyword, &format!("{keyword} is not supported"));
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            self.forbid(
                "uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        match level {
            Level::Nested => self.nested(schema),
            _ => self.invariants(schema, &node, level),
        }
        if level == Level::Root {
            node.resource = true;
        }
        node
    }

    /// What there is: type, fields, items, extensions.
    fn shape(&mut self, schema: &Map<String, Value>, level: Level) -> Node {
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let mut node = Node {
            ty: self.ty(schema),
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            resource: flag("x-kubernetes-embedded-resource"),
            default: schema.get("default").map(|value| Box::new(value.clone())),
            ..Node::default()
        };
        let below = |level_below| {
            if level == Level::Nested {
                Level::Nested
            } else {
                level_below
            }
        };
        if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            self.at("properties", |p| {
                for (name, schema) in fields {
                    let child = p.at_key(name, |p| p.node(schema, below(Level::Field)));
                    node.properties.insert(name.as_str().into(), child);
                }
            });
        }
        match schema.get("items") {
            None | Some(Value::Null) => (),
            Some(Value::Array(_)) => self.forbid("items", "items must be a schema object and not an array"),
            Some(items) => {
                node.items = Some(Box::new(self.at("items", |p| p.node(items, below(Level::Item)))));
            }
        }
        node.additional = self.additional(schema, below(Level::Field));
        node.list = self.list(schema);
        node
    }

    fn ty(&mut self, schema: &Map<String, Value>) -> Option<Type> {
        let value = schema.get("type")?;
        let text = value.as_str().unwrap_or_default();
        if text.is_empty() && value.is_string() {
            return None;
        }
        if text == "null" {
            self.forbid(
                "type",
                "type cannot be set to null, use nullable as an alternative",
            );
            return None;
        }
        let ty = Type::parse(text);
        if ty.is_none() {
            let known = ["array", "boolean", "integer", "number", "object", "string"];
            self.at("type", |p| {
                p.causes
                    .push(Cause::not_supported(p.path.as_str(), value, &known));
            });
        }
        ty
    }

    fn additional(&mut self, schema: &Map<String, Value>, level: Level) -> Additional {
        let Some(value) = schema.get("additionalProperties") else {
            return Additional::None;
        };
        if schema
            .get("properties")
            .and_then(Value::as_object)
            .is_some_and(|fields| !fields.is_empty())
            && *value != Value::Bool(false)
        {
            self.forbid(
                "additionalProperties",
                "additionalProperties and properties are mutual exclusive",
            );
        }
        match value {
            Value::Null => Additional::None,
            Value::Bool(true) => Additional::Any,
            Value::Bool(false) => {
                self.forbid(
                    "additionalProperties",
                    "additionalProperties cannot be set to false",
                );
                Additional::None
            }
            schema => {
                let node = self.at("additionalProperties", |p| p.node(schema, level));
                Additional::Schema(Box::new(node))
            }
        }
    }

    fn list(&mut self, schema: &Map<String, Value>) -> List {
        let keys: Vec<Box<str>> = schema
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|key| Some(key.as_str()?.into()))
            .collect();
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => List::Set,
            Some("map") => List::Map(keys),
            _ => List::Atomic,
        }
    }

    fn rules_of(&mut self, schema: &Map<String, Value>, node: &mut Node) {
        let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
        for (i, rule) in rules.into_iter().flatten().enumerate() {
            let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
            if text("rule").trim().is_empty() {
                let path = format!("x-kubernetes-validations[{i}].rule");
                self.require(&path, "rule is not specified");
            }
            node.rules.push(Rule {
                rule: text("rule"),
                message: text("message"),
            });
            self.rules += 1;
        }
    }

    /// Limits and junctors; none when there are none.
    fn checks(&mut self, schema: &Map<String, Value>) -> Option<Checks> {
        const KEYWORDS: &[&str] = &[
            "enum",
            "format",
            "pattern",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "minimum",
            "maximum",
            "multipleOf",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        if !KEYWORDS.iter().any(|keyword| schema.contains_key(*keyword)) {
            return None;
        }
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let bound = |name: &str, exclusive: &str| {
            let limit = schema.get(name)?.as_f64()?;
            Some(Bound {
                limit,
                exclusive: schema.get(exclusive) == Some(&Value::Bool(true)),
            })
        };
        let required = schema.get("required").and_then(Value::as_array);
        Some(Checks {
            allowed: schema.get("enum").and_then(Value::as_array).cloned(),
            format: schema.get("format").and_then(Value::as_str).map(Into::into),
            pattern: self.pattern(schema),
            length: (count("minLength"), count("maxLength")),
            items: (count("minItems"), count("maxItems")),
            properties: (count("minProperties"), count("maxProperties")),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: schema
                .get("multipleOf")
                .and_then(Value::as_f64)
                .filter(|factor| *factor > 0.0),
            required: required
                .into_iter()
                .flatten()
                .filter_map(|name| Some(name.as_str()?.into()))
                .collect(),
            all_of: self.junctor(schema, "allOf"),
            any_of: self.junctor(schema, "anyOf"),
            one_of: self.junctor(schema, "oneOf"),
            not: schema
                .get("not")
                .map(|schema| self.at("not", |p| p.node(schema, Level::Nested))),
        })
    }

    fn pattern(&mut self, schema: &Map<String, Value>) -> Option<Pattern> {
        let value = schema.get("pattern")?;
        match Pattern::new(value.as_str().filter(|text| !text.is_empty())?) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.invalid(
                    "pattern",
                    value,
                    &format!("must be a valid regular expression, but isn't: {error}"),
                );
                None
            }
        }
    }

    fn junctor(&mut self, schema: &Map<String, Value>, name: &str) -> Vec<Node> {
        let schemas = schema.get(name).and_then(Value::as_array);
        let parse = |(i, schema)| self.at(&format!("{name}[{i}]"), |p| p.node(schema, Level::Nested));
        schemas.into_iter().flatten().enumerate().map(parse).collect()
    }
}
