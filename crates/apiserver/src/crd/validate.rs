//! What makes a definition acceptable
//! (apiextensions-apiserver `pkg/apis/apiextensions/validation/validation.go`).

use serde_json::Value;
use setpoint_apimachinery::{Cause, Object, names};

use super::definition::{Names, schema_causes};
use crate::object::{self, text_at};

/// Groups that belong to the Kubernetes project need an annotation.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Everything that is wrong with a definition.
pub(crate) fn validate(new: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let Some(spec) = new.get("spec").and_then(Value::as_object) else {
        return vec![Cause::required("spec", "")];
    };
    let group = text_at(new, &["spec", "group"]).unwrap_or_default();
    let names = Names::read(spec.get("names"));
    let wanted = format!("{}.{group}", names.plural);
    if object::name(new) != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        causes.push(Cause::invalid(
            "metadata.name",
            &Value::from(object::name(new)),
            why,
        ));
    }
    check_group(new, group, &mut causes);
    check_scope(spec, &mut causes);
    check_names(&names, &mut causes);
    check_versions(spec, &mut causes);
    check_conversion(spec, &mut causes);
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        causes.push(Cause::invalid(
            "spec.preserveUnknownFields",
            &Value::Bool(true),
            why,
        ));
    }
    if let Some(old) = old {
        check_update(new, old, &mut causes);
    }
    causes
}

fn check_group(new: &Object, group: &str, causes: &mut Vec<Cause>) {
    let value = Value::from(group);
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
        return;
    }
    for why in names::subdomain(group) {
        causes.push(Cause::invalid("spec.group", &value, &why));
    }
    if !group.contains('.') {
        causes.push(Cause::invalid(
            "spec.group",
            &value,
            "should be a domain with at least one dot",
        ));
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")));
    let approval = text_at(new, &["metadata", "annotations", APPROVED]).unwrap_or_default();
    if protected && approval.is_empty() {
        causes.push(Cause::required(
            format!("metadata.annotations[{APPROVED}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ));
    }
}

fn check_scope(spec: &Object, causes: &mut Vec<Cause>) {
    match spec.get("scope").and_then(Value::as_str).unwrap_or_default() {
        "Namespaced" | "Cluster" => (),
        "" => causes.push(Cause::required("spec.scope", "")),
        other => {
            let known = ["Cluster", "Namespaced"];
            causes.push(Cause::not_supported("spec.scope", &Value::from(other), &known));
        }
    }
}

fn check_names(names: &Names, causes: &mut Vec<Cause>) {
    let mut label = |field: &str, text: &str, needed: bool| {
        let path = format!("spec.names.{field}");
        if text.is_empty() {
            if needed {
                causes.push(Cause::required(path, ""));
            }
            return;
        }
        let lower = text.to_ascii_lowercase();
        let text_to_check = if matches!(field, "kind" | "listKind") {
            &lower
        } else {
            text
        };
        for why in names::dns1035_label(text_to_check) {
            let why = match field {
                "kind" | "listKind" => format!("may have mixed case, but should otherwise match: {why}"),
                _ => why,
            };
            causes.push(Cause::invalid(path.clone(), &Value::from(text), &why));
        }
    };
    label("plural", &names.plural, true);
    label("singular", &names.singular, false);
    label("kind", &names.kind, true);
    label("listKind", &names.list_kind, false);
    for (at, short) in names.short_names.iter().enumerate() {
        label(&format!("shortNames[{at}]"), short, true);
    }
    for (at, category) in names.categories.iter().enumerate() {
        label(&format!("categories[{at}]"), category, true);
    }
    if !names.kind.is_empty() && names.kind == names.list_kind {
        let why = "kind and listKind may not be the same";
        causes.push(Cause::invalid(
            "spec.names.listKind",
            &Value::from(names.list_kind.as_str()),
            why,
        ));
    }
}

fn check_versions(spec: &Object, causes: &mut Vec<Cause>) {
    let versions: Vec<&Value> = spec
        .get("versions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    let name_of = |version: &Value| version["name"].as_str().unwrap_or_default().to_owned();
    let all: Vec<String> = versions.iter().map(|v| name_of(v)).collect();
    let list = Value::from(all.clone());
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        causes.push(Cause::invalid("spec.versions", &list, why));
    }
    if all.iter().enumerate().any(|(at, name)| all[..at].contains(name)) {
        causes.push(Cause::invalid(
            "spec.versions",
            &list,
            "must contain unique version names",
        ));
    }
    let schema = |version: &Value| version.pointer("/schema/openAPIV3Schema").cloned();
    // Upstream keeps a schema that all versions share in one place, and names that place in its errors.
    let shared = versions.iter().all(|v| schema(v) == schema(versions[0]));
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        for why in names::dns1035_label(&all[at]) {
            causes.push(Cause::invalid(
                format!("{path}.name"),
                &Value::from(all[at].as_str()),
                &why,
            ));
        }
        check_version_parts(version, &path, causes);
        let path = if shared {
            "spec.validation".to_owned()
        } else {
            format!("{path}.schema")
        };
        let path = format!("{path}.openAPIV3Schema");
        match schema(version) {
            None => causes.push(Cause::required(path, "schemas are required")),
            Some(schema) if !shared || at == 0 => causes.extend(schema_causes(&schema, &path).0),
            Some(_) => (),
        }
    }
}

fn check_version_parts(version: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (at, column) in version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let path = format!("{path}.additionalPrinterColumns[{at}]");
        for field in ["name", "type", "jsonPath"] {
            if column[field].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required(format!("{path}.{field}"), ""));
            }
        }
        let known = ["boolean", "date", "integer", "number", "string"];
        let kind = column["type"].as_str().unwrap_or_default();
        if !kind.is_empty() && !known.contains(&kind) {
            causes.push(Cause::not_supported(
                format!("{path}.type"),
                &Value::from(kind),
                &known,
            ));
        }
    }
    if let Some(scale) = version.pointer("/subresources/scale") {
        for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
            let path = format!("{path}.subresources.scale.{field}");
            let said = scale[field].as_str().unwrap_or_default();
            if said.is_empty() {
                causes.push(Cause::required(path, ""));
            } else if !said.starts_with(root) {
                let why = format!("should be a json path under {}", &root[..root.len() - 1]);
                causes.push(Cause::invalid(path, &Value::from(said), &why));
            }
        }
    }
    let selectable = version["selectableFields"].as_array().map_or(0, Vec::len);
    if selectable > 8 {
        causes.push(Cause::too_many(format!("{path}.selectableFields"), selectable, 8));
    }
}

