//! PATCH: JSON patch, merge patch, and strategic merge patch for built-ins.
//!
//! Server-side apply is not served yet: its media types get 415 with a text that says so.

use http::{Response, StatusCode};
use serde_json::Value;
use setpoint_apimachinery::schema::duplicate_fields;
use setpoint_apimachinery::{Cause, Gvk, Object, Status, patch};

use super::update::Updated;
use super::{Call, FieldValidation, Part};
use crate::body::ApiBody;
use crate::object;
use crate::schema::ResourceSchema;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
/// Operations of one JSON patch (apiserver `pkg/endpoints/handlers/patch.go`).
const JSON_PATCH_OPS_MAX: usize = 10_000;

/// A parsed patch.
pub(super) enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Call {
    /// Changes an object, or one part of it.
    pub(super) async fn patch(&mut self, part: Part) -> Result<Response<ApiBody>, Status> {
        let validation = self.field_validation()?;
        let patch = self.read_patch()?;
        let duplicates = match validation {
            FieldValidation::Ignore => Vec::new(),
            _ => duplicate_fields(&self.body),
        };
        let mut warned = Vec::new();
        let updated = self.write_back(part, |old| {
            let mut new = self.apply(&patch, old)?;
            let mut problems = duplicates.clone();
            problems.extend(self.prune(&mut new));
            match validation {
                FieldValidation::Strict if !problems.is_empty() => Err(self.strict_patch(&problems)),
                FieldValidation::Warn => {
                    warned = problems;
                    Ok(new)
                }
                _ => Ok(new),
            }
        });
        let (Updated::Object(object) | Updated::Gone(object)) = updated.await?;
        self.warnings.extend(warned);
        self.object(StatusCode::OK, &object)
    }

    /// The object after the patch.
    ///
    /// # Errors
    /// 422 when the patch does not apply, or changes what the object is.
    fn apply(&self, patch: &Patch, old: &Object) -> Result<Object, Status> {
        let refuse = |why: String| {
            let mut status = Status::invalid(&Gvk::new("", "", ""), "", Vec::new());
            status.message = why;
            status
        };
        let mut value = Value::Object(old.clone());
        match patch {
            Patch::Json(patch) => {
                value = patch::json::apply(&value, patch, JSON_PATCH_OPS_MAX)
                    .map_err(|error| refuse(error.to_string()))?;
            }
            Patch::Merge(patch) => patch::merge::apply(&mut value, patch),
            Patch::Strategic(patch) => {
                let ResourceSchema::Builtin(builtin) = &self.info.schema else {
                    return Err(Status::unsupported_media_type(self.patch_types()));
                };
                patch::strategic::apply(&mut value, patch, builtin.kind)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
            }
        }
        let Value::Object(mut new) = value else {
            return Err(refuse("the patch does not leave an object".to_owned()));
        };
        for field in ["apiVersion", "kind"] {
            if new.get(field) != old.get(field) {
                return Err(Status::bad_request(format!(
                    "the patch changes {field}, which names the kind"
                )));
            }
        }
        self.check_meta_types(&new)?;
        for field in ["name", "namespace"] {
            let (said, real) = (object::meta_text(&new, field), object::meta_text(old, field));
            if said != real {
                let field = format!("metadata.{field}");
                let cause = Cause::invalid(field, &Value::String(said.to_owned()), "field is immutable");
                return Err(self.invalid(&self.path.name, vec![cause]));
            }
        }
        if object::meta_text(&new, "resourceVersion").is_empty() {
            // A patch that takes the version away asks for no check.
            object::set_meta(
                &mut new,
                "resourceVersion",
                object::meta_text(old, "resourceVersion"),
            );
        }
        Ok(new)
    }

    /// 422 for fields that nobody knows, in a patch (`handlers/patch.go`).
    fn strict_patch(&self, problems: &[String]) -> Status {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        let why = format!("strict decoding error: {}", problems.join(", "));
        Status::invalid(
            &Gvk::new("", "", ""),
            "",
            vec![Cause::invalid("patch", &Value::String(text), &why)],
        )
    }

    /// The patch in the body.
    pub(super) fn read_patch(&self) -> Result<Patch, Status> {
        let parse = || -> Result<Value, Status> {
            serde_json::from_slice(&self.body)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
        };
        match self.media_type() {
            JSON_PATCH => Ok(Patch::Json(parse()?)),
            MERGE_PATCH => Ok(Patch::Merge(parse()?)),
            STRATEGIC_PATCH if self.info.is_builtin() => Ok(Patch::Strategic(parse()?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
                let mut status = Status::unsupported_media_type(self.patch_types());
                status.message = format!("server-side apply is not served yet: {}", status.message);
                Err(status)
            }
            _ => Err(Status::unsupported_media_type(self.patch_types())),
        }
    }

    fn patch_types(&self) -> &'static [&'static str] {
        const ALL: &[&str] = &[JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH];
        if self.info.is_builtin() { ALL } else { &ALL[..2] }
    }
}

/// A patch of a value that is no stored object.
///
/// # Errors
/// 422 when it does not apply, 415 for a strategic patch.
pub(super) fn apply_plain(patch: &Patch, mut value: Value) -> Result<Value, Status> {
    match patch {
        Patch::Json(patch) => patch::json::apply(&value, patch, JSON_PATCH_OPS_MAX)
            .map_err(|error| Status::bad_request(error.to_string())),
        Patch::Merge(patch) => {
            patch::merge::apply(&mut value, patch);
            Ok(value)
        }
        Patch::Strategic(_) => Err(Status::unsupported_media_type(&[JSON_PATCH, MERGE_PATCH])),
    }
}
