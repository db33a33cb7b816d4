//! The definitions and example objects of cert-manager, Gateway API, KEDA and the Prometheus operator.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use setpoint_apimachinery::kinds::{CUSTOM_RESOURCE_DEFINITION, components};
use setpoint_apimachinery::schema::{Structural, duplicate_fields};
use setpoint_apimachinery::table::{Column, cells};
use setpoint_apimachinery::{Encoded, encode};

/// Examples that their own definitions refuse.
const KNOWN_INVALID: &[&str] = &[
    "keda__keda_v1alpha1_scaledjob.yaml: spec.jobTargetRef.template: Required value",
    "prometheus-operator__user-guides__scrapeclass__scrapeclass-example-podmonitor.yaml: spec.selector: Required value",
    "prometheus-operator__user-guides__scrapeclass__scrapeclass-example-servicemonitor.yaml: spec.selector: Required value",
];

fn corpus() -> Option<PathBuf> {
    let root = std::env::var_os("SETPOINT_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"),
        PathBuf::from,
    );
    if root.is_dir() {
        return Some(root);
    }
    eprintln!("skipped: the corpus is not here");
    None
}

fn documents(folder: &Path) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let all: Vec<Value> =
            serde_saphyr::from_str_multiple(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.extend(all.into_iter().map(|value| (name.clone(), value)));
    }
    found
}

/// Read once: three megabytes of YAML take seconds in a debug build.
fn definitions(root: &Path) -> &'static [(String, Value)] {
    static ALL: OnceLock<Vec<(String, Value)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = documents(&root.join("crds"));
        all.retain(|(_, value)| value["kind"] == "CustomResourceDefinition");
        all
    })
}

/// Schema and version by `apiVersion` and kind.
type Schemas = BTreeMap<(String, String), (Structural, Value)>;

fn schemas(root: &Path) -> &'static Schemas {
    static ALL: OnceLock<Schemas> = OnceLock::new();
    ALL.get_or_init(|| parse_all(root))
}

fn parse_all(root: &Path) -> Schemas {
    let mut schemas = BTreeMap::new();
    for (name, definition) in definitions(root) {
        let spec = &definition["spec"];
        for version in spec["versions"].as_array().unwrap() {
            let schema = Structural::parse(&version["schema"]["openAPIV3Schema"])
                .unwrap_or_else(|causes| panic!("{name}: {causes:#?}"));
            let api_version = format!(
                "{}/{}",
                spec["group"].as_str().unwrap(),
                version["name"].as_str().unwrap()
            );
            let kind = spec["names"]["kind"].as_str().unwrap().to_owned();
            schemas.insert((api_version, kind), (schema, version.clone()));
        }
    }
    schemas
}

#[test]
fn every_definition_is_valid_and_has_a_structural_schema() {
    let Some(root) = corpus() else { return };
    let definitions = definitions(&root);
    assert!(definitions.len() >= 32, "only {} definitions", definitions.len());
    for (name, definition) in definitions {
        let mut definition = definition.clone();
        let kind = CUSTOM_RESOURCE_DEFINITION.structural();
        assert_eq!(kind.prune(&mut definition), Vec::<String>::new(), "{name}");
        assert_eq!(kind.validate(&definition), [], "{name}");
    }
    assert!(schemas(&root).len() >= 32);
}

#[test]
fn every_object_is_valid_after_pruning_and_defaults() {
    let Some(root) = corpus() else { return };
    let schemas = schemas(&root);
    let (mut checked, mut invalid) = (0, Vec::new());
    for (name, object) in documents(&root.join("objects")) {
        let key = (
            object["apiVersion"].as_str().unwrap_or_default().to_owned(),
            object["kind"].as_str().unwrap_or_default().to_owned(),
        );
        let Some((schema, version)) = schemas.get(&key) else {
            continue;
        };
        let mut value = object.clone();
        assert_eq!(schema.prune(&mut value), Vec::<String>::new(), "{name}");
        assert_eq!(
            duplicate_fields(value.to_string().as_bytes()),
            Vec::<String>::new()
        );
        schema.default(&mut value);
        let causes: Vec<String> = schema.validate(&value).iter().map(ToString::to_string).collect();
        invalid.extend(causes.into_iter().map(|cause| format!("{name}: {cause}")));
        let encoded = Encoded::stored(encode(value.as_object().unwrap()), 7, None).unwrap();
        let columns = Column::custom_columns(version.get("additionalPrinterColumns"));
        assert_eq!(
            cells(&columns, &encoded, "2024-01-01T00:00:00Z".parse().unwrap()).len(),
            columns.len()
        );
        checked += 1;
    }
    invalid.sort();
    assert_eq!(invalid, KNOWN_INVALID);
    assert!(checked >= 100, "only {checked} objects");
}

#[test]
fn planted_errors_are_found() {
    let Some(root) = corpus() else { return };
    let schemas = schemas(&root);
    let get = |api_version: &str, kind: &str| &schemas[&(api_version.to_owned(), kind.to_owned())].0;
    let route = get("gateway.networking.k8s.io/v1", "HTTPRoute");
    let mut value = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "n"},
        "spec": {
            "hostnames": ["*.Example.com"],
            "surprise": true,
            "rules": [{"matches": [{"path": {"type": "Guess", "value": "/"}}], "backendRefs": [{"port": 70000}]}],
        },
    });
    assert_eq!(route.prune(&mut value), ["spec.surprise"]);
    route.default(&mut value);
    let texts: Vec<String> = route.validate(&value).iter().map(ToString::to_string).collect();
    for expect in [
        "spec.hostnames[0]: Invalid value: \"*.Example.com\": spec.hostnames[0] in body should match",
        "spec.rules[0].matches[0].path.type: Unsupported value: \"Guess\": supported values: \"Exact\", \"PathPrefix\", \"RegularExpression\"",
        "spec.rules[0].backendRefs[0].port: Invalid value: 70000: spec.rules[0].backendRefs[0].port in body should be less than or equal to 65535",
        "spec.rules[0].backendRefs[0].name: Required value",
    ] {
        assert!(
            texts.iter().any(|text| text.starts_with(expect)),
            "{expect}\nnot in {texts:#?}"
        );
    }
    assert_eq!(
        value["spec"]["rules"][0]["backendRefs"][0]["kind"], "Service",
        "a default was filled in"
    );

    let certificate = get("cert-manager.io/v1", "Certificate");
    let value = json!({"metadata": {"name": "c"}, "spec": {"secretName": 5, "dnsNames": "a"}});
    let fields: Vec<String> = certificate
        .validate(&value)
        .into_iter()
        .map(|cause| cause.field)
        .collect();
    assert_eq!(fields, ["spec.issuerRef", "spec.dnsNames", "spec.secretName"]);
}

#[test]
fn openapi_of_the_built_ins_is_small_and_complete() {
    let all = components(setpoint_apimachinery::kinds::TOP_LEVEL);
    let bytes: usize = all.values().map(|schema| schema.to_string().len()).sum();
    assert!(
        all.len() > 30 && bytes < 60_000,
        "{} schemas, {bytes} bytes",
        all.len()
    );
}
