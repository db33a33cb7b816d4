//! The built-in resources and how each differs from a plain one.

use std::sync::Arc;

use setpoint_apimachinery::NameRule;
use setpoint_base::Stop;

use crate::resources::{ResourceInfo, VERBS};
use crate::schema::{ResourceSchema, Structural};
use crate::storage::Storage;

/// Verbs of namespaces: they are not deleted as a collection.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// One built-in resource.
#[derive(Debug)]
pub(crate) struct Builtin {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    verbs: &'static [&'static str],
    /// What names may be.
    pub(crate) name_rule: NameRule,
    /// Fields of field selectors besides name and namespace.
    selectable: &'static [&'static str],
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) generation: bool,
    /// Whether an update without a resource version overwrites whatever is there.
    pub(crate) unconditional_update: bool,
    /// Whether an update of an absent object creates it.
    pub(crate) create_on_update: bool,
    /// Whether a deletion answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
}

impl Builtin {
    const PLAIN: Self = Self {
        group: "",
        version: "v1",
        plural: "",
        singular: "",
        kind: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        verbs: VERBS,
        name_rule: NameRule::Subdomain,
        selectable: &[],
        generation: false,
        unconditional_update: true,
        create_on_update: false,
        returns_deleted: false,
    };

    /// The schema of its kind.
    pub(crate) fn structural(&self) -> &Structural {
        &Structural
    }
}

/// A resource without peculiarities.
#[cfg(test)]
pub(crate) static SAMPLE: Builtin = Builtin::PLAIN;

/// All of them, in discovery's order.
static BUILTINS: &[Builtin] = &[
    Builtin {
        plural: "configmaps",
        singular: "configmap",
        kind: "ConfigMap",
        short_names: &["cm"],
        ..Builtin::PLAIN
    },
    Builtin {
        plural: "events",
        singular: "event",
        kind: "Event",
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        create_on_update: true,
        ..Builtin::PLAIN
    },
    Builtin {
        plural: "namespaces",
        singular: "namespace",
        kind: "Namespace",
        short_names: &["ns"],
        namespaced: false,
        status: true,
        verbs: NAMESPACE_VERBS,
        name_rule: NameRule::Label,
        selectable: &["status.phase"],
        ..Builtin::PLAIN
    },
    Builtin {
        plural: "secrets",
        singular: "secret",
        kind: "Secret",
        selectable: &["type"],
        ..Builtin::PLAIN
    },
    Builtin {
        plural: "serviceaccounts",
        singular: "serviceaccount",
        kind: "ServiceAccount",
        short_names: &["sa"],
        returns_deleted: true,
        ..Builtin::PLAIN
    },
    Builtin {
        group: "apiextensions.k8s.io",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        kind: "CustomResourceDefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        generation: true,
        unconditional_update: false,
        ..Builtin::PLAIN
    },
    Builtin {
        group: "coordination.k8s.io",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        unconditional_update: false,
        create_on_update: true,
        ..Builtin::PLAIN
    },
];

/// The built-in resources, each with its storage.
pub(crate) fn resources(stop: &Stop) -> Vec<Arc<ResourceInfo>> {
    let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    let info = |builtin: &'static Builtin| {
        let home = Storage::new(builtin.group, builtin.plural, builtin.namespaced, None, stop);
        let mut info = ResourceInfo {
            group: builtin.group.into(),
            version: builtin.version.into(),
            plural: builtin.plural.into(),
            singular: builtin.singular.into(),
            kind: builtin.kind.into(),
            list_kind: format!("{}List", builtin.kind).into(),
            short_names: boxed(builtin.short_names),
            categories: boxed(builtin.categories),
            namespaced: builtin.namespaced,
            verbs: builtin.verbs,
            status: builtin.status,
            storage: true,
            storage_api_version: Box::default(),
            selectable: boxed(builtin.selectable),
            home: Arc::new(home),
            schema: ResourceSchema::Builtin(builtin),
        };
        info.storage_api_version = info.api_version().into();
        Arc::new(info)
    };
    BUILTINS.iter().map(info).collect()
}
