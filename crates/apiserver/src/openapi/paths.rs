//! The operations of one resource, as far as clients read them: kubectl looks for the `fieldValidation` and `dryRun`
//! parameters of the operation with a kind's `x-kubernetes-group-version-kind`, `kubectl explain` finds kinds by path,
//! generators take the operation ids.

use serde_json::{Map, Value, json};

use super::schemas::Names;
use crate::resources::ResourceInfo;

/// Media types of answers.
const PRODUCES: &[&str] = &["application/json", "application/yaml"];
/// Media types of objects sent.
const CONSUMES: &[&str] = &["application/json", "application/yaml"];

/// A query parameter: name, type, what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', the answer is indented.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "'All' goes through every step but stores nothing.",
);
const MANAGER: Parameter = ("fieldManager", "string", "Who makes the change.");
const VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
);
const WRITE: &[Parameter] = &[DRY_RUN, MANAGER, VALIDATION];
const PATCH: &[Parameter] = &[
    DRY_RUN,
    MANAGER,
    VALIDATION,
    (
        "force",
        "boolean",
        "For apply patches: take fields that others own.",
    ),
];
const DELETE: &[Parameter] = &[
    DRY_RUN,
    (
        "gracePeriodSeconds",
        "integer",
        "Seconds before the object is deleted.",
    ),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
];
const LIST: &[Parameter] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "Whether a watch may send bookmarks.",
    ),
    ("continue", "string", "Token of the previous page."),
    (
        "fieldSelector",
        "string",
        "Restricts the objects by their fields.",
    ),
    (
        "labelSelector",
        "string",
        "Restricts the objects by their labels.",
    ),
    ("limit", "integer", "Most objects in one answer."),
    (
        "resourceVersion",
        "string",
        "The version to read at, or to watch from.",
    ),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is meant: Exact or NotOlderThan.",
    ),
    (
        "sendInitialEvents",
        "boolean",
        "Whether a watch begins with the present objects.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "Ends the call after so many seconds.",
    ),
    ("watch", "boolean", "Watch for changes instead of listing."),
];
const DELETE_MANY: &[Parameter] = &[
    ("continue", "string", "Token of the previous page."),
    DRY_RUN,
    (
        "fieldSelector",
        "string",
        "Restricts the objects by their fields.",
    ),
    (
        "gracePeriodSeconds",
        "integer",
        "Seconds before the objects are deleted.",
    ),
    (
        "labelSelector",
        "string",
        "Restricts the objects by their labels.",
    ),
    ("limit", "integer", "Most objects in one call."),
    (
        "orphanDependents",
        "boolean",
        "Deprecated: use propagationPolicy.",
    ),
    (
        "propagationPolicy",
        "string",
        "What becomes of dependents: Orphan, Background or Foreground.",
    ),
    ("resourceVersion", "string", "The version to read at."),
    (
        "resourceVersionMatch",
        "string",
        "How resourceVersion is meant: Exact or NotOlderThan.",
    ),
    (
        "timeoutSeconds",
        "integer",
        "Ends the call after so many seconds.",
    ),
];

/// One verb on one path.
struct Operation {
    method: &'static str,
    /// Needed among the resource's verbs.
    verb: &'static str,
    /// Of the operation id.
    word: &'static str,
    action: &'static str,
    parameters: &'static [Parameter],
    body: Option<Body>,
    answer: Answer,
    does: &'static str,
}

#[derive(Clone, Copy)]
enum Body {
    Object,
    Patch,
    DeleteOptions,
}

#[derive(Clone, Copy)]
enum Answer {
    Object,
    Created,
    List,
    Status,
}

#[expect(
    clippy::too_many_arguments,
    reason = "one row of the tables below, in the order of their columns"
)]
const fn op(
    method: &'static str,
    verb: &'static str,
    word: &'static str,
    action: &'static str,
    parameters: &'static [Parameter],
    body: Option<Body>,
    answer: Answer,
    does: &'static str,
) -> Operation {
    Operation {
        method,
        verb,
        word,
        action,
        parameters,
        body,
        answer,
        does,
    }
}

