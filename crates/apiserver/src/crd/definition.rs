//! One custom resource definition, read once; its versions' schemas are parsed when first needed.

use std::sync::{Arc, OnceLock};

use serde_json::Value;
use setpoint_apimachinery::schema::Structural;
use setpoint_apimachinery::{Cause, Encoded, Object};

use crate::object::{self, text_at};
use crate::schema::edit;
use crate::storage::Defaults;

/// JSON paths of the scale subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// One version of a custom resource.
#[derive(Debug)]
pub(crate) struct CrdVersion {
    /// Such as `v1alpha1`.
    pub(crate) name: String,
    /// Whether requests may use it.
    pub(crate) served: bool,
    /// Whether objects are stored in it.
    pub(crate) storage: bool,
    /// The text of a `Warning` header for each request; deprecated versions have one.
    pub(crate) deprecation_warning: Option<String>,
    /// Whether `/status` is served.
    pub(crate) status: bool,
    /// `/scale`, if served.
    pub(crate) scale: Option<ScalePaths>,
    /// `additionalPrinterColumns` as in the definition.
    pub(crate) columns: Vec<Value>,
    /// JSON paths of `selectableFields`, without the leading dot.
    pub(crate) selectable: Vec<Box<str>>,
    /// The definition, for the schema's text.
    definition: Encoded,
    /// Place among the definition's versions.
    at: usize,
    schema: OnceLock<Arc<Structural>>,
}

impl CrdVersion {
    /// The parsed schema. A definition was refused when its schema does not parse, so one that is stored does;
    /// if it was put there past the API server, nothing is known about its fields and all are kept.
    pub(crate) fn schema(&self) -> &Arc<Structural> {
        self.schema.get_or_init(|| {
            let parsed = self
                .openapi()
                .and_then(|schema| Structural::parse_at(&schema, "").ok());
            let anything = || {
                let schema =
                    serde_json::json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
                Structural::parse_at(&schema, "").expect("the schema that keeps everything is structural")
            };
            Arc::new(parsed.unwrap_or_else(anything))
        })
    }

    /// `openAPIV3Schema` as it was written, decoded anew.
    pub(crate) fn openapi(&self) -> Option<Value> {
        let object = self.definition.decode().ok()?;
        let version = object.get("spec")?.get("versions")?.get(self.at)?;
        version.pointer("/schema/openAPIV3Schema").cloned()
    }
}

impl Defaults for CrdVersion {
    fn any(&self) -> bool {
        self.schema().has_defaults()
    }

    fn fill(&self, object: &mut Object) -> bool {
        let before = object.clone();
        edit(object, |value| self.schema().default(value));
        *object != before
    }
}

/// A definition as far as serving needs it.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) group: String,
    pub(crate) names: Names,
    pub(crate) namespaced: bool,
    pub(crate) versions: Vec<Arc<CrdVersion>>,
    pub(crate) deleting: bool,
    /// Whether its names were accepted once and it may be served.
    pub(crate) established: bool,
    pub(crate) created: String,
}

/// The names of a custom resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Names {
    /// Reads `spec.names`, or `status.acceptedNames`.
    pub(crate) fn read(value: Option<&Value>) -> Self {
        let text = |field: &str| {
            let found = value.and_then(|value| value.get(field)?.as_str());
            found.unwrap_or_default().to_owned()
        };
        let list = |field: &str| texts(value.and_then(|value| value.get(field)));
        Self {
            plural: text("plural"),
            singular: text("singular"),
            kind: text("kind"),
            list_kind: text("listKind"),
            short_names: list("shortNames"),
            categories: list("categories"),
        }
    }
}

impl Definition {
    /// Reads a definition.
    pub(crate) fn read(encoded: &Encoded) -> Option<Self> {
        let object = encoded.decode().ok()?;
        let spec = object.get("spec")?;
        let versions = spec.get("versions")?.as_array()?.iter().enumerate();
        let kind = text_at(&object, &["spec", "names", "kind"])?;
        let group = text_at(&object, &["spec", "group"])?;
        Some(Self {
            name: object::name(&object).to_owned(),
            uid: object::meta_text(&object, "uid").to_owned(),
            generation: object::generation(&object),
            group: group.to_owned(),
            names: Names::read(spec.get("names")),
            namespaced: text_at(&object, &["spec", "scope"]) == Some("Namespaced"),
            versions: versions
                .map(|(at, version)| Arc::new(read_version(group, kind, version, at, encoded)))
                .collect(),
            deleting: object::deleting(&object),
            established: super::status::is_true(&object, "Established"),
            created: object::meta_text(&object, "creationTimestamp").to_owned(),
        })
    }

    /// The version that objects are stored in.
    pub(crate) fn stored(&self) -> Option<&Arc<CrdVersion>> {
        self.versions.iter().find(|version| version.storage)
    }
}

fn read_version(group: &str, kind: &str, version: &Value, at: usize, definition: &Encoded) -> CrdVersion {
    let flag = |field: &str| version.get(field).and_then(Value::as_bool).unwrap_or(false);
    let name = version
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let deprecation_warning = flag("deprecated").then(|| {
        let said = version.get("deprecationWarning").and_then(Value::as_str);
        said.map_or_else(|| format!("{group}/{name} {kind} is deprecated"), str::to_owned)
    });
    let scale = version.pointer("/subresources/scale").map(|scale| {
        let text = |field: &str| scale.get(field).and_then(Value::as_str).map(str::to_owned);
        ScalePaths {
            spec_replicas: text("specReplicasPath").unwrap_or_default(),
            status_replicas: text("statusReplicasPath").unwrap_or_default(),
            label_selector: text("labelSelectorPath"),
        }
    });
    let list = |field: &str| {
        version
            .get(field)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let selectable = list("selectableFields");
    let selectable = selectable
        .iter()
        .filter_map(|field| field.get("jsonPath")?.as_str());
    CrdVersion {
        served: flag("served"),
        storage: flag("storage"),
        deprecation_warning,
        status: version.pointer("/subresources/status").is_some(),
        scale,
        columns: list("additionalPrinterColumns"),
        selectable: selectable
            .map(|path| path.trim_start_matches('.').into())
            .collect(),
        definition: definition.clone(),
        at,
        name,
        schema: OnceLock::new(),
    }
}

/// What is wrong with a schema, whose place in the definition is `at`, and what its author should know.
pub(crate) fn schema_causes(schema: &Value, at: &str) -> (Vec<Cause>, Vec<String>) {
    match Structural::parse_at(schema, at) {
        Ok(parsed) => (Vec::new(), parsed.warnings().to_vec()),
        Err(causes) => (causes, Vec::new()),
    }
}
