//! `Status` as JSON.

use serde_json::{Map, Value, json};

use super::{Details, Status};
use crate::cause::Cause;

/// Every `StatusReason` and its code, from `meta/v1/types.go`.
const REASONS: &[&str] = &[
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StorageReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
];

/// Every `CauseType`, from `meta/v1/types.go`, and those set by the server itself.
const CAUSES: &[&str] = &[
    "FieldValueNotFound",
    "FieldValueRequired",
    "FieldValueDuplicate",
    "FieldValueInvalid",
    "FieldValueNotSupported",
    "FieldValueForbidden",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "InternalError",
    "FieldValueTypeInvalid",
    "UnexpectedServerResponse",
    "FieldManagerConflict",
    "ResourceVersionTooLarge",
    "NamespaceTerminating",
];

impl Status {
    /// The `Status` object.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        object.insert("kind".into(), "Status".into());
        object.insert("apiVersion".into(), "v1".into());
        let metadata = match self.continue_token.as_str() {
            "" => json!({}),
            token => json!({ "continue": token }),
        };
        object.insert("metadata".into(), metadata);
        object.insert("status".into(), "Failure".into());
        object.insert("message".into(), self.message.clone().into());
        if !self.reason.is_empty() {
            object.insert("reason".into(), self.reason.into());
        }
        if let Some(details) = &self.details {
            object.insert("details".into(), details.to_value());
        }
        object.insert("code".into(), self.code.into());
        Value::Object(object)
    }

    /// The JSON of the `Status` object.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// Reads a failure `Status`; `None` when the body is something else.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        if value["kind"] != "Status" || value["status"] == "Success" {
            return None;
        }
        Some(Self {
            code: value["code"]
                .as_u64()
                .and_then(|code| u16::try_from(code).ok())
                .unwrap_or(0),
            reason: known(REASONS, &value["reason"]),
            message: text(&value["message"]),
            details: value.get("details").map(Details::parse),
            continue_token: text(&value["metadata"]["continue"]),
        })
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (key, text) in [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ] {
            if !text.is_empty() {
                object.insert(key.into(), text.clone().into());
            }
        }
        if !self.causes.is_empty() {
            let causes: Vec<Value> = self.causes.iter().map(cause_value).collect();
            object.insert("causes".into(), causes.into());
        }
        if self.retry_after_seconds > 0 {
            object.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(object)
    }

    fn parse(value: &Value) -> Self {
        let causes = value["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            name: text(&value["name"]),
            group: text(&value["group"]),
            kind: text(&value["kind"]),
            uid: text(&value["uid"]),
            causes: causes
                .iter()
                .map(|cause| Cause {
                    reason: known(CAUSES, &cause["reason"]),
                    message: text(&cause["message"]),
                    field: text(&cause["field"]),
                })
                .collect(),
            retry_after_seconds: value["retryAfterSeconds"]
                .as_u64()
                .and_then(|s| u32::try_from(s).ok())
                .unwrap_or(0),
        }
    }
}

fn cause_value(cause: &Cause) -> Value {
    let mut object = Map::new();
    for (key, text) in [
        ("reason", cause.reason),
        ("message", &cause.message),
        ("field", &cause.field),
    ] {
        if !text.is_empty() {
            object.insert(key.into(), text.into());
        }
    }
    Value::Object(object)
}

fn known(words: &[&'static str], value: &Value) -> &'static str {
    let text = value.as_str().unwrap_or_default();
    words
        .iter()
        .copied()
        .find(|word| *word == text)
        .unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
