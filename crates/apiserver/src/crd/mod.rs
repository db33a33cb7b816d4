//! Custom resource definitions: what they may say, and how they become resources that are served.
//!
//! `definition` reads one, `validate` checks it, `status` keeps its conditions, `control` serves them all.

pub(crate) mod control;
pub(crate) mod definition;
pub(crate) mod status;
mod validate;

use serde_json::{Value, json};
use setpoint_apimachinery::Object;

pub(crate) use validate::validate;

use crate::object::{self, map_of};
use crate::server::Server;
use crate::strategy::timestamp;

/// Holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Defaults and status of a definition about to be written.
pub(crate) fn prepare(server: &Server, new: &mut Object, old: Option<&Object>) {
    default(new);
    let unchanged = old.is_some_and(|old| old.get("spec") == new.get("spec"));
    if unchanged || object::deleting(new) {
        return;
    }
    let now = timestamp(server.clock.now());
    let definitions = server.definitions.all();
    status::refresh(new, &now, definitions.iter().map(AsRef::as_ref));
}

/// What upstream fills in (`pkg/apis/apiextensions/v1/defaults.go`).
fn default(new: &mut Object) {
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let conversion = map_of(spec, "conversion");
    conversion.entry("strategy").or_insert_with(|| json!("None"));
    if spec.get("names").is_some_and(Value::is_object) {
        let names = map_of(spec, "names");
        let kind = names
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !kind.is_empty() {
            names
                .entry("singular")
                .or_insert_with(|| Value::from(kind.to_ascii_lowercase()));
            names
                .entry("listKind")
                .or_insert_with(|| Value::from(format!("{kind}List")));
        }
    }
}

/// What a deletion adds to a definition (apiextensions-apiserver `pkg/registry/customresourcedefinition/etcd.go`).
pub(crate) fn begin_deletion(object: &mut Object, now: &str) {
    let list = object::meta_of(object)
        .entry("finalizers")
        .or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|finalizer| finalizer == FINALIZER)
    {
        list.push(Value::from(FINALIZER));
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    status::set_condition(
        object,
        "Terminating",
        true,
        "InstanceDeletionPending",
        message,
        now,
    );
}

/// Warnings for the author of a definition: rules that are stored and not enforced.
pub(crate) fn warnings(object: &Object) -> Vec<String> {
    let versions = object
        .get("spec")
        .and_then(|spec| spec.get("versions")?.as_array());
    let mut warnings: Vec<String> = versions
        .into_iter()
        .flatten()
        .filter_map(|version| version.pointer("/schema/openAPIV3Schema"))
        .flat_map(|schema| definition::schema_causes(schema, "").1)
        .collect();
    warnings.dedup();
    warnings
}
