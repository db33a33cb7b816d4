//! Types of `meta.k8s.io/v1` (field numbers: `apimachinery/pkg/apis/meta/v1/generated.proto`).

use super::field::{Field, Kind, Ty, f};

const PACKAGE: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

const fn meta(name: &'static str, doc: &'static str, fields: &'static [Field]) -> Kind {
    Kind {
        name,
        package: PACKAGE,
        doc,
        fields,
        api_version: None,
    }
}

const fn top(name: &'static str, doc: &'static str, fields: &'static [Field]) -> Kind {
    Kind {
        name,
        package: PACKAGE,
        doc,
        fields,
        api_version: Some("v1"),
    }
}

/// Metadata of every object.
pub static OBJECT_META: Kind = meta(
    "ObjectMeta",
    "What every stored object has: its names, its place in time, its owners.",
    &[
        f(
            1,
            "name",
            Ty::String,
            "Name, unique among objects of the resource in the namespace; cannot change.",
        ),
        f(
            2,
            "generateName",
            Ty::String,
            "Prefix of the name the server makes up when name is empty.",
        ),
        f(
            3,
            "namespace",
            Ty::String,
            "Namespace the name is unique in; empty for cluster-scoped objects.",
        ),
        f(4, "selfLink", Ty::String, "No longer set by the server."),
        f(
            5,
            "uid",
            Ty::String,
            "Identity of this object in time and space, set by the server.",
        ),
        f(
            6,
            "resourceVersion",
            Ty::String,
            "Version of the object, opaque; used for conflict checks and watches.",
        ),
        f(7, "generation", Ty::Int64, "Counts changes of the desired state."),
        f(
            8,
            "creationTimestamp",
            Ty::Time,
            "When the server created the object.",
        ),
        f(
            9,
            "deletionTimestamp",
            Ty::Time,
            "When deletion was asked for; the object goes once its finalizers are gone.",
        ),
        f(
            10,
            "deletionGracePeriodSeconds",
            Ty::Int64,
            "Seconds the object has to end gracefully once deletion was asked for.",
        )
        .pointer(),
        f(
            11,
            "labels",
            Ty::Map(&Ty::String),
            "Keys and values by which selectors find the object.",
        ),
        f(
            12,
            "annotations",
            Ty::Map(&Ty::String),
            "Keys and values that tools keep with the object; not for selection.",
        ),
        f(
            13,
            "ownerReferences",
            Ty::List(&Ty::Message(&OWNER_REFERENCE)),
            "Objects this one depends on; it is collected when all of them are gone.",
        )
        .keyed(&["uid"])
        .merge_by("uid"),
        f(
            14,
            "finalizers",
            Ty::List(&Ty::String),
            "Names of those who must act before the object may go.",
        )
        .set(),
        f(
            17,
            "managedFields",
            Ty::List(&Ty::Message(&MANAGED_FIELDS_ENTRY)),
            "Who set which fields.",
        )
        .atomic(),
    ],
);

/// A reference to an owner.
pub static OWNER_REFERENCE: Kind = meta(
    "OwnerReference",
    "Names an object in the same namespace, or a cluster-scoped one, that owns this object.",
    &[
        f(1, "kind", Ty::String, "Kind of the owner.").required(),
        f(3, "name", Ty::String, "Name of the owner.").required(),
        f(4, "uid", Ty::String, "Identity of the owner.").required(),
        f(5, "apiVersion", Ty::String, "Group and version of the owner.").required(),
        f(
            6,
            "controller",
            Ty::Bool,
            "Whether the owner is the managing controller.",
        )
        .pointer(),
        f(
            7,
            "blockOwnerDeletion",
            Ty::Bool,
            "Whether a foreground deletion of the owner waits for this object.",
        )
        .pointer(),
    ],
);

/// Which fields a manager owns.
pub static MANAGED_FIELDS_ENTRY: Kind = meta(
    "ManagedFieldsEntry",
    "One manager, one way of writing, and the fields it set that way.",
    &[
        f(1, "manager", Ty::String, "Name of the workflow that wrote."),
        f(2, "operation", Ty::String, "How it wrote: Apply or Update."),
        f(3, "apiVersion", Ty::String, "Version the fields are named in."),
        f(4, "time", Ty::Time, "When the set of fields last changed."),
        f(6, "fieldsType", Ty::String, "Format of the set: FieldsV1."),
        f(7, "fieldsV1", Ty::FieldsV1, "The set of fields."),
        f(
            8,
            "subresource",
            Ty::String,
            "Subresource written through, if any.",
        ),
    ],
);

