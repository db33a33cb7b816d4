//! What each kind adds to the verbs: fields that the system fills in or protects, and rules beyond the schema
//! (kubernetes `pkg/registry/*/strategy.go`, `pkg/apis/core/validation`).

mod config;
mod core;

use jiff::Timestamp;
use setpoint_apimachinery::meta::{validate_meta, validate_meta_update};
use setpoint_apimachinery::{Cause, Object};

use crate::crd;
use crate::object::{self, map_of};
use crate::resources::ResourceInfo;
use crate::server::Server;
use crate::verbs::Part;

/// Namespaces that stay (`plugin/pkg/admission/namespace/lifecycle`).
pub(crate) const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

/// A time as `metav1.Time` writes it: seconds, UTC.
pub(crate) fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Fills in and protects fields before validation. `old` is `None` for a creation.
pub(crate) fn prepare(
    server: &Server,
    info: &ResourceInfo,
    part: Part,
    new: &mut Object,
    old: Option<&Object>,
) {
    if let Some(old) = old {
        keep_other_parts(info, part, new, old);
    } else if info.status && !info.is("", "namespaces") {
        new.remove("status");
    }
    match (&*info.group, &*info.plural) {
        ("", "namespaces") => core::prepare_namespace(new, old),
        ("", "secrets") => config::prepare_secret(new),
        ("apiextensions.k8s.io", "customresourcedefinitions") => crd::prepare(server, new, old),
        _ => (),
    }
    if !info.is_builtin() {
        info.schema.default(new);
    }
}

/// A write to one part leaves the others as they are.
fn keep_other_parts(info: &ResourceInfo, part: Part, new: &mut Object, old: &Object) {
    match part {
        Part::Main => {
            if info.status {
                keep(new, old, "status");
            }
            if info.is("", "namespaces") {
                keep(new, old, "spec");
            }
        }
        Part::Status => {
            let status = new.remove("status");
            let version = object::meta_text(new, "resourceVersion").to_owned();
            let uid = object::meta_text(new, "uid").to_owned();
            *new = old.clone();
            if let Some(status) = status {
                new.insert("status".to_owned(), status);
            } else {
                new.remove("status");
            }
            restore_preconditions(new, &version, &uid);
        }
        Part::Finalize => {
            let finalizers = new.get("spec").and_then(|spec| spec.get("finalizers")).cloned();
            let version = object::meta_text(new, "resourceVersion").to_owned();
            let uid = object::meta_text(new, "uid").to_owned();
            *new = old.clone();
            let spec = map_of(new, "spec");
            match finalizers {
                Some(finalizers) => spec.insert("finalizers".to_owned(), finalizers),
                None => spec.remove("finalizers"),
            };
            restore_preconditions(new, &version, &uid);
        }
    }
}

fn restore_preconditions(new: &mut Object, version: &str, uid: &str) {
    if !version.is_empty() {
        object::set_meta(new, "resourceVersion", version);
    }
    if !uid.is_empty() {
        object::set_meta(new, "uid", uid);
    }
}

fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.get(field) {
        Some(value) => new.insert(field.to_owned(), value.clone()),
        None => new.remove(field),
    };
}

/// Whether deleting the object has to wait for somebody.
pub(crate) fn waits(info: &ResourceInfo, object: &Object) -> bool {
    !object::finalizers(object).is_empty()
        || (info.is("", "namespaces") && core::has_finalizers(object))
        || (info.is_definitions() && !object::deleting(object))
}

/// Whether an update leaves nothing that the deletion waits for.
pub(crate) fn deletes(info: &ResourceInfo, new: &Object) -> bool {
    object::deleting(new)
        && object::finalizers(new).is_empty()
        && !(info.is("", "namespaces") && core::has_finalizers(new))
}

/// Everything that is wrong with an object about to be written.
pub(crate) fn validate(info: &ResourceInfo, new: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = validate_meta(new, info.namespaced, info.name_rule());
    if let Some(old) = old {
        causes.extend(validate_meta_update(new, old));
    }
    let mut found = info.schema.validate(new);
    if info.is("", "secrets") {
        // The schema quotes the value it refuses; the kind's own check of `data` names the key alone.
        found.retain(|cause| !cause.field.starts_with("data."));
    }
    causes.extend(found);
    match (&*info.group, &*info.plural) {
        ("", "namespaces") => causes.extend(core::validate_namespace(new)),
        ("", "configmaps") => causes.extend(config::validate_config_map(new, old)),
        ("", "secrets") => causes.extend(config::validate_secret(new, old)),
        ("", "events") => causes.extend(core::validate_event(new)),
        ("coordination.k8s.io", "leases") => causes.extend(core::validate_lease(new)),
        ("apiextensions.k8s.io", "customresourcedefinitions") => causes.extend(crd::validate(new, old)),
        _ => (),
    }
    causes
}
