//! Strategic merge patch (apimachinery `util/strategicpatch/patch.go`): a merge patch that knows from the table
//! of kinds which lists are merged, and by which key, and that takes directives.
//!
//! ```text
//! $patch: replace | delete | merge      on an object, or on an item of a merged list
//! $retainKeys: [a, b]                   drop every other field of the object
//! $deleteFromPrimitiveList/x: [v]       take values out of the list of scalars x
//! $setElementOrder/x: [..]              the order of the merged list x
//! ```

use serde_json::{Map, Value};

use super::PatchError;
use crate::kinds::{Field, JSON_SCHEMA_PROPS, Kind, Patch, Ty};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies `patch` to `value`, an object of `kind`.
///
/// # Errors
/// When a directive is unknown or malformed, or an item of a merged list lacks its key.
pub fn apply(value: &mut Value, patch: &Value, kind: &Kind) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "a strategic merge patch is an object".into(),
        ));
    };
    object(value, patch, Shape::Message(kind))
}

/// What is known of the type of a value.
#[derive(Clone, Copy)]
enum Shape<'a> {
    /// A message with fields.
    Message(&'a Kind),
    /// An object with values of one type.
    Map(&'a Ty),
    /// Nothing.
    Unknown,
}

impl<'a> Shape<'a> {
    fn of(ty: &'a Ty) -> Self {
        match ty {
            Ty::Message(kind) => Self::Message(kind),
            Ty::Map(ty) => Self::Map(ty),
            Ty::SchemaOrBool | Ty::SchemaOrArray | Ty::SchemaOrStrings => Self::Message(&JSON_SCHEMA_PROPS),
            _ => Self::Unknown,
        }
    }

    /// The shape of a member, the shape of its items, and how it is patched.
    fn member(self, name: &str) -> (Self, Self, Patch) {
        let unknown = (Self::Unknown, Self::Unknown, Patch::Replace);
        let of = |ty: &'a Ty, patch| match ty {
            Ty::List(item) => (Self::Unknown, Self::of(item), patch),
            ty => (Self::of(ty), Self::Unknown, patch),
        };
        match self {
            Self::Message(kind) => kind
                .field(name)
                .map_or(unknown, |field: &'static Field| of(&field.ty, field.patch)),
            Self::Map(ty) => of(ty, Patch::Replace),
            Self::Unknown => unknown,
        }
    }
}

fn malformed(why: impl Into<String>) -> PatchError {
    PatchError::Malformed(why.into())
}

fn object(value: &mut Value, patch: &Map<String, Value>, shape: Shape<'_>) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE) {
        None => (),
        Some(Value::String(directive)) => match directive.as_str() {
            "merge" => (),
            "delete" => {
                *value = Value::Object(Map::new());
                return Ok(());
            }
            "replace" => {
                let kept = patch.iter().filter(|(name, _)| *name != DIRECTIVE);
                *value = Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect());
                return Ok(());
            }
            other => return Err(malformed(format!("unknown patch type: {other}"))),
        },
        Some(other) => return Err(malformed(format!("unknown patch type: {other}"))),
    }
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(fields) = value else {
        return Ok(());
    };
    retain_keys(fields, patch)?;
    for (name, patch_value) in patch.iter().filter(|(name, _)| name.starts_with(DELETE_FROM)) {
        delete_from(fields, &name[DELETE_FROM.len()..], patch_value)?;
    }
    for (name, patch_value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        if patch_value.is_null() {
            fields.remove(name);
            continue;
        }
        member(fields, name, patch_value, shape)?;
    }
    for (name, order) in patch.iter().filter(|(name, _)| name.starts_with(SET_ORDER)) {
        let name = &name[SET_ORDER.len()..];
        let (.., how) = shape.member(name);
        let order = order
            .as_array()
            .ok_or_else(|| malformed(format!("{SET_ORDER}{name} must be a list")))?;
        if let Some(Value::Array(items)) = fields.get_mut(name) {
            set_order(items, order, how);
        }
    }
    Ok(())
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
}

fn member(
    fields: &mut Map<String, Value>,
    name: &str,
    patch: &Value,
    shape: Shape<'_>,
) -> Result<(), PatchError> {
    let (member, item, how) = shape.member(name);
    let slot = fields.entry(name.to_owned()).or_insert(Value::Null);
    match patch {
        Value::Object(patch) => {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            object(slot, patch, member)
        }
        Value::Array(patch) => {
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Value::Array(items) = slot else { return Ok(()) };
            match how {
                Patch::Replace => items.clone_from(patch),
                Patch::Merge => {
                    for value in patch {
                        if !items.contains(value) {
                            items.push(value.clone());
                        }
                    }
                }
                Patch::MergeBy(key) => merge_by(items, patch, key, item)?,
            }
            Ok(())
        }
        scalar => {
            *slot = scalar.clone();
            Ok(())
        }
    }
}

/// Only fields named by `$retainKeys` stay; the patch may set no other.
fn retain_keys(fields: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let keys = keys
        .as_array()
        .ok_or_else(|| malformed("invalid patch format of retainKeys"))?;
    let named = |name: &str| keys.iter().any(|key| key == name);
    for (name, value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        if !value.is_null() && !named(name) {
            return Err(malformed(
                "the retainKeys list must contain all fields present in the patch",
            ));
        }
    }
    fields.retain(|name, _| named(name));
    Ok(())
}