/// Metadata of lists.
pub static LIST_META: Kind = meta(
    "ListMeta",
    "What a list says of itself.",
    &[
        f(1, "selfLink", Ty::String, "No longer set by the server."),
        f(
            2,
            "resourceVersion",
            Ty::String,
            "Version the list shows; a watch may start from it.",
        ),
        f(
            3,
            "continue",
            Ty::String,
            "Token that asks for the next page; empty on the last.",
        ),
        f(
            4,
            "remainingItemCount",
            Ty::Int64,
            "How many items the following pages hold, when known.",
        )
        .pointer(),
        f(
            5,
            "shardInfo",
            Ty::Message(&SHARD_INFO),
            "Which shard the list shows, when one was asked for.",
        )
        .pointer(),
    ],
);

static SHARD_INFO: Kind = meta(
    "ShardInfo",
    "The shard of a list.",
    &[f(1, "selector", Ty::String, "The selector of the shard.").required()],
);

/// The answer to a request that failed, or that has no object to show.
pub static STATUS: Kind = top(
    "Status",
    "Outcome of a request that does not answer with another object.",
    &[
        f(1, "metadata", Ty::Message(&LIST_META), "Metadata of the answer."),
        f(2, "status", Ty::String, "Success or Failure."),
        f(3, "message", Ty::String, "Text for humans."),
        f(4, "reason", Ty::String, "Word for machines."),
        f(
            5,
            "details",
            Ty::Message(&STATUS_DETAILS),
            "What the answer is about.",
        )
        .pointer(),
        f(6, "code", Ty::Int32, "HTTP status code."),
    ],
);

static STATUS_DETAILS: Kind = meta(
    "StatusDetails",
    "What a Status is about.",
    &[
        f(1, "name", Ty::String, "Name of the object."),
        f(2, "group", Ty::String, "Group of the resource."),
        f(3, "kind", Ty::String, "Resource or kind."),
        f(
            4,
            "causes",
            Ty::List(&Ty::Message(&STATUS_CAUSE)),
            "One entry for each thing that is wrong.",
        )
        .atomic(),
        f(
            5,
            "retryAfterSeconds",
            Ty::Int32,
            "When to try again, in seconds.",
        ),
        f(6, "uid", Ty::String, "Identity of the object."),
    ],
);

static STATUS_CAUSE: Kind = meta(
    "StatusCause",
    "One thing that is wrong.",
    &[
        f(1, "reason", Ty::String, "Word for machines."),
        f(2, "message", Ty::String, "Text for humans."),
        f(3, "field", Ty::String, "Path of the field."),
    ],
);

/// How to delete.
pub static DELETE_OPTIONS: Kind = top(
    "DeleteOptions",
    "How an object is to be deleted.",
    &[
        f(
            1,
            "gracePeriodSeconds",
            Ty::Int64,
            "Seconds the object has to end; 0 is at once.",
        )
        .pointer(),
        f(
            2,
            "preconditions",
            Ty::Message(&PRECONDITIONS),
            "What must hold, or the request fails with a conflict.",
        )
        .pointer(),
        f(
            3,
            "orphanDependents",
            Ty::Bool,
            "Superseded by propagationPolicy.",
        )
        .pointer(),
        f(
            4,
            "propagationPolicy",
            Ty::String,
            "What becomes of dependents: Orphan, Background or Foreground.",
        )
        .pointer(),
        f(
            5,
            "dryRun",
            Ty::List(&Ty::String),
            "All: do everything but store it.",
        )
        .atomic(),
        f(
            6,
            "ignoreStoreReadErrorWithClusterBreakingPotential",
            Ty::Bool,
            "Delete an object that cannot be read back.",
        )
        .pointer(),
    ],
);

static PRECONDITIONS: Kind = meta(
    "Preconditions",
    "What must hold of the object.",
    &[
        f(1, "uid", Ty::String, "The identity it must have.").pointer(),
        f(2, "resourceVersion", Ty::String, "The version it must have.").pointer(),
    ],
);

/// An event of a watch.
pub static WATCH_EVENT: Kind = meta(
    "WatchEvent",
    "One change seen by a watch.",
    &[
        f(
            1,
            "type",
            Ty::String,
            "ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.",
        )
        .required(),
        f(
            2,
            "object",
            Ty::RawExtension,
            "The object after the change, before a deletion, or a Status.",
        )
        .required(),
    ],
);

/// An object reduced to its metadata.
pub static PARTIAL_OBJECT_METADATA: Kind = Kind {
    name: "PartialObjectMetadata",
    package: PACKAGE,
    doc: "An object of any kind, reduced to its metadata.",
    api_version: Some("meta.k8s.io/v1"),
    fields: &[f(
        1,
        "metadata",
        Ty::Message(&OBJECT_META),
        "Metadata of the object.",
    )],
};
