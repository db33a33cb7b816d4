//! Types of the core, coordination and events groups (field numbers: `k8s.io/api/*/v1/generated.proto`).

use super::field::{Field, Kind, Ty, f};
use super::meta::OBJECT_META;

const fn core(name: &'static str, doc: &'static str, fields: &'static [Field]) -> Kind {
    Kind {
        name,
        package: "io.k8s.api.core.v1",
        doc,
        fields,
        api_version: None,
    }
}

const fn top(name: &'static str, doc: &'static str, fields: &'static [Field]) -> Kind {
    Kind {
        name,
        package: "io.k8s.api.core.v1",
        doc,
        fields,
        api_version: Some("v1"),
    }
}

const METADATA: Field = f(
    1,
    "metadata",
    Ty::Message(&OBJECT_META),
    "Metadata of the object.",
);

/// Space for names.
pub static NAMESPACE: Kind = top(
    "Namespace",
    "A space of names, and the unit by which objects are deleted together.",
    &[
        METADATA,
        f(
            2,
            "spec",
            Ty::Message(&NAMESPACE_SPEC),
            "What is wanted of the namespace.",
        ),
        f(
            3,
            "status",
            Ty::Message(&NAMESPACE_STATUS),
            "What the namespace is.",
        ),
    ],
);

static NAMESPACE_SPEC: Kind = core(
    "NamespaceSpec",
    "What is wanted of a namespace.",
    &[f(
        1,
        "finalizers",
        Ty::List(&Ty::String),
        "Those who must empty the namespace before it may go.",
    )
    .atomic()],
);

static NAMESPACE_STATUS: Kind = core(
    "NamespaceStatus",
    "What a namespace is.",
    &[
        f(1, "phase", Ty::String, "Active or Terminating."),
        f(
            2,
            "conditions",
            Ty::List(&Ty::Message(&NAMESPACE_CONDITION)),
            "How far its deletion is.",
        )
        .keyed(&["type"])
        .merge_by("type"),
    ],
);

static NAMESPACE_CONDITION: Kind = core(
    "NamespaceCondition",
    "One aspect of a namespace's deletion.",
    &[
        f(1, "type", Ty::String, "Name of the aspect.").required(),
        f(2, "status", Ty::String, "True, False or Unknown.").required(),
        f(4, "lastTransitionTime", Ty::Time, "When status last changed."),
        f(5, "reason", Ty::String, "Word for machines."),
        f(6, "message", Ty::String, "Text for humans."),
    ],
);

/// Configuration that is not secret.
pub static CONFIG_MAP: Kind = top(
    "ConfigMap",
    "Configuration as keys and values.",
    &[
        METADATA,
        f(2, "data", Ty::Map(&Ty::String), "Values that are text."),
        f(
            3,
            "binaryData",
            Ty::Map(&Ty::Bytes),
            "Values that are bytes; no key of data may occur.",
        ),
        f(
            4,
            "immutable",
            Ty::Bool,
            "Whether the values may never change again.",
        )
        .pointer(),
    ],
);

/// Configuration that is secret.
pub static SECRET: Kind = top(
    "Secret",
    "Small secrets such as passwords, tokens and keys.",
    &[
        METADATA,
        f(2, "data", Ty::Map(&Ty::Bytes), "The values, base64 in JSON."),
        f(
            3,
            "type",
            Ty::String,
            "What the secret is for; says which keys must be there.",
        ),
        f(
            4,
            "stringData",
            Ty::Map(&Ty::String),
            "Values as text, for writing only; they win over data.",
        ),
        f(
            5,
            "immutable",
            Ty::Bool,
            "Whether the values may never change again.",
        )
        .pointer(),
    ],
);

/// Identity of a process.
pub static SERVICE_ACCOUNT: Kind = top(
    "ServiceAccount",
    "An identity for processes that call the API.",
    &[
        METADATA,
        f(
            2,
            "secrets",
            Ty::List(&Ty::Message(&OBJECT_REFERENCE)),
            "Secrets its processes may use.",
        )
        .keyed(&["name"])
        .merge_by("name"),
        f(
            3,
            "imagePullSecrets",
            Ty::List(&Ty::Message(&LOCAL_OBJECT_REFERENCE)),
            "Secrets for pulling images.",
        )
        .atomic(),
        f(
            4,
            "automountServiceAccountToken",
            Ty::Bool,
            "Whether its token is given to processes unasked.",
        )
        .pointer(),
    ],
);

static LOCAL_OBJECT_REFERENCE: Kind = Kind {
    name: "LocalObjectReference",
    package: "io.k8s.api.core.v1",
    doc: "Names an object in the same namespace.",
    api_version: None,
    fields: &[f(1, "name", Ty::String, "Name of the object.")],
};

/// A reference to any object.
pub static OBJECT_REFERENCE: Kind = core(
    "ObjectReference",
    "Names an object, or a part of one.",
    &[
        f(1, "kind", Ty::String, "Kind of the object."),
        f(2, "namespace", Ty::String, "Namespace of the object."),
        f(3, "name", Ty::String, "Name of the object."),
        f(4, "uid", Ty::String, "Identity of the object."),
        f(5, "apiVersion", Ty::String, "Group and version of the object."),
        f(6, "resourceVersion", Ty::String, "Version that is meant."),
        f(7, "fieldPath", Ty::String, "Part of the object that is meant."),
    ],
);