fn delete_from(fields: &mut Map<String, Value>, name: &str, values: &Value) -> Result<(), PatchError> {
    let values = values
        .as_array()
        .ok_or_else(|| malformed(format!("{DELETE_FROM}{name} must be a list")))?;
    if let Some(Value::Array(items)) = fields.get_mut(name) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Merges a list of objects told apart by `key`.
fn merge_by(items: &mut Vec<Value>, patch: &[Value], key: &str, shape: Shape<'_>) -> Result<(), PatchError> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"))
    {
        // The items of the patch are the list; the directive itself stands in an item of its own.
        items.clear();
        items.extend(patch.iter().filter(|item| directive(item).is_none()).cloned());
        return Ok(());
    }
    for item in patch {
        let Some(id) = item.get(key) else {
            return Err(malformed(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let at = items.iter().position(|known| known.get(key) == Some(id));
        let Value::Object(patch) = item else { continue };
        match (directive(item).as_deref(), at) {
            (Some("delete"), _) => items.retain(|known| known.get(key) != Some(id)),
            (None | Some("merge"), Some(at)) => object(&mut items[at], patch, shape)?,
            (None | Some("merge"), None) => {
                let mut new = Value::Object(Map::new());
                object(&mut new, patch, shape)?;
                items.push(new);
            }
            (Some(other), _) => return Err(malformed(format!("unknown patch type: {other}"))),
        }
    }
    Ok(())
}

/// Puts the items that `order` names in that order; the others keep their place among them.
fn set_order(items: &mut Vec<Value>, order: &[Value], how: Patch) {
    let id = |value: &Value| match how {
        Patch::MergeBy(key) => value.get(key).cloned().unwrap_or_default(),
        _ => value.clone(),
    };
    let rank = |item: &Value| order.iter().position(|named| id(named) == id(item));
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for (at, item) in std::mem::take(items).into_iter().enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, at, item)),
            None => others.push((at, item)),
        }
    }
    named.sort_by_key(|(rank, ..)| *rank);
    let mut others = others.into_iter().peekable();
    for (_, at, item) in named {
        while others.peek().is_some_and(|(other, _)| *other < at) {
            items.extend(others.next().map(|(_, item)| item));
        }
        items.push(item);
    }
    items.extend(others.map(|(_, item)| item));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::needless_pass_by_value, reason = "rows read better with values")]

    use serde_json::json;

    use super::*;
    use crate::kinds::{CONFIG_MAP, NAMESPACE, SERVICE_ACCOUNT};

    #[track_caller]
    fn check(kind: &Kind, value: Value, patch: Value, expect: Value) {
        let mut result = value;
        apply(&mut result, &patch, kind).unwrap();
        assert_eq!(result, expect);
    }

    #[test]
    fn objects_are_merged_and_nulls_remove() {
        check(
            &CONFIG_MAP,
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "1"}}),
            json!({"metadata": {"labels": {"b": null, "c": "3"}}, "data": null}),
            json!({"metadata": {"labels": {"a": "1", "c": "3"}}}),
        );
        check(
            &CONFIG_MAP,
            json!({}),
            json!({"data": {"a": null, "b": "1"}}),
            json!({"data": {"b": "1"}}),
        );
    }

    #[test]
    fn lists_follow_their_strategy() {
        check(
            &SERVICE_ACCOUNT,
            json!({"secrets": [{"name": "a", "kind": "x"}, {"name": "b"}], "imagePullSecrets": [{"name": "p"}]}),
            json!({"secrets": [{"name": "c"}, {"name": "a", "uid": "u"}], "imagePullSecrets": [{"name": "q"}]}),
            json!({
                "secrets": [{"name": "a", "kind": "x", "uid": "u"}, {"name": "b"}, {"name": "c"}],
                "imagePullSecrets": [{"name": "q"}],
            }),
        );
        check(
            &CONFIG_MAP,
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        );
        check(
            &NAMESPACE,
            json!({"spec": {"finalizers": ["kubernetes"]}}),
            json!({"spec": {"finalizers": []}}),
            json!({"spec": {"finalizers": []}}),
        );
    }

    #[test]
    fn directives_delete_replace_retain_and_order() {
        let secrets = json!({"secrets": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        check(
            &SERVICE_ACCOUNT,
            secrets.clone(),
            json!({"secrets": [{"$patch": "delete", "name": "b"}]}),
            json!({"secrets": [{"name": "a"}, {"name": "c"}]}),
        );
        check(
            &SERVICE_ACCOUNT,
            secrets.clone(),
            json!({"secrets": [{"name": "z"}, {"$patch": "replace"}]}),
            json!({"secrets": [{"name": "z"}]}),
        );
        check(
            &SERVICE_ACCOUNT,
            secrets,
            json!({"$setElementOrder/secrets": [{"name": "d"}, {"name": "c"}, {"name": "a"}], "secrets": [{"name": "d"}]}),
            json!({"secrets": [{"name": "b"}, {"name": "d"}, {"name": "c"}, {"name": "a"}]}),
        );
        check(
            &CONFIG_MAP,
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        );
        check(
            &CONFIG_MAP,
            json!({"data": {"a": "1"}}),
            json!({"data": {"$patch": "replace", "b": "2"}}),
            json!({"data": {"b": "2"}}),
        );
        check(
            &CONFIG_MAP,
            json!({"data": {"a": "1"}}),
            json!({"data": {"$patch": "delete"}}),
            json!({"data": {}}),
        );
        check(
            &CONFIG_MAP,
            json!({"data": {"a": "1", "b": "2"}}),
            json!({"data": {"$retainKeys": ["b", "c"], "c": "3"}}),
            json!({"data": {"b": "2", "c": "3"}}),
        );
    }

    #[test]
    fn malformed_patches_are_refused() {
        for patch in [
            json!([]),
            json!({"$patch": "steal"}),
            json!({"data": {"$retainKeys": ["a"], "b": "1"}}),
            json!({"metadata": {"ownerReferences": [{"name": "a"}]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
        ] {
            apply(&mut json!({}), &patch, &CONFIG_MAP).unwrap_err();
        }
    }
}
