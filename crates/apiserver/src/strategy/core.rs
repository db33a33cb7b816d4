//! Namespaces, Events, Leases.

use serde_json::{Value, json};
use setpoint_apimachinery::{Cause, Object};

use crate::object::{self, map_of};

/// The label by which selectors find a namespace by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A new namespace is Active and held by `kubernetes`; every namespace carries its name as a label.
pub(super) fn prepare_namespace(new: &mut Object, old: Option<&Object>) {
    if old.is_none() {
        new.insert("status".to_owned(), json!({ "phase": "Active" }));
        let spec = map_of(new, "spec");
        let list = spec
            .entry("finalizers")
            .or_insert_with(|| Value::Array(Vec::new()));
        if !list.is_array() {
            *list = Value::Array(Vec::new());
        }
        if let Some(list) = list.as_array_mut()
            && !list.iter().any(|f| f == "kubernetes")
        {
            list.push(Value::from("kubernetes"));
        }
    }
    let name = object::name(new).to_owned();
    if !name.is_empty() {
        let metadata = object::meta_of(new);
        map_of(metadata, "labels").insert(NAME_LABEL.to_owned(), Value::from(name));
    }
}

/// Whether `spec.finalizers` still holds the namespace.
pub(super) fn has_finalizers(namespace: &Object) -> bool {
    let list = namespace
        .get("spec")
        .and_then(|spec| spec.get("finalizers")?.as_array());
    list.is_some_and(|list| !list.is_empty())
}

pub(super) fn validate_namespace(new: &Object) -> Vec<Cause> {
    let list = new
        .get("spec")
        .and_then(|spec| spec.get("finalizers")?.as_array());
    let texts = list.into_iter().flatten().filter_map(Value::as_str).enumerate();
    texts
        .flat_map(|(at, text)| {
            let value = Value::from(text);
            setpoint_apimachinery::names::qualified_name(text)
                .into_iter()
                .map(move |why| Cause::invalid(format!("spec.finalizers[{at}]"), &value, &why))
        })
        .collect()
}

/// An event lives in the namespace of what it is about (`pkg/apis/core/validation/events.go`).
pub(super) fn validate_event(new: &Object) -> Vec<Cause> {
    let field = if new.contains_key("regarding") {
        "regarding"
    } else {
        "involvedObject"
    };
    let about = object::text_at(new, &[field, "namespace"]).unwrap_or_default();
    let namespace = object::namespace(new);
    let fits = about == namespace || (about.is_empty() && namespace == "default");
    if fits {
        return Vec::new();
    }
    let why = if about.is_empty() {
        "required for cluster-scoped objects: does not match event.namespace"
    } else {
        "does not match event.namespace"
    };
    vec![Cause::invalid(
        format!("{field}.namespace"),
        &Value::from(about),
        why,
    )]
}

/// `pkg/apis/coordination/validation`.
pub(super) fn validate_lease(new: &Object) -> Vec<Cause> {
    let mut causes = Vec::new();
    let number = |field: &str| new.get("spec").and_then(|spec| spec.get(field)?.as_i64());
    if let Some(seconds) = number("leaseDurationSeconds").filter(|s| *s <= 0) {
        causes.push(Cause::invalid(
            "spec.leaseDurationSeconds",
            &Value::from(seconds),
            "must be greater than 0",
        ));
    }
    if let Some(count) = number("leaseTransitions").filter(|c| *c < 0) {
        causes.push(Cause::invalid(
            "spec.leaseTransitions",
            &Value::from(count),
            "must be greater than or equal to 0",
        ));
    }
    causes
}