/// One version needs no conversion; several are converted by renaming `apiVersion` alone.
fn check_conversion(spec: &Object, causes: &mut Vec<Cause>) {
    let strategy = spec
        .get("conversion")
        .and_then(|c| c.get("strategy")?.as_str())
        .unwrap_or("None");
    let several = spec
        .get("versions")
        .and_then(Value::as_array)
        .is_some_and(|v| v.len() > 1);
    match strategy {
        "None" => (),
        "Webhook" if !several => (),
        other => {
            causes.push(Cause::not_supported(
                "spec.conversion.strategy",
                &Value::from(other),
                &["None"],
            ));
        }
    }
}

fn check_update(new: &Object, old: &Object, causes: &mut Vec<Cause>) {
    let mut fixed = |path: &[&str]| {
        let (before, after) = (
            text_at(old, path).unwrap_or_default(),
            text_at(new, path).unwrap_or_default(),
        );
        if before != after {
            causes.push(Cause::invalid(
                path.join("."),
                &Value::from(after),
                "field is immutable",
            ));
        }
    };
    fixed(&["spec", "group"]);
    fixed(&["spec", "names", "plural"]);
    if super::status::is_true(old, "Established") {
        fixed(&["spec", "scope"]);
        fixed(&["spec", "names", "kind"]);
    }
    let versions = new.get("spec").and_then(|spec| spec.get("versions")?.as_array());
    let versions: Vec<_> = versions
        .into_iter()
        .flatten()
        .filter_map(|v| v["name"].as_str())
        .collect();
    let stored = old
        .get("status")
        .and_then(|status| status.get("storedVersions")?.as_array());
    for (at, version) in stored.into_iter().flatten().filter_map(Value::as_str).enumerate() {
        if !versions.contains(&version) {
            let why = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
            );
            causes.push(Cause::invalid(
                format!("status.storedVersions[{at}]"),
                &Value::from(version),
                &why,
            ));
        }
    }
}
