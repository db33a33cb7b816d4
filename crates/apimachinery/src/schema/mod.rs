//! Structural schemas: what a custom resource may hold (apiextensions-apiserver `pkg/apiserver/schema`).
//!
//! [`Structural::parse`] takes the `openAPIV3Schema` of a definition's version and refuses what upstream
//! refuses. A request then goes through three steps, in this order:
//!
//! 1. [`Structural::prune`] drops unknown fields and says which;
//! 2. [`Structural::default`] fills in defaults and drops nulls that may not be;
//! 3. [`Structural::validate`] lists what is wrong, in upstream's words.
//!
//! Rules in CEL (`x-kubernetes-validations`) are kept with the schema but not evaluated;
//! [`Structural::warnings`] says so for each definition that has some.

mod builtin;
mod default;
mod format;
mod invariants;
mod list;
mod parse;
mod pattern;
mod prune;
mod strict;
mod validate;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cause::{Cause, Path};
use crate::kinds::Kind;

pub(crate) use pattern::Pattern;
pub use strict::{DUPLICATES_MAX, duplicate_fields, unknown_fields};

/// A schema that is known to be structural.
#[derive(Debug)]
pub struct Structural {
    root: Node,
    warnings: Vec<String>,
}

impl Structural {
    /// Reads an `openAPIV3Schema`.
    ///
    /// # Errors
    /// With a cause for each part that is not structural or not supported; paths start at the schema.
    pub fn parse(schema: &Value) -> Result<Self, Vec<Cause>> {
        Self::parse_at(schema, "")
    }

    /// As [`Structural::parse`]; paths start with `path`, such as `spec.versions[0].schema.openAPIV3Schema`.
    ///
    /// # Errors
    /// As [`Structural::parse`].
    pub fn parse_at(schema: &Value, path: &str) -> Result<Self, Vec<Cause>> {
        parse::parse(schema, path)
    }

    /// The schema of a built-in kind: its fields, their types, and nulls dropped as Go's decoder drops them.
    pub(crate) fn builtin(kind: &'static Kind) -> Self {
        Self {
            root: builtin::node(kind),
            warnings: Vec::new(),
        }
    }

    /// Drops fields that the schema does not know; answers their paths in order.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut dropped = Vec::new();
        prune::prune(&self.root, value, &mut Path::default(), &mut dropped);
        dropped.sort_unstable();
        dropped
    }

    /// Fills in defaults, and drops nulls of fields that are not nullable.
    pub fn default(&self, value: &mut Value) {
        default::drop_nulls(&self.root, value);
        default::fill(&self.root, value);
    }

    /// What is wrong with a value; nothing when it is valid.
    #[must_use]
    pub fn validate(&self, value: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        validate::validate(&self.root, value, &mut Path::default(), &mut causes);
        causes
    }

    /// What the author of the definition should know; sent as `Warning: 299` headers.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether any field has a default.
    #[must_use]
    pub fn has_defaults(&self) -> bool {
        self.root.any(&|node| node.default.is_some())
    }

    /// Every rule in CEL with the path of its field in the schema.
    #[must_use]
    pub fn rules(&self) -> Vec<(String, &Rule)> {
        let mut rules = Vec::new();
        self.root.collect_rules(&mut Path::default(), &mut rules);
        rules
    }
}

/// The schema of one value.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) ty: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) int_or_string: bool,
    pub(crate) preserve_unknown: bool,
    /// The value is an object with its own `apiVersion`, `kind` and `metadata`.
    pub(crate) resource: bool,
    /// Null fields are dropped when pruned: Go's decoder takes them for absent.
    pub(crate) drop_null: bool,
    pub(crate) additional: Additional,
    pub(crate) list: List,
    pub(crate) properties: BTreeMap<Box<str>, Self>,
    pub(crate) items: Option<Box<Self>>,
    pub(crate) default: Option<Box<Value>>,
    pub(crate) checks: Option<Box<Checks>>,
    pub(crate) rules: Vec<Rule>,
    /// The schema is that of a built-in kind.
    pub(crate) reference: Option<&'static Kind>,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `additionalProperties`.
#[derive(Debug, Default)]
pub(crate) enum Additional {
    /// Unknown fields are pruned.
    #[default]
    None,
    /// Unknown fields are kept, and what is in them is pruned to the scalars.
    Any,
    /// Unknown fields are values of this schema.
    Schema(Box<Node>),
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Default)]
pub(crate) enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<Box<str>>),
}

/// Limits on a value, and the junctors.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) allowed: Option<Vec<Value>>,
    pub(crate) format: Option<Box<str>>,
    pub(crate) pattern: Option<Pattern>,
    pub(crate) length: (Option<u64>, Option<u64>),
    pub(crate) items: (Option<u64>, Option<u64>),
    pub(crate) properties: (Option<u64>, Option<u64>),
    pub(crate) minimum: Option<Bound>,
    pub(crate) maximum: Option<Bound>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Node>,
}

/// A bound of a number, and whether the bound itself is out of bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) limit: f64,
    pub(crate) exclusive: bool,
}

/// A rule in CEL: kept, not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub rule: String,
    /// The text when it is false; may be empty.
    pub message: String,
}

impl Node {
    /// The node to walk: that of the built-in kind, for a reference.
    pub(crate) fn resolve(&self) -> &Self {
        match self.reference {
            None => self,
            Some(kind) => &kind.structural().root,
        }
    }

    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        let below = |node: &Self| node.any(test);
        test(self)
            || self.properties.values().any(below)
            || self.items.as_deref().is_some_and(below)
            || matches!(&self.additional, Additional::Schema(node) if node.any(test))
    }

    fn collect_rules<'a>(&'a self, path: &mut Path, rules: &mut Vec<(String, &'a Rule)>) {
        rules.extend(self.rules.iter().map(|rule| (path.as_str().to_owned(), rule)));
        for (name, node) in &self.properties {
            path.child(name, |path| node.collect_rules(path, rules));
        }
        if let Some(node) = &self.items {
            path.key("*", |path| node.collect_rules(path, rules));
        }
        if let Additional::Schema(node) = &self.additional {
            path.key("*", |path| node.collect_rules(path, rules));
        }
    }
}

/// The fields every object has, whatever its schema.
pub(crate) fn is_type_meta(field: &str) -> bool {
    matches!(field, "apiVersion" | "kind")
}

#[cfg(test)]
mod tests;
