//! JSON patch (RFC 6902) over JSON pointers (RFC 6901).

use serde_json::Value;

use super::PatchError;

/// Most bytes that the `copy` operations of one patch may copy together: kube-apiserver's
/// `JSONPatchMaxCopyBytes`, 3 MiB. Without it a short patch could double a value twenty times.
pub const COPY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Applies `patch`, a list of at most `ops_max` operations, to a copy of `value`.
///
/// # Errors
/// When the patch is malformed, too long, or an operation does not apply; nothing is changed then.
pub fn apply(value: &Value, patch: &Value, ops_max: usize) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(
            "a JSON patch is an array of operations".into(),
        ));
    };
    if operations.len() > ops_max {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {ops_max}, got {}",
            operations.len()
        )));
    }
    let mut document = Document {
        root: value.clone(),
        copied: 0,
    };
    for operation in operations {
        document.run(operation)?;
    }
    Ok(document.root)
}

struct Document {
    root: Value,
    copied: usize,
}

impl Document {
    fn run(&mut self, operation: &Value) -> Result<(), PatchError> {
        let text = |field: &str| {
            let value = operation.get(field).and_then(Value::as_str);
            value.ok_or_else(|| {
                PatchError::Malformed(format!(
                    "an operation of a JSON patch needs {field:?}: {operation}"
                ))
            })
        };
        let value = || {
            let value = operation.get("value");
            value.ok_or_else(|| {
                PatchError::Malformed(format!(
                    "an operation of a JSON patch needs \"value\": {operation}"
                ))
            })
        };
        let (op, path) = (text("op")?, text("path")?);
        let pointer = pointer(path)?;
        match op {
            "add" => self.add(&pointer, value()?.clone(), op, path),
            "remove" => self.remove(&pointer, op, path).map(drop),
            "replace" => {
                let new = value()?.clone();
                *self.find(&pointer).ok_or_else(|| missing(op, path))? = new;
                Ok(())
            }
            "move" => {
                let from = text("from")?;
                if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                    return Err(PatchError::DoesNotApply(format!(
                        "cannot move {from} into itself at {path}"
                    )));
                }
                let moved = self.remove(&self::pointer(from)?, op, from)?;
                self.add(&pointer, moved, op, path)
            }
            "copy" => {
                let from = text("from")?;
                let copy = self
                    .find(&self::pointer(from)?)
                    .ok_or_else(|| missing(op, from))?
                    .clone();
                self.copied += copy.to_string().len();
                if self.copied > COPY_BYTES_MAX {
                    let why = format!("the copies of the JSON patch exceed {COPY_BYTES_MAX} bytes");
                    return Err(PatchError::TooLarge(why));
                }
                self.add(&pointer, copy, op, path)
            }
            "test" => {
                let wanted = value()?;
                // Upstream lets a missing field equal null.
                let found = self.find(&pointer);
                let equal = found.map_or(wanted.is_null(), |found| equal(found, wanted));
                if equal {
                    return Ok(());
                }
                Err(PatchError::DoesNotApply(format!(
                    "testing value {path} failed: test failed"
                )))
            }
            other => Err(PatchError::Malformed(format!(
                "unexpected kind of operation: {other:?}"
            ))),
        }
    }

    fn find(&mut self, pointer: &[String]) -> Option<&mut Value> {
        let mut value = &mut self.root;
        for token in pointer {
            value = match value {
                Value::Object(fields) => fields.get_mut(token)?,
                Value::Array(items) => {
                    let at = index(token)?;
                    items.get_mut(at)?
                }
                _ => return None,
            };
        }
        Some(value)
    }

    fn add(&mut self, pointer: &[String], value: Value, op: &str, path: &str) -> Result<(), PatchError> {
        let Some((last, parent)) = pointer.split_last() else {
            self.root = value;
            return Ok(());
        };
        match self.find(parent).ok_or_else(|| missing(op, path))? {
            Value::Object(fields) => {
                fields.insert(last.clone(), value);
            }
            Value::Array(items) => {
                let at = if last == "-" {
                    Some(items.len())
                } else {
                    index(last)
                };
                let at = at
                    .filter(|at| *at <= items.len())
                    .ok_or_else(|| out_of_bounds(op, path))?;
                items.insert(at, value);
            }
            _ => return Err(missing(op, path)),
        }
        Ok(())
    }

    fn remove(&mut self, pointer: &[String], op: &str, path: &str) -> Result<Value, PatchError> {
        let Some((last, parent)) = pointer.split_last() else {
            return Ok(std::mem::take(&mut self.root));
        };
        match self.find(parent).ok_or_else(|| missing(op, path))? {
            Value::Object(fields) => fields.remove(last).ok_or_else(|| missing(op, path)),
            Value::Array(items) => {
                let at = index(last).filter(|at| *at < items.len());
                Ok(items.remove(at.ok_or_else(|| out_of_bounds(op, path))?))
            }
            _ => Err(missing(op, path)),
        }
    }
}

