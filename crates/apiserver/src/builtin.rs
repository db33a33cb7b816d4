//! The built-in resources: the object model's table, each with a storage.
//!
//! How a kind's updates and deletions differ from a custom resource's is in [`ResourceInfo`]'s methods.

use std::sync::Arc;

use setpoint_apimachinery::kinds::{BUILTIN, BuiltinResource};
use setpoint_base::Stop;

use crate::resources::{ResourceInfo, VERBS};
use crate::schema::ResourceSchema;
use crate::storage::Storage;

/// Verbs of namespaces: they are not deleted as a collection.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// The built-in resources, each with its storage.
pub(crate) fn resources(stop: &Stop) -> Vec<Arc<ResourceInfo>> {
    BUILTIN
        .iter()
        .map(|builtin| Arc::new(info(builtin, stop)))
        .collect()
}

fn info(builtin: &'static BuiltinResource, stop: &Stop) -> ResourceInfo {
    let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    let home = Storage::new(builtin.group(), builtin.plural, builtin.namespaced, None, stop);
    ResourceInfo {
        group: builtin.group().into(),
        version: builtin.version().into(),
        plural: builtin.plural.into(),
        singular: builtin.singular.into(),
        kind: builtin.kind.name.into(),
        list_kind: format!("{}List", builtin.kind.name).into(),
        short_names: boxed(builtin.short_names),
        categories: boxed(builtin.categories),
        namespaced: builtin.namespaced,
        verbs: if builtin.plural == "namespaces" {
            NAMESPACE_VERBS
        } else {
            VERBS
        },
        status: builtin.status_subresource,
        storage: true,
        storage_api_version: builtin.api_version().into(),
        selectable: boxed(builtin.selectable),
        home: Arc::new(home),
        schema: ResourceSchema::Builtin(builtin),
    }
}
