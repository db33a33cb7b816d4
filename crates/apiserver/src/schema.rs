//! What is known about the fields of a resource.

use std::sync::Arc;

use serde_json::Value;
use setpoint_apimachinery::kinds::BuiltinResource;
use setpoint_apimachinery::schema::Structural;
use setpoint_apimachinery::{Cause, Object};

use crate::crd::definition::CrdVersion;

/// Where the rules of a resource's fields come from.
#[derive(Clone, Debug)]
pub(crate) enum ResourceSchema {
    /// The table of built-in kinds.
    Builtin(&'static BuiltinResource),
    /// A version of a custom resource definition.
    Custom(Arc<CrdVersion>),
}

impl ResourceSchema {
    fn with<T>(&self, use_it: impl FnOnce(&Structural) -> T) -> T {
        match self {
            Self::Builtin(builtin) => use_it(builtin.kind.structural()),
            Self::Custom(version) => use_it(version.schema()),
        }
    }

    /// Drops fields that nobody knows; their paths.
    pub(crate) fn prune(&self, object: &mut Object) -> Vec<String> {
        self.with(|schema| edit(object, |value| schema.prune(value)))
    }

    /// Fills in defaults.
    pub(crate) fn default(&self, object: &mut Object) {
        self.with(|schema| edit(object, |value| schema.default(value)));
    }

    /// What is wrong with the object.
    pub(crate) fn validate(&self, object: &Object) -> Vec<Cause> {
        self.with(|schema| schema.validate(&Value::Object(object.clone())))
    }
}

/// Lends an object as a value.
pub(crate) fn edit<T>(object: &mut Object, edit: impl FnOnce(&mut Value) -> T) -> T {
    let mut value = Value::Object(std::mem::take(object));
    let result = edit(&mut value);
    if let Value::Object(edited) = value {
        *object = edited;
    }
    result
}
