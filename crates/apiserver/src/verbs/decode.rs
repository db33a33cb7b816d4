//! Request bodies: JSON, YAML or Kubernetes protobuf into an object, with what nobody knows taken out.

use http::header;
use serde_json::Value;
use setpoint_apimachinery::schema::{duplicate_fields, unknown_fields};
use setpoint_apimachinery::{Cause, Gvk, Object, Status, transcode};

use super::{Call, FieldValidation};
use crate::object;

/// What bodies of objects may be.
const OBJECT_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
];

impl Call {
    /// The media type of the body without parameters; JSON if none is said.
    pub(super) fn media_type(&self) -> &str {
        let said = self
            .head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        said.and_then(|text| text.split(';').next())
            .map_or("application/json", str::trim)
    }

    /// The object in the body, of this resource's kind, pruned.
    ///
    /// # Errors
    /// 415 for another media type, 400 for what does not parse, is another kind, or has fields nobody
    /// knows under `Strict`.
    pub(super) fn decode_object(&mut self, validation: FieldValidation) -> Result<Object, Status> {
        let (value, mut problems) = self.decode_value(validation)?;
        let Value::Object(mut object) = value else {
            return Err(self.unrecognized("json parse error: the body is not an object"));
        };
        self.check_kind(&mut object)?;
        self.check_meta_types(&object)?;
        problems.extend(self.prune(&mut object));
        self.report(problems, validation)?;
        if self.info.is_definitions() {
            self.warnings.extend(crate::crd::warnings(&object));
        }
        Ok(object)
    }

    /// Drops fields that the schema does not have; their problems in upstream's words.
    pub(super) fn prune(&self, object: &mut Object) -> Vec<String> {
        unknown_fields(&self.info.schema.prune(object))
    }

    /// Refuses, warns or stays silent about unknown and duplicate fields.
    fn report(&mut self, mut problems: Vec<String>, validation: FieldValidation) -> Result<(), Status> {
        problems.sort();
        match validation {
            _ if problems.is_empty() => Ok(()),
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                self.warnings.extend(problems);
                Ok(())
            }
            FieldValidation::Strict => Err(Status::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {kind}: strict decoding error: {}",
                self.info.version,
                problems.join(", "),
                kind = self.info.kind
            ))),
        }
    }

    fn decode_value(&self, validation: FieldValidation) -> Result<(Value, Vec<String>), Status> {
        match self.media_type() {
            "application/json" => {
                let value = serde_json::from_slice(&self.body)
                    .map_err(|error| self.unrecognized(&format!("json parse error: {error}")))?;
                let duplicates = match validation {
                    FieldValidation::Ignore => Vec::new(),
                    _ => duplicate_fields(&self.body),
                };
                Ok((value, duplicates))
            }
            "application/yaml" => {
                let text = std::str::from_utf8(&self.body)
                    .map_err(|error| self.unrecognized(&format!("yaml parse error: {error}")))?;
                let value = crate::yaml::parse(text)
                    .map_err(|error| self.unrecognized(&format!("yaml parse error: {error}")))?;
                Ok((value, Vec::new()))
            }
            "application/vnd.kubernetes.protobuf" if self.info.is_builtin() => {
                let object = transcode::decode(&self.body)
                    .map_err(|error| self.unrecognized(&format!("protobuf parse error: {error}")))?;
                Ok((Value::Object(object), Vec::new()))
            }
            _ if self.info.is_builtin() => Err(Status::unsupported_media_type(OBJECT_TYPES)),
            _ => Err(Status::unsupported_media_type(&OBJECT_TYPES[..2])),
        }
    }

    fn unrecognized(&self, why: &str) -> Status {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; {why}",
            self.info.kind
        ))
    }

    /// Absent `apiVersion` and `kind` are filled in; others must be those of the path.
    fn check_kind(&self, object: &mut Object) -> Result<(), Status> {
        let wanted = self.info.api_version();
        let said = object
            .get("apiVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        if !kind.is_empty() && kind != &*self.info.kind {
            return Err(Status::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {}: the kind in the data ({kind}) does not match the expected kind ({})",
                Gvk::from_api_version(said, kind).version,
                self.info.kind,
                self.info.kind
            )));
        }
        if !said.is_empty() && said != wanted {
            return Err(Status::bad_request(format!(
                "the API version in the data ({said}) does not match the expected API version ({wanted})"
            )));
        }
        object.insert("apiVersion".to_owned(), Value::String(wanted));
        object.insert("kind".to_owned(), Value::String(self.info.kind.to_string()));
        Ok(())
    }

    /// Metadata that everything below reads must have the right types.
    pub(super) fn check_meta_types(&self, object: &Object) -> Result<(), Status> {
        let Some(metadata) = object.get("metadata") else {
            return Ok(());
        };
        let texts = [
            "name",
            "generateName",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
        ];
        let wrong = match metadata {
            Value::Null => None,
            Value::Object(fields) => {
                let is_text =
                    |field: &str| matches!(fields.get(field), None | Some(Value::Null | Value::String(_)));
                let map = |field: &str| match fields.get(field) {
                    None | Some(Value::Null) => true,
                    Some(Value::Object(map)) => map.values().all(|v| v.is_string() || v.is_null()),
                    Some(_) => false,
                };
                let list = |field: &str, ok: fn(&Value) -> bool| match fields.get(field) {
                    None | Some(Value::Null) => true,
                    Some(Value::Array(list)) => list.iter().all(ok),
                    Some(_) => false,
                };
                let mut checks = texts
                    .iter()
                    .map(|field| (*field, is_text(field)))
                    .collect::<Vec<_>>();
                checks.push(("labels", map("labels")));
                checks.push(("annotations", map("annotations")));
                checks.push(("finalizers", list("finalizers", Value::is_string)));
                checks.push(("ownerReferences", list("ownerReferences", Value::is_object)));
                checks
                    .into_iter()
                    .find(|(_, ok)| !ok)
                    .map(|(field, _)| format!("metadata.{field}"))
            }
            _ => Some("metadata".to_owned()),
        };
        match wrong {
            None => Ok(()),
            Some(field) => Err(Status::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {kind}: {field} has the wrong type",
                self.info.version,
                kind = self.info.kind
            ))),
        }
    }

    /// 422 with causes about this kind.
    pub(super) fn invalid(&self, name: &str, causes: Vec<Cause>) -> Status {
        Status::invalid(&self.info.gvk(), name, causes)
    }

    /// The finished object against schema and rules.
    ///
    /// # Errors
    /// 422 with every cause.
    pub(super) fn check_valid(&self, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        let causes = crate::strategy::validate(&self.info, new, old);
        if causes.is_empty() {
            return Ok(());
        }
        Err(self.invalid(object::name(new), causes))
    }
}

/// 422 for an option with a word that it does not have.
pub(super) fn unsupported_option(call: &Call, option: &str, value: &str, known: &[&str]) -> Status {
    let kind = match call.head.method {
        http::Method::POST => "CreateOptions",
        http::Method::PUT => "UpdateOptions",
        http::Method::PATCH => "PatchOptions",
        _ => "DeleteOptions",
    };
    let cause = Cause::not_supported(option, &Value::String(value.to_owned()), known);
    Status::invalid(&Gvk::new("meta.k8s.io", "v1", kind), "", vec![cause])
}
