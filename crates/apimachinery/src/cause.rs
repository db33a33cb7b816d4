//! What is wrong with one field, in the words of `util/validation/field`.

use std::fmt;

use serde_json::Value;

/// One field error. Printed as upstream prints it: `spec.replicas: Invalid value: -1: must be positive`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The machine-readable kind: `FieldValueInvalid`, `FieldValueRequired`, ...
    pub reason: &'static str,
    /// The text without the field's path.
    pub message: String,
    /// The field's path: `spec.ports[0].name`; empty when the whole object is meant.
    pub field: String,
}

impl Cause {
    /// A required field is absent. `detail` may be empty.
    #[must_use]
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueRequired", field, "Required value", detail)
    }

    /// A value is malformed or out of bounds.
    #[must_use]
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::with_value("FieldValueInvalid", "Invalid value", field, value, detail)
    }

    /// A value has the wrong type.
    #[must_use]
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::with_value("FieldValueTypeInvalid", "Invalid value", field, value, detail)
    }

    /// A value is none of an enumeration.
    #[must_use]
    pub fn not_supported<S: AsRef<str>>(field: impl Into<String>, value: &Value, supported: &[S]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::with_value(
            "FieldValueNotSupported",
            "Unsupported value",
            field,
            value,
            &detail,
        )
    }

    /// A value that must be unique occurs twice.
    #[must_use]
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::with_value("FieldValueDuplicate", "Duplicate value", field, value, "")
    }

    /// A named thing does not exist.
    #[must_use]
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::with_value("FieldValueNotFound", "Not found", field, value, "")
    }

    /// A well-formed value is not allowed here.
    #[must_use]
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueForbidden", field, "Forbidden", detail)
    }

    /// A value has more than `bytes_max` bytes.
    #[must_use]
    pub fn too_long(field: impl Into<String>, bytes_max: usize) -> Self {
        let unit = if bytes_max == 1 { "byte" } else { "bytes" };
        Self::new(
            "FieldValueTooLong",
            field,
            "Too long",
            &format!("may not be more than {bytes_max} {unit}"),
        )
    }

    /// A list has more than `items_max` items.
    #[must_use]
    pub fn too_many(field: impl Into<String>, items: usize, items_max: usize) -> Self {
        let unit = if items_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {items_max} {unit}");
        Self::with_value(
            "FieldValueTooMany",
            "Too many",
            field,
            &Value::from(items),
            &detail,
        )
    }

    fn with_value(
        reason: &'static str,
        title: &str,
        field: impl Into<String>,
        value: &Value,
        detail: &str,
    ) -> Self {
        Self::new(reason, field, &format!("{title}: {}", show(value)), detail)
    }

    fn new(reason: &'static str, field: impl Into<String>, title: &str, detail: &str) -> Self {
        let message = if detail.is_empty() {
            title.to_owned()
        } else {
            format!("{title}: {detail}")
        };
        Self {
            reason,
            message,
            field: field.into(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A value as Go's `%q` or JSON shows it.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// Go's `strconv.Quote` for the text that occurs in practice.
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() && u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Several errors as `ErrorList.ToAggregate` prints them: repeated ones once, more than one in brackets.
#[must_use]
pub fn aggregate(causes: &[Cause]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(causes.len());
    for cause in causes {
        let text = cause.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A path to a field, grown and shrunk while a value is walked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(String);

impl Path {
    /// A path that starts at `root`; empty for the whole object.
    pub(crate) fn new(root: &str) -> Self {
        Self(root.to_owned())
    }

    /// Runs `walk` with `.name` appended.
    pub(crate) fn child<T>(&mut self, name: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.0.len();
        if len > 0 {
            self.0.push('.');
        }
        self.0.push_str(name);
        let result = walk(self);
        self.0.truncate(len);
        result
    }

    /// Runs `walk` with `[index]` appended.
    pub(crate) fn index<T>(&mut self, index: usize, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.bracket(&index.to_string(), walk)
    }

    /// Runs `walk` with `[key]` appended.
    pub(crate) fn key<T>(&mut self, key: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        self.bracket(key, walk)
    }

    fn bracket<T>(&mut self, inside: &str, walk: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.0.len();
        self.0.push('[');
        self.0.push_str(inside);
        self.0.push(']');
        let result = walk(self);
        self.0.truncate(len);
        result
    }

    /// The path as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_read_as_upstream_writes_them() {
        for (cause, text) in [
            (Cause::required("a.b", ""), "a.b: Required value"),
            (Cause::required("a", "why"), "a: Required value: why"),
            (
                Cause::invalid("a", &json!("x\"y"), "bad"),
                "a: Invalid value: \"x\\\"y\": bad",
            ),
            (Cause::invalid("a", &json!(-1), ""), "a: Invalid value: -1"),
            (
                Cause::invalid("a", &json!({"b": [1]}), "no"),
                "a: Invalid value: {\"b\":[1]}: no",
            ),
            (
                Cause::not_supported("a", &json!("x"), &["p", "q"]),
                "a: Unsupported value: \"x\": supported values: \"p\", \"q\"",
            ),
            (
                Cause::duplicate("a[1]", &json!("x")),
                "a[1]: Duplicate value: \"x\"",
            ),
            (
                Cause::forbidden("a", "not allowed on this type"),
                "a: Forbidden: not allowed on this type",
            ),
            (
                Cause::too_long("a", 63),
                "a: Too long: may not be more than 63 bytes",
            ),
            (
                Cause::too_many("a", 9, 8),
                "a: Too many: 9: must have at most 8 items",
            ),
        ] {
            assert_eq!(cause.to_string(), text);
        }
    }

    #[test]
    fn an_aggregate_names_each_error_once() {
        let (a, b) = (Cause::required("a", ""), Cause::required("b", ""));
        assert_eq!(aggregate(std::slice::from_ref(&a)), "a: Required value");
        assert_eq!(
            aggregate(&[a.clone(), b, a]),
            "[a: Required value, b: Required value]"
        );
    }
}