const COLLECTION: &[Operation] = &[
    op(
        "get",
        "list",
        "list",
        "list",
        LIST,
        None,
        Answer::List,
        "list or watch objects of kind",
    ),
    op(
        "post",
        "create",
        "create",
        "post",
        WRITE,
        Some(Body::Object),
        Answer::Created,
        "create a",
    ),
    op(
        "delete",
        "deletecollection",
        "deleteCollection",
        "deletecollection",
        DELETE_MANY,
        Some(Body::DeleteOptions),
        Answer::Status,
        "delete a collection of",
    ),
];
const ITEM: &[Operation] = &[
    op(
        "get",
        "get",
        "read",
        "get",
        &[],
        None,
        Answer::Object,
        "read the specified",
    ),
    op(
        "put",
        "update",
        "replace",
        "put",
        WRITE,
        Some(Body::Object),
        Answer::Created,
        "replace the specified",
    ),
    op(
        "patch",
        "patch",
        "patch",
        "patch",
        PATCH,
        Some(Body::Patch),
        Answer::Created,
        "partially update the specified",
    ),
    op(
        "delete",
        "delete",
        "delete",
        "delete",
        DELETE,
        Some(Body::DeleteOptions),
        Answer::Status,
        "delete a",
    ),
];

/// A reference to a definition.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The definition of a type of `meta/v1`.
pub(super) fn meta(name: &str) -> String {
    format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")
}

/// Adds all paths of a resource.
pub(super) fn add(info: &ResourceInfo, names: &Names, paths: &mut Map<String, Value>) {
    let root = match info.group.is_empty() {
        true => format!("/api/{}", info.version),
        false => format!("/apis/{}/{}", info.group, info.version),
    };
    let scope = if info.namespaced {
        format!("{root}/namespaces/{{namespace}}")
    } else {
        root.clone()
    };
    let mut path = |path: String, operations: &[Operation], below: &str, verbs: &[&str], everywhere: bool| {
        let served = operations
            .iter()
            .filter(|op| verbs.contains(&op.verb) && (!everywhere || op.verb == "list"));
        let mut item = Map::new();
        for op in served {
            item.insert(
                op.method.to_owned(),
                operation(op, info, names, below, everywhere),
            );
        }
        if !item.is_empty() {
            item.insert("parameters".to_owned(), path_parameters(&path, &info.kind));
            paths.insert(path, item.into());
        }
    };
    path(
        format!("{scope}/{}", info.plural),
        COLLECTION,
        "",
        info.verbs,
        false,
    );
    path(
        format!("{scope}/{}/{{name}}", info.plural),
        ITEM,
        "",
        info.verbs,
        false,
    );
    for (name, verbs) in crate::discovery::subresources(info) {
        path(
            format!("{scope}/{}/{{name}}/{name}", info.plural),
            ITEM,
            name,
            verbs,
            false,
        );
    }
    if info.namespaced {
        path(
            format!("{root}/{}", info.plural),
            COLLECTION,
            "",
            info.verbs,
            true,
        );
    }
}

fn operation(op: &Operation, info: &ResourceInfo, names: &Names, below: &str, everywhere: bool) -> Value {
    let parameters: Vec<Value> = op.parameters.iter().map(query_parameter).collect();
    let mut operation = json!({
        "tags": [tag(info)],
        "description": match below {
            "" => format!("{} {}", op.does, info.kind),
            below => format!("{} {below} of {}", op.does, info.kind),
        },
        "operationId": operation_id(op, info, below, everywhere),
        "parameters": parameters,
        "responses": responses(op, names),
        "x-kubernetes-action": op.action,
        "x-kubernetes-group-version-kind": {"group": info.group, "version": info.version, "kind": info.kind},
    });
    if let Some(body) = op.body {
        operation["requestBody"] = request_body(body, info, names);
    }
    operation
}

