//! CustomResourceDefinition (field numbers: `apiextensions-apiserver/pkg/apis/apiextensions/v1/generated.proto`).

use super::field::{Field, Kind, Ty, f};
use super::meta::OBJECT_META;

const PACKAGE: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";

const fn part(name: &'static str, doc: &'static str, fields: &'static [Field]) -> Kind {
    Kind {
        name,
        package: PACKAGE,
        doc,
        fields,
        api_version: None,
    }
}

/// A resource defined by its user.
pub static CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    name: "CustomResourceDefinition",
    package: PACKAGE,
    doc: "A resource that the server shall serve, with its schema.",
    api_version: Some("apiextensions.k8s.io/v1"),
    fields: &[
        f(
            1,
            "metadata",
            Ty::Message(&OBJECT_META),
            "Metadata of the object; its name is <plural>.<group>.",
        ),
        f(2, "spec", Ty::Message(&SPEC), "The resource that is wanted.").required(),
        f(3, "status", Ty::Message(&STATUS), "How far it is served."),
    ],
};

static SPEC: Kind = part(
    "CustomResourceDefinitionSpec",
    "The resource that is wanted.",
    &[
        f(1, "group", Ty::String, "API group.").required(),
        f(
            3,
            "names",
            Ty::Message(&NAMES),
            "Names of the resource and its kind.",
        )
        .required(),
        f(4, "scope", Ty::String, "Cluster or Namespaced.").required(),
        f(
            7,
            "versions",
            Ty::List(&Ty::Message(&VERSION)),
            "Versions, of which exactly one is stored.",
        )
        .required()
        .atomic(),
        f(
            9,
            "conversion",
            Ty::Message(&CONVERSION),
            "How objects are converted between versions.",
        )
        .pointer(),
        f(
            10,
            "preserveUnknownFields",
            Ty::Bool,
            "Must be false: unknown fields are pruned unless the schema keeps them.",
        ),
    ],
);

static NAMES: Kind = part(
    "CustomResourceDefinitionNames",
    "Names of a resource.",
    &[
        f(1, "plural", Ty::String, "Plural, as in the URL: lower case.").required(),
        f(
            2,
            "singular",
            Ty::String,
            "Singular: lower case; by default the kind.",
        ),
        f(
            3,
            "shortNames",
            Ty::List(&Ty::String),
            "Short names for the command line.",
        )
        .atomic(),
        f(4, "kind", Ty::String, "Kind of an object.").required(),
        f(
            5,
            "listKind",
            Ty::String,
            "Kind of a list; by default the kind and List.",
        ),
        f(
            6,
            "categories",
            Ty::List(&Ty::String),
            "Groups of resources that list it too, such as all.",
        )
        .atomic(),
    ],
);

static VERSION: Kind = part(
    "CustomResourceDefinitionVersion",
    "A version of a resource.",
    &[
        f(1, "name", Ty::String, "Name, such as v1beta1.").required(),
        f(2, "served", Ty::Bool, "Whether it is served.").required(),
        f(3, "storage", Ty::Bool, "Whether objects are stored in it.").required(),
        f(
            4,
            "schema",
            Ty::Message(&VALIDATION),
            "Schema for validation, pruning and defaults.",
        )
        .pointer(),
        f(
            5,
            "subresources",
            Ty::Message(&SUBRESOURCES),
            "Subresources that are served.",
        )
        .pointer(),
        f(
            6,
            "additionalPrinterColumns",
            Ty::List(&Ty::Message(&COLUMN)),
            "Columns of tables; by default the age.",
        )
        .atomic(),
        f(7, "deprecated", Ty::Bool, "Whether its use earns a warning."),
        f(8, "deprecationWarning", Ty::String, "Text of that warning.").pointer(),
        f(
            9,
            "selectableFields",
            Ty::List(&Ty::Message(&SELECTABLE_FIELD)),
            "Fields that field selectors may name.",
        )
        .atomic(),
    ],
);

static SELECTABLE_FIELD: Kind = part(
    "SelectableField",
    "A field that field selectors may name.",
    &[f(1, "jsonPath", Ty::String, "Path of the field; without arrays.").required()],
);

static VALIDATION: Kind = part(
    "CustomResourceValidation",
    "The schema of a version.",
    &[f(
        1,
        "openAPIV3Schema",
        Ty::Message(&JSON_SCHEMA_PROPS),
        "The schema.",
    )
    .pointer()],
);

static SUBRESOURCES: Kind = part(
    "CustomResourceSubresources",
    "Subresources of a version.",
    &[
        f(
            1,
            "status",
            Ty::Message(&SUBRESOURCE_STATUS),
            "Serve /status, and keep status and the rest apart.",
        )
        .pointer(),
        f(2, "scale", Ty::Message(&SUBRESOURCE_SCALE), "Serve /scale.").pointer(),
    ],
);

static SUBRESOURCE_STATUS: Kind = part(
    "CustomResourceSubresourceStatus",
    "The status subresource; it has no settings.",
    &[],
);

