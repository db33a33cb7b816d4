//! What is served: one [`ResourceInfo`] per group, version and plural, in a snapshot that is swapped whole.
//!
//! Requests, discovery and OpenAPI each take one snapshot and use it throughout, so that a custom resource
//! definition that comes or goes never shows half.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use setpoint_apimachinery::kinds::BuiltinResource;
use setpoint_apimachinery::{GroupResource, Gvk, Gvr, NameRule};

use crate::crd::definition::{CrdVersion, Definition, ScalePaths};
use crate::schema::ResourceSchema;
use crate::storage::Storage;

/// Verbs of an ordinary resource, in discovery's order.
pub(crate) const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// One served version of one resource.
#[derive(Debug)]
pub(crate) struct ResourceInfo {
    /// API group, empty for core.
    pub(crate) group: Box<str>,
    /// Served version, such as `v1`.
    pub(crate) version: Box<str>,
    /// Plural lower-case name: the path segment.
    pub(crate) plural: Box<str>,
    /// Singular lower-case name.
    pub(crate) singular: Box<str>,
    /// Kind of one object.
    pub(crate) kind: Box<str>,
    /// Kind of a list.
    pub(crate) list_kind: Box<str>,
    /// Aliases for people.
    pub(crate) short_names: Vec<Box<str>>,
    /// Groups of kinds, such as `all`.
    pub(crate) categories: Vec<Box<str>>,
    /// Whether objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Verbs on the resource itself, sorted.
    pub(crate) verbs: &'static [&'static str],
    /// Whether `/status` is served.
    pub(crate) status: bool,
    /// Whether objects are stored in this version.
    pub(crate) storage: bool,
    /// `apiVersion` that objects are stored with.
    pub(crate) storage_api_version: Box<str>,
    /// Fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    pub(crate) selectable: Vec<Box<str>>,
    /// Where objects live.
    pub(crate) home: Arc<Storage>,
    /// What is known about the fields.
    pub(crate) schema: ResourceSchema,
}

impl ResourceInfo {
    /// Whether this is the resource of that group and plural.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        *self.group == *group && *self.plural == *plural
    }

    /// Group and plural, for errors.
    pub(crate) fn group_resource(&self) -> GroupResource {
        GroupResource::new(&self.group, &self.plural)
    }

    /// Group, version and plural.
    pub(crate) fn gvr(&self) -> Gvr {
        Gvr::new(&self.group, &self.version, &self.plural)
    }

    /// Group, version and kind.
    pub(crate) fn gvk(&self) -> Gvk {
        Gvk::new(&self.group, &self.version, &self.kind)
    }

    /// A served version of a custom resource.
    pub(crate) fn custom(
        definition: &Definition,
        version: &Arc<CrdVersion>,
        stored: &CrdVersion,
        home: &Arc<Storage>,
    ) -> Self {
        let names = &definition.names;
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Self {
            group: definition.group.as_str().into(),
            version: version.name.as_str().into(),
            plural: names.plural.as_str().into(),
            singular: names.singular.as_str().into(),
            kind: names.kind.as_str().into(),
            list_kind: names.list_kind.as_str().into(),
            short_names: boxed(&names.short_names),
            categories: boxed(&names.categories),
            namespaced: definition.namespaced,
            verbs: VERBS,
            status: version.status,
            storage: version.storage,
            storage_api_version: format!("{}/{}", definition.group, stored.name).into(),
            selectable: version.selectable.clone(),
            home: Arc::clone(home),
            schema: ResourceSchema::Custom(Arc::clone(version)),
        }
    }

    /// The table's row, of a built-in kind.
    pub(crate) fn builtin(&self) -> Option<&'static BuiltinResource> {
        match self.schema {
            ResourceSchema::Builtin(builtin) => Some(builtin),
            ResourceSchema::Custom(_) => None,
        }
    }

    /// Whether the kind is ours rather than a definition's.
    pub(crate) fn is_builtin(&self) -> bool {
        self.builtin().is_some()
    }

    /// Whether it is the resource of definitions.
    pub(crate) fn is_definitions(&self) -> bool {
        self.is("apiextensions.k8s.io", "customresourcedefinitions")
    }

    /// What names may be.
    pub(crate) fn name_rule(&self) -> NameRule {
        self.builtin()
            .map_or(NameRule::Subdomain, |builtin| builtin.name_rule)
    }

    /// Whether `metadata.generation` counts changes: of custom resources and their definitions.
    pub(crate) fn has_generation(&self) -> bool {
        !self.is_builtin() || self.is_definitions()
    }

    /// Whether an update without a resource version overwrites whatever is there (`AllowUnconditionalUpdate`
    /// of each kind's strategy).
    pub(crate) fn unconditional_update(&self) -> bool {
        self.is_builtin() && !self.is_definitions() && !self.is("coordination.k8s.io", "leases")
    }

    /// Whether an update of an absent object creates it (`AllowCreateOnUpdate`).
    pub(crate) fn create_on_update(&self) -> bool {
        self.is("coordination.k8s.io", "leases") || self.is("", "events")
    }

    /// Whether a deletion answers with the object instead of a Status (`ReturnDeletedObject`).
    pub(crate) fn returns_deleted(&self) -> bool {
        self.is("", "serviceaccounts")
    }

    /// The paths of the scale subresource, if served.
    pub(crate) fn scale(&self) -> Option<&ScalePaths> {
        match &self.schema {
            ResourceSchema::Builtin(_) => None,
            ResourceSchema::Custom(version) => version.scale.as_ref(),
        }
    }

    /// Whether a field selector may name the path.
    pub(crate) fn selectable(&self, path: &str) -> bool {
        matches!(path, "metadata.name" | "metadata.namespace")
            || self.selectable.iter().any(|known| **known == *path)
    }

    /// `v1`, or `group/version`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// All that is served at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    generation: u64,
    all: Vec<Arc<ResourceInfo>>,
    /// By `group/version/plural`.
    index: HashMap<String, usize>,
}

fn path(group: &str, version: &str, plural: &str) -> String {
    [group, version, plural].join("/")
}

impl Snapshot {
    fn new(generation: u64, all: Vec<Arc<ResourceInfo>>) -> Self {
        let key = |info: &ResourceInfo| path(&info.group, &info.version, &info.plural);
        let index = all.iter().enumerate().map(|(at, info)| (key(info), at)).collect();
        Self {
            generation,
            all,
            index,
        }
    }

    /// The resource at a path, if served.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceInfo>> {
        self.index
            .get(&path(group, version, plural))
            .map(|at| &self.all[*at])
    }

    /// Every served version of every resource, in a stable order: built-ins first, then by definition name.
    pub(crate) fn all(&self) -> &[Arc<ResourceInfo>] {
        &self.all
    }

    /// Grows with every change; caches of discovery and OpenAPI are keyed by it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

/// The current [`Snapshot`].
#[derive(Debug)]
pub(crate) struct Resources {
    current: ArcSwap<Snapshot>,
}

impl Resources {
    /// Starts from these.
    pub(crate) fn new(all: Vec<Arc<ResourceInfo>>) -> Self {
        Self {
            current: ArcSwap::from_pointee(Snapshot::new(1, all)),
        }
    }

    /// The present snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Replaces everything at once. Only one task may call this.
    pub(crate) fn replace(&self, all: Vec<Arc<ResourceInfo>>) {
        let generation = self.current.load().generation + 1;
        self.current.store(Arc::new(Snapshot::new(generation, all)));
    }
}