fn missing(op: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{op} operation does not apply: doc is missing path: {path}: missing value"
    ))
}

fn out_of_bounds(op: &str, path: &str) -> PatchError {
    PatchError::DoesNotApply(format!(
        "{op} operation does not apply: index out of bounds at {path}"
    ))
}

/// The tokens of a JSON pointer.
fn pointer(path: &str) -> Result<Vec<String>, PatchError> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let Some(rest) = path.strip_prefix('/') else {
        return Err(PatchError::Malformed(format!(
            "a JSON pointer starts with '/': {path:?}"
        )));
    };
    Ok(rest
        .split('/')
        .map(|token| token.replace("~1", "/").replace("~0", "~"))
        .collect())
}

/// An index without sign or leading zero.
fn index(token: &str) -> Option<usize> {
    let canonical = token == "0" || !token.starts_with(['0', '+']);
    if canonical { token.parse().ok() } else { None }
}

/// Equality in which 1 and 1.0 are the same.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, x)| y.get(key).is_some_and(|y| equal(x, y)))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(value: Value, patch: Value, expect: Value) {
        assert_eq!(apply(&value, &patch, 10).unwrap(), expect);
    }

    #[test]
    fn each_operation_does_what_the_rfc_says() {
        let op = |op: &str, path: &str, value: Value| json!([{"op": op, "path": path, "value": value}]);
        check(
            json!({"foo": "bar"}),
            op("add", "/baz", json!("qux")),
            json!({"baz": "qux", "foo": "bar"}),
        );
        check(
            json!({"foo": ["bar", "baz"]}),
            op("add", "/foo/1", json!("q")),
            json!({"foo": ["bar", "q", "baz"]}),
        );
        check(
            json!({"foo": ["bar"]}),
            op("add", "/foo/-", json!(["a"])),
            json!({"foo": ["bar", ["a"]]}),
        );
        check(json!({"foo": 1}), op("add", "", json!([])), json!([]));
        check(
            json!({"a": 1, "b": 2}),
            json!([{"op": "remove", "path": "/b"}]),
            json!({"a": 1}),
        );
        check(
            json!({"a": [1, 2]}),
            json!([{"op": "remove", "path": "/a/0"}]),
            json!({"a": [2]}),
        );
        check(
            json!({"a": 1}),
            op("replace", "/a", json!(null)),
            json!({"a": null}),
        );
        check(
            json!({"a": {"x": 1}, "b": {}}),
            json!([{"op": "move", "from": "/a/x", "path": "/b/y"}]),
            json!({"a": {}, "b": {"y": 1}}),
        );
        check(
            json!({"a": [1]}),
            json!([{"op": "copy", "from": "/a", "path": "/b"}]),
            json!({"a": [1], "b": [1]}),
        );
        check(
            json!({"a/b": {"m~n": 1}}),
            op("test", "/a~1b/m~0n", json!(1.0)),
            json!({"a/b": {"m~n": 1}}),
        );
        check(json!({}), op("test", "/a", json!(null)), json!({}));
    }

    #[test]
    fn what_does_not_apply_is_refused() {
        let value = json!({"a": [1], "b": "text"});
        for patch in [
            json!({}),
            json!([{"path": "/a"}]),
            json!([{"op": "add", "path": "/c"}]),
            json!([{"op": "add", "path": "c", "value": 1}]),
            json!([{"op": "add", "path": "/c/d", "value": 1}]),
            json!([{"op": "add", "path": "/a/2", "value": 1}]),
            json!([{"op": "add", "path": "/a/00", "value": 1}]),
            json!([{"op": "add", "path": "/b/c", "value": 1}]),
            json!([{"op": "remove", "path": "/c"}]),
            json!([{"op": "remove", "path": "/a/-"}]),
            json!([{"op": "replace", "path": "/c", "value": 1}]),
            json!([{"op": "test", "path": "/a/0", "value": 2}]),
            json!([{"op": "move", "from": "/a", "path": "/a/0"}]),
            json!([{"op": "steal", "path": "/a"}]),
        ] {
            apply(&value, &patch, 10).unwrap_err();
        }
    }

    #[test]
    fn a_patch_has_limits() {
        let operation = json!({"op": "add", "path": "/a", "value": 1});
        let patch = Value::Array(vec![operation; 11]);
        assert!(matches!(
            apply(&json!({}), &patch, 10),
            Err(PatchError::TooLarge(_))
        ));
        let mut bomb = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(100)]})];
        bomb.extend((0..30).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})));
        assert!(matches!(
            apply(&json!({}), &Value::Array(bomb), 100),
            Err(PatchError::TooLarge(_))
        ));
    }
}