static SUBRESOURCE_SCALE: Kind = part(
    "CustomResourceSubresourceScale",
    "Where the scale subresource reads and writes.",
    &[
        f(
            1,
            "specReplicasPath",
            Ty::String,
            "Path of the wanted number, under .spec.",
        )
        .required(),
        f(
            2,
            "statusReplicasPath",
            Ty::String,
            "Path of the observed number, under .status.",
        )
        .required(),
        f(
            3,
            "labelSelectorPath",
            Ty::String,
            "Path of the selector's text form.",
        )
        .pointer(),
    ],
);

static COLUMN: Kind = part(
    "CustomResourceColumnDefinition",
    "A column of tables.",
    &[
        f(1, "name", Ty::String, "Title.").required(),
        f(2, "type", Ty::String, "OpenAPI type.").required(),
        f(3, "format", Ty::String, "OpenAPI format."),
        f(4, "description", Ty::String, "Text for humans."),
        f(
            5,
            "priority",
            Ty::Int32,
            "0 is always shown, more only in wide tables.",
        ),
        f(6, "jsonPath", Ty::String, "Path of the cell's value.").required(),
    ],
);

static CONVERSION: Kind = part(
    "CustomResourceConversion",
    "How objects are converted between versions.",
    &[
        f(1, "strategy", Ty::String, "None or Webhook.").required(),
        f(
            2,
            "webhook",
            Ty::Message(&WEBHOOK_CONVERSION),
            "The webhook, for Webhook.",
        )
        .pointer(),
    ],
);

static WEBHOOK_CONVERSION: Kind = part(
    "WebhookConversion",
    "A conversion webhook.",
    &[
        f(
            2,
            "clientConfig",
            Ty::Message(&WEBHOOK_CLIENT_CONFIG),
            "How to call it.",
        )
        .pointer(),
        f(
            3,
            "conversionReviewVersions",
            Ty::List(&Ty::String),
            "Versions of ConversionReview it reads.",
        )
        .required()
        .atomic(),
    ],
);

static WEBHOOK_CLIENT_CONFIG: Kind = part(
    "WebhookClientConfig",
    "How to call a webhook.",
    &[
        f(
            1,
            "service",
            Ty::Message(&SERVICE_REFERENCE),
            "The service, if it is one.",
        )
        .pointer(),
        f(2, "caBundle", Ty::Bytes, "Certificates that sign its own, PEM."),
        f(3, "url", Ty::String, "The address, if it is no service.").pointer(),
    ],
);

static SERVICE_REFERENCE: Kind = part(
    "ServiceReference",
    "A service to call.",
    &[
        f(1, "namespace", Ty::String, "Namespace of the service.").required(),
        f(2, "name", Ty::String, "Name of the service.").required(),
        f(3, "path", Ty::String, "Path of the URL.").pointer(),
        f(4, "port", Ty::Int32, "Port, 443 by default.").pointer(),
    ],
);

static STATUS: Kind = part(
    "CustomResourceDefinitionStatus",
    "How far a resource is served.",
    &[
        f(
            1,
            "conditions",
            Ty::List(&Ty::Message(&CONDITION)),
            "Aspects such as Established.",
        )
        .keyed(&["type"]),
        f(2, "acceptedNames", Ty::Message(&NAMES), "Names that are served."),
        f(
            3,
            "storedVersions",
            Ty::List(&Ty::String),
            "Versions that objects may be stored in.",
        )
        .atomic(),
        f(
            4,
            "observedGeneration",
            Ty::Int64,
            "Generation of the definition the status is about.",
        ),
    ],
);

static CONDITION: Kind = part(
    "CustomResourceDefinitionCondition",
    "One aspect of a definition.",
    &[
        f(1, "type", Ty::String, "Name of the aspect.").required(),
        f(2, "status", Ty::String, "True, False or Unknown.").required(),
        f(3, "lastTransitionTime", Ty::Time, "When status last changed."),
        f(4, "reason", Ty::String, "Word for machines."),
        f(5, "message", Ty::String, "Text for humans."),
        f(
            6,
            "observedGeneration",
            Ty::Int64,
            "Generation of the definition the aspect is about.",
        ),
    ],
);

static EXTERNAL_DOCUMENTATION: Kind = part(
    "ExternalDocumentation",
    "A document elsewhere.",
    &[
        f(1, "description", Ty::String, "What it says."),
        f(2, "url", Ty::String, "Where it is."),
    ],
);

static VALIDATION_RULE: Kind = part(
    "ValidationRule",
    "A rule in CEL.",
    &[
        f(1, "rule", Ty::String, "Expression that must be true.").required(),
        f(2, "message", Ty::String, "Text when it is not."),
        f(
            3,
            "messageExpression",
            Ty::String,
            "Expression that gives the text.",
        ),
        f(4, "reason", Ty::String, "Word for machines.").pointer(),
        f(5, "fieldPath", Ty::String, "Field the error names."),
        f(6, "optionalOldSelf", Ty::Bool, "Whether oldSelf may be absent.").pointer(),
    ],
);