/// Something happened to an object.
pub static EVENT: Kind = top(
    "Event",
    "Report that something happened to an object; kept for an hour.",
    &[
        METADATA.required(),
        f(
            2,
            "involvedObject",
            Ty::Message(&OBJECT_REFERENCE),
            "The object it is about.",
        )
        .required(),
        f(3, "reason", Ty::String, "Why, as a word for machines."),
        f(4, "message", Ty::String, "Text for humans."),
        f(5, "source", Ty::Message(&EVENT_SOURCE), "Who reports it."),
        f(6, "firstTimestamp", Ty::Time, "When it was first seen."),
        f(7, "lastTimestamp", Ty::Time, "When it was last seen."),
        f(8, "count", Ty::Int32, "How often it was seen."),
        f(9, "type", Ty::String, "Normal or Warning."),
        f(
            10,
            "eventTime",
            Ty::MicroTime,
            "When it was first seen, to the microsecond.",
        ),
        f(
            11,
            "series",
            Ty::Message(&EVENT_SERIES),
            "How it goes on, when it repeats.",
        )
        .pointer(),
        f(12, "action", Ty::String, "What was done or failed."),
        f(
            13,
            "related",
            Ty::Message(&OBJECT_REFERENCE),
            "A second object that is involved.",
        )
        .pointer(),
        f(
            14,
            "reportingComponent",
            Ty::String,
            "Controller that reports it.",
        ),
        f(15, "reportingInstance", Ty::String, "Process of the controller."),
    ],
);

static EVENT_SOURCE: Kind = core(
    "EventSource",
    "Who reports an event.",
    &[
        f(1, "component", Ty::String, "Name of the component."),
        f(2, "host", Ty::String, "Machine it runs on."),
    ],
);

static EVENT_SERIES: Kind = core(
    "EventSeries",
    "How often an event repeats.",
    &[
        f(1, "count", Ty::Int32, "How often it was seen."),
        f(2, "lastObservedTime", Ty::MicroTime, "When it was last seen."),
    ],
);

/// The same event in the newer group.
pub static EVENTS_EVENT: Kind = Kind {
    name: "Event",
    package: "io.k8s.api.events.v1",
    doc: "Report that something happened to an object; kept for an hour.",
    api_version: Some("events.k8s.io/v1"),
    fields: &[
        METADATA,
        f(
            2,
            "eventTime",
            Ty::MicroTime,
            "When it was first seen, to the microsecond.",
        )
        .required(),
        f(
            3,
            "series",
            Ty::Message(&EVENTS_SERIES),
            "How it goes on, when it repeats.",
        )
        .pointer(),
        f(
            4,
            "reportingController",
            Ty::String,
            "Controller that reports it.",
        ),
        f(5, "reportingInstance", Ty::String, "Process of the controller."),
        f(6, "action", Ty::String, "What was done or failed."),
        f(7, "reason", Ty::String, "Why, as a word for machines."),
        f(
            8,
            "regarding",
            Ty::Message(&OBJECT_REFERENCE),
            "The object it is about.",
        ),
        f(
            9,
            "related",
            Ty::Message(&OBJECT_REFERENCE),
            "A second object that is involved.",
        )
        .pointer(),
        f(10, "note", Ty::String, "Text for humans."),
        f(11, "type", Ty::String, "Normal or Warning."),
        f(
            12,
            "deprecatedSource",
            Ty::Message(&EVENT_SOURCE),
            "source of the core Event.",
        ),
        f(
            13,
            "deprecatedFirstTimestamp",
            Ty::Time,
            "firstTimestamp of the core Event.",
        ),
        f(
            14,
            "deprecatedLastTimestamp",
            Ty::Time,
            "lastTimestamp of the core Event.",
        ),
        f(15, "deprecatedCount", Ty::Int32, "count of the core Event."),
    ],
};

static EVENTS_SERIES: Kind = Kind {
    name: "EventSeries",
    package: "io.k8s.api.events.v1",
    doc: "How often an event repeats.",
    api_version: None,
    fields: &[
        f(1, "count", Ty::Int32, "How often it was seen.").required(),
        f(2, "lastObservedTime", Ty::MicroTime, "When it was last seen.").required(),
    ],
};

/// Who holds a lock until when.
pub static LEASE: Kind = Kind {
    name: "Lease",
    package: "io.k8s.api.coordination.v1",
    doc: "A lock that lapses unless its holder renews it.",
    api_version: Some("coordination.k8s.io/v1"),
    fields: &[
        METADATA,
        f(
            2,
            "spec",
            Ty::Message(&LEASE_SPEC),
            "Who holds it, and until when.",
        ),
    ],
};

static LEASE_SPEC: Kind = Kind {
    name: "LeaseSpec",
    package: "io.k8s.api.coordination.v1",
    doc: "Who holds a lease, and until when.",
    api_version: None,
    fields: &[
        f(1, "holderIdentity", Ty::String, "Who holds it.").pointer(),
        f(
            2,
            "leaseDurationSeconds",
            Ty::Int32,
            "Seconds after renewTime at which others may take it.",
        )
        .pointer(),
        f(3, "acquireTime", Ty::MicroTime, "When it was taken."),
        f(4, "renewTime", Ty::MicroTime, "When it was last renewed."),
        f(5, "leaseTransitions", Ty::Int32, "How often it changed hands.").pointer(),
        f(
            6,
            "strategy",
            Ty::String,
            "How the next holder is chosen, in a coordinated election.",
        )
        .pointer(),
        f(7, "preferredHolder", Ty::String, "Who should get it next.").pointer(),
    ],
};
