//! Built-in resources: how each kind is served.

use super::{Kind, core, extensions};
use crate::gvk::{Gvk, Gvr, split_api_version};
use crate::names::NameRule;
use crate::table::{Cell, Column};

/// How a built-in kind is served.
#[derive(Debug)]
pub struct BuiltinResource {
    /// The kind.
    pub kind: &'static Kind,
    /// The plural in the URL.
    pub plural: &'static str,
    /// The singular.
    pub singular: &'static str,
    /// Short names for the command line.
    pub short_names: &'static [&'static str],
    /// Groups of resources that list it too.
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether `/status` is served.
    pub status_subresource: bool,
    /// Which names it accepts.
    pub name_rule: NameRule,
    /// Columns of its tables.
    pub columns: &'static [Column],
    /// Fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
}

impl BuiltinResource {
    /// The group; empty for core.
    #[must_use]
    pub fn group(&self) -> &'static str {
        split_api_version(self.api_version()).0
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> &'static str {
        split_api_version(self.api_version()).1
    }

    /// The `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> &'static str {
        self.kind.api_version.unwrap_or_default()
    }

    /// Its kind by name.
    #[must_use]
    pub fn gvk(&self) -> Gvk {
        Gvk::new(self.group(), self.version(), self.kind.name)
    }

    /// Its resource by name.
    #[must_use]
    pub fn gvr(&self) -> Gvr {
        Gvr::new(self.group(), self.version(), self.plural)
    }
}

const NAME: Column = Column::of_names(0);
const AGE: Column = Column::builtin(
    "Age",
    "string",
    "Time since the object was created.",
    Cell::Age("metadata.creationTimestamp"),
);

const EVENT_COLUMNS: &[Column] = &[
    Column::builtin(
        "Last Seen",
        "string",
        "Time since it was last seen.",
        Cell::LastSeen,
    ),
    Column::builtin("Type", "string", "Normal or Warning.", Cell::Field("type")),
    Column::builtin("Reason", "string", "Why, as a word.", Cell::Field("reason")),
    Column::builtin("Object", "string", "The object it is about.", Cell::EventObject),
    Column::wide(
        "Subobject",
        "The part of the object.",
        Cell::Field("involvedObject.fieldPath"),
    ),
    Column::wide("Source", "Who reports it.", Cell::EventSource),
    Column::builtin("Message", "string", "Text for humans.", Cell::Field("message")),
    Column::wide("First Seen", "Time since it was first seen.", Cell::FirstSeen),
    Column::wide("Count", "How often it was seen.", Cell::EventCount),
    Column::of_names(1),
];

const EVENT_FIELDS: &[&str] = &[
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
];

const fn resource(kind: &'static Kind, plural: &'static str, singular: &'static str) -> BuiltinResource {
    BuiltinResource {
        kind,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: true,
        status_subresource: false,
        name_rule: NameRule::Subdomain,
        columns: &[],
        selectable: &[],
    }
}

/// The built-in resources that are served. Columns follow `pkg/printers/internalversion/printers.go`.
pub static BUILTIN: &[BuiltinResource] = &[
    BuiltinResource {
        short_names: &["ns"],
        namespaced: false,
        status_subresource: true,
        name_rule: NameRule::Label,
        columns: &[
            NAME,
            Column::builtin(
                "Status",
                "string",
                "Active or Terminating.",
                Cell::Field("status.phase"),
            ),
            AGE,
        ],
        selectable: &["status.phase"],
        ..resource(&core::NAMESPACE, "namespaces", "namespace")
    },
    BuiltinResource {
        short_names: &["cm"],
        columns: &[
            NAME,
            Column::builtin(
                "Data",
                "string",
                "How many values it has.",
                Cell::Count(&["data", "binaryData"]),
            ),
            AGE,
        ],
        ..resource(&core::CONFIG_MAP, "configmaps", "configmap")
    },
    BuiltinResource {
        columns: &[
            NAME,
            Column::builtin("Type", "string", "What the secret is for.", Cell::Field("type")),
            Column::builtin(
                "Data",
                "string",
                "How many values it has.",
                Cell::Count(&["data"]),
            ),
            AGE,
        ],
        selectable: &["type"],
        ..resource(&core::SECRET, "secrets", "secret")
    },
    BuiltinResource {
        short_names: &["sa"],
        columns: &[
            NAME,
            Column::builtin(
                "Secrets",
                "string",
                "How many secrets its processes may use.",
                Cell::Count(&["secrets"]),
            ),
            AGE,
        ],
        ..resource(&core::SERVICE_ACCOUNT, "serviceaccounts", "serviceaccount")
    },
    BuiltinResource {
        short_names: &["ev"],
        columns: EVENT_COLUMNS,
        selectable: EVENT_FIELDS,
        ..resource(&core::EVENT, "events", "event")
    },
    BuiltinResource {
        columns: &[
            NAME,
            Column::builtin(
                "Holder",
                "string",
                "Who holds the lease.",
                Cell::Field("spec.holderIdentity"),
            ),
            AGE,
        ],
        ..resource(&core::LEASE, "leases", "lease")
    },
    BuiltinResource {
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status_subresource: true,
        columns: &[
            NAME,
            Column::builtin(
                "Created At",
                "date",
                "When the object was created.",
                Cell::Field("metadata.creationTimestamp"),
            ),
        ],
        ..resource(
            &extensions::CUSTOM_RESOURCE_DEFINITION,
            "customresourcedefinitions",
            "customresourcedefinition",
        )
    },
];
