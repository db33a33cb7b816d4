//! The `scale` subresource of custom resources: an `autoscaling/v1` Scale over JSON paths of the object.

use http::{Response, StatusCode};
use serde_json::{Value, json};
use setpoint_apimachinery::{Object, Status};

use super::update::Updated;
use super::{Call, Part, patch, response};
use crate::body::ApiBody;
use crate::object;

impl Call {
    /// The Scale of an object.
    pub(super) async fn get_scale(&self) -> Result<Response<ApiBody>, Status> {
        let current = self.load().await?;
        let object = self.for_request(&current.object)?;
        Ok(json_response(&self.scale_of(&object)))
    }

    /// Replaces it: only `spec.replicas` counts.
    pub(super) async fn update_scale(&mut self) -> Result<Response<ApiBody>, Status> {
        let wanted: Value = serde_json::from_slice(&self.body)
            .map_err(|error| Status::bad_request(format!("cannot decode Scale: {error}")))?;
        self.write_scale(|_| Ok(wanted.clone())).await
    }

    /// Patches it.
    pub(super) async fn patch_scale(&mut self) -> Result<Response<ApiBody>, Status> {
        let patch = self.read_patch()?;
        self.write_scale(|scale| patch::apply_plain(&patch, scale)).await
    }

    async fn write_scale(
        &self,
        mut make: impl FnMut(Value) -> Result<Value, Status>,
    ) -> Result<Response<ApiBody>, Status> {
        let path = self
            .info
            .scale()
            .map(|scale| scale.spec_replicas.clone())
            .unwrap_or_default();
        let updated = self.write_back(Part::Main, |old| {
            let scale = make(self.scale_of(old))?;
            let replicas = scale
                .pointer("/spec/replicas")
                .and_then(Value::as_i64)
                .unwrap_or(0);
            if replicas < 0 {
                return Err(Status::bad_request(
                    "spec.replicas must be greater than or equal to 0".to_owned(),
                ));
            }
            let mut new = old.clone();
            let said = scale
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !said.is_empty() {
                object::set_meta(&mut new, "resourceVersion", said);
            }
            set_path(&mut new, &path, Value::from(replicas));
            Ok(new)
        });
        let (Updated::Object(object) | Updated::Gone(object)) = updated.await?;
        Ok(json_response(&self.scale_of(&self.for_request(&object)?)))
    }

    fn scale_of(&self, object: &Object) -> Value {
        let Some(paths) = self.info.scale() else {
            return Value::Null;
        };
        let number = |path: &str| get_path(object, path).and_then(Value::as_i64).unwrap_or(0);
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            let text = object::meta_text(object, field);
            if !text.is_empty() {
                metadata[field] = Value::from(text);
            }
        }
        let mut status = json!({ "replicas": number(&paths.status_replicas) });
        if let Some(path) = &paths.label_selector {
            let selector = get_path(object, path).and_then(Value::as_str).unwrap_or_default();
            status["selector"] = Value::from(selector);
        }
        json!({
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": { "replicas": number(&paths.spec_replicas) }, "status": status,
        })
    }
}

fn json_response(value: &Value) -> Response<ApiBody> {
    response(
        StatusCode::OK,
        "application/json",
        ApiBody::full(value.to_string()),
    )
}

/// Follows `.a.b.c`.
fn get_path<'a>(object: &'a Object, path: &str) -> Option<&'a Value> {
    let mut fields = path.trim_start_matches('.').split('.');
    let mut value = object.get(fields.next()?)?;
    for field in fields {
        value = value.get(field)?;
    }
    Some(value)
}

/// Sets `.a.b.c`, making the maps on the way.
fn set_path(object: &mut Object, path: &str, value: Value) {
    let mut fields: Vec<&str> = path.trim_start_matches('.').split('.').collect();
    let Some(last) = fields.pop() else { return };
    let mut at = object;
    for field in fields {
        at = object::map_of(at, field);
    }
    at.insert(last.to_owned(), value);
}
