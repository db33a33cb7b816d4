//! Built-in kinds, each written down once.
//!
//! One table says of every field its JSON name, its protobuf number and type, how lists of it are shared and
//! patched, and what it is. Validation, pruning, strategic merge, OpenAPI and protobuf are all read from it.

mod builtin;
mod core;
mod extensions;
mod field;
mod meta;
mod openapi;

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

pub use builtin::{BUILTIN, BuiltinResource};
pub use core::{
    CONFIG_MAP, EVENT, EVENTS_EVENT, LEASE, NAMESPACE, OBJECT_REFERENCE, SECRET, SERVICE_ACCOUNT,
};
pub use extensions::{CUSTOM_RESOURCE_DEFINITION, JSON_SCHEMA_PROPS};
pub use field::{Field, Kind, List, Patch, Ty};
pub use meta::{
    DELETE_OPTIONS, LIST_META, MANAGED_FIELDS_ENTRY, OBJECT_META, OWNER_REFERENCE, PARTIAL_OBJECT_METADATA,
    STATUS, WATCH_EVENT,
};
pub use openapi::{components, list_component};

use crate::schema::Structural;

/// Every top-level kind of the table.
pub static TOP_LEVEL: &[&Kind] = &[
    &NAMESPACE,
    &CONFIG_MAP,
    &SECRET,
    &SERVICE_ACCOUNT,
    &EVENT,
    &EVENTS_EVENT,
    &LEASE,
    &CUSTOM_RESOURCE_DEFINITION,
    &STATUS,
    &DELETE_OPTIONS,
    &PARTIAL_OBJECT_METADATA,
    &WATCH_EVENT,
];

impl Kind {
    /// The field `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The schema that prunes and validates objects of this kind; made once.
    #[must_use]
    pub fn structural(&'static self) -> &'static Structural {
        static ALL: OnceLock<HashMap<(&str, &str), Structural>> = OnceLock::new();
        let all = ALL.get_or_init(|| {
            let kinds = reachable(TOP_LEVEL);
            kinds
                .into_iter()
                .map(|kind| (kind.key(), Structural::builtin(kind)))
                .collect()
        });
        all.get(&self.key())
            .expect("every kind is reachable from a top-level one")
    }

    fn key(&self) -> (&'static str, &'static str) {
        (self.package, self.name)
    }

    /// The name of the kind's schema in OpenAPI, such as `io.k8s.api.core.v1.ConfigMap`.
    #[must_use]
    pub fn openapi_name(&self) -> String {
        format!("{}.{}", self.package, self.name)
    }

    /// The kind's schema in OpenAPI v3; others are referred to as `#/components/schemas/<name>`.
    #[must_use]
    pub fn openapi(&self) -> Value {
        openapi::schema(self)
    }

    /// What Go's decoder would say of a value whose field has the wrong type; `None` when all types are right.
    #[must_use]
    pub fn decode_error(&'static self, value: &Value) -> Option<String> {
        let causes = self.structural().validate(value);
        let wrong = causes
            .iter()
            .find(|cause| cause.reason == "FieldValueTypeInvalid")?;
        Some(format!(
            "json: cannot unmarshal into Go struct field {}.{}: {}",
            self.name, wrong.field, wrong.message
        ))
    }
}

/// The kinds themselves and all that their fields name, each once.
pub(crate) fn reachable(kinds: &[&'static Kind]) -> Vec<&'static Kind> {
    let mut found: Vec<&'static Kind> = kinds.to_vec();
    let mut next = 0;
    while let Some(kind) = found.get(next).copied() {
        next += 1;
        for field in kind.fields {
            if let Some(named) = field.ty.names()
                && !found.iter().any(|known| known.key() == named.key())
            {
                found.push(named);
            }
        }
    }
    found
}

impl Ty {
    /// The kind this type names, if any.
    fn names(&self) -> Option<&'static Kind> {
        match self {
            Self::Message(kind) => Some(kind),
            Self::List(ty) | Self::Map(ty) => ty.names(),
            Self::SchemaOrArray | Self::SchemaOrBool | Self::SchemaOrStrings => Some(&JSON_SCHEMA_PROPS),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
