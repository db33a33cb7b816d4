//! ConfigMaps and Secrets (kubernetes `pkg/apis/core/validation/validation.go`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use setpoint_apimachinery::{Cause, Object, names};

use crate::object::{self, map_of};

/// Largest sum of values, in bytes.
const DATA_BYTES_MAX: usize = 1 << 20;

fn entries<'a>(object: &'a Object, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

fn check_keys(object: &Object, field: &str) -> Vec<Cause> {
    entries(object, field)
        .flat_map(|(key, _)| {
            let value = Value::from(key.as_str());
            let path = format!("{field}[{key}]");
            names::config_map_key(key)
                .into_iter()
                .map(move |why| Cause::invalid(path.clone(), &value, &why))
        })
        .collect()
}

/// Bytes behind base64 texts; a cause for each that is none.
fn decoded_size(object: &Object, field: &str, causes: &mut Vec<Cause>) -> usize {
    let mut size = 0;
    for (key, value) in entries(object, field) {
        match value.as_str().map(|text| STANDARD.decode(text)) {
            Some(Ok(bytes)) => size += bytes.len(),
            None if value.is_null() => (),
            _ => causes.push(Cause::invalid(
                format!("{field}[{key}]"),
                &Value::from("<value omitted>"),
                "must be base64 encoded",
            )),
        }
    }
    size
}

fn immutable(object: Option<&Object>) -> bool {
    object.is_some_and(|object| object.get("immutable") == Some(&Value::Bool(true)))
}

/// An immutable object keeps its content, and stays immutable.
fn check_immutable(new: &Object, old: Option<&Object>, fields: &[&str]) -> Vec<Cause> {
    let Some(old) = old.filter(|old| immutable(Some(old))) else {
        return Vec::new();
    };
    let why = "field is immutable when `immutable` is set";
    let mut causes = Vec::new();
    if !immutable(Some(new)) {
        causes.push(Cause::forbidden("immutable", why));
    }
    let content = |object: &Object, field: &str| {
        object
            .get(field)
            .filter(|v| v.as_object().is_some_and(|m| !m.is_empty()))
            .cloned()
    };
    for field in fields {
        if content(new, field) != content(old, field) {
            causes.push(Cause::forbidden(*field, why));
        }
    }
    causes
}

pub(super) fn validate_config_map(new: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = check_keys(new, "data");
    for (key, _) in entries(new, "data") {
        if entries(new, "binaryData").any(|(other, _)| other == key) {
            let why = "duplicate of key present in binaryData";
            causes.push(Cause::invalid(
                format!("data[{key}]"),
                &Value::from(key.as_str()),
                why,
            ));
        }
    }
    causes.extend(check_keys(new, "binaryData"));
    let texts: usize = entries(new, "data")
        .filter_map(|(_, v)| v.as_str())
        .map(str::len)
        .sum();
    if texts + decoded_size(new, "binaryData", &mut causes) > DATA_BYTES_MAX {
        causes.push(Cause::too_long("", DATA_BYTES_MAX));
    }
    causes.extend(check_immutable(new, old, &["data", "binaryData"]));
    causes
}

/// `stringData` goes into `data`; the type is `Opaque` unless said.
pub(super) fn prepare_secret(new: &mut Object) {
    if let Some(Value::Object(texts)) = new.remove("stringData") {
        let data = map_of(new, "data");
        for (key, value) in texts {
            // What is neither text nor null stays as it is: the check of `data` refuses it.
            let encoded = match &value {
                Value::String(text) => STANDARD.encode(text).into(),
                Value::Null => Value::from(""),
                _ => value,
            };
            data.insert(key, encoded);
        }
    }
    if new
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .is_empty()
    {
        new.insert("type".to_owned(), Value::from("Opaque"));
    }
}

pub(super) fn validate_secret(new: &Object, old: Option<&Object>) -> Vec<Cause> {
    let mut causes = check_keys(new, "data");
    if decoded_size(new, "data", &mut causes) > DATA_BYTES_MAX {
        causes.push(Cause::too_long("data", DATA_BYTES_MAX));
    }
    let kind = new.get("type").and_then(Value::as_str).unwrap_or_default();
    let has = |key: &str| entries(new, "data").any(|(k, _)| k == key);
    let needed: &[&str] = match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| !has(key)) {
        causes.push(Cause::required(format!("data[{key}]"), ""));
    }
    if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        causes.push(Cause::required("data[username]", ""));
        causes.push(Cause::required("data[password]", ""));
    }
    let account = "kubernetes.io/service-account.name";
    if kind == "kubernetes.io/service-account-token"
        && object::text_at(new, &["metadata", "annotations", account])
            .unwrap_or_default()
            .is_empty()
    {
        causes.push(Cause::required(format!("metadata.annotations[{account}]"), ""));
    }
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        causes.push(Cause::invalid("type", &Value::from(kind), "field is immutable"));
    }
    causes.extend(check_immutable(new, old, &["data"]));
    causes
}
