//! Small accessors on decoded objects: absent reads as empty.

use serde_json::Value;
use setpoint_apimachinery::Object;

/// A text field of the metadata.
pub(crate) fn meta_text<'a>(object: &'a Object, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field)?.as_str())
        .unwrap_or_default()
}

/// `metadata.name`.
pub(crate) fn name(object: &Object) -> &str {
    meta_text(object, "name")
}

/// `metadata.namespace`.
pub(crate) fn namespace(object: &Object) -> &str {
    meta_text(object, "namespace")
}

/// Whether `metadata.deletionTimestamp` is set.
pub(crate) fn deleting(object: &Object) -> bool {
    !meta_text(object, "deletionTimestamp").is_empty()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Object) -> Vec<&str> {
    let list = object
        .get("metadata")
        .and_then(|metadata| metadata.get("finalizers")?.as_array());
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `metadata.generation`.
pub(crate) fn generation(object: &Object) -> i64 {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("generation")?.as_i64())
        .unwrap_or(0)
}

/// The object's metadata, made if absent or not an object.
pub(crate) fn meta_of(object: &mut Object) -> &mut Object {
    map_of(object, "metadata")
}

/// Sets one field of the metadata.
pub(crate) fn set_meta(object: &mut Object, field: &str, value: impl Into<Value>) {
    meta_of(object).insert(field.to_owned(), value.into());
}

/// A map in the object, made if absent or something else.
pub(crate) fn map_of<'a>(object: &'a mut Object, field: &str) -> &'a mut Object {
    let value = object
        .entry(field)
        .or_insert_with(|| Value::Object(Object::new()));
    if !value.is_object() {
        *value = Value::Object(Object::new());
    }
    value.as_object_mut().expect("the value was just made an object")
}

/// A text somewhere below, by field names.
pub(crate) fn text_at<'a>(object: &'a Object, path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let mut value = object.get(*first)?;
    for field in rest {
        value = value.get(field)?;
    }
    value.as_str()
}