fn query_parameter((name, kind, doc): &Parameter) -> Value {
    json!({"name": name, "in": "query", "description": doc, "schema": {"type": kind, "uniqueItems": true}})
}

fn path_parameters(path: &str, kind: &str) -> Value {
    let one = |name: &str, doc: String| json!({"name": name, "in": "path", "description": doc, "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut all = Vec::new();
    if path.contains("{name}") {
        all.push(one("name", format!("name of the {kind}")));
    }
    if path.contains("{namespace}") {
        all.push(one(
            "namespace",
            "object name and auth scope, such as for teams and projects".to_owned(),
        ));
    }
    all.push(query_parameter(&PRETTY));
    all.into()
}

fn content(types: &[&str], schema: &Value) -> Value {
    types
        .iter()
        .map(|&media| (media.to_owned(), json!({"schema": schema})))
        .collect::<Map<_, _>>()
        .into()
}

fn request_body(body: Body, info: &ResourceInfo, names: &Names) -> Value {
    const PATCHES: &[&str] = &[
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    let (types, schema, required) = match body {
        Body::Object => (CONSUMES, names.object.clone(), true),
        // Strategic merge needs the built-in kinds' merge keys.
        Body::Patch if super::schemas::builtin(info).is_none() => (&PATCHES[..2], meta("Patch"), true),
        Body::Patch => (PATCHES, meta("Patch"), true),
        Body::DeleteOptions => (CONSUMES, meta("DeleteOptions"), false),
    };
    json!({"content": content(types, &reference(&schema)), "required": required})
}

fn responses(op: &Operation, names: &Names) -> Value {
    let schema = match op.answer {
        Answer::Object | Answer::Created => reference(&names.object),
        Answer::List => reference(&names.list),
        Answer::Status => reference(&meta("Status")),
    };
    let content = content(PRODUCES, &schema);
    let mut all = json!({
        "200": {"description": "OK", "content": content},
        "401": {"description": "Unauthorized"},
    });
    if matches!(op.answer, Answer::Created) {
        all["201"] = json!({"description": "Created", "content": content});
    }
    if op.method == "post" || (op.method == "delete" && op.verb == "delete") {
        all["202"] = json!({"description": "Accepted", "content": content});
    }
    all
}

fn tag(info: &ResourceInfo) -> String {
    let group = group_word(info);
    let mut chars = group.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    format!(
        "{}{}_{}",
        first.into_iter().collect::<String>(),
        chars.as_str(),
        info.version
    )
}

/// Upstream's ids: `listCoreV1NamespacedConfigMap`, `readDemoExampleV1NamespacedSiteStatus`.
fn operation_id(op: &Operation, info: &ResourceInfo, below: &str, everywhere: bool) -> String {
    let (word, infix) = match op.word {
        "deleteCollection" => ("delete", "Collection"),
        word => (word, ""),
    };
    let scope = if info.namespaced && !everywhere {
        "Namespaced"
    } else {
        ""
    };
    let tail = if everywhere { "ForAllNamespaces" } else { "" };
    let (group, version, below) = (group_word(info), camel(&info.version), camel(below));
    format!("{word}{group}{version}{infix}{scope}{}{below}{tail}", info.kind)
}

/// `coordination.k8s.io` → `Coordination`, `demo.example` → `DemoExample`, core → `Core`.
fn group_word(info: &ResourceInfo) -> String {
    match &*info.group {
        "" => "Core".to_owned(),
        group => camel(group.strip_suffix(".k8s.io").unwrap_or(group)),
    }
}

fn camel(text: &str) -> String {
    text.split(['.', '-'])
        .map(|part| {
            let mut chars = part.chars();
            chars
                .next()
                .map(|c| c.to_ascii_uppercase())
                .into_iter()
                .chain(chars)
                .collect::<String>()
        })
        .collect()
}