/// An OpenAPI v3 schema, as far as definitions may use it.
pub static JSON_SCHEMA_PROPS: Kind = part(
    "JSONSchemaProps",
    "A JSON schema.",
    &[
        f(1, "id", Ty::String, "Identifier of the schema."),
        f(2, "$schema", Ty::String, "Dialect of the schema."),
        f(
            3,
            "$ref",
            Ty::String,
            "Reference to another schema; not allowed in definitions.",
        )
        .pointer(),
        f(4, "description", Ty::String, "Text for humans."),
        f(5, "type", Ty::String, "Type of the value."),
        f(6, "format", Ty::String, "Format of the value."),
        f(7, "title", Ty::String, "Title for humans."),
        f(8, "default", Ty::Json, "Value when absent.").pointer(),
        f(9, "maximum", Ty::Double, "Greatest number.").pointer(),
        f(
            10,
            "exclusiveMaximum",
            Ty::Bool,
            "Whether the number must be below maximum.",
        ),
        f(11, "minimum", Ty::Double, "Least number.").pointer(),
        f(
            12,
            "exclusiveMinimum",
            Ty::Bool,
            "Whether the number must be above minimum.",
        ),
        f(13, "maxLength", Ty::Int64, "Most characters.").pointer(),
        f(14, "minLength", Ty::Int64, "Fewest characters.").pointer(),
        f(
            15,
            "pattern",
            Ty::String,
            "Regular expression the text must contain a match of.",
        ),
        f(16, "maxItems", Ty::Int64, "Most items.").pointer(),
        f(17, "minItems", Ty::Int64, "Fewest items.").pointer(),
        f(
            18,
            "uniqueItems",
            Ty::Bool,
            "Must be false; see x-kubernetes-list-type.",
        ),
        f(
            19,
            "multipleOf",
            Ty::Double,
            "Number of which the value is a multiple.",
        )
        .pointer(),
        f(20, "enum", Ty::List(&Ty::Json), "Values that are allowed.").atomic(),
        f(21, "maxProperties", Ty::Int64, "Most fields.").pointer(),
        f(22, "minProperties", Ty::Int64, "Fewest fields.").pointer(),
        f(
            23,
            "required",
            Ty::List(&Ty::String),
            "Fields that must be there.",
        )
        .atomic(),
        f(24, "items", Ty::SchemaOrArray, "Schema of the items.").pointer(),
        f(
            25,
            "allOf",
            Ty::List(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Schemas that must all match.",
        )
        .atomic(),
        f(
            26,
            "oneOf",
            Ty::List(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Schemas of which exactly one must match.",
        )
        .atomic(),
        f(
            27,
            "anyOf",
            Ty::List(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Schemas of which at least one must match.",
        )
        .atomic(),
        f(
            28,
            "not",
            Ty::Message(&JSON_SCHEMA_PROPS),
            "Schema that must not match.",
        )
        .pointer(),
        f(
            29,
            "properties",
            Ty::Map(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Schemas of the fields.",
        ),
        f(
            30,
            "additionalProperties",
            Ty::SchemaOrBool,
            "Schema of the values of other fields.",
        )
        .pointer(),
        f(
            31,
            "patternProperties",
            Ty::Map(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Not allowed in definitions.",
        ),
        f(
            32,
            "dependencies",
            Ty::Map(&Ty::SchemaOrStrings),
            "Not allowed in definitions.",
        ),
        f(
            33,
            "additionalItems",
            Ty::SchemaOrBool,
            "Not allowed in definitions.",
        )
        .pointer(),
        f(
            34,
            "definitions",
            Ty::Map(&Ty::Message(&JSON_SCHEMA_PROPS)),
            "Not allowed in definitions.",
        ),
        f(
            35,
            "externalDocs",
            Ty::Message(&EXTERNAL_DOCUMENTATION),
            "Where more is said.",
        )
        .pointer(),
        f(36, "example", Ty::Json, "A value for humans.").pointer(),
        f(37, "nullable", Ty::Bool, "Whether null is a value."),
        f(
            38,
            "x-kubernetes-preserve-unknown-fields",
            Ty::Bool,
            "Whether unknown fields are kept.",
        )
        .pointer(),
        f(
            39,
            "x-kubernetes-embedded-resource",
            Ty::Bool,
            "Whether the value is an object with its own kind.",
        ),
        f(
            40,
            "x-kubernetes-int-or-string",
            Ty::Bool,
            "Whether the value is an integer or a string.",
        ),
        f(
            41,
            "x-kubernetes-list-map-keys",
            Ty::List(&Ty::String),
            "Fields that tell items apart.",
        )
        .atomic(),
        f(42, "x-kubernetes-list-type", Ty::String, "atomic, set or map.").pointer(),
        f(43, "x-kubernetes-map-type", Ty::String, "granular or atomic.").pointer(),
        f(
            44,
            "x-kubernetes-validations",
            Ty::List(&Ty::Message(&VALIDATION_RULE)),
            "Rules in CEL.",
        )
        .keyed(&["rule"])
        .merge_by("rule"),
    ],
);
